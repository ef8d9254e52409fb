use std::{collections::BTreeMap, time::Duration};

use order_core::{ExternalId, OrderId, Reason};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn request_id() -> RequestId {
    RequestId::parse("req-1").expect("valid")
}

/// Errors have no equality because of their sources; their text has.
fn text(error: &Error) -> String {
    format!("{:?}", error.without_source())
}

fn travel(error: Error) -> Error {
    let status = to_status(error, &request_id());
    // Through the headers, as on the wire, where nothing but bytes arrives.
    let headers = status.into_http::<()>().into_parts().0.headers;
    from_status(Status::from_header_map(&headers).expect("has a status"))
}

fn any_id() -> impl Strategy<Value = OrderId> {
    any::<u128>().prop_map(|n| OrderId::from_uuid(Uuid::from_u128(n)))
}

fn any_status() -> impl Strategy<Value = OrderStatus> {
    prop::sample::select(OrderStatus::ALL.to_vec())
}

fn any_delay() -> impl Strategy<Value = Duration> {
    (0_u64..100_000, 0_u32..1_000_000_000).prop_map(|(secs, nanos)| Duration::new(secs, nanos))
}

/// As many as are allowed, of the length that ours have.
fn any_violations() -> impl Strategy<Value = Vec<Violation>> {
    let violation = ("[a-z_/0-9]{1,30}", "[ -~]{1,60}|\\PC{1,20}");
    let violation = violation.prop_map(|(field, rule)| Violation::new(field, rule));
    prop::collection::vec(violation, 1..=VIOLATIONS_MAX)
}

/// What errors are made of.
#[derive(Debug)]
struct Parts {
    order_id: OrderId,
    current: OrderStatus,
    requested: OrderStatus,
    allowed: Vec<OrderStatus>,
    version: u32,
    external_id: ExternalId,
    violations: Vec<Violation>,
    what: String,
    limit: u64,
    retry_after: Duration,
    has_source: bool,
}

prop_compose! {
    fn any_parts()(
        order_id in any_id(),
        (current, requested) in (any_status(), any_status()),
        allowed in prop::collection::vec(any_status(), 0..4),
        version in any::<u32>(),
        external_id in "[!-~]\\PC{0,100}[!-~]",
        violations in any_violations(),
        what in "\\PC{0,80}",
        limit in any::<u64>(),
        retry_after in any_delay(),
        has_source in any::<bool>(),
    ) -> Parts {
        let external_id = ExternalId::parse(&external_id).expect("valid");
        Parts {
            order_id, current, requested, allowed, version, external_id, violations, what, limit,
            retry_after, has_source,
        }
    }
}

/// The match makes a new reason fail to compile here.
fn error_of(reason: Reason, parts: Parts) -> Error {
    let Parts {
        order_id,
        current,
        requested,
        allowed,
        version,
        external_id,
        violations,
        what,
        limit,
        retry_after,
        has_source,
    } = parts;
    let source = has_source.then(|| Arc::from(BoxError::from("the source")));
    match reason {
        Reason::InvalidArgument => Error::InvalidArgument { violations },
        Reason::OrderNotFound => Error::OrderNotFound { order_id },
        Reason::OrderAlreadyExists => Error::OrderAlreadyExists { order_id },
        Reason::ExternalIdTaken => Error::ExternalIdTaken {
            external_id,
            order_id,
        },
        Reason::IdempotencyKeyReused => Error::IdempotencyKeyReused,
        Reason::RequestInProgress => Error::RequestInProgress { retry_after },
        Reason::EtagMismatch => Error::EtagMismatch {
            order_id,
            current: version,
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
            requested,
            allowed,
        },
        Reason::VersionConflict => Error::VersionConflict { order_id },
        Reason::TicketInvalid => Error::TicketInvalid,
        Reason::PermissionDenied => Error::PermissionDenied { what },
        Reason::LimitExceeded => Error::LimitExceeded { what, limit },
        Reason::Overloaded => Error::Overloaded { retry_after },
        Reason::StoreUnavailable => Error::StoreUnavailable {
            retry_after,
            source,
        },
        Reason::ServiceUnavailable => Error::ServiceUnavailable {
            retry_after,
            source,
        },
        Reason::ShuttingDown => Error::ShuttingDown { retry_after },
        Reason::DeadlineExceeded => Error::DeadlineExceeded,
        Reason::Internal => Error::Internal { source },
    }
}

fn any_error() -> impl Strategy<Value = Error> {
    let reason = prop::sample::select(Reason::ALL);
    (reason, any_parts()).prop_map(|(reason, parts)| error_of(reason, parts))
}

proptest! {
    #[test]
    fn every_error_survives_the_way(error in any_error()) {
        let sent = text(&error);
        prop_assert_eq!(text(&travel(error)), sent);
    }

    #[test]
    fn every_error_of_a_batch_survives_the_way(error in any_error()) {
        let sent = text(&error);
        let status = to_batch_status(error, &request_id(), 1, true);
        prop_assert_eq!(text(&from_batch_status(status)), sent);
    }

    #[test]
    fn every_status_names_its_reason_and_its_request(error in any_error()) {
        let reason = error.reason();
        let details = to_status(error, &request_id()).get_error_details();
        let info = details.error_info().expect("always there");
        prop_assert_eq!((info.domain.as_str(), info.reason.as_str()), (DOMAIN, reason.as_str()));
        prop_assert_eq!(&details.request_info().expect("always there").request_id, "req-1");
    }

    #[test]
    fn no_status_panics(code in -1..20, message in ".*", details in any::<Vec<u8>>()) {
        let status = Status::with_details(Code::from_i32(code), message, details.into());
        let _ = from_status(status);
    }
}

#[test]
fn source_stays_for_the_log_and_does_not_travel() {
    let status = to_status(Error::internal("secret"), &request_id());
    assert_eq!(source_chain(&status), "an internal error occurred: secret");
    let headers = status.into_http::<()>().into_parts().0.headers;
    assert!(!format!("{headers:?}").contains("secret"));
}

#[test]
fn excess_violations_are_cut_to_what_a_header_holds() {
    for field in [
        "requests/999/money/minor_units".to_owned(),
        format!("requests/999/metadata/{}", "\u{10ffff}".repeat(40)),
    ] {
        let violations = vec![Violation::new(field, "x".repeat(60)); 1_000];
        let status = to_status(Error::InvalidArgument { violations }, &request_id());
        assert!(status.get_details_bad_request().is_some());
        let headers = status.into_http::<()>().into_parts().0.headers;
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum();
        assert!((5_000..15_000).contains(&bytes), "{bytes}");
    }
}

#[test]
fn first_violation_is_reported_however_long_it_is() {
    let violations = vec![Violation::new("f", "\u{e4}".repeat(10_000)); 2];
    let status = to_status(Error::InvalidArgument { violations }, &request_id());
    let details = status.get_details_bad_request().expect("a detail");
    assert_eq!(details.field_violations.len(), 1);
}

#[test]
fn unknown_reason_is_read_by_its_code() {
    let newer = |code| {
        let mut details = ErrorDetails::with_error_info("BRAND_NEW", DOMAIN, HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(7)));
        details.add_bad_request_violation("field", "rule");
        text(&from_status(Status::with_error_details(
            code, "new", details,
        )))
    };
    let retry_after = Duration::from_secs(7);
    assert_eq!(
        newer(Code::Unavailable),
        text(&Error::ServiceUnavailable {
            retry_after,
            source: None
        })
    );
    assert_eq!(
        newer(Code::ResourceExhausted),
        text(&Error::Overloaded { retry_after })
    );
    assert_eq!(
        newer(Code::InvalidArgument),
        text(&Error::invalid("field", "rule"))
    );
    assert_eq!(
        newer(Code::PermissionDenied),
        text(&Error::Internal { source: None })
    );
}

#[test]
fn known_reason_without_its_details_is_read_by_its_code() {
    let details = ErrorDetails::with_error_info("ORDER_NOT_FOUND", DOMAIN, HashMap::new());
    let error = from_status(Status::with_error_details(Code::NotFound, "gone", details));
    assert!(error.chain().contains("gone"), "{}", error.chain());
    assert_eq!(error.reason(), Reason::Internal);
}

#[test]
fn foreign_status_is_read_by_its_code_and_kept() {
    let foreign_domain =
        ErrorDetails::with_error_info("ORDER_NOT_FOUND", "example.com", HashMap::new());
    for (status, reason) in [
        (Status::unavailable("proxy"), Reason::ServiceUnavailable),
        (Status::deadline_exceeded("proxy"), Reason::DeadlineExceeded),
        (
            Status::cancelled("Timeout expired"),
            Reason::DeadlineExceeded,
        ),
        (Status::cancelled("proxy"), Reason::Internal),
        (Status::resource_exhausted("proxy"), Reason::Overloaded),
        (Status::out_of_range("too large"), Reason::Internal),
        (Status::invalid_argument("proxy"), Reason::Internal),
        (Status::unknown("proxy"), Reason::Internal),
        (
            Status::with_error_details(Code::NotFound, "x", foreign_domain),
            Reason::Internal,
        ),
    ] {
        let code = status.code();
        assert_eq!(from_status(status).reason(), reason, "{code:?}");
    }
    let chain = from_status(Status::unavailable("proxy said no")).chain();
    assert!(chain.contains("proxy said no"), "{chain}");
}

#[test]
fn statuses_are_stable() {
    for error in samples() {
        let reason = error.reason();
        insta::assert_snapshot!(reason.as_str().to_lowercase(), render(error));
    }
}

#[test]
fn samples_have_every_reason() {
    let reasons: Vec<Reason> = samples().iter().map(Error::reason).collect();
    assert_eq!(reasons, Reason::ALL);
}

fn samples() -> Vec<Error> {
    let order_id = OrderId::from_uuid(Uuid::from_u128(7));
    let retry_after = Duration::from_millis(1_500);
    vec![
        Error::InvalidArgument {
            violations: vec![
                Violation::new("user_id", "must not be empty"),
                Violation::new("money/minor_units", "must be greater than 0"),
            ],
        },
        Error::OrderNotFound { order_id },
        Error::OrderAlreadyExists { order_id },
        Error::ExternalIdTaken {
            external_id: ExternalId::parse("cart-7").expect("valid"),
            order_id,
        },
        Error::IdempotencyKeyReused,
        Error::RequestInProgress { retry_after },
        Error::EtagMismatch {
            order_id,
            current: 3,
        },
        Error::OrderNotCancellable {
            order_id,
            current: OrderStatus::Processing,
            allowed: vec![OrderStatus::Processed, OrderStatus::Failed],
        },
        Error::OrderNotRetryable {
            order_id,
            current: OrderStatus::Processing,
            allowed: vec![OrderStatus::Processed, OrderStatus::Failed],
        },
        Error::TransitionRefused {
            order_id,
            current: OrderStatus::Processed,
            requested: OrderStatus::Pending,
            allowed: vec![],
        },
        Error::VersionConflict { order_id },
        Error::TicketInvalid,
        Error::PermissionDenied {
            what: "watching orders of others".to_owned(),
        },
        Error::LimitExceeded {
            what: "bytes per message".to_owned(),
            limit: 1_048_576,
        },
        Error::Overloaded { retry_after },
        Error::StoreUnavailable {
            retry_after,
            source: Some(Arc::from(BoxError::from("secret"))),
        },
        Error::ServiceUnavailable {
            retry_after,
            source: Some(Arc::from(BoxError::from("secret"))),
        },
        Error::ShuttingDown { retry_after },
        Error::DeadlineExceeded,
        Error::internal("secret"),
    ]
}

fn render(error: Error) -> String {
    let status = to_status(error, &request_id());
    let details = status.get_error_details();
    let info = details.error_info().expect("always there");
    let metadata: BTreeMap<_, _> = info.metadata.iter().collect();
    let mut lines = vec![
        format!("code: {:?}", status.code()),
        format!("message: {}", status.message()),
        format!("reason: {} ({})", info.reason, info.domain),
    ];
    lines.extend(metadata.iter().map(|(k, v)| format!("metadata: {k}={v}")));
    if let Some(retry) = details.retry_info() {
        lines.push(format!("retry: {:?}", retry.retry_delay));
    }
    for violation in details
        .bad_request()
        .iter()
        .flat_map(|b| &b.field_violations)
    {
        lines.push(format!(
            "field: {}: {}",
            violation.field, violation.description
        ));
    }
    for violation in details
        .precondition_failure()
        .iter()
        .flat_map(|p| &p.violations)
    {
        lines.push(format!(
            "precondition: {} of {}: {}",
            violation.r#type, violation.subject, violation.description
        ));
    }
    lines.join("\n")
}

#[test]
fn part_of_a_batch_says_when_to_repeat_it_only_if_it_may_be_repeated() {
    for is_idempotent in [true, false] {
        let error = Error::store_unavailable("down");
        let status = to_batch_status(error, &request_id(), 1, is_idempotent);
        let status = Status::with_details(Code::Unavailable, status.message, status.details);
        assert_eq!(status.get_details_retry_info().is_some(), is_idempotent);
    }
}
