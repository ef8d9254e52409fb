use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use order_core::{Error, ErrorKind, ExternalId, OrderId, OrderStatus, Retry};

use super::*;

/// An error for each reason; a reason that nothing is said about here does not compile.
fn example(reason: Reason) -> Error {
    let order_id = OrderId::floor_at(Timestamp::UNIX_EPOCH);
    let (current, allowed) = (OrderStatus::Processed, Vec::new());
    let retry_after = Duration::from_secs(1);
    match reason {
        Reason::InvalidArgument => Error::invalid("amount", "is required"),
        Reason::OrderNotFound => Error::OrderNotFound { order_id },
        Reason::OrderAlreadyExists => Error::OrderAlreadyExists { order_id },
        Reason::ExternalIdTaken => Error::ExternalIdTaken {
            external_id: ExternalId::parse("cart-1").expect("an id"),
            order_id,
        },
        Reason::IdempotencyKeyReused => Error::IdempotencyKeyReused,
        Reason::RequestInProgress => Error::RequestInProgress { retry_after },
        Reason::EtagMismatch => Error::EtagMismatch {
            order_id,
            current: 1,
        },
        Reason::OrderNotCancellable => Error::OrderNotCancellable {
            order_id,
            current,
            allowed,
        },
        Reason::OrderNotRetryable => Error::OrderNotRetryable {
            order_id,
            current,
            allowed,
        },
        Reason::TransitionRefused => Error::TransitionRefused {
            order_id,
            current,
            requested: OrderStatus::Pending,
            allowed,
        },
        Reason::VersionConflict => Error::VersionConflict { order_id },
        Reason::TicketInvalid => Error::TicketInvalid,
        Reason::PermissionDenied => Error::PermissionDenied {
            what: "to read it".to_owned(),
        },
        Reason::LimitExceeded => Error::LimitExceeded {
            what: "orders".to_owned(),
            limit: 1,
        },
        Reason::Overloaded => Error::overloaded(),
        Reason::StoreUnavailable => Error::store_unavailable("down"),
        Reason::ServiceUnavailable => Error::service_unavailable("down"),
        Reason::ShuttingDown => Error::shutting_down(),
        Reason::DeadlineExceeded => Error::DeadlineExceeded,
        Reason::Internal => Error::internal("a defect"),
    }
}

#[test]
fn page_says_of_a_reason_what_its_errors_do() {
    for reason in Reason::ALL {
        let error = example(*reason);
        assert_eq!(error.reason(), *reason);
        let may_be_repeated = match error.retry() {
            Retry::Never | Retry::Reread => false,
            Retry::After(_) | Retry::IfIdempotent => true,
        };
        assert_eq!(is_retryable(*reason), may_be_repeated, "{reason:?}");
        let code = match error.kind() {
            ErrorKind::InvalidArgument | ErrorKind::Unprocessable => "INVALID_ARGUMENT",
            ErrorKind::Unauthenticated => "UNAUTHENTICATED",
            ErrorKind::PermissionDenied => "PERMISSION_DENIED",
            ErrorKind::NotFound => "NOT_FOUND",
            ErrorKind::AlreadyExists => "ALREADY_EXISTS",
            ErrorKind::FailedPrecondition => "FAILED_PRECONDITION",
            ErrorKind::Conflict | ErrorKind::EtagMismatch => "ABORTED",
            ErrorKind::ResourceExhausted => "RESOURCE_EXHAUSTED",
            ErrorKind::Unavailable => "UNAVAILABLE",
            ErrorKind::DeadlineExceeded => "DEADLINE_EXCEEDED",
            ErrorKind::Internal => "INTERNAL",
        };
        assert_eq!(grpc_code_of(*reason), code, "{reason:?}");
    }
}

#[test]
fn every_kind_has_a_page_of_its_own() {
    let addresses: BTreeSet<&str> = KINDS.iter().map(|kind| kind.address.as_str()).collect();
    assert_eq!(addresses.len(), KINDS.len());
    assert_eq!(KINDS.len(), Reason::ALL.len() + ALL_PROTOCOL.len());
}

#[test]
fn text_cannot_become_markup() {
    assert_eq!(escape("<a href=\"&\">"), "&lt;a href=&quot;&amp;&quot;&gt;");
    assert_eq!(
        mark_code("use `a<b`, then `c`"),
        "use <code>a&lt;b</code>, then <code>c</code>"
    );
}
