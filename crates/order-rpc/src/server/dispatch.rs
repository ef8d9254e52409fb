//! From a path to its service.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use order_core::RequestId;
use order_edge::Connection;
use tonic::{Status, body::Body, service::Routes};
use tower::ServiceExt as _;

use super::{handler::OrderRpc, reflection};
use crate::{
    REQUEST_BYTES_MAX,
    proto::order_service_server::OrderServiceServer,
    status::{complete_refusal, unknown_request_id},
};

/// Where the paths of the order service begin.
const ORDERS_PREFIX: &str = "/order.v1.OrderService/";

/// The services: that for orders, and the small ones beside it, which get every other path and
/// refuse unknown ones.
#[derive(Clone)]
pub(super) struct Dispatch {
    pub(super) orders: OrderServiceServer<OrderRpc>,
    pub(super) others: Routes,
}

impl Dispatch {
    /// Sends a call to its service, and gives the refusals of the framework the details that
    /// every refusal has.
    pub(super) async fn answer(self, request: Request<Body>) -> Response<Body> {
        if !is_grpc(request.headers()) {
            return unsupported_media_type();
        }
        let request_id: Option<RequestId> = request.extensions().get().cloned();
        let answered = if request.uri().path().starts_with(ORDERS_PREFIX) {
            self.orders.oneshot(request).await
        } else {
            self.others.oneshot(until_draining(request)).await
        };
        let Ok(response) = answered;
        // An answer that begins with its status is a refusal; others end with it.
        if !response.headers().contains_key(Status::GRPC_STATUS) {
            return response;
        }
        let request_id = request_id.unwrap_or_else(unknown_request_id);
        Status::from_header_map(response.headers())
            .and_then(|status| complete_refusal(&status, REQUEST_BYTES_MAX, &request_id))
            .map_or(response, Status::into_http)
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

/// Ends the questions of reflection when their connection is to go away.
fn until_draining(request: Request<Body>) -> Request<Body> {
    if !request.uri().path().starts_with(reflection::PREFIX) {
        return request;
    }
    match request.extensions().get::<Arc<Connection>>().cloned() {
        Some(connection) => {
            request.map(|body| reflection::until_draining(body, connection.draining.clone()))
        }
        None => request,
    }
}
