//! Following all orders of a user.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use futures_util::FutureExt;
use order_core::{Error, EventBus, OrderEvent, OrderStatus, Version};

use super::{
    fake::{FakeStore, Moment, clock, ctx, event, order_id, user, watch},
    hub, subscribe_in, waiting,
};
use crate::{Form, Hub, HubConfig, Session, lock, unsettled::Depth};

/// The (order, version) pairs of the answer.
async fn subscribe_user(session: &mut Session, user_id: &str) -> Vec<(u128, Version)> {
    let answer = session.subscribe_user(user(user_id)).await;
    let answer = answer.expect("the store is up");
    assert_eq!(answer.user_id, user(user_id));
    let pair = |event: &OrderEvent| (event.order_id.as_uuid().as_u128(), event.version);
    answer.orders.iter().map(pair).collect()
}

#[tokio::test]
async fn user_is_told_of_every_order_and_of_no_other_user() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in [1, 3] {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    store.commit(order_id(3), OrderStatus::Processed);
    store.commit_of("user-2", order_id(2), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    assert_eq!(
        subscribe_user(&mut session, "user-1").await,
        [(3, 2), (1, 1)]
    );
    hub.publish(&[
        store.commit(order_id(1), OrderStatus::Processing),
        store.commit(order_id(4), OrderStatus::Pending),
        store.commit_of("user-2", order_id(2), OrderStatus::Processing),
        store.commit_of("user-2", order_id(5), OrderStatus::Pending),
    ]);
    assert_eq!(waiting(&mut inbox), [(1, 2), (4, 1)]);
    store.commit(order_id(6), OrderStatus::Pending);
    hub.publish(&[store.commit(order_id(6), OrderStatus::Processed)]);
    assert_eq!(waiting(&mut inbox), [(6, 1)], "a new order begins with 1");
    assert_eq!(waiting(&mut inbox), [(6, 2)]);
}

#[tokio::test]
async fn snapshot_starts_an_order_over_that_is_followed_by_itself() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_in(Form::Full, &mut session, 1).await;
    hub.publish(&[store.commit(order_id(1), OrderStatus::Processing)]);
    assert_eq!(subscribe_user(&mut session, "user-1").await, [(1, 2)]);
    assert_eq!(waiting(&mut inbox), []);
    hub.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
    assert_eq!(waiting(&mut inbox), [(1, 3)]);
}

#[tokio::test]
async fn unsubscribed_user_is_forgotten_and_orders_of_their_own_go_on() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_user(&mut session, "user-1").await;
    subscribe_in(Form::Full, &mut session, 1).await;
    assert_eq!((hub.n_users(), hub.n_orders()), (1, 1));
    assert!(session.unsubscribe_user(&user("user-1")));
    assert!(!session.unsubscribe_user(&user("user-1")));
    assert_eq!((hub.n_users(), hub.n_orders()), (0, 1));
    for n in 1..=2 {
        hub.publish(&[store.commit(order_id(n), OrderStatus::Processed)]);
    }
    assert_eq!(waiting(&mut inbox), [(1, 2)]);
}

#[tokio::test]
async fn events_during_the_snapshot_come_after_it() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (during, world) = (Arc::downgrade(&store), Arc::clone(&hub));
    store.set_hook(move |moment| {
        let store = during.upgrade().expect("in use");
        let n = if moment == Moment::BeforeRead { 1 } else { 2 };
        world.publish(&[
            store.commit(order_id(n), OrderStatus::Processing),
            store.commit(order_id(n + 2), OrderStatus::Pending),
        ]);
    });
    let (mut session, mut inbox) = hub.session().expect("room");
    let answer = subscribe_user(&mut session, "user-1").await;
    assert_eq!(answer, [(3, 1), (2, 1), (1, 2)]);
    assert_eq!(waiting(&mut inbox), [(2, 2), (4, 1)]);
    store.set_hook(|_| {});
}

#[tokio::test]
async fn failed_or_dropped_subscription_of_a_user_changes_nothing() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    store.is_down.store(true, Ordering::Relaxed);
    let failed = session.subscribe_user(user("user-1")).await;
    assert!(matches!(failed, Err(Error::StoreUnavailable { .. })));
    assert_eq!(hub.n_users(), 0);
    store.is_down.store(false, Ordering::Relaxed);
    subscribe_user(&mut session, "user-1").await;
    store.is_down.store(true, Ordering::Relaxed);
    let failed = session.subscribe_user(user("user-1")).await;
    assert!(failed.is_err());
    hub.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
    assert_eq!(waiting(&mut inbox), [(1, 2)], "the earlier one goes on");
    drop((session, inbox));
    assert_eq!((hub.n_users(), hub.n_sessions()), (0, 0));
}

#[tokio::test]
async fn order_made_during_the_snapshot_begins_with_1() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (during, world) = (Arc::downgrade(&store), Arc::clone(&hub));
    store.set_hook(move |moment| {
        if moment == Moment::AfterRead {
            let store = during.upgrade().expect("in use");
            store.commit(order_id(1), OrderStatus::Pending);
            world.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
        }
    });
    let (mut session, mut inbox) = hub.session().expect("room");
    assert_eq!(subscribe_user(&mut session, "user-1").await, []);
    assert_eq!(waiting(&mut inbox), [(1, 1)]);
    assert_eq!(waiting(&mut inbox), [(1, 2)]);
    store.set_hook(|_| {});
}

#[tokio::test]
async fn failed_subscription_of_an_order_takes_nothing_from_its_user() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_user(&mut session, "user-1").await;
    hub.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
    store.is_down.store(true, Ordering::Relaxed);
    let order = watch(order_id(1), None);
    for form in [Form::Bare, Form::Full] {
        let failed = session.subscribe(&ctx(), order, form).await;
        assert!(failed.is_err());
    }
    assert_eq!(waiting(&mut inbox), [(1, 2)]);
}

#[tokio::test]
async fn old_snapshot_does_not_step_back() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_user(&mut session, "user-1").await;
    let read_later = event(order_id(1), 2, OrderStatus::Processing);
    hub.publish(std::slice::from_ref(&read_later));
    assert_eq!(waiting(&mut inbox), [(1, 2)]);
    assert_eq!(subscribe_user(&mut session, "user-1").await, [(1, 1)]);
    hub.publish(&[read_later]);
    assert_eq!(waiting(&mut inbox), []);
}

#[tokio::test]
async fn order_older_than_the_snapshot_begins_anywhere() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=101 {
        store.commit(order_id(n), OrderStatus::Pending);
        store.commit(order_id(n), OrderStatus::Failed);
    }
    let (mut session, mut inbox) = hub.session().expect("room");
    let answer = subscribe_user(&mut session, "user-1").await;
    assert_eq!(
        (answer.len(), answer[0], answer[99]),
        (100, (101, 2), (2, 2))
    );
    hub.publish(&[store.commit(order_id(1), OrderStatus::Pending)]);
    assert_eq!(waiting(&mut inbox), [(1, 3)]);
    store.commit(order_id(1), OrderStatus::Processing);
    hub.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
    assert_eq!(waiting(&mut inbox), [(1, 4)], "from there on without a gap");
    assert_eq!(waiting(&mut inbox), [(1, 5)]);
}

#[tokio::test]
async fn memory_of_orders_is_bounded() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_user(&mut session, "user-1").await;
    let first = store.commit(order_id(1), OrderStatus::Processed);
    let second = store.commit(order_id(2), OrderStatus::Processed);
    hub.publish(&[first.clone(), second.clone()]);
    assert_eq!(waiting(&mut inbox).len(), 2);
    for n in 3..=1_001 {
        hub.publish(&[store.commit(order_id(n), OrderStatus::Pending)]);
        assert_eq!(waiting(&mut inbox), [(n, 1)]);
    }
    hub.publish(&[second]);
    assert_eq!(waiting(&mut inbox), [], "among the newest 1000");
    hub.publish(&[first]);
    assert_eq!(waiting(&mut inbox), [(1, 1)], "forgotten");
}

#[tokio::test]
async fn too_many_waiting_orders_end_the_session() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_user(&mut session, "user-1").await;
    let events: Vec<_> = (1..=1_000)
        .map(|n| store.commit(order_id(n), OrderStatus::Pending))
        .collect();
    hub.publish(&events);
    assert_eq!(waiting(&mut inbox).len(), 1_000, "as many are well");
    let events: Vec<_> = (1..=1_001)
        .map(|n| store.commit(order_id(n + 1_000), OrderStatus::Pending))
        .collect();
    hub.publish(&events);
    for _ in 0..2 {
        let mut deliveries = Vec::new();
        let ended = inbox.next(&mut deliveries).await;
        assert!(matches!(
            ended,
            Err(Error::LimitExceeded { limit: 1_000, .. })
        ));
        assert!(deliveries.is_empty());
    }
}

#[tokio::test]
async fn users_count_as_subscriptions() {
    let store = FakeStore::new();
    let config = HubConfig {
        subscriptions_per_session_max: 2,
        ..HubConfig::default()
    };
    let hub = Hub::new(config, Arc::clone(&store) as Arc<_>, clock());
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut session, _inbox) = hub.session().expect("room");
    subscribe_in(Form::Full, &mut session, 1).await;
    subscribe_user(&mut session, "user-1").await;
    subscribe_user(&mut session, "user-1").await;
    let refused = session.subscribe_user(user("user-2")).await;
    assert!(matches!(
        refused,
        Err(Error::LimitExceeded { limit: 2, .. })
    ));
    let order = watch(order_id(2), None);
    let refused = session.subscribe(&ctx(), order, Form::Full).await;
    assert!(matches!(
        refused,
        Err(Error::LimitExceeded { limit: 2, .. })
    ));
    assert_eq!((hub.n_users(), hub.n_orders()), (1, 1));
}

#[tokio::test]
async fn restricted_session_follows_one_user_only() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    store.commit_of("user-2", order_id(2), OrderStatus::Pending);
    let (mut session, _inbox) = hub.session().expect("room");
    session.restrict_to(user("user-1"));
    subscribe_user(&mut session, "user-1").await;
    subscribe_in(Form::Full, &mut session, 1).await;
    let refused = session.subscribe_user(user("user-2")).await;
    assert!(matches!(refused, Err(Error::PermissionDenied { .. })));
    for since in [None, Some(0), Some(1)] {
        let order = watch(order_id(2), since);
        let refused = session.subscribe(&ctx(), order, Form::Bare).await;
        assert!(matches!(refused, Err(Error::OrderNotFound { order_id: id }) if id == order_id(2)));
    }
    assert_eq!(
        *lock(&store.history_limits),
        [],
        "nothing more is read of it"
    );
    assert_eq!((hub.n_users(), hub.n_orders()), (1, 1));
}

#[tokio::test]
async fn reconcile_heals_what_the_bus_dropped_of_a_user() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_user(&mut session, "user-1").await;
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Processing);
        store.commit(order_id(n), OrderStatus::Processed);
    }
    let pass = hub.shared.reconcile(Depth::Unsettled).await;
    pass.expect("the store is up");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.extend(waiting(&mut inbox));
    }
    seen.sort_unstable();
    assert_eq!(seen, [(1, 2), (1, 3), (2, 1), (2, 2)]);
    assert_eq!(hub.stats().healed.get(), 2);
    hub.shared.reconcile(Depth::Unsettled).await.expect("up");
    assert_eq!(waiting(&mut inbox), []);
}

#[tokio::test]
async fn reconcile_asks_about_all_users_in_turn() {
    let store = FakeStore::new();
    let config = HubConfig {
        subscriptions_per_session_max: 250,
        ..HubConfig::default()
    };
    let hub = Hub::new(config, Arc::clone(&store) as Arc<_>, clock());
    let (mut session, _inbox) = hub.session().expect("room");
    hub.shared.reconcile(Depth::Unsettled).await.expect("up");
    assert!(lock(&store.user_batches).is_empty(), "nobody is watched");
    for n in 0..250 {
        subscribe_user(&mut session, &format!("user-{n}")).await;
    }
    lock(&store.user_batches).clear();
    for _ in 0..3 {
        hub.shared.reconcile(Depth::Unsettled).await.expect("up");
    }
    let batches = lock(&store.user_batches);
    assert!(
        batches
            .iter()
            .all(|(users, orders)| (users.len(), *orders) == (100, 20))
    );
    let asked: BTreeSet<_> = batches.iter().flat_map(|(users, _)| users).collect();
    assert_eq!((batches.len(), asked.len()), (3, 250));
}

#[tokio::test]
async fn user_is_asked_about_once_in_a_pass() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (mut session, _inbox) = hub.session().expect("room");
    for n in 1..=2 {
        subscribe_user(&mut session, &format!("user-{n}")).await;
    }
    lock(&store.user_batches).clear();
    for _ in 0..2 {
        let pass = hub.shared.reconcile(Depth::Unsettled).now_or_never();
        pass.expect("at once").expect("the store is up");
    }
    let both = (vec![user("user-1"), user("user-2")], 20);
    assert_eq!(*lock(&store.user_batches), [both.clone(), both]);
}
