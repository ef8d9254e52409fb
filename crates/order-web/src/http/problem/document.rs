//! The members of a problem document.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use order_core::{Error, OrderId, OrderStatus, RequestId, Violation};
use serde::Serialize;

use crate::http::media::PROBLEM;

/// Why a request was refused (RFC 9457).
#[derive(Serialize)]
pub(crate) struct Document {
    /// The kind of problem: an address that documents it.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The kind of problem in a few words, always the same ones.
    pub(super) title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What is wrong, for people.
    pub(super) detail: String,
    /// A URI for this very request.
    pub(super) instance: String,
    /// The kind of problem, for programs.
    pub(super) code: &'static str,
    /// Every broken rule that was found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<FieldError>,
    /// The value of `X-Request-Id`.
    pub(super) request_id: String,
    /// The trace that the request belongs to, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<String>,
    /// Whether the same request may be sent again and have no effect twice.
    pub(super) retryable: bool,
    /// Where the order stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_status: Option<&'static str>,
    /// The statuses that the order may still move to.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<Vec<&'static str>>,
    /// The address of the order that has what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) existing_order: Option<String>,
    /// The id that the new order has if it was stored: read it to learn whether it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) order_id: Option<String>,
}

/// One broken rule, and where: a JSON Pointer into the body, or a parameter.
#[derive(Serialize)]
pub(super) struct FieldError {
    /// A JSON Pointer (RFC 6901) to the part of the body; empty for the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    /// The name of the parameter of the path or the query, or of the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    /// The rule.
    detail: String,
}

impl FieldError {
    pub(super) fn in_body(violation: &Violation) -> Self {
        let mut pointer = violation.field.clone();
        if !pointer.is_empty() {
            pointer.insert(0, '/');
        }
        Self {
            pointer: Some(pointer),
            parameter: None,
            detail: violation.rule.clone(),
        }
    }

    pub(super) fn in_parameter(violation: &Violation) -> Self {
        Self {
            pointer: None,
            parameter: Some(violation.field.clone()),
            detail: violation.rule.clone(),
        }
    }
}

impl Document {
    /// A document with the members that all problems have.
    pub(super) fn new(
        status: StatusCode,
        (code, title): (&'static str, &'static str),
        detail: String,
        request_id: &RequestId,
    ) -> Self {
        Self {
            kind: format!("/problems/{}", slug(code)),
            title,
            status: status.as_u16(),
            detail,
            instance: instance_of(request_id),
            code,
            errors: Vec::new(),
            request_id: request_id.as_str().to_owned(),
            trace_id: None,
            retryable: false,
            current_status: None,
            allowed: None,
            existing_order: None,
            order_id: None,
        }
    }

    /// Adds the members that only some errors have.
    pub(super) fn describe(&mut self, error: &Error) {
        match error {
            Error::OrderNotCancellable {
                current, allowed, ..
            }
            | Error::OrderNotRetryable {
                current, allowed, ..
            }
            | Error::TransitionRefused {
                current, allowed, ..
            } => {
                self.current_status = Some(current.as_str());
                self.allowed = Some(allowed.iter().copied().map(OrderStatus::as_str).collect());
            }
            Error::ExternalIdTaken { order_id, .. } => {
                self.existing_order = Some(format!("/orders/{order_id}"));
            }
            _ => {}
        }
    }

    pub(super) fn respond(&self) -> Response {
        // Strings and numbers always serialise; an empty body still has the right status.
        let mut response = Response::new(Body::from(serde_json::to_vec(self).unwrap_or_default()));
        // It was made from one.
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        response
    }
}

/// The last part of the address that documents a code: `ORDER_NOT_FOUND` is `order-not-found`.
pub(crate) fn slug(code: &str) -> String {
    code.to_ascii_lowercase().replace('_', "-")
}

/// A URI for the request: its UUID if it is one, else a name in a space of our own.
fn instance_of(request_id: &RequestId) -> String {
    match request_id.as_str().parse::<OrderId>() {
        Ok(uuid) => format!("urn:uuid:{uuid}"),
        Err(_) => format!("urn:order-system:request:{request_id}"),
    }
}
