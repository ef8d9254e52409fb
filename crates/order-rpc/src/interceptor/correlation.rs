//! Ties a call to others: gives it an id that is the same in every log line and in the
//! answer, and reads its place in a distributed trace.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderName, HeaderValue, Request, Response};
use order_core::{IdGen, RequestId, TraceParent};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{REQUEST_ID_HEADER, TRACE_PARENT_HEADER};

const REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID_HEADER);
const TRACE_PARENT: HeaderName = HeaderName::from_static(TRACE_PARENT_HEADER);

/// Takes the caller's `x-request-id` if it is one, else makes one, and echoes it. Takes and
/// echoes the caller's `traceparent` if it is one.
#[derive(Clone)]
pub(crate) struct CorrelationLayer {
    ids: Arc<dyn IdGen>,
}

impl CorrelationLayer {
    /// Makes ids with `ids`: UUIDs of version 7, like those of orders.
    pub(crate) fn new(ids: Arc<dyn IdGen>) -> Self {
        Self { ids }
    }
}

impl<S> Layer<S> for CorrelationLayer {
    type Service = CorrelationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CorrelationService {
            inner,
            ids: Arc::clone(&self.ids),
        }
    }
}

/// See [`CorrelationLayer`].
#[derive(Clone)]
pub(crate) struct CorrelationService<S> {
    inner: S,
    ids: Arc<dyn IdGen>,
}

impl<S> CorrelationService<S> {
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

/// The place in the trace and its spelling as a header, if there is a valid one.
fn trace_parent(given: Option<&HeaderValue>) -> (Option<TraceParent>, Option<HeaderValue>) {
    let read = given.and_then(|value| TraceParent::parse(value.to_str().ok()?));
    let echo = read
        .as_ref()
        .and_then(|trace| HeaderValue::from_str(trace.as_str()).ok());
    (read, echo)
}

impl<S, B, R> Service<Request<B>> for CorrelationService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = CorrelationFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (request_id, request_id_echo) = self.request_id(request.headers().get(REQUEST_ID));
        let (trace_parent, trace_parent_echo) = trace_parent(request.headers().get(TRACE_PARENT));
        let extensions = request.extensions_mut();
        extensions.insert(request_id);
        if let Some(trace_parent) = trace_parent {
            extensions.insert(trace_parent);
        }
        CorrelationFuture {
            inner: self.inner.call(request),
            request_id_echo,
            trace_parent_echo,
        }
    }
}

pin_project! {
    /// Adds both to the answer.
    pub(crate) struct CorrelationFuture<F> {
        #[pin]
        inner: F,
        request_id_echo: Option<HeaderValue>,
        trace_parent_echo: Option<HeaderValue>,
    }
}

impl<F, R, E> Future for CorrelationFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx));
        if let Ok(response) = &mut answer {
            let headers = response.headers_mut();
            if let Some(echo) = this.request_id_echo.take() {
                headers.insert(REQUEST_ID, echo);
            }
            if let Some(echo) = this.trace_parent_echo.take() {
                headers.insert(TRACE_PARENT, echo);
            }
        }
        Poll::Ready(answer)
    }
}
