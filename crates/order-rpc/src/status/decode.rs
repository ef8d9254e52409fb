//! The reading side: by (domain, reason), else by code.

use std::{collections::HashMap, error::Error as _, sync::Arc, time::Duration};

use order_core::{Error, ExternalId, OrderId, OrderStatus, Reason, Violation};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{DOMAIN, key};

/// Reads the error that [`to_status`](super::to_status) wrote, without its sources.
///
/// A reason this version does not know, and a status of somebody else (a proxy, the
/// connection), is read by its code and kept as the source, so that a newer service and an
/// older client get along.
pub fn from_status(status: Status) -> Error {
    let details = status.get_error_details();
    let known = details
        .error_info()
        .filter(|info| info.domain == DOMAIN)
        .and_then(|info| Reason::parse(&info.reason).map(|reason| (reason, &info.metadata)))
        .and_then(|(reason, metadata)| by_reason(reason, &Metadata(metadata), &details));
    match known {
        Some(error) => error,
        None => by_code(status, &details),
    }
}

struct Metadata<'a>(&'a HashMap<String, String>);

impl Metadata<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn order_id(&self) -> Option<OrderId> {
        self.text(key::ORDER_ID)?.parse().ok()
    }

    fn status(&self, key: &str) -> Option<OrderStatus> {
        OrderStatus::parse(self.text(key)?)
    }

    fn allowed(&self) -> Option<Vec<OrderStatus>> {
        let names = self.text(key::ALLOWED_STATUSES)?;
        names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(OrderStatus::parse)
            .collect()
    }
}

/// `None` if a detail that the reason needs is missing.
fn by_reason(reason: Reason, metadata: &Metadata<'_>, details: &ErrorDetails) -> Option<Error> {
    let retry_after = retry_after(details);
    let error = match reason {
        Reason::InvalidArgument => Error::InvalidArgument {
            violations: violations(details)?,
        },
        Reason::OrderNotFound => Error::OrderNotFound {
            order_id: metadata.order_id()?,
        },
        Reason::OrderAlreadyExists => Error::OrderAlreadyExists {
            order_id: metadata.order_id()?,
        },
        Reason::ExternalIdTaken => Error::ExternalIdTaken {
            external_id: ExternalId::parse(metadata.text(key::EXTERNAL_ID)?).ok()?,
            order_id: metadata.order_id()?,
        },
        Reason::IdempotencyKeyReused => Error::IdempotencyKeyReused,
        Reason::RequestInProgress => Error::RequestInProgress { retry_after },
        Reason::EtagMismatch => Error::EtagMismatch {
            order_id: metadata.order_id()?,
            current: metadata.text(key::CURRENT_VERSION)?.parse().ok()?,
        },
        Reason::OrderNotRetryable => Error::OrderNotRetryable {
            order_id: metadata.order_id()?,
            current: metadata.status(key::CURRENT_STATUS)?,
            allowed: metadata.allowed()?,
        },
        Reason::OrderNotCancellable => Error::OrderNotCancellable {
            order_id: metadata.order_id()?,
            current: metadata.status(key::CURRENT_STATUS)?,
            allowed: metadata.allowed()?,
        },
        Reason::TransitionRefused => Error::TransitionRefused {
            order_id: metadata.order_id()?,
            current: metadata.status(key::CURRENT_STATUS)?,
            requested: metadata.status(key::REQUESTED_STATUS)?,
            allowed: metadata.allowed()?,
        },
        Reason::VersionConflict => Error::VersionConflict {
            order_id: metadata.order_id()?,
        },
        Reason::TicketInvalid => Error::TicketInvalid,
        Reason::PermissionDenied => Error::PermissionDenied {
            what: metadata.text(key::WHAT)?.to_owned(),
        },
        Reason::LimitExceeded => Error::LimitExceeded {
            what: metadata.text(key::WHAT)?.to_owned(),
            limit: metadata.text(key::LIMIT)?.parse().ok()?,
        },
        Reason::Overloaded => Error::Overloaded { retry_after },
        Reason::StoreUnavailable => Error::StoreUnavailable {
            retry_after,
            source: None,
        },
        Reason::ServiceUnavailable => Error::ServiceUnavailable {
            retry_after,
            source: None,
        },
        Reason::ShuttingDown => Error::ShuttingDown { retry_after },
        Reason::DeadlineExceeded => Error::DeadlineExceeded,
        Reason::Internal => Error::Internal { source: None },
    };
    Some(error)
}

fn by_code(status: Status, details: &ErrorDetails) -> Error {
    match status.code() {
        Code::Unavailable => Error::ServiceUnavailable {
            retry_after: retry_after(details),
            source: Some(Arc::new(status)),
        },
        Code::ResourceExhausted => Error::Overloaded {
            retry_after: retry_after(details),
        },
        Code::DeadlineExceeded => Error::DeadlineExceeded,
        Code::Cancelled if is_timeout(&status) => Error::DeadlineExceeded,
        Code::InvalidArgument => match violations(details) {
            Some(violations) => Error::InvalidArgument { violations },
            None => Error::internal(status),
        },
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Error::internal(status),
    }
}

fn violations(details: &ErrorDetails) -> Option<Vec<Violation>> {
    let violations: Vec<Violation> = details
        .bad_request()?
        .field_violations
        .iter()
        .map(|v| Violation::new(&v.field, &v.description))
        .collect();
    (!violations.is_empty()).then_some(violations)
}

/// The pause that the other side asks for. It asks for none where the call must not be repeated
/// blindly; whether this call may be is decided here by itself.
fn retry_after(details: &ErrorDetails) -> Duration {
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    delay.unwrap_or(Error::RETRY_AFTER_DEFAULT)
}

/// Tonic answers CANCELLED where its own timeout ends a call; other gRPC implementations
/// answer `DEADLINE_EXCEEDED`.
fn is_timeout(status: &Status) -> bool {
    let expired = TimeoutExpired(()).to_string();
    status.message() == expired
        || status
            .source()
            .and_then(|source| source.downcast_ref::<TimeoutExpired>())
            .is_some()
}
