//! Ties a call to others: its id in every log line and answer it causes, and its position in a
//! distributed trace.

use http::{HeaderMap, HeaderName, HeaderValue};
use order_core::{IdGen, RequestId, TraceParent};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// Takes the id that the client sent; makes one if there is none, or one that would be
/// unsafe to log.
pub(crate) fn request_id(headers: &HeaderMap, ids: &dyn IdGen) -> RequestId {
    headers
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .and_then(RequestId::parse)
        .unwrap_or_else(|| RequestId::from_uuid(*ids.order_id().as_uuid()))
}

/// Returns the id to the client.
pub(crate) fn echo(request_id: &RequestId, headers: &mut HeaderMap) {
    // A request id holds only characters that a header value may have.
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// The position in a trace that the client sent. One that is not valid counts as absent, and
/// so do several (W3C Trace Context §3.2 and §4.3).
pub(crate) fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACE_PARENT).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let states = headers.get_all(TRACE_STATE).iter();
    let states = states.map(|line| line.to_str().unwrap_or_default());
    Some(TraceParent::parse(value.to_str().ok()?)?.with_state(states))
}
