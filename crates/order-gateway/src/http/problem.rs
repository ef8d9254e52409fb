//! The one place that makes `application/problem+json` (RFC 9457).
//!
//! What a client reads comes from the fields of an error only; sources go to the log, once,
//! here: 5xx as an error with its whole chain, 4xx for whoever debugs a client.

mod document;
mod protocol;

use std::time::Duration;

use axum::response::Response;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        CONNECTION, ETAG, LINK, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
    },
};
use order_core::{Error, Reason, RequestId, Retry, TraceParent};

pub(in crate::http) use self::document::Document;
use self::document::FieldError;
pub(crate) use self::{
    document::slug,
    protocol::{ALL_PROTOCOL, ProtocolError, ProtocolFacts},
};

/// Why a request gets no other answer.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The system says no; what it says about fields is about the body.
    Core(Error),
    /// The system says no; what it says about fields is about the parameters of the path
    /// and the query, and about headers.
    Parameters(Error),
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
    /// Logs the problem and makes the answer of it. `method` decides whether a request
    /// with an unknown outcome may be repeated.
    pub(crate) fn into_response(self, request_id: &RequestId, method: &Method) -> Response {
        self.into_traced_response(request_id, None, method)
    }

    /// The same for a request that may be part of a trace.
    pub(crate) fn into_traced_response(
        self,
        request_id: &RequestId,
        trace_parent: Option<&TraceParent>,
        method: &Method,
    ) -> Response {
        let (status, code, title) = match &self {
            Self::Core(error) | Self::Parameters(error) => {
                let reason = error.reason();
                (status_of(reason), reason.as_str(), reason.title())
            }
            Self::Protocol(error) => {
                let facts = error.facts();
                (facts.status, facts.code, facts.title)
            }
        };
        let mut document = Document::new(status, (code, title), self.detail(), request_id);
        document.trace_id = trace_parent.map(|trace| trace.trace_id().to_owned());
        self.log(request_id, &document);
        document.errors = self.field_errors();
        if let Self::Core(error) | Self::Parameters(error) = &self {
            document.describe(error);
            document.retryable = match error.retry() {
                Retry::Never | Retry::Reread => false,
                Retry::After(_) => true,
                Retry::IfIdempotent => method.is_safe(),
            };
        }
        let mut response = document.respond(status);
        self.add_headers(status, &document, response.headers_mut());
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
            Self::Core(error) | Self::Parameters(error) => error.to_string(),
            Self::Protocol(error) => error.to_string(),
        }
    }

    fn field_errors(&self) -> Vec<FieldError> {
        match self {
            Self::Core(Error::InvalidArgument { violations }) => {
                violations.iter().map(FieldError::in_body).collect()
            }
            Self::Parameters(Error::InvalidArgument { violations }) => {
                violations.iter().map(FieldError::in_parameter).collect()
            }
            Self::Core(_) | Self::Parameters(_) | Self::Protocol(_) => Vec::new(),
        }
    }

    /// Adds the headers that go with a status or say what a member of the document says.
    fn add_headers(&self, status: StatusCode, document: &Document, headers: &mut HeaderMap) {
        if let Self::Core(error) | Self::Parameters(error) = self {
            if let Retry::After(delay) = error.retry() {
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
        if status == StatusCode::UPGRADE_REQUIRED {
            // RFC 9110 §15.5.22 and RFC 6455 §4.4: the answer says which protocol.
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
    }

    fn log(&self, request_id: &RequestId, document: &Document) {
        let (status, code) = (document.status, document.code);
        match self {
            // A process that stops says no until it is gone, and nothing has failed.
            Self::Core(error) | Self::Parameters(error)
                if status >= 500 && !matches!(error, Error::ShuttingDown { .. }) =>
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
            Self::Core(_) | Self::Parameters(_) | Self::Protocol(_) => tracing::debug!(
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
pub(crate) const fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::InvalidArgument => StatusCode::BAD_REQUEST,
        Reason::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Reason::TicketInvalid => StatusCode::UNAUTHORIZED,
        Reason::PermissionDenied => StatusCode::FORBIDDEN,
        Reason::OrderNotFound => StatusCode::NOT_FOUND,
        Reason::OrderAlreadyExists
        | Reason::ExternalIdTaken
        | Reason::RequestInProgress
        | Reason::OrderNotCancellable
        | Reason::OrderNotRetryable
        | Reason::TransitionRefused
        | Reason::VersionConflict => StatusCode::CONFLICT,
        Reason::EtagMismatch => StatusCode::PRECONDITION_FAILED,
        Reason::LimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        Reason::Overloaded
        | Reason::StoreUnavailable
        | Reason::ServiceUnavailable
        | Reason::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        Reason::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whole seconds, rounded up, at least one: 0 would ask for an immediate retry.
fn seconds(delay: Duration) -> u64 {
    let whole = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    whole.max(1)
}
