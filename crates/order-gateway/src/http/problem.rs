//! The one place that makes `application/problem+json` (RFC 9457).
//!
//! What a client reads comes from the fields of an error only; sources go to the log, once,
//! here: 5xx as an error with its whole chain, 4xx for whoever debugs a client.

use std::time::Duration;

use axum::{body::Body, response::Response};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use order_core::{Error, ErrorKind, OrderId, OrderStatus, RequestId, Retry, Violation};
use serde::Serialize;

/// Why a request gets no other answer.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The system says no.
    Core(Error),
    /// The request never got that far.
    Protocol(ProtocolError),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl From<ProtocolError> for Problem {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

/// What is wrong with a request as HTTP. The texts never repeat the request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// Nothing has this path.
    #[error("nothing is served at this path")]
    RouteNotFound,
    /// The path does not serve this method.
    #[error("this path does not serve this method; the Allow header lists those it serves")]
    MethodNotAllowed,
    /// The client reads no JSON.
    #[error("the answer would be application/json, which the Accept header excludes")]
    NotAcceptable,
    /// The body is too long.
    #[error("the body has more than {len_max} bytes")]
    BodyTooLarge {
        /// The limit.
        len_max: usize,
    },
    /// The body says that it is something else.
    #[error("the body must be application/json in UTF-8 without a content encoding")]
    UnsupportedMediaType,
    /// The body is not what it says.
    #[error("the body is not valid JSON: {rule}")]
    InvalidJson {
        /// What is wrong, and where.
        rule: String,
    },
    /// The body took too long.
    #[error("the body did not arrive in time")]
    RequestTimeout,
    /// The web page that asks for a socket is not allowed to.
    #[error("pages of this origin may not open a socket here")]
    OriginNotAllowed,
    /// The request is not the handshake that RFC 6455 §4.2.1 asks for.
    #[error("this path serves WebSocket version 13 over HTTP/1.1 only")]
    UpgradeRequired,
}

impl ProtocolError {
    const fn facts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::RouteNotFound => (
                StatusCode::NOT_FOUND,
                "ROUTE_NOT_FOUND",
                "The path does not exist",
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "The method is not allowed here",
            ),
            Self::NotAcceptable => (
                StatusCode::NOT_ACCEPTABLE,
                "NOT_ACCEPTABLE",
                "No acceptable representation exists",
            ),
            Self::BodyTooLarge { .. } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "BODY_TOO_LARGE",
                "The body is too large",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UNSUPPORTED_MEDIA_TYPE",
                "The media type is not supported",
            ),
            Self::InvalidJson { .. } => (
                StatusCode::BAD_REQUEST,
                "INVALID_JSON",
                "The body is not valid JSON",
            ),
            Self::RequestTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "REQUEST_TIMEOUT",
                "The request took too long to arrive",
            ),
            Self::OriginNotAllowed => (
                StatusCode::FORBIDDEN,
                "ORIGIN_NOT_ALLOWED",
                "The origin is not allowed",
            ),
            Self::UpgradeRequired => (
                StatusCode::UPGRADE_REQUIRED,
                "UPGRADE_REQUIRED",
                "A WebSocket handshake is required",
            ),
        }
    }
}

impl Problem {
    /// Logs the problem and makes the answer of it. `method` decides whether a request
    /// with an unknown outcome may be repeated.
    pub(crate) fn into_response(self, request_id: &RequestId, method: &Method) -> Response {
        let (status, code, title) = match &self {
            Self::Core(error) => (
                status_of(error.kind()),
                error.reason().as_str(),
                error.reason().title(),
            ),
            Self::Protocol(error) => error.facts(),
        };
        let mut document = Document {
            kind: format!("/problems/{}", code.to_ascii_lowercase().replace('_', "-")),
            title,
            status: status.as_u16(),
            detail: self.detail(),
            instance: instance_of(request_id),
            code,
            errors: Vec::new(),
            request_id: request_id.as_str(),
            retryable: false,
            current_status: None,
            allowed: None,
        };
        self.log(request_id, &document);
        let mut retry_after = None;
        if let Self::Core(error) = &self {
            document.describe(error);
            retry_after = match error.retry() {
                Retry::Never | Retry::Reread | Retry::IfIdempotent => None,
                Retry::After(delay) => Some(seconds(delay)),
            };
            document.retryable = match error.retry() {
                Retry::Never | Retry::Reread => false,
                Retry::After(_) => true,
                Retry::IfIdempotent => method.is_safe(),
            };
        }
        let mut response = document.respond(status, retry_after);
        if status == StatusCode::UPGRADE_REQUIRED {
            // RFC 9110 §15.5.22 and RFC 6455 §4.4: the answer says which protocol.
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }

    fn detail(&self) -> String {
        match self {
            Self::Core(Error::InvalidArgument { violations })
                if violations.iter().all(|v| v.field.is_empty()) =>
            {
                // About the body as a whole, which has no name to put before the rule.
                let rules: Vec<&str> = violations.iter().map(|v| v.rule.as_str()).collect();
                format!("the body {}", rules.join("; "))
            }
            Self::Core(error) => error.to_string(),
            Self::Protocol(error) => error.to_string(),
        }
    }

    fn log(&self, request_id: &RequestId, document: &Document<'_>) {
        let (status, code) = (document.status, document.code);
        match self {
            Self::Core(error) if status >= 500 => tracing::error!(
                request.id = %request_id,
                error.code = code,
                error.chain = error.chain(),
                "request failed"
            ),
            // The detail may hold names of fields that the client made up: it is escaped.
            Self::Core(_) | Self::Protocol(_) => tracing::debug!(
                request.id = %request_id,
                error.code = code,
                error.detail = ?document.detail,
                "request refused"
            ),
        }
    }
}

const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::FailedPrecondition | ErrorKind::Conflict => {
            StatusCode::CONFLICT
        }
        ErrorKind::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A URI for the request: its UUID if it is one, else a name in a space of our own.
fn instance_of(request_id: &RequestId) -> String {
    match request_id.as_str().parse::<OrderId>() {
        Ok(uuid) => format!("urn:uuid:{uuid}"),
        Err(_) => format!("urn:order-system:request:{request_id}"),
    }
}

/// Whole seconds, rounded up, at least one: 0 would ask for an immediate retry.
fn seconds(delay: Duration) -> u64 {
    let whole = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    whole.max(1)
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    instance: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    request_id: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<Vec<&'static str>>,
}

/// One broken rule, with a JSON Pointer (RFC 6901) to the value that broke it.
#[derive(Serialize)]
struct FieldError {
    pointer: String,
    detail: String,
}

impl From<&Violation> for FieldError {
    fn from(violation: &Violation) -> Self {
        // The empty pointer is the whole document.
        let pointer = match violation.field.as_str() {
            "" => String::new(),
            field => format!("/{field}"),
        };
        Self {
            pointer,
            detail: violation.rule.clone(),
        }
    }
}

impl Document<'_> {
    /// Adds the members that only some errors have.
    fn describe(&mut self, error: &Error) {
        match error {
            Error::InvalidArgument { violations } => {
                self.errors = violations.iter().map(FieldError::from).collect();
            }
            Error::OrderNotCancellable {
                current, allowed, ..
            }
            | Error::TransitionRefused {
                current, allowed, ..
            } => {
                self.current_status = Some(current.as_str());
                self.allowed = Some(allowed.iter().copied().map(OrderStatus::as_str).collect());
            }
            Error::OrderNotFound { .. }
            | Error::OrderAlreadyExists { .. }
            | Error::VersionConflict { .. }
            | Error::LimitExceeded { .. }
            | Error::Overloaded { .. }
            | Error::StoreUnavailable { .. }
            | Error::ServiceUnavailable { .. }
            | Error::ShuttingDown { .. }
            | Error::DeadlineExceeded
            | Error::Internal { .. } => {}
        }
    }

    fn respond(&self, status: StatusCode, retry_after: Option<u64>) -> Response {
        // Strings and numbers always serialise; an empty body still has the right status.
        let mut response = Response::new(Body::from(serde_json::to_vec(self).unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
