//! From a path to its service.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body as HttpBody;
use order_core::{BoxError, RequestId};
use pin_project_lite::pin_project;
use tonic::{Status, body::Body, service::Routes};
use tower::Service;

use super::reflection;
use crate::{
    REQUEST_BYTES_MAX,
    interceptor::{Connection, unknown_request_id},
    status::complete_refusal,
};

/// Where the paths of the order service begin.
const ORDERS_PREFIX: &str = "/order.v1.OrderService/";

/// Sends a call to the order service or to one of the small ones beside it, and gives the
/// refusals of the framework the details that every refusal has.
#[derive(Clone)]
pub(super) struct Dispatch<S> {
    orders: S,
    others: Routes,
}

impl<S> Dispatch<S> {
    /// `others` gets every path that is not of the order service and refuses unknown ones.
    pub(super) fn new(orders: S, others: Routes) -> Self {
        Self { orders, others }
    }
}

impl<S, B> Service<Request<B>> for Dispatch<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = DispatchFuture<S::Future, <Routes as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        ready!(self.orders.poll_ready(cx))?;
        <Routes as Service<Request<Body>>>::poll_ready(&mut self.others, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request_id = request.extensions().get().cloned();
        let inner = if !is_grpc(request.headers()) {
            Inner::OtherProtocol
        } else if request.uri().path().starts_with(ORDERS_PREFIX) {
            Inner::Orders {
                future: self.orders.call(request),
            }
        } else {
            Inner::Others {
                future: self.others.call(with_body_of_others(request)),
            }
        };
        DispatchFuture { inner, request_id }
    }
}

/// Whether a request says that it is gRPC, and not JSON or gRPC-Web.
fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let suffix = value.and_then(|value| value.strip_prefix(b"application/grpc"));
    suffix.is_some_and(|suffix| matches!(suffix.first(), None | Some(b'+' | b';')))
}

/// What the specification of gRPC over HTTP/2 wants of a request that is none.
fn unsupported_media_type() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Routes take one type of body.
fn with_body_of_others<B>(request: Request<B>) -> Request<Body>
where
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let is_reflection = request.uri().path().starts_with(reflection::PREFIX);
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    match connection.filter(|_| is_reflection) {
        Some(connection) => {
            request.map(|body| reflection::until_draining(body, connection.draining.clone()))
        }
        None => request.map(Body::new),
    }
}

pin_project! {
    /// Completes what the framework refused.
    pub(super) struct DispatchFuture<A, B> {
        #[pin]
        inner: Inner<A, B>,
        request_id: Option<RequestId>,
    }
}

pin_project! {
    #[project = InnerProjection]
    enum Inner<A, B> {
        Orders { #[pin] future: A },
        Others { #[pin] future: B },
        OtherProtocol,
    }
}

impl<A, B> Future for DispatchFuture<A, B>
where
    A: Future<Output = Result<Response<Body>, Infallible>>,
    B: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(match this.inner.project() {
            InnerProjection::Orders { future } => future.poll(cx),
            InnerProjection::Others { future } => future.poll(cx),
            InnerProjection::OtherProtocol => Poll::Ready(Ok(unsupported_media_type())),
        })?;
        // An answer that begins with its status is a refusal; others end with it.
        if !response.headers().contains_key(Status::GRPC_STATUS) {
            return Poll::Ready(Ok(response));
        }
        let request_id = this.request_id.take().unwrap_or_else(unknown_request_id);
        let completed = Status::from_header_map(response.headers())
            .and_then(|status| complete_refusal(&status, REQUEST_BYTES_MAX, &request_id));
        Poll::Ready(Ok(completed.map_or(response, Status::into_http)))
    }
}
