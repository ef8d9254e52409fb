//! Changing orders: replays, preconditions, and races between clients.

use order_core::{
    CancelOrder, Cause, Error, IdGen as _, IfMatch, JobQueue as _, Order, OrderApi as _, OrderId,
    OrderStatus, Receipt, RetryOrder, UpdateStatus,
};
use order_testkit::clock::SeededIds;

use super::{Rig, ctx, key, wanted};

fn cancel(order_id: OrderId) -> CancelOrder {
    CancelOrder {
        order_id,
        reason: None,
        if_match: None,
        idempotency_key: None,
    }
}

fn keyed_cancel(order_id: OrderId, text: &str) -> CancelOrder {
    CancelOrder {
        idempotency_key: Some(key(text)),
        ..cancel(order_id)
    }
}

fn at(versions: &[u32]) -> IfMatch {
    IfMatch::Versions(versions.to_vec())
}

fn is_mismatch<T>(answer: &Result<T, Error>, current_version: u32) -> bool {
    matches!(answer, Err(Error::EtagMismatch { current, .. }) if *current == current_version)
}

/// Whether both requests were answered with the same order, one of them as a replay.
fn is_first_and_replay(left: &Receipt, right: &Receipt) -> bool {
    left.order == right.order && left.is_replayed != right.is_replayed
}

#[tokio::test(start_paused = true)]
async fn cancel_with_a_key_is_replayed() {
    let rig = Rig::new();
    let order = rig.create(wanted(100)).await;
    let request = keyed_cancel(order.id, "k");
    let first = rig.service.cancel_order(&ctx(), request.clone()).await;
    let first = first.expect("is cancelled");
    assert_eq!(first.order.status, OrderStatus::Cancelled);
    assert!(!first.is_replayed);
    let n_published = rig.n_published();

    let again = rig.service.cancel_order(&ctx(), request).await;

    let expected = Receipt {
        is_replayed: true,
        ..first
    };
    assert_eq!(again.expect("is replayed"), expected);
    assert_eq!(rig.n_published(), n_published);
}

#[tokio::test(start_paused = true)]
async fn key_used_for_another_cancel_is_refused() {
    let rig = Rig::new();
    let (first, second) = (rig.create(wanted(1)).await, rig.create(wanted(2)).await);
    let request = keyed_cancel(first.id, "k");
    let cancelled = rig.service.cancel_order(&ctx(), request.clone()).await;
    assert!(cancelled.is_ok(), "{cancelled:?}");

    let other_reason = CancelOrder {
        reason: Some("changed my mind".to_owned()),
        ..request
    };
    for other in [other_reason, keyed_cancel(second.id, "k")] {
        let refused = rig.service.cancel_order(&ctx(), other).await;
        assert!(
            matches!(refused, Err(Error::IdempotencyKeyReused)),
            "{refused:?}"
        );
    }
    let unharmed = rig.service.get_order(&ctx(), second.id).await;
    assert_eq!(unharmed.expect("is there"), second);
}

/// The precondition is about the moment of the first request, which met it.
#[tokio::test(start_paused = true)]
async fn replay_comes_before_a_precondition_that_no_longer_holds() {
    let rig = Rig::new();
    let order = rig.create(wanted(100)).await;
    let request = CancelOrder {
        if_match: Some(at(&[1])),
        ..keyed_cancel(order.id, "k")
    };
    let first = rig.service.cancel_order(&ctx(), request.clone()).await;
    let first = first.expect("is cancelled");

    let again = rig.service.cancel_order(&ctx(), request.clone()).await;
    assert!(is_first_and_replay(&first, &again.expect("is replayed")));

    let other_key = CancelOrder {
        idempotency_key: Some(key("l")),
        ..request
    };
    let refused = rig.service.cancel_order(&ctx(), other_key).await;
    assert!(is_mismatch(&refused, 2), "{refused:?}");
}

/// Only a cancel that moved its order keeps its key.
#[tokio::test(start_paused = true)]
async fn cancel_that_moved_nothing_leaves_its_key_free() {
    let rig = Rig::new();
    let cancelled = rig.create_in(OrderStatus::Cancelled).await;
    let processed = rig.create_in(OrderStatus::Processed).await;
    let order = rig.create(wanted(100)).await;

    let request = keyed_cancel(cancelled.id, "k");
    let receipt = rig.service.cancel_order(&ctx(), request).await;
    assert_eq!(receipt.expect("it is cancelled"), Receipt::first(cancelled));
    let request = keyed_cancel(processed.id, "k");
    let refused = rig.service.cancel_order(&ctx(), request).await;
    assert!(matches!(refused, Err(Error::OrderNotCancellable { .. })));

    let request = keyed_cancel(order.id, "k");
    let receipt = rig.service.cancel_order(&ctx(), request).await;
    let receipt = receipt.expect("is cancelled");
    assert!(!receipt.is_replayed && receipt.order.version == 2);
}

#[tokio::test(start_paused = true)]
async fn precondition_is_checked_after_existence_and_before_state() {
    let rig = Rig::new();
    let processed = rig.create_in(OrderStatus::Processed).await;
    let request = |order_id, if_match| CancelOrder {
        if_match,
        ..cancel(order_id)
    };

    let unknown = request(SeededIds::new(9).order_id(), Some(at(&[1])));
    let answer = rig.service.cancel_order(&ctx(), unknown).await;
    assert!(matches!(answer, Err(Error::OrderNotFound { .. })));
    for stale in [at(&[1]), at(&[]), at(&[1, 3])] {
        let answer = rig
            .service
            .cancel_order(&ctx(), request(processed.id, Some(stale)))
            .await;
        assert!(is_mismatch(&answer, 2), "{answer:?}");
    }
    for met in [Some(at(&[1, 2])), Some(IfMatch::Any), None] {
        let answer = rig
            .service
            .cancel_order(&ctx(), request(processed.id, met))
            .await;
        assert!(
            matches!(answer, Err(Error::OrderNotCancellable { .. })),
            "{answer:?}"
        );
    }
}

/// Both requests read version 1 before either is committed.
#[tokio::test(start_paused = true)]
async fn one_of_two_racing_changes_meets_its_precondition() {
    let rig = Rig::new();
    let order = rig.create(wanted(100)).await;
    let cancelling = CancelOrder {
        if_match: Some(at(&[1])),
        ..cancel(order.id)
    };
    let moving = UpdateStatus {
        order_id: order.id,
        status: OrderStatus::Cancelled,
        cause: None,
        if_match: Some(at(&[1])),
    };

    let context = ctx();
    let (cancelled, moved) = tokio::join!(
        rig.service.cancel_order(&context, cancelling),
        rig.service.update_status(&context, moving)
    );

    let cancelled = cancelled.map(|receipt| receipt.order);
    let is_one_each = match (&cancelled, &moved) {
        (Ok(_), lost) | (lost, Ok(_)) => is_mismatch(lost, 2),
        (Err(_), Err(_)) => false,
    };
    assert!(is_one_each, "{cancelled:?} {moved:?}");
}

#[tokio::test(start_paused = true)]
async fn loser_of_a_race_decides_anew() {
    let rig = Rig::new();
    let order = rig.create(wanted(100)).await;
    let moving = UpdateStatus {
        order_id: order.id,
        status: OrderStatus::Processing,
        cause: None,
        if_match: None,
    };

    let context = ctx();
    let (cancelled, moved) = tokio::join!(
        rig.service.cancel_order(&context, cancel(order.id)),
        rig.service.update_status(&context, moving)
    );

    let refused_for = |current| match current {
        OrderStatus::Processing => {
            matches!(cancelled, Err(Error::OrderNotCancellable { .. }))
        }
        _ => matches!(moved, Err(Error::TransitionRefused { .. })),
    };
    let order = rig.service.get_order(&ctx(), order.id).await;
    let order = order.expect("is there");
    assert_eq!(order.version, 2);
    assert!(refused_for(order.status), "{cancelled:?} {moved:?}");
}

#[tokio::test(start_paused = true)]
async fn one_of_two_racing_cancels_with_a_key_is_a_replay() {
    let rig = Rig::new();
    let order = rig.create(wanted(100)).await;
    let request = CancelOrder {
        if_match: Some(at(&[1])),
        ..keyed_cancel(order.id, "k")
    };

    let context = ctx();
    let (left, right) = tokio::join!(
        rig.service.cancel_order(&context, request.clone()),
        rig.service.cancel_order(&context, request)
    );

    let (left, right) = (left.expect("answers"), right.expect("answers"));
    assert!(is_first_and_replay(&left, &right), "{left:?} {right:?}");
    assert_eq!(left.order.version, 2);
}

fn retry(order: &Order, if_match: Option<IfMatch>) -> RetryOrder {
    RetryOrder {
        order_id: order.id,
        if_match,
    }
}

#[tokio::test(start_paused = true)]
async fn failed_order_is_redriven() {
    let rig = Rig::new();
    let failed = rig.create_in(OrderStatus::Failed).await;
    assert_eq!(
        failed.failure.as_ref().map(|cause| cause.code.as_str()),
        Some("FAILED_BY_REQUEST")
    );
    let early = retry(&failed, Some(at(&[1])));
    let stale = rig.service.retry_order(&ctx(), early).await;
    assert!(is_mismatch(&stale, 2), "{stale:?}");

    let redriven = rig
        .service
        .retry_order(&ctx(), retry(&failed, Some(at(&[2]))))
        .await
        .expect("is redriven");

    assert_eq!(
        (redriven.status, redriven.version, &redriven.failure),
        (OrderStatus::Pending, 3, &None::<Cause>)
    );
    // Repeated after a lost answer.
    let again = rig.service.retry_order(&ctx(), retry(&failed, None)).await;
    assert_eq!(again.expect("is pending"), redriven);
    let due = rig
        .memory
        .claim(10, std::time::Duration::from_mins(1))
        .await;
    assert_eq!(due.expect("claim answers").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn order_that_has_not_failed_is_not_redriven() {
    let rig = Rig::new();
    for status in [
        OrderStatus::Processing,
        OrderStatus::Processed,
        OrderStatus::Cancelled,
    ] {
        let order = rig.create_in(status).await;
        let refused = rig.service.retry_order(&ctx(), retry(&order, None)).await;
        let is_named = matches!(
            &refused,
            Err(Error::OrderNotRetryable { current, allowed, .. })
                if *current == status && *allowed == status.allowed()
        );
        assert!(is_named, "{refused:?}");
    }
}
