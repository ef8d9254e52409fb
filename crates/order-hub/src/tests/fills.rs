//! What a reader in full form gets that was too slow for the mailbox: everything, or an end
//! it can resume from.

use std::sync::{Arc, atomic::Ordering};

use futures_util::{FutureExt, StreamExt};
use order_core::{Error, EventBus, OrderStatus, OrderWatch, Version};
use tokio::time::timeout;

use super::{
    fake::{FakeStore, SOON, clock, ctx, event, order_id, watch},
    hub, subscribe, waiting,
};
use crate::{Form, Hub, HubConfig, Inbox, REPLAY_LEN_MAX, lock};

/// Moves the order, and tells the hub only of the last move.
fn move_on(hub: &Hub, store: &FakeStore, n: u128, n_moves: u32) {
    let moves = (0..n_moves).map(|_| store.commit(order_id(n), OrderStatus::Failed));
    hub.publish(&[moves.last().expect("at least one move")]);
}

/// All that comes at once, each call of `next` for itself.
fn reads(inbox: &mut Inbox) -> Vec<Vec<Version>> {
    std::iter::from_fn(|| {
        let versions = waiting(inbox).into_iter().map(|(_, version)| version);
        Some(versions.collect()).filter(|versions: &Vec<_>| !versions.is_empty())
    })
    .collect()
}

#[tokio::test]
async fn slow_reader_gets_every_version_in_bounded_pages() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    for _ in 2..=1_000 {
        hub.publish(&[store.commit(order_id(1), OrderStatus::Failed)]);
    }
    let reads = reads(&mut inbox);
    assert!(reads.iter().all(|read| read.len() <= REPLAY_LEN_MAX));
    assert_eq!(reads.concat(), (2..=1_000).collect::<Vec<_>>());
    assert_eq!(*lock(&store.history_limits), [300, 300, 300, 98]);
    assert_eq!(hub.stats().filled.get(), 998);
}

/// A hub that reads for one session at a time.
fn one_at_a_time(store: &Arc<FakeStore>) -> Arc<Hub> {
    let config = HubConfig {
        reads_max: 1,
        ..HubConfig::default()
    };
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    Hub::new(config, Arc::clone(store) as Arc<_>, clock())
}

/// A subscription that hangs in the store, for as long as the future is kept.
fn hang(hub: &Hub, store: &FakeStore) -> impl Sized {
    let (mut session, _inbox) = hub.session().expect("room");
    store.n_hanging.store(1, Ordering::Relaxed);
    let mut hanging = Box::pin(async move {
        let order = watch(order_id(2), None);
        session.subscribe(&ctx(), order, Form::Full).await
    });
    assert!((&mut hanging).now_or_never().is_none());
    hanging
}

#[tokio::test]
async fn fill_waits_its_turn_and_survives_a_reader_that_looks_away() {
    let store = FakeStore::new();
    let hub = one_at_a_time(&store);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    move_on(&hub, &store, 1, 2);
    let hanging = hang(&hub, &store);
    for _ in 0..3 {
        assert_eq!(waiting(&mut inbox), []);
    }
    assert_eq!(*lock(&store.history_limits), []);
    drop(hanging);
    assert_eq!(reads(&mut inbox), [vec![2], vec![3]]);
    assert_eq!(*lock(&store.history_limits), [1]);
}

#[tokio::test]
async fn many_who_miss_the_same_versions_share_one_read() {
    let store = FakeStore::new();
    let hub = one_at_a_time(&store);
    let mut sessions = Vec::new();
    for _ in 0..100 {
        let (mut session, inbox) = hub.session().expect("room");
        subscribe(&mut session, 1).await;
        sessions.push((session, inbox));
    }
    move_on(&hub, &store, 1, 3);
    let hanging = hang(&hub, &store);
    for (_, inbox) in &mut sessions {
        assert_eq!(waiting(inbox), []);
    }
    drop(hanging);
    let mut first = None;
    for (_, inbox) in &mut sessions {
        let mut deliveries = Vec::new();
        inbox.next(&mut deliveries).await.expect("open");
        let versions: Vec<_> = deliveries.iter().map(|d| d.event.version()).collect();
        assert_eq!(versions, [2, 3]);
        let first = first.get_or_insert_with(|| Arc::clone(&deliveries[0].event));
        assert!(Arc::ptr_eq(first, &deliveries[0].event), "encoded once");
    }
    assert_eq!(*lock(&store.history_limits), [2]);
    assert!(lock(&hub.shared.fills).is_empty());
}

#[tokio::test]
async fn gap_of_one_order_does_not_hold_up_another() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (mut session, mut inbox) = hub.session().expect("room");
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
        subscribe(&mut session, n).await;
    }
    store.is_history_hanging.store(true, Ordering::Relaxed);
    move_on(&hub, &store, 1, 2);
    assert_eq!(waiting(&mut inbox), []);
    move_on(&hub, &store, 2, 1);
    assert_eq!(waiting(&mut inbox), [(2, 2)]);
}

#[tokio::test]
async fn read_nobody_waits_for_is_forgotten() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    store.is_history_hanging.store(true, Ordering::Relaxed);
    move_on(&hub, &store, 1, 2);
    assert_eq!(waiting(&mut inbox), []);
    assert_eq!(lock(&hub.shared.fills).len(), 1);
    drop((session, inbox));
    assert!(lock(&hub.shared.fills).is_empty());
}

#[tokio::test]
async fn gap_goes_away_with_its_subscription() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (mut session, mut inbox) = hub.session().expect("room");
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
        subscribe(&mut session, n).await;
        move_on(&hub, &store, n, 2);
    }
    session.unsubscribe(order_id(1));
    assert_eq!(reads(&mut inbox), [vec![2], vec![3]]);
}

#[tokio::test]
async fn subscribing_again_starts_over_what_was_missing() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    move_on(&hub, &store, 1, 5);
    subscribe(&mut session, 1).await;
    assert_eq!(reads(&mut inbox), Vec::<Vec<Version>>::new());
    move_on(&hub, &store, 1, 1);
    assert_eq!(reads(&mut inbox), [vec![7]]);
}

#[tokio::test]
async fn failed_fill_ends_the_watch_and_a_resumed_one_misses_nothing() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let orders = vec![watch(order_id(1), None)];
    let mut stream = hub.watch(&ctx(), orders).await.expect("it exists");
    let first = stream.next().await.expect("a state").expect("a state");
    assert_eq!(first.version, 1);
    move_on(&hub, &store, 1, 3);
    store.is_down.store(true, Ordering::Relaxed);
    let failed = stream.next().await.expect("an end");
    assert!(matches!(failed, Err(Error::StoreUnavailable { .. })));
    assert!(stream.next().await.is_none());
    assert_eq!(hub.n_sessions(), 0);

    store.is_down.store(false, Ordering::Relaxed);
    let orders = vec![watch(order_id(1), Some(first.version))];
    let resumed = hub.watch(&ctx(), orders).await.expect("it exists");
    let versions: Vec<_> = resumed
        .take(3)
        .map(|event| event.expect("an event").version)
        .collect()
        .await;
    assert_eq!(versions, [2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn hanging_fill_is_given_up() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    store.is_history_hanging.store(true, Ordering::Relaxed);
    move_on(&hub, &store, 1, 2);
    let ended = timeout(SOON, inbox.next(&mut Vec::new())).await;
    assert!(matches!(ended, Ok(Err(Error::DeadlineExceeded))));
}

#[tokio::test]
async fn history_with_a_hole_ends_the_session() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    for _ in 2..=5 {
        store.commit(order_id(1), OrderStatus::Failed);
    }
    store.prune(order_id(1), 4);
    hub.publish(&[event(order_id(1), 5, OrderStatus::Failed)]);
    let mut deliveries = Vec::new();
    let ended = inbox.next(&mut deliveries).await;
    assert!(matches!(ended, Err(Error::StoreUnavailable { .. })));
    assert!(deliveries.is_empty());
}

#[tokio::test]
async fn closed_hub_fills_what_waits() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    move_on(&hub, &store, 1, 3);
    hub.close();
    let mut deliveries = Vec::new();
    let ended = loop {
        if let Err(error) = inbox.next(&mut deliveries).await {
            break error;
        }
    };
    assert!(matches!(ended, Error::ShuttingDown { .. }));
    let versions: Vec<_> = deliveries.iter().map(|d| d.event.version()).collect();
    assert_eq!(versions, [2, 3, 4]);
}
