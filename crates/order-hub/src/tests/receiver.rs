//! Events of other processes, and what is looked up for them. Time is paused.

use std::sync::{Arc, atomic::Ordering};

use order_core::{EventReceiver, OrderStatus, Topic};
use tokio::time::Instant;

use super::{
    fake::{FakeStore, clock, event, order_id, user},
    hub,
    reconcile::{next_version, start},
    subscribe, waiting,
};
use crate::{HubConfig, lock};

#[tokio::test]
async fn received_event_is_delivered_once_and_counted_apart() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    let processed = event(order_id(1), 2, OrderStatus::Processed);
    let old = event(order_id(1), 1, OrderStatus::Pending);
    hub.receive(&[processed.clone(), old, processed]);
    assert_eq!(waiting(&mut inbox), [(1, 2)]);
    let stats = hub.stats();
    assert_eq!(stats.received.get(), 3);
    assert_eq!((stats.delivered.get(), stats.healed.get()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_transport_begins_to_hear_is_looked_up_at_once() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (_tracker, _stop) = start(&hub);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    store.commit(order_id(1), OrderStatus::Processed);

    let began = Instant::now();
    hub.heard(&[Topic::Order(order_id(1))]);
    assert_eq!(next_version(&mut inbox).await, 2);
    assert_eq!(began.elapsed().as_millis(), 0, "no pass was waited for");
    assert_eq!(*lock(&store.batches), [1]);
}

#[tokio::test(start_paused = true)]
async fn user_that_a_transport_begins_to_hear_is_looked_up_at_once() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (_tracker, _stop) = start(&hub);
    let (mut session, mut inbox) = hub.session().expect("room");
    let answer = session.subscribe_user(user("user-1")).await;
    answer.expect("the store answers");
    store.commit(order_id(1), OrderStatus::Pending);

    let began = Instant::now();
    hub.heard(&[Topic::User(user("user-1"))]);
    assert_eq!(next_version(&mut inbox).await, 1);
    assert_eq!(began.elapsed().as_millis(), 0, "no pass was waited for");
}

#[tokio::test(start_paused = true)]
async fn lookups_share_reads_of_bounded_size() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (_tracker, _stop) = start(&hub);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    store.commit(order_id(1), OrderStatus::Processed);
    for n in (1..=2_500).chain(1..=100) {
        hub.heard(&[Topic::Order(order_id(n))]);
    }
    assert_eq!(next_version(&mut inbox).await, 2);
    // What the reader was told need not have come with the last of the reads.
    tokio::task::yield_now().await;
    assert_eq!(*lock(&store.batches), [1_000, 1_000, 500]);
}

#[tokio::test(start_paused = true)]
async fn resync_looks_at_all_that_may_move_and_at_all_users() {
    let store = FakeStore::new();
    let config = HubConfig {
        subscriptions_per_session_max: 1_000,
        ..HubConfig::default()
    };
    let hub = crate::Hub::new(config, Arc::clone(&store) as Arc<_>, clock());
    let (mut session, mut inbox) = hub.session().expect("room");
    for (n, status) in [
        (1, OrderStatus::Pending),
        (2, OrderStatus::Failed),
        (3, OrderStatus::Processed),
    ] {
        store.commit(order_id(n), status);
        subscribe(&mut session, n).await;
    }
    for n in 0..250 {
        let user_id = user(&format!("watched-{n}"));
        let answer = session.subscribe_user(user_id).await;
        answer.expect("the store answers");
    }
    // Everybody has been told everything.
    let pass = hub
        .shared
        .reconcile(crate::unsettled::Depth::Unsettled)
        .await;
    pass.expect("the store is up");
    lock(&store.batches).clear();
    lock(&store.user_batches).clear();
    store.commit(order_id(2), OrderStatus::Pending);
    let (_tracker, _stop) = start(&hub);

    for _ in 0..100 {
        hub.resync();
        hub.heard(&[Topic::Order(order_id(3))]);
    }
    let began = Instant::now();
    assert_eq!(next_version(&mut inbox).await, 2);
    assert_eq!(began.elapsed().as_millis(), 0, "no pass was waited for");
    tokio::task::yield_now().await;
    assert_eq!(*lock(&store.batches), [2], "once, and not what is settled");
    let asked: Vec<_> = lock(&store.user_batches)
        .iter()
        .map(|(user_ids, _)| user_ids.len())
        .collect();
    assert_eq!(asked, [100, 100, 100], "each user, in bounded reads");
}

#[tokio::test(start_paused = true)]
async fn too_many_lookups_are_a_resync() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (_tracker, _stop) = start(&hub);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    store.commit(order_id(1), OrderStatus::Processed);
    let topics: Vec<_> = (2..=10_002).map(order_id).map(Topic::Order).collect();
    hub.heard(&topics);
    let began = Instant::now();
    assert_eq!(next_version(&mut inbox).await, 2);
    assert_eq!(began.elapsed().as_millis(), 0, "no pass was waited for");
    assert_eq!(*lock(&store.batches), [1]);
}

#[tokio::test(start_paused = true)]
async fn failed_lookup_is_made_up_for_by_the_next_pass() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Failed);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    // Ordinary passes do not ask about it any more.
    let pass = hub
        .shared
        .reconcile(crate::unsettled::Depth::Unsettled)
        .await;
    pass.expect("the store is up");
    store.commit(order_id(1), OrderStatus::Pending);
    let (_tracker, _stop) = start(&hub);

    store.is_down.store(true, Ordering::Relaxed);
    hub.heard(&[Topic::Order(order_id(1))]);
    while lock(&store.batches).len() < 2 {
        tokio::task::yield_now().await;
    }
    store.is_down.store(false, Ordering::Relaxed);
    let began = Instant::now();
    assert_eq!(next_version(&mut inbox).await, 2);
    assert!(began.elapsed() < 2 * HubConfig::default().reconcile_interval);
}
