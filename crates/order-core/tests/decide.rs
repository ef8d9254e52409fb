//! The decision at the centre, against the rules in prose.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use jiff::Timestamp;
use order_core::{
    Cause, Command, Error, JobEffect, Metadata, Money, Order, OrderId, OrderStatus, TRANSITIONS,
    UserId, decide,
};
use proptest::prelude::*;
use uuid::Uuid;

fn order(status: OrderStatus) -> Order {
    Order {
        id: OrderId::from_uuid(Uuid::from_u128(1)),
        user_id: UserId::parse("user-1").expect("valid"),
        money: Money::parse("100", "USD").expect("valid"),
        status,
        version: 3,
        metadata: Metadata::NONE,
        external_id: None,
        failure: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}

fn move_to(status: OrderStatus) -> Command {
    Command::MoveTo {
        status,
        cause: None,
    }
}

/// The moves of `design.md`, written down a second time on purpose.
fn is_move_of_the_design(from: OrderStatus, to: OrderStatus) -> bool {
    use OrderStatus::{Cancelled, Failed, Pending, Processed, Processing};
    match from {
        Pending => matches!(to, Processing | Processed | Failed | Cancelled),
        Processing => matches!(to, Processed | Failed),
        Failed => matches!(to, Pending),
        Processed | Cancelled => false,
    }
}

#[test]
fn exactly_the_moves_of_the_design_are_allowed() {
    for from in OrderStatus::ALL {
        for to in OrderStatus::ALL.into_iter().filter(|to| *to != from) {
            match decide(&order(from), move_to(to)) {
                Ok(Some(change)) => {
                    assert!(is_move_of_the_design(from, to), "{from} to {to} is allowed");
                    assert_eq!((change.expected_version, change.status), (3, to));
                }
                Err(Error::TransitionRefused {
                    current,
                    requested,
                    allowed,
                    ..
                }) => {
                    assert!(
                        !is_move_of_the_design(from, to),
                        "{from} to {to} is refused"
                    );
                    assert_eq!((current, requested, allowed), (from, to, from.allowed()));
                }
                other => panic!("{from} to {to}: {other:?}"),
            }
        }
    }
}

#[test]
fn final_is_what_no_move_leaves() {
    for status in OrderStatus::ALL {
        assert_eq!(status.is_final(), status.allowed().is_empty(), "{status}");
        assert!(status.is_settled() || !status.is_final(), "{status}");
    }
}

#[test]
fn only_a_failed_order_is_retried() {
    for status in OrderStatus::ALL {
        let decided = decide(&order(status), Command::Retry);
        match status {
            OrderStatus::Failed => {
                let change = decided.expect("allowed").expect("a move");
                assert_eq!(
                    (change.status, change.job, change.cause),
                    (OrderStatus::Pending, JobEffect::Requeue, None)
                );
            }
            // Repeating the request is harmless.
            OrderStatus::Pending => assert_eq!(decided.expect("no error"), None),
            _ => assert!(
                matches!(decided, Err(Error::OrderNotRetryable { current, .. }) if current == status),
                "{decided:?}"
            ),
        }
    }
}

#[test]
fn an_order_that_is_there_already_stays() {
    for status in OrderStatus::ALL {
        assert_eq!(
            decide(&order(status), move_to(status)).expect("no error"),
            None
        );
    }
    let cancel = Command::Cancel {
        reason: Some("twice".to_owned()),
    };
    assert_eq!(
        decide(&order(OrderStatus::Cancelled), cancel).expect("no error"),
        None
    );
}

#[test]
fn a_refused_cancel_says_so() {
    let refused = decide(
        &order(OrderStatus::Processed),
        Command::Cancel { reason: None },
    );
    assert!(
        matches!(refused, Err(Error::OrderNotCancellable { ref allowed, .. }) if allowed.is_empty()),
        "{refused:?}"
    );
}

#[test]
fn a_job_exists_exactly_while_work_may_come() {
    for t in TRANSITIONS {
        match t.to {
            OrderStatus::Processed | OrderStatus::Cancelled => assert_eq!(t.job, JobEffect::Delete),
            OrderStatus::Failed => assert_eq!(t.job, JobEffect::Bury),
            OrderStatus::Pending => assert_eq!(t.job, JobEffect::Requeue),
            OrderStatus::Processing => assert_eq!(t.job, JobEffect::Keep),
        }
    }
}

#[test]
fn a_failure_always_has_a_cause() {
    let change = decide(&order(OrderStatus::Pending), move_to(OrderStatus::Failed));
    assert!(change.expect("allowed").expect("a change").cause.is_some());
}

proptest! {
    #[test]
    fn a_cause_is_cut_to_its_limits(code in ".*", message in ".*") {
        let cause = Cause::new(code, message);
        prop_assert!(cause.code.len() <= Cause::CODE_LEN_MAX);
        prop_assert!(cause.message.chars().count() <= Cause::MESSAGE_CHARS_MAX);
        prop_assert!(!cause.message.chars().any(char::is_control));
    }
}
