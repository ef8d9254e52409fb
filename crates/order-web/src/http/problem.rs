//! The one place that makes `application/problem+json` (RFC 9457).
//!
//! What a client reads comes from the fields of an error only; sources go to the log, once,
//! here: 5xx as an error with its whole chain, 4xx for whoever debugs a client.

mod document;
mod protocol;

use std::time::Duration;

use axum::response::Response;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT_ENCODING, CONNECTION, ETAG, LINK, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
        WWW_AUTHENTICATE,
    },
};
use order_core::{Error, OrderId, Reason, Repeat, RequestId, TraceParent, Violation};

use self::document::FieldError;
pub(crate) use self::{
    document::{Document, slug},
    protocol::{ALL_PROTOCOL, ProtocolError},
};

/// Says what a `POST` may send (Linked Data Platform §7.1).
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// Why a request gets no other answer.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The system says no; what it says about fields is about the body.
    Core(Error),
    /// The system says no; what it says about fields is about the parameters of the path
    /// and the query, and about headers.
    Parameters(Error),
    /// The same of a new order, which has this id if it was stored all the same.
    Create(Error, OrderId),
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

impl Problem {
    /// Logs the problem and makes the answer of it. `is_idempotent` tells whether the request
    /// may be repeated although its outcome is unknown.
    pub(crate) fn into_response(
        self,
        request_id: &RequestId,
        trace_parent: Option<&TraceParent>,
        is_idempotent: bool,
    ) -> Response {
        let document = self.document(request_id, trace_parent, is_idempotent);
        self.log(request_id, &document);
        let mut response = document.respond();
        self.add_headers(response.status(), &document, response.headers_mut());
        response
    }

    /// The problem of a whole request, or of a part of one that is answered part by part.
    pub(crate) fn document(
        &self,
        request_id: &RequestId,
        trace_parent: Option<&TraceParent>,
        is_idempotent: bool,
    ) -> Document {
        let (status, code, title) = self.kind();
        let mut document = Document::new(status, (code, title), self.detail(), request_id);
        document.trace_id = trace_parent.map(|trace| trace.trace_id().to_owned());
        document.errors = self.field_errors();
        if let Some(error) = self.error() {
            document.describe(error);
            document.retryable = error.reason().repeat().is_safe(is_idempotent);
        }
        // With a key the order may be that of an earlier request, which has another id.
        if let Self::Create(error, order_id) = self
            && error.reason().repeat() == Repeat::IfIdempotent
            && !is_idempotent
        {
            document.order_id = Some(order_id.to_string());
        }
        document
    }

    /// What the system says.
    const fn error(&self) -> Option<&Error> {
        match self {
            Self::Core(error) | Self::Parameters(error) | Self::Create(error, _) => Some(error),
            Self::Protocol(_) => None,
        }
    }

    /// What goes wrong in a few words, and in this case, for a page.
    pub(crate) fn words(&self) -> (&'static str, String) {
        let (_, _, title) = self.kind();
        (title, self.detail())
    }

    /// The rules that the request broke; none if it failed for another reason.
    pub(crate) fn violations(&self) -> &[Violation] {
        match self.error() {
            Some(Error::InvalidArgument { violations }) => violations,
            _ => &[],
        }
    }

    /// The status, the code and the title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Core(error) | Self::Parameters(error) | Self::Create(error, _) => {
                let reason = error.reason();
                (status_of(reason), reason.as_str(), reason.title())
            }
            Self::Protocol(error) => {
                let facts = error.facts();
                (facts.status, facts.code, facts.title)
            }
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Core(Error::InvalidArgument { violations })
            | Self::Create(Error::InvalidArgument { violations }, _)
                if violations.iter().all(|v| v.field.is_empty()) =>
            {
                // About the body as a whole, which has no name to put before the rule.
                let rules: Vec<&str> = violations.iter().map(|v| v.rule.as_str()).collect();
                format!("the body {}", rules.join("; "))
            }
            Self::Core(error) | Self::Parameters(error) | Self::Create(error, _) => {
                error.to_string()
            }
            Self::Protocol(error) => error.to_string(),
        }
    }

    fn field_errors(&self) -> Vec<FieldError> {
        match self {
            Self::Core(Error::InvalidArgument { violations })
            | Self::Create(Error::InvalidArgument { violations }, _) => {
                violations.iter().map(FieldError::in_body).collect()
            }
            Self::Parameters(Error::InvalidArgument { violations }) => {
                violations.iter().map(FieldError::in_parameter).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Adds the headers that go with a status or say what a member of the document says.
    fn add_headers(&self, status: StatusCode, document: &Document, headers: &mut HeaderMap) {
        if let Some(error) = self.error() {
            // Who obeys it repeats the request.
            if document.retryable
                && let Some(delay) = error.retry_after()
            {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds(delay)));
            }
            if let Error::EtagMismatch { current, .. } = error
                && let Ok(etag) = HeaderValue::try_from(format!("\"{current}\""))
            {
                headers.insert(ETAG, etag);
            }
        }
        if let Some(order) = &document.existing_order
            && let Ok(link) = HeaderValue::try_from(format!("<{order}>; rel=\"related\""))
        {
            headers.insert(LINK, link);
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2: the answer names at least one way to authenticate.
            headers.insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Ticket realm=\"order-system\""),
            );
        }
        if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            // RFC 9110 §15.5.16: the answer says what would be accepted.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            headers.insert(ACCEPT_POST, HeaderValue::from_static("application/json"));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            // RFC 9110 §15.5.22 and RFC 6455 §4.4: the answer says which protocol.
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
    }

    fn log(&self, request_id: &RequestId, document: &Document) {
        let code = document.code;
        match self.error() {
            // A process that stops says no until it is gone, and nothing has failed.
            Some(error)
                if error.reason().is_fault() && !matches!(error, Error::ShuttingDown { .. }) =>
            {
                tracing::error!(
                    request.id = %request_id,
                    trace.id = document.trace_id.as_deref(),
                    error.code = code,
                    error.chain = error.chain(),
                    "request failed"
                );
            }
            // The detail may hold names of fields that the client made up: it is escaped.
            _ => tracing::debug!(
                request.id = %request_id,
                trace.id = document.trace_id.as_deref(),
                error.code = code,
                error.detail = ?document.detail,
                "request refused"
            ),
        }
    }
}

/// The status of every answer that has this reason.
pub(crate) fn status_of(reason: Reason) -> StatusCode {
    // Every status of the table is one.
    StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Whole seconds, rounded up, at least one: 0 would ask for an immediate retry.
fn seconds(delay: Duration) -> u64 {
    let whole = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    whole.max(1)
}
