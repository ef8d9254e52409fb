//! Creating orders: replays, twins, and batches of both kinds.

use std::time::Duration;

use order_core::{
    Clock as _, CreateOrder, Error, ExternalId, Fingerprint, IdGen as _, KeyClaim, KeyOperation,
    NewOrder, OrderApi as _, OrderStatus, OrderStore as _, Receipt,
};
use order_testkit::clock::SeededIds;

use super::{Rig, ctx, key, keyed, wanted};

#[tokio::test(start_paused = true)]
async fn repeated_key_is_replayed_as_created_and_has_no_effect() {
    let rig = Rig::new();
    let order = rig.create(keyed(100, "k")).await;
    rig.move_to(order.id, OrderStatus::Processed).await;
    let (n_dispatched, n_published) = (rig.n_dispatched(), rig.n_published());

    let again = rig.service.create_order(&ctx(), keyed(100, "k")).await;

    let expected = Receipt {
        order,
        is_replayed: true,
    };
    assert_eq!(again.expect("is replayed"), expected);
    assert_eq!(rig.n_dispatched(), n_dispatched);
    assert_eq!(rig.n_published(), n_published);
}

#[tokio::test(start_paused = true)]
async fn key_used_for_another_order_is_refused() {
    let rig = Rig::new();
    rig.create(keyed(100, "k")).await;
    let reused = rig.service.create_order(&ctx(), keyed(101, "k")).await;
    assert!(matches!(reused, Err(Error::IdempotencyKeyReused)));
}

#[tokio::test(start_paused = true)]
async fn own_retry_is_not_called_a_replay() {
    let rig = Rig::new();
    let request = CreateOrder {
        order_id: Some(SeededIds::new(9).order_id()),
        ..keyed(100, "k")
    };
    let order = rig.create(request.clone()).await;
    assert_eq!(rig.create(request).await, order);
    assert_eq!(rig.n_dispatched(), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_create_leaves_its_key_free() {
    let rig = Rig::new();
    let named = CreateOrder {
        external_id: ExternalId::parse("a").ok(),
        ..wanted(100)
    };
    let there = rig.create(named.clone()).await;
    let with_key = CreateOrder {
        idempotency_key: Some(key("k")),
        ..named
    };

    let taken = rig.service.create_order(&ctx(), with_key).await;

    assert!(
        matches!(taken, Err(Error::ExternalIdTaken { order_id, .. }) if order_id == there.id),
        "{taken:?}"
    );
    rig.create(keyed(101, "k")).await;
}

/// What the store of another process has when the twin of `request` has ended there.
fn twin(request: &CreateOrder) -> NewOrder {
    let key = request.idempotency_key.clone().expect("a keyed request");
    NewOrder {
        key: Some(KeyClaim {
            owner: request.user_id.clone(),
            operation: KeyOperation::CreateOrder,
            key,
            fingerprint: Fingerprint::of_create(request),
            retention: Duration::from_hours(24),
        }),
        ..NewOrder::new(
            SeededIds::new(2).order_id(),
            request.user_id.clone(),
            request.money,
        )
    }
}

#[tokio::test(start_paused = true)]
async fn twin_waits_for_the_first_and_replays_it() {
    let rig = Rig::new();
    rig.store.set_keys_busy(true);
    let began = rig.clock.instant();
    let request = keyed(100, "k");
    let first = twin(&request);

    let context = ctx();
    let waiting = rig.service.create_order(&context, request);
    let ending = async {
        rig.clock.sleep(Duration::from_secs(1)).await;
        rig.memory.create(std::slice::from_ref(&first)).await;
        rig.store.set_keys_busy(false);
    };
    let (receipt, ()) = tokio::join!(waiting, ending);

    let receipt = receipt.expect("is replayed");
    assert!(receipt.is_replayed);
    assert_eq!(receipt.order.id, first.id);
    let waited = rig.clock.instant() - began;
    let expected = Duration::from_secs(1)..Duration::from_millis(1_250);
    assert!(expected.contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn twin_whose_first_failed_runs_itself() {
    let rig = Rig::new();
    rig.store.set_keys_busy(true);
    let ending = async {
        rig.clock.sleep(Duration::from_millis(500)).await;
        rig.store.set_keys_busy(false);
    };
    let (order, ()) = tokio::join!(rig.create(keyed(100, "k")), ending);
    assert_eq!(order.money, wanted(100).money);
    assert_eq!(rig.n_dispatched(), 1);
}

#[tokio::test(start_paused = true)]
async fn twin_gives_up_after_two_seconds() {
    let rig = Rig::new();
    rig.store.set_keys_busy(true);
    let began = rig.clock.instant();

    let refused = rig.service.create_order(&ctx(), keyed(100, "k")).await;

    assert!(matches!(refused, Err(Error::RequestInProgress { .. })));
    let waited = rig.clock.instant() - began;
    let expected = Duration::from_secs(2)..=Duration::from_millis(2_200);
    assert!(expected.contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn twin_does_not_wait_beyond_its_deadline() {
    let rig = Rig::new();
    rig.store.set_keys_busy(true);
    let (began, time) = (rig.clock.instant(), Duration::from_millis(500));

    let refused = rig
        .service
        .create_order(&rig.ctx_for(time), keyed(100, "k"))
        .await;

    assert!(
        matches!(refused, Err(Error::RequestInProgress { .. })),
        "{refused:?}"
    );
    let waited = rig.clock.instant() - began;
    assert!(waited > time / 2 && waited < time, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn batch_of_both_kinds_is_answered_in_order() {
    let rig = Rig::new();
    let there = rig.create(keyed(5, "there")).await;
    let requests = vec![
        wanted(1),
        keyed(2, "a"),
        keyed(5, "there"),
        wanted(3),
        keyed(2, "a"),
        keyed(9, "a"),
        keyed(4, "b"),
        wanted(6),
    ];

    let answers = rig.service.create_orders(&ctx(), requests).await;

    let answers = answers.expect("the batch is answered");
    let summary: Vec<_> = answers
        .iter()
        .map(|answer| {
            let receipt = answer.as_ref().ok()?;
            Some((receipt.order.money.minor_units(), receipt.is_replayed))
        })
        .collect();
    let expected = [
        Some((1, false)),
        Some((2, false)),
        Some((5, true)),
        Some((3, false)),
        Some((2, true)),
        None,
        Some((4, false)),
        Some((6, false)),
    ];
    assert_eq!(summary, expected, "{answers:?}");
    assert!(matches!(answers[5], Err(Error::IdempotencyKeyReused)));
    let id = |n: usize| answers[n].as_ref().map(|receipt| receipt.order.id).ok();
    assert_eq!((id(2), id(4)), (Some(there.id), id(1)));
}

/// What shares a batch with a key that is held waits for nothing.
#[tokio::test(start_paused = true)]
async fn busy_keys_in_a_batch_are_answered_at_once() {
    let rig = Rig::new();
    rig.store.set_keys_busy(true);
    let began = rig.clock.instant();

    let requests = vec![keyed(1, "a"), wanted(2), keyed(3, "b")];
    let answers = rig.service.create_orders(&ctx(), requests).await;

    assert_eq!(rig.clock.instant(), began);
    let answers = answers.expect("the batch is answered");
    let is_in_progress = |n: usize| matches!(answers[n], Err(Error::RequestInProgress { .. }));
    assert!(is_in_progress(0) && answers[1].is_ok() && is_in_progress(2));
}

#[tokio::test(start_paused = true)]
async fn expired_call_is_refused() {
    let rig = Rig::new();
    let expired = rig.ctx_for(Duration::ZERO);
    let refused = rig.service.create_order(&expired, keyed(100, "k")).await;
    assert!(matches!(refused, Err(Error::DeadlineExceeded)));
    rig.create(keyed(100, "k")).await;
}
