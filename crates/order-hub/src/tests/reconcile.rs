//! What the reconcile pass asks for and heals. Time is paused and moves when all wait.

use std::sync::{Arc, atomic::Ordering};

use order_core::{
    EventBus, OrderStatus,
    supervisor::{STEP_TIME_MAX, Task},
};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    fake::{FakeStore, SOON, clock, event, order_id, supervisor, user},
    hub, subscribe,
};
use crate::{Hub, HubConfig, Inbox, lock, unsettled::Depth};

pub(super) fn start(hub: &Arc<Hub>) -> (TaskTracker, CancellationToken) {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let (hub, stopped) = (Arc::clone(hub), stop.clone());
    let reconcile = Task::new("reconcile", STEP_TIME_MAX, move |beat| {
        Arc::clone(&hub).run_reconcile(stopped.clone(), beat)
    });
    tracker.spawn(supervisor().run(reconcile));
    tracker.close();
    (tracker, stop)
}

pub(super) async fn next_version(inbox: &mut Inbox) -> u32 {
    let mut deliveries = Vec::new();
    timeout(SOON, inbox.next(&mut deliveries))
        .await
        .expect("an event comes")
        .expect("the hub is open");
    deliveries[0].event.event().version
}

#[tokio::test(start_paused = true)]
async fn lost_publish_is_healed() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (tracker, stop) = start(&hub);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    store.commit(order_id(1), OrderStatus::Processed);
    assert_eq!(next_version(&mut inbox).await, 2);
    assert_eq!(hub.stats().healed.get(), 1);
    stop.cancel();
    timeout(SOON, tracker.wait())
        .await
        .expect("ends when told to");
}

#[tokio::test(start_paused = true)]
async fn redrive_nobody_told_of_is_healed() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (_tracker, _stop) = start(&hub);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    hub.publish(&[store.commit(order_id(1), OrderStatus::Failed)]);
    assert_eq!(next_version(&mut inbox).await, 2);
    store.commit(order_id(1), OrderStatus::Pending);
    assert_eq!(next_version(&mut inbox).await, 3);
}

#[tokio::test(start_paused = true)]
async fn failed_pass_is_followed_by_another() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (_tracker, _stop) = start(&hub);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    store.commit(order_id(1), OrderStatus::Processed);
    store.is_down.store(true, Ordering::Relaxed);
    while lock(&store.batches).len() < 3 {
        tokio::time::sleep(HubConfig::default().reconcile_interval).await;
    }
    store.is_down.store(false, Ordering::Relaxed);
    assert_eq!(next_version(&mut inbox).await, 2);
}

#[tokio::test]
async fn only_unsettled_orders_are_asked_about() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let shared = &hub.shared;
    let asked = |depth| {
        let (shared, store) = (shared, Arc::clone(&store));
        async move {
            shared.reconcile(depth).await.expect("the store is up");
            lock(&store.batches).drain(..).sum::<usize>()
        }
    };
    let statuses = [
        OrderStatus::Pending,
        OrderStatus::Processing,
        OrderStatus::Processed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ];
    let (mut session, _inbox) = hub.session().expect("room");
    for (n, status) in (1..).zip(statuses) {
        store.commit(order_id(n), status);
        subscribe(&mut session, n).await;
    }
    assert_eq!(asked(Depth::Unsettled).await, 5, "each is checked once");
    assert_eq!(asked(Depth::Unsettled).await, 2);
    assert_eq!(asked(Depth::Redrivable).await, 3);

    hub.publish(&[event(order_id(1), 2, OrderStatus::Processed)]);
    assert_eq!(asked(Depth::Unsettled).await, 1);
    drop(session);
    assert_eq!(asked(Depth::Redrivable).await, 0);
}

#[tokio::test]
async fn newcomer_is_checked_though_all_others_are_settled() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let shared = &hub.shared;
    store.commit(order_id(1), OrderStatus::Processed);
    let (mut first, _first_inbox) = hub.session().expect("room");
    subscribe(&mut first, 1).await;
    shared.reconcile(Depth::Unsettled).await.expect("up");
    let (mut second, _second_inbox) = hub.session().expect("room");
    subscribe(&mut second, 1).await;
    lock(&store.batches).clear();
    shared.reconcile(Depth::Unsettled).await.expect("up");
    assert_eq!(*lock(&store.batches), [1]);
}

#[tokio::test]
async fn batches_are_bounded() {
    let store = FakeStore::new();
    let config = HubConfig {
        subscriptions_per_session_max: 2_500,
        ..HubConfig::default()
    };
    let hub = Hub::new(config, Arc::clone(&store) as Arc<_>, clock());
    let (mut session, _inbox) = hub.session().expect("room");
    for n in 1..=2_500 {
        store.commit(order_id(n), OrderStatus::Pending);
        subscribe(&mut session, n).await;
    }
    let pass = hub.shared.reconcile(Depth::Unsettled).await;
    pass.expect("the store is up");
    assert_eq!(*lock(&store.batches), [1_000, 1_000, 500]);
}

#[tokio::test(start_paused = true)]
async fn idle_watchers_of_several_processes_cost_few_statements() {
    let store = FakeStore::new();
    let hubs = [(); 3].map(|()| hub(&store));
    let mut watching = Vec::new();
    for n in 1..=1_000 {
        store.commit(order_id(n), OrderStatus::Pending);
        for hub in &hubs {
            let (mut session, inbox) = hub.session().expect("room");
            subscribe(&mut session, n).await;
            watching.push((session, inbox));
        }
    }
    for (session, _) in watching.iter_mut().take(hubs.len()) {
        let answer = session.subscribe_user(user("user-1")).await;
        answer.expect("the store answers");
    }
    lock(&store.user_batches).clear();
    let running = hubs.each_ref().map(start);

    tokio::time::sleep(std::time::Duration::from_mins(1)).await;

    let n_statements = lock(&store.batches).len() + lock(&store.user_batches).len();
    assert!(n_statements >= 100, "{n_statements}: nothing was asked");
    assert!(n_statements <= 5 * 60, "{n_statements} in a minute");
    drop(running);
}
