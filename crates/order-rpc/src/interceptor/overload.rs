//! Sheds calls beyond a limit at once, instead of letting them wait for what they will not
//! get in time.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use order_core::{Error, RequestId};
use pin_project_lite::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tower::{Layer, Service};

use super::{refusal, request_id_of};

/// Limits the calls that wait for the beginning of their answer, over all connections.
#[derive(Clone)]
pub(crate) struct OverloadLayer {
    places: Arc<Semaphore>,
}

impl OverloadLayer {
    /// Lets `in_flight_max` calls in.
    pub(crate) fn new(in_flight_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(in_flight_max)),
        }
    }
}

impl<S> Layer<S> for OverloadLayer {
    type Service = OverloadService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OverloadService {
            inner,
            places: Arc::clone(&self.places),
        }
    }
}

/// See [`OverloadLayer`].
#[derive(Clone)]
pub(crate) struct OverloadService<S> {
    inner: S,
    places: Arc<Semaphore>,
}

impl<S, B> Service<Request<B>> for OverloadService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = OverloadFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => OverloadFuture::Running {
                inner: self.inner.call(request),
                _place: place,
            },
            Err(_) => OverloadFuture::Shed {
                request_id: request_id_of(request.extensions()),
            },
        }
    }
}

pin_project! {
    /// Holds the place while the call runs.
    #[project = OverloadProjection]
    pub(crate) enum OverloadFuture<F> {
        Running { #[pin] inner: F, _place: OwnedSemaphorePermit },
        Shed { request_id: RequestId },
    }
}

impl<F, E> Future for OverloadFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            OverloadProjection::Running { inner, .. } => inner.poll(cx),
            OverloadProjection::Shed { request_id } => {
                Poll::Ready(Ok(refusal(Error::overloaded(), request_id)))
            }
        }
    }
}
