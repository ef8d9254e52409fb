//! Requests and events in distributed traces, by the semantic conventions of OpenTelemetry for HTTP.

use http::{Method, StatusCode, Version};
use order_core::{
    OrderEvent,
    span::{Record, Span, SpanKind},
};
use order_edge::pipeline::About;

/// A request that is over.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) version: Version,
    pub(super) status: Option<StatusCode>,
    pub(super) is_sent: bool,
}

impl Call<'_> {
    /// Describes the request in its span. The query is left out: it names users.
    pub(super) fn describe(&self, about: &About, span: &mut Record<'_>) {
        let method = known_method(self.method);
        let route = route_of(about.operation);
        // A method that anybody may make up is no name.
        let verb = if method == OTHER_METHOD {
            "HTTP"
        } else {
            method
        };
        span.rename(match route {
            Some(route) => format!("{verb} {route}"),
            None => verb.to_owned(),
        });
        span.set("http.request.method", method);
        span.set_some("http.route", route);
        span.set("url.scheme", "http");
        span.set("url.path", self.path.to_owned());
        span.set_some("network.protocol.version", version_of(self.version));
        let client = about.client.map(|client| client.to_string());
        span.set_some("client.address", client);
        let peer = about.peer.map(|peer| peer.ip().to_string());
        span.set_some("network.peer.address", peer);
        span.set("request.id", about.request_id.as_str().to_owned());
        let status = self.status.map(|status| i64::from(status.as_u16()));
        span.set_some("http.response.status_code", status);
        match self.status {
            Some(status) if status.is_server_error() => span.fail(status.as_str().to_owned()),
            _ if !self.is_sent => span.set("error.type", "abandoned"),
            _ => {}
        }
    }
}

const OTHER_METHOD: &str = "_OTHER";

fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::CONNECT => "CONNECT",
        Method::DELETE => "DELETE",
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::TRACE => "TRACE",
        _ => OTHER_METHOD,
    }
}

const fn version_of(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

/// The path of an operation; `None` if it has several, or none.
fn route_of(operation: &str) -> Option<&'static str> {
    Some(match operation {
        "list_orders" | "create_order" => "/orders",
        "create_orders" => "/orders:batch",
        "get_order" => "/orders/{order_id}",
        "cancel_order" => "/orders/{order_id}/cancel",
        "retry_order" => "/orders/{order_id}/retry",
        "list_events" => "/orders/{order_id}/events",
        "create_stream_ticket" => "/stream-tickets",
        "open_websocket" => "/ws",
        _ => return None,
    })
}

/// Begins the span of the push of an event to one client. It ends when the event is written.
pub(crate) fn push(event: &OrderEvent) -> Option<Span> {
    let cause = event.trace_parent.as_ref()?;
    let mut span = Span::begin(Some(cause), "push order event", SpanKind::Producer);
    span.record(|span| {
        span.set("order.id", event.order_id.to_string());
        span.set("order.version", i64::from(event.version));
        span.set("order.status", event.status.as_str());
    });
    Some(span)
}
