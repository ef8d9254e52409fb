//! `X-Request-Id`: the name of one request in every log line and answer it causes.

use http::{HeaderMap, HeaderName, HeaderValue};
use order_core::{IdGen, RequestId};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Takes the id that the client sent; makes one if there is none, or one that would be
/// unsafe to log.
pub(crate) fn accept(headers: &HeaderMap, ids: &dyn IdGen) -> RequestId {
    headers
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .and_then(RequestId::parse)
        .unwrap_or_else(|| RequestId::from_uuid(*ids.order_id().as_uuid()))
}

/// Tells the client the id.
pub(crate) fn echo(request_id: &RequestId, headers: &mut HeaderMap) {
    // A request id holds only characters that a header value may have.
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert(X_REQUEST_ID, value);
    }
}
