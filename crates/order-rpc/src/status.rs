//! [`Error`] to [`tonic::Status`] and back.
//!
//! Every status carries `google.rpc.ErrorInfo` with the [`DOMAIN`] and the reason, and its
//! metadata holds each part of the message that varies (AIP-193), so that the other side
//! rebuilds the very same error without reading prose. Texts are those of `Error`'s
//! `Display`, which never shows a source.

mod decode;

use std::{collections::HashMap, error::Error as _, sync::Arc, time::Duration};

use bytes::Bytes;
use order_core::{BoxError, Error, OrderStatus, RequestId, SharedError, Violation};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use uuid::Uuid;

pub use decode::from_status;

use crate::proto::batch_create_orders_response::Status as BatchStatus;

/// The `ErrorInfo.domain` under which reasons are unique.
pub const DOMAIN: &str = "order-system";

/// The most broken rules one status reports.
pub const VIOLATIONS_MAX: usize = 20;

/// How much of a header block broken rules may take. They travel as text and as details,
/// and all of it has to stay below the 16 KiB a client accepts.
const VIOLATION_BYTES_MAX: usize = 12 * 1024;

/// The same for all the parts of a batch, whose answer has to stay below the 4 MiB of a message that
/// a client accepts.
const BATCH_VIOLATION_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Keys of `ErrorInfo.metadata`.
mod key {
    pub(super) const ORDER_ID: &str = "order_id";
    pub(super) const CURRENT_STATUS: &str = "current_status";
    pub(super) const REQUESTED_STATUS: &str = "requested_status";
    pub(super) const ALLOWED_STATUSES: &str = "allowed_statuses";
    pub(super) const CURRENT_VERSION: &str = "current_version";
    pub(super) const EXTERNAL_ID: &str = "external_id";
    pub(super) const FIELDS: &str = "fields";
    pub(super) const WHAT: &str = "what";
    pub(super) const LIMIT: &str = "limit";
}

/// Stands in where the pipeline gave the request no id.
pub(crate) fn unknown_request_id() -> RequestId {
    RequestId::from_uuid(Uuid::nil())
}

/// Writes the error of a call that has no effect the second time. The error itself becomes the
/// source of the status, for the log; it does not travel.
pub fn to_status(error: Error, request_id: &RequestId) -> Status {
    to_status_of(error, request_id, true)
}

/// Writes an error as [`to_status`] does. `is_idempotent` says whether the call has no effect the
/// second time: clients that obey `RetryInfo` repeat the call, so it is left out where that could
/// have the effect twice.
pub(crate) fn to_status_of(error: Error, request_id: &RequestId, is_idempotent: bool) -> Status {
    let retry_after = retry_after(&error, is_idempotent);
    write(error, request_id, VIOLATION_BYTES_MAX, retry_after)
}

fn retry_after(error: &Error, is_idempotent: bool) -> Option<Duration> {
    let is_safe = error.reason().repeat().is_safe(is_idempotent);
    error.retry_after().filter(|_| is_safe)
}

fn write(
    mut error: Error,
    request_id: &RequestId,
    violation_bytes_max: usize,
    retry_after: Option<Duration>,
) -> Status {
    if let Error::InvalidArgument { violations } = &mut error {
        violations.truncate(n_reportable(violations, violation_bytes_max));
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason().as_str(), DOMAIN, metadata(&error));
    details.set_request_info(request_id.as_str(), "");
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    match &error {
        Error::InvalidArgument { violations } => {
            for Violation { field, rule } in violations {
                details.add_bad_request_violation(field, rule);
            }
        }
        Error::OrderNotCancellable { order_id, .. }
        | Error::OrderNotRetryable { order_id, .. }
        | Error::TransitionRefused { order_id, .. } => {
            details.add_precondition_failure_violation(
                "ORDER_STATUS",
                format!("orders/{order_id}"),
                error.to_string(),
            );
        }
        _ => {}
    }
    let code = Code::from_i32(error.reason().grpc_code() as i32);
    let mut status = Status::with_error_details(code, error.to_string(), details);
    status.set_source(Arc::new(error));
    status
}

/// How many of the broken rules fit into a status; at least the first one.
fn n_reportable(violations: &[Violation], bytes_max: usize) -> usize {
    let mut bytes = 0;
    violations
        .iter()
        .take(VIOLATIONS_MAX)
        .take_while(|violation| {
            let is_first = bytes == 0;
            bytes += header_bytes(violation);
            is_first || bytes <= bytes_max
        })
        .count()
}

/// An upper bound of the header bytes that a broken rule takes. In the text each byte that
/// is not plain takes three; in the details the field stands three times and the rule twice,
/// and Base64 makes four bytes of three.
fn header_bytes(violation: &Violation) -> usize {
    let escaped = |text: &str| -> usize {
        let is_plain = |c: &u8| c.is_ascii_graphic() && !b"\"#%<>`?{}".contains(c);
        let plain = text.bytes().filter(is_plain).count();
        3 * text.len() - 2 * plain
    };
    let Violation { field, rule } = violation;
    let text = escaped(field) + escaped(rule) + SEPARATOR_BYTES;
    let details = 3 * field.len() + 2 * rule.len() + DETAIL_BYTES;
    text + details.div_ceil(3) * 4
}

/// What stands around a broken rule in the text, escaped: `: ` and `; `.
const SEPARATOR_BYTES: usize = 8;

/// More than tags, lengths and separators of a broken rule take in the details.
const DETAIL_BYTES: usize = 20;

/// Writes the error of one part of a batch that has `n_parts`. `is_idempotent` is about this part,
/// as in [`to_status_of`].
pub(crate) fn to_batch_status(
    error: Error,
    request_id: &RequestId,
    n_parts: usize,
    is_idempotent: bool,
) -> BatchStatus {
    let bytes_max = VIOLATION_BYTES_MAX.min(BATCH_VIOLATION_BYTES_MAX / n_parts.max(1));
    let retry_after = retry_after(&error, is_idempotent);
    let status = write(error, request_id, bytes_max, retry_after);
    BatchStatus {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Bytes::copy_from_slice(status.details()),
    }
}

/// Reads the error of one order of a batch.
pub(crate) fn from_batch_status(status: BatchStatus) -> Error {
    from_status(to_call_status(status))
}

/// The status of a call that fails as one order of a batch did.
pub(crate) fn to_call_status(status: BatchStatus) -> Status {
    let code = Code::from_i32(status.code);
    Status::with_details(code, status.message, status.details)
}

/// The status of a message that is longer than allowed.
pub(crate) fn too_long(request_bytes_max: usize, request_id: &RequestId) -> Status {
    let error = Error::LimitExceeded {
        what: "bytes per message".to_owned(),
        limit: u64::try_from(request_bytes_max).unwrap_or(u64::MAX),
    };
    // The same message is as long at any time.
    write(error, request_id, VIOLATION_BYTES_MAX, None)
}

/// Gives a refusal that tonic made before it reached the service the details that every
/// status has. `None` if there is nothing to add.
///
/// Everything the service itself answers has details, so a status without them is about the
/// request as such: an unknown method, a message that cannot be read or is too long.
pub(crate) fn complete_refusal(
    status: &Status,
    request_bytes_max: usize,
    request_id: &RequestId,
) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    let completed = match status.code() {
        Code::Unimplemented | Code::NotFound => {
            let reason = if status.code() == Code::NotFound {
                "UNKNOWN_SERVICE"
            } else {
                "UNIMPLEMENTED"
            };
            let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
            details.set_request_info(request_id.as_str(), "");
            Status::with_error_details(status.code(), status.message(), details)
        }
        Code::OutOfRange => too_long(request_bytes_max, request_id),
        Code::Internal => to_status(
            Error::invalid("request", "is not a message of this method"),
            request_id,
        ),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => {
            to_status(Error::internal(BoxError::from(status.clone())), request_id)
        }
    };
    Some(completed)
}

/// Whether an error, like the source of an [`Error`], is an answer as gRPC carries it.
pub fn is_status(error: &(dyn std::error::Error + 'static)) -> bool {
    let shared = error.downcast_ref::<SharedError>();
    error.is::<Status>() || shared.is_some_and(|shared| shared.is::<Status>())
}

/// The error behind a status with all its sources, else the text of the status.
pub(crate) fn source_chain(status: &Status) -> String {
    match status.source().and_then(|source| source.downcast_ref()) {
        Some(error) => Error::chain(error),
        None => status.message().to_owned(),
    }
}

fn metadata(error: &Error) -> HashMap<String, String> {
    let pairs = match error {
        Error::InvalidArgument { violations } => {
            let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
            vec![(key::FIELDS, fields.join(","))]
        }
        Error::OrderNotFound { order_id }
        | Error::OrderAlreadyExists { order_id }
        | Error::VersionConflict { order_id } => vec![(key::ORDER_ID, order_id.to_string())],
        Error::ExternalIdTaken {
            external_id,
            order_id,
        } => vec![
            (key::EXTERNAL_ID, external_id.to_string()),
            (key::ORDER_ID, order_id.to_string()),
        ],
        Error::EtagMismatch { order_id, current } => vec![
            (key::ORDER_ID, order_id.to_string()),
            (key::CURRENT_VERSION, current.to_string()),
        ],
        Error::OrderNotCancellable {
            order_id,
            current,
            allowed,
        }
        | Error::OrderNotRetryable {
            order_id,
            current,
            allowed,
        } => vec![
            (key::ORDER_ID, order_id.to_string()),
            (key::CURRENT_STATUS, current.to_string()),
            (key::ALLOWED_STATUSES, join(allowed)),
        ],
        Error::TransitionRefused {
            order_id,
            current,
            requested,
            allowed,
        } => vec![
            (key::ORDER_ID, order_id.to_string()),
            (key::CURRENT_STATUS, current.to_string()),
            (key::REQUESTED_STATUS, requested.to_string()),
            (key::ALLOWED_STATUSES, join(allowed)),
        ],
        Error::PermissionDenied { what } => vec![(key::WHAT, what.clone())],
        Error::LimitExceeded { what, limit } => {
            vec![(key::WHAT, what.clone()), (key::LIMIT, limit.to_string())]
        }
        _ => vec![],
    };
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn join(statuses: &[OrderStatus]) -> String {
    let names: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
    names.join(",")
}

/// The name of a code in the gRPC specification.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests;
