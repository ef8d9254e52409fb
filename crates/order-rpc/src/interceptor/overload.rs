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

/// Where the paths begin of the services whose calls are work.
const WORK_PREFIXES: [&str; 2] = ["/order.v1.OrderService/", "/order.v1.WorkerService/"];

/// A call that mostly waits, and is no work while it does.
const LEASE_PATH: &str = "/order.v1.WorkerService/Lease";

/// Limits the calls that wait for the beginning of their answer, over all connections.
/// Workers that wait for a job have places of their own, so that many of them keep no other
/// call out; health and reflection need none.
#[derive(Clone)]
pub(crate) struct OverloadLayer {
    work: Arc<Semaphore>,
    leases: Arc<Semaphore>,
}

impl OverloadLayer {
    /// Lets `in_flight_max` calls in, and `leases_max` calls of workers for jobs.
    pub(crate) fn new(in_flight_max: usize, leases_max: usize) -> Self {
        Self {
            work: Arc::new(Semaphore::new(in_flight_max)),
            leases: Arc::new(Semaphore::new(leases_max)),
        }
    }

    /// Which places a call is to take one of.
    fn places(&self, path: &str) -> Option<&Arc<Semaphore>> {
        if path == LEASE_PATH {
            return Some(&self.leases);
        }
        let is_work = WORK_PREFIXES.iter().any(|prefix| path.starts_with(prefix));
        is_work.then_some(&self.work)
    }
}

impl<S> Layer<S> for OverloadLayer {
    type Service = OverloadService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OverloadService {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`OverloadLayer`].
#[derive(Clone)]
pub(crate) struct OverloadService<S> {
    inner: S,
    layer: OverloadLayer,
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
        let place = self
            .layer
            .places(request.uri().path())
            .map(|places| Arc::clone(places).try_acquire_owned());
        match place.transpose() {
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
        Running { #[pin] inner: F, _place: Option<OwnedSemaphorePermit> },
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
