//! Gives every call an id that is the same in every log line and in the answer.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderName, HeaderValue, Request, Response};
use order_core::{IdGen, RequestId};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::REQUEST_ID_HEADER;

const HEADER: HeaderName = HeaderName::from_static(REQUEST_ID_HEADER);

/// Takes the caller's `x-request-id` if it is one, else makes one, and echoes it.
#[derive(Clone)]
pub(crate) struct RequestIdLayer {
    ids: Arc<dyn IdGen>,
}

impl RequestIdLayer {
    /// Makes ids with `ids`: UUIDs of version 7, like those of orders.
    pub(crate) fn new(ids: Arc<dyn IdGen>) -> Self {
        Self { ids }
    }
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = RequestIdService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestIdService {
            inner,
            ids: Arc::clone(&self.ids),
        }
    }
}

/// See [`RequestIdLayer`].
#[derive(Clone)]
pub(crate) struct RequestIdService<S> {
    inner: S,
    ids: Arc<dyn IdGen>,
}

impl<S> RequestIdService<S> {
    /// The id and its spelling as a header, which an accepted id already has.
    fn request_id(&self, given: Option<&HeaderValue>) -> (RequestId, Option<HeaderValue>) {
        let accepted = given.and_then(|value| {
            let id = RequestId::parse(value.to_str().ok()?)?;
            Some((id, Some(value.clone())))
        });
        accepted.unwrap_or_else(|| {
            let id = RequestId::from_uuid(*self.ids.order_id().as_uuid());
            let value = HeaderValue::from_str(id.as_str()).ok();
            (id, value)
        })
    }
}

impl<S, B, R> Service<Request<B>> for RequestIdService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = RequestIdFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (request_id, echo) = self.request_id(request.headers().get(HEADER));
        request.extensions_mut().insert(request_id);
        RequestIdFuture {
            inner: self.inner.call(request),
            echo,
        }
    }
}

pin_project! {
    /// Adds the id to the answer.
    pub(crate) struct RequestIdFuture<F> {
        #[pin]
        inner: F,
        echo: Option<HeaderValue>,
    }
}

impl<F, R, E> Future for RequestIdFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx));
        if let (Ok(response), Some(echo)) = (&mut answer, this.echo.take()) {
            response.headers_mut().insert(HEADER, echo);
        }
        Poll::Ready(answer)
    }
}
