//! Orders of a watched user that were shown unfinished are followed until they are settled.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use order_core::{EventBus, OrderEvent, OrderStatus, Version};

use super::{
    fake::{FakeStore, event, order_id, user},
    hub, subscribe, waiting,
};
use crate::{
    Hub, Inbox, Session, lock,
    unsettled::{Depth, PER_USER_MAX, TOTAL_MAX, Unsettled},
};

/// A hub with a session that follows user-1.
async fn watched(store: &Arc<FakeStore>) -> (Arc<Hub>, Session, Inbox) {
    let hub = hub(store);
    let (session, inbox) = follow(&hub).await;
    (hub, session, inbox)
}

async fn follow(hub: &Arc<Hub>) -> (Session, Inbox) {
    let (mut session, inbox) = hub.session().expect("room");
    let answer = session.subscribe_user(user("user-1")).await;
    answer.expect("the store is up");
    (session, inbox)
}

/// Moves these orders, and nobody is told.
fn move_all(store: &FakeStore, orders: RangeInclusive<u128>, status: OrderStatus) {
    for n in orders {
        store.commit(order_id(n), status);
    }
}

/// All that comes within some passes, by order.
async fn heard(hub: &Hub, inbox: &mut Inbox, n_passes: u32) -> BTreeMap<u128, Vec<Version>> {
    let mut heard: BTreeMap<u128, Vec<Version>> = BTreeMap::new();
    for _ in 0..n_passes {
        hub.shared.reconcile(Depth::Unsettled).await.expect("up");
        loop {
            // Without this the cooperative budget of the task ends after 128 reads.
            tokio::task::yield_now().await;
            let waiting = waiting(inbox);
            if waiting.is_empty() {
                break;
            }
            for (n, version) in waiting {
                heard.entry(n).or_default().push(version);
            }
        }
    }
    heard
}

fn each(orders: RangeInclusive<u128>, versions: &[Version]) -> BTreeMap<u128, Vec<Version>> {
    orders.map(|n| (n, versions.to_vec())).collect()
}

#[tokio::test]
async fn every_order_of_the_answer_is_healed() {
    let store = FakeStore::new();
    move_all(&store, 1..=100, OrderStatus::Pending);
    let (hub, _session, mut inbox) = watched(&store).await;
    move_all(&store, 1..=100, OrderStatus::Processing);
    move_all(&store, 1..=100, OrderStatus::Processed);
    assert_eq!(heard(&hub, &mut inbox, 2).await, each(1..=100, &[2, 3]));
    lock(&store.batches).clear();
    assert_eq!(heard(&hub, &mut inbox, 2).await, BTreeMap::new());
    assert_eq!(
        *lock(&store.batches),
        [],
        "settled orders are not asked about"
    );
}

#[tokio::test]
async fn orders_made_elsewhere_are_found_however_many() {
    let store = FakeStore::new();
    move_all(&store, 1..=300, OrderStatus::Processed);
    let (hub, _session, mut inbox) = watched(&store).await;
    lock(&store.user_batches).clear();
    move_all(&store, 301..=400, OrderStatus::Pending);
    assert_eq!(heard(&hub, &mut inbox, 2).await, each(301..=400, &[1]));
    move_all(&store, 301..=400, OrderStatus::Processed);
    move_all(&store, 401..=410, OrderStatus::Processed);
    let mut expected = each(301..=400, &[2]);
    expected.extend(each(401..=410, &[1]));
    assert_eq!(heard(&hub, &mut inbox, 2).await, expected);
    let looks: Vec<_> = lock(&store.user_batches)
        .iter()
        .map(|look| look.1)
        .collect();
    assert_eq!(
        looks,
        [20, 1_000, 20, 1_000, 20, 20],
        "deep ones only for new orders"
    );
}

#[tokio::test]
async fn order_that_commits_late_with_an_old_id_is_found() {
    let store = FakeStore::new();
    move_all(&store, 50..=60, OrderStatus::Pending);
    let (hub, _session, mut inbox) = watched(&store).await;
    assert_eq!(heard(&hub, &mut inbox, 3).await, BTreeMap::new());
    move_all(&store, 49..=49, OrderStatus::Pending);
    assert_eq!(heard(&hub, &mut inbox, 1).await, each(49..=49, &[1]));
}

#[tokio::test]
async fn old_order_that_another_session_watches_is_not_pushed_to_the_user() {
    let store = FakeStore::new();
    move_all(&store, 1..=200, OrderStatus::Processed);
    let (hub, _session, mut inbox) = watched(&store).await;
    let (mut other, _other_inbox) = hub.session().expect("room");
    subscribe(&mut other, 1).await;
    assert_eq!(heard(&hub, &mut inbox, 1).await, BTreeMap::new());
    hub.publish(&[store.commit(order_id(1), OrderStatus::Failed)]);
    assert_eq!(waiting(&mut inbox), [(1, 2)], "a change is");
}

#[tokio::test]
async fn more_orders_than_a_session_remembers_come_without_a_gap_and_once() {
    let store = FakeStore::new();
    let (hub, _session, mut inbox) = watched(&store).await;
    for n in 1..=2_500 {
        hub.publish(&[store.commit(order_id(n), OrderStatus::Pending)]);
        assert_eq!(waiting(&mut inbox), [(n, 1)]);
    }
    // Every session was offered this version, so it is not pushed again.
    hub.publish(&[event(order_id(1), 1, OrderStatus::Pending)]);
    assert_eq!(waiting(&mut inbox), []);
    move_all(&store, 1..=2_500, OrderStatus::Processing);
    move_all(&store, 1..=2_500, OrderStatus::Processed);
    lock(&store.batches).clear();
    let heard = heard(&hub, &mut inbox, 10).await;
    assert!(heard == each(1..=2_500, &[2, 3]), "{} came", heard.len());
    assert!(lock(&store.batches).iter().all(|len| *len <= 1_000));
}

#[tokio::test]
async fn slow_reader_is_healed_in_portions_and_not_ended() {
    let store = FakeStore::new();
    let (hub, _session, mut inbox) = watched(&store).await;
    for n in 1..=1_500 {
        hub.publish(&[store.commit(order_id(n), OrderStatus::Pending)]);
        waiting(&mut inbox);
    }
    move_all(&store, 1..=1_500, OrderStatus::Processed);
    for _ in 0..5 {
        hub.shared.reconcile(Depth::Unsettled).await.expect("up");
    }
    let portion = waiting(&mut inbox);
    assert_eq!(portion.len(), 500);
    let mut heard = heard(&hub, &mut inbox, 5).await;
    for (n, version) in portion {
        heard.entry(n).or_default().push(version);
    }
    assert!(heard == each(1..=1_500, &[2]), "{} came", heard.len());
}

#[tokio::test]
async fn answer_to_one_session_does_not_settle_orders_for_another() {
    let store = FakeStore::new();
    move_all(&store, 1..=30, OrderStatus::Pending);
    let (hub, _first, mut inbox) = watched(&store).await;
    move_all(&store, 1..=30, OrderStatus::Processed);
    move_all(&store, 31..=60, OrderStatus::Pending);
    let (_second, mut second_inbox) = follow(&hub).await;
    let mut expected = each(1..=30, &[2]);
    expected.extend(each(31..=60, &[1]));
    assert_eq!(heard(&hub, &mut inbox, 2).await, expected);
    assert_eq!(waiting(&mut second_inbox), []);
    move_all(&store, 31..=60, OrderStatus::Cancelled);
    assert_eq!(heard(&hub, &mut inbox, 2).await, each(31..=60, &[2]));
    assert_eq!(waiting(&mut second_inbox).len(), 30);
}

#[tokio::test]
async fn failed_orders_are_asked_about_by_deep_passes() {
    let store = FakeStore::new();
    move_all(&store, 1..=50, OrderStatus::Failed);
    let (hub, session, mut inbox) = watched(&store).await;
    move_all(&store, 1..=50, OrderStatus::Pending);
    assert_eq!(heard(&hub, &mut inbox, 1).await, each(31..=50, &[2]));
    hub.shared.reconcile(Depth::Redrivable).await.expect("up");
    assert_eq!(waiting(&mut inbox).len(), 30);
    assert_eq!(hub.shared.topics.n_unsettled(), 50);
    drop(session);
    assert_eq!(hub.shared.topics.n_unsettled(), 0);
}

#[tokio::test]
async fn failing_batch_keeps_no_other_away() {
    let store = FakeStore::new();
    let (hub, mut session, mut inbox) = watched(&store).await;
    store.commit_of("user-2", order_id(2), OrderStatus::Pending);
    subscribe(&mut session, 2).await;
    move_all(&store, 3..=3, OrderStatus::Pending);
    assert_eq!(heard(&hub, &mut inbox, 1).await, each(3..=3, &[1]));
    *lock(&store.unreadable) = Some(order_id(2));
    move_all(&store, 1..=1, OrderStatus::Pending);
    move_all(&store, 3..=3, OrderStatus::Processed);
    assert!(hub.shared.reconcile(Depth::Unsettled).await.is_err());
    assert_eq!(waiting(&mut inbox), [(1, 1), (3, 2)]);
}

fn pending(user_id: &str, n: u128) -> OrderEvent {
    OrderEvent {
        user_id: user(user_id),
        ..event(order_id(n), 1, OrderStatus::Pending)
    }
}

#[test]
fn few_orders_do_not_wait_for_many_of_another_user() {
    let mut unsettled = Unsettled::default();
    for n in 1..=5_000 {
        unsettled.note_offered(&pending("user-1", n), true);
    }
    for n in 5_001..=5_003 {
        unsettled.note_offered(&pending(&format!("user-{n}"), n), true);
    }
    let mut asked = Vec::new();
    for _ in 0..6 {
        let batch = unsettled.next(Depth::Unsettled, 1_000);
        assert_eq!(batch.len(), 1_000);
        assert!((5_001..=5_003).all(|n| batch.contains(&order_id(n))));
        asked.extend(batch);
    }
    assert!(
        (1..=5_000).all(|n| asked.contains(&order_id(n))),
        "all in turn"
    );

    // Failed orders have turns of their own.
    for n in 6_001..=8_500 {
        let failed = event(order_id(n), 1, OrderStatus::Failed);
        unsettled.note_offered(&failed, true);
    }
    let mut failed = Vec::new();
    for _ in 0..3 {
        failed.extend(unsettled.next(Depth::Redrivable, 1_000));
        unsettled.next(Depth::Unsettled, 1_000);
    }
    assert!((6_001..=8_500).all(|n| failed.contains(&order_id(n))));

    let mut many = Unsettled::default();
    for n in 1..=2_500 {
        many.note_offered(&pending(&format!("user-{n}"), n), true);
    }
    let batches = [(); 3]
        .map(|()| many.next(Depth::Unsettled, 1_000))
        .concat();
    assert!((1..=2_500).all(|n| batches.contains(&order_id(n))));
}

#[test]
fn oldest_orders_are_dropped_beyond_the_limits() {
    let mut unsettled = Unsettled::default();
    let per_user = PER_USER_MAX as u128;
    for n in 1..=per_user + 5 {
        unsettled.note_offered(&pending("user-0", n), true);
    }
    assert_eq!(unsettled.len(), PER_USER_MAX);
    assert_eq!(unsettled.offered(&pending("user-0", 5)), None);
    assert_eq!(unsettled.offered(&pending("user-0", 6)), Some(1));

    let n_users = TOTAL_MAX / PER_USER_MAX;
    for user_idx in 1..n_users {
        for n in 1..=per_user {
            unsettled.note_offered(&pending(&format!("user-{user_idx}"), n), true);
        }
    }
    assert_eq!(unsettled.len(), TOTAL_MAX);
    for n in 1..=100 {
        unsettled.note_offered(&pending("user-with-few", n), true);
    }
    assert_eq!(unsettled.len(), TOTAL_MAX);
    let few = (1..=100).map(|n| unsettled.offered(&pending("user-with-few", n)));
    assert!(few.into_iter().all(|version| version == Some(1)));
    for user_idx in 0..n_users {
        unsettled.forget(&user(&format!("user-{user_idx}")));
    }
    assert_eq!(unsettled.len(), 100);
}
