//! Turns a panic into an INTERNAL answer: it ends one call, not the connection that carries
//! many others.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use order_core::{Error, RequestId};
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{refusal, request_id_of, unknown_request_id};
use crate::status::{source_chain, to_status};

/// A handler panicked; the place is in the line that the panic hook wrote.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked: {message}")]
struct HandlerPanicked {
    message: String,
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Error::internal(HandlerPanicked { message })
}

/// Catches panics of the service, of its future and of its body.
///
/// What panicked is dropped and never touched again, so a broken invariant inside of it is
/// seen by nobody: that is what `AssertUnwindSafe` states here.
#[derive(Clone, Copy)]
pub(crate) struct RecoverLayer;

impl<S> Layer<S> for RecoverLayer {
    type Service = RecoverService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RecoverService { inner }
    }
}

/// See [`RecoverLayer`].
#[derive(Clone)]
pub(crate) struct RecoverService<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for RecoverService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<RecoverBody>;
    type Error = S::Error;
    type Future = RecoverFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request_id = request_id_of(request.extensions());
        match catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
            Ok(inner) => RecoverFuture::Running { inner, request_id },
            Err(payload) => RecoverFuture::Panicked {
                error: Some(panicked(&*payload)),
                request_id,
            },
        }
    }
}

pin_project! {
    /// Polls under the catch.
    #[project = RecoverProjection]
    pub(crate) enum RecoverFuture<F> {
        Running { #[pin] inner: F, request_id: RequestId },
        Panicked { error: Option<Error>, request_id: RequestId },
    }
}

impl<F, E> Future for RecoverFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<RecoverBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (error, request_id) = match self.project() {
            RecoverProjection::Running { inner, request_id } => {
                match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(answer)) => {
                        return Poll::Ready(answer.map(|response| {
                            response.map(|inner| RecoverBody {
                                inner,
                                request_id: Some(request_id.clone()),
                            })
                        }));
                    }
                    Err(payload) => (panicked(&*payload), request_id),
                }
            }
            RecoverProjection::Panicked { error, request_id } => (
                error.take().unwrap_or(Error::Internal { source: None }),
                request_id,
            ),
        };
        let response = refusal(error, request_id).map(|inner| RecoverBody {
            inner,
            request_id: None,
        });
        Poll::Ready(Ok(response))
    }
}

/// A body whose panic becomes its trailers.
pub(crate) struct RecoverBody {
    inner: Body,
    /// `None` once the body is over.
    request_id: Option<RequestId>,
}

impl http_body::Body for RecoverBody {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if this.request_id.is_none() {
            return Poll::Ready(None);
        }
        let inner = &mut this.inner;
        let payload = match catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx))) {
            Ok(frame) => return frame,
            Err(payload) => payload,
        };
        let request_id = this.request_id.take().unwrap_or_else(unknown_request_id);
        let status = to_status(panicked(&*payload), &request_id);
        // Trailers bring the access log a code and no error.
        tracing::error!(
            request.id = request_id.as_str(),
            error = source_chain(&status),
            "stream panicked"
        );
        let mut trailers = HeaderMap::new();
        let frame = status.add_header(&mut trailers);
        Poll::Ready(Some(frame.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.request_id.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
