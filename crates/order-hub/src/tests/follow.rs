//! Feeds of many orders.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};
use order_core::{Error, EventBus as _, Follower, OrderEventStream, OrderFollow as _, OrderStatus};
use tokio::time::timeout;

use super::fake::{FakeStore, SOON, clock, ctx, order_id, watch};
use crate::{Form, Hub, HubConfig};

fn hub(store: &Arc<FakeStore>, orders_per_follower_max: usize) -> Arc<Hub> {
    let config = HubConfig {
        orders_per_follower_max,
        ..HubConfig::default()
    };
    Hub::new(config, Arc::clone(store) as _, clock())
}

async fn version(events: &mut OrderEventStream) -> u32 {
    let event = timeout(SOON, events.next()).await.expect("in time");
    event.expect("open").expect("no error").version
}

async fn add(
    follower: &mut dyn Follower,
    orders: &[(u128, Option<u32>)],
) -> Vec<Result<Option<u32>, Error>> {
    let orders = orders.iter().map(|(n, since)| watch(order_id(*n), *since));
    let answers = follower.add(&ctx(), orders.collect()).await;
    let versions = answers
        .into_iter()
        .map(|answer| answer.map(|event| event.map(|event| event.version)));
    versions.collect()
}

#[tokio::test(start_paused = true)]
async fn thousands_are_read_in_a_few_statements() {
    let store = FakeStore::new();
    let hub = hub(&store, 2_500);
    for n in 0..2_600 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut follower, mut events) = hub.follow().expect("a feed");
    let orders: Vec<_> = (0..2_600).map(|n| (n, Some(u32::from(n >= 10)))).collect();
    let answers = add(&mut *follower, &orders).await;
    assert!(store.batches.lock().expect("no panic").len() <= 3);
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(version) => assert_eq!(version, (n < 10).then_some(1), "{n}"),
            Err(Error::LimitExceeded { limit: 2_500, .. }) => assert!(n >= 2_500, "{n}"),
            Err(error) => panic!("{n}: {error}"),
        }
    }
    for n in [0, 2_499, 2_500] {
        hub.publish(&[store.commit(order_id(n), OrderStatus::Processed)]);
    }
    assert_eq!(version(&mut events).await, 2);
    assert_eq!(version(&mut events).await, 2);
    assert!(
        events.next().now_or_never().is_none(),
        "one is not followed"
    );
    // There is room again for as many as were removed.
    follower.remove(&[order_id(0)]);
    let answers = add(&mut *follower, &[(2_500, None), (2_501, None)]).await;
    assert!(matches!(&answers[..], [Ok(Some(2)), Err(_)]), "{answers:?}");
    drop((follower, events));
    assert_eq!(hub.n_orders(), 0);
}

#[tokio::test(start_paused = true)]
async fn order_that_cannot_be_read_is_not_followed() {
    let store = FakeStore::new();
    let hub = hub(&store, 10);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut follower, mut events) = hub.follow().expect("a feed");
    let unknown = add(&mut *follower, &[(2, None), (1, Some(7))]).await;
    // A position ahead of the order starts over.
    assert!(
        matches!(
            &unknown[..],
            [Err(Error::OrderNotFound { .. }), Ok(Some(1))]
        ),
        "{unknown:?}"
    );
    *store.unreadable.lock().expect("no panic") = Some(order_id(3));
    store.commit(order_id(3), OrderStatus::Pending);
    let failed = add(&mut *follower, &[(3, None)]).await;
    assert!(
        matches!(&failed[..], [Err(Error::StoreUnavailable { .. })]),
        "{failed:?}"
    );
    assert_eq!(hub.n_orders(), 1, "one is followed");
    hub.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
    assert_eq!(version(&mut events).await, 2);
}

#[tokio::test(start_paused = true)]
async fn slow_feed_skips_versions_and_holds_up_nobody() {
    let store = FakeStore::new();
    let hub = hub(&store, 10);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut follower, mut events) = hub.follow().expect("a feed");
    let first = add(&mut *follower, &[(1, None)]).await;
    assert!(matches!(&first[..], [Ok(Some(1))]), "{first:?}");
    let (mut follower, mut prompt) = hub.follow().expect("a feed");
    add(&mut *follower, &[(1, None)]).await;
    for expected in 2..=9 {
        hub.publish(&[store.commit(order_id(1), OrderStatus::Failed)]);
        assert_eq!(version(&mut prompt).await, expected);
    }
    assert_eq!(version(&mut events).await, 9);
    assert!(events.next().now_or_never().is_none());
}

/// The answers to a list are those that each order would get alone.
#[tokio::test(start_paused = true)]
async fn list_is_answered_as_each_order_alone() {
    let store = FakeStore::new();
    let hub = Hub::new(HubConfig::default(), Arc::clone(&store) as _, clock());
    for n in 1..=8 {
        for _ in 0..=n * 60 {
            store.commit(order_id(n), OrderStatus::Failed);
        }
    }
    store.prune(order_id(3), 100);
    let position = |n: u128| {
        watch(
            order_id(n),
            [None, Some(0), Some(60), Some(400)][n as usize % 4],
        )
    };
    let orders: Vec<_> = (1..=9).map(position).collect();
    let (mut list, _inbox) = hub.session().expect("a session");
    let answers = list.subscribe_many(&ctx(), &orders, Form::Full).await;
    for (order, answer) in orders.into_iter().zip(answers) {
        let (mut alone, _inbox) = hub.session().expect("a session");
        let expected = alone.subscribe(&ctx(), order, Form::Full).await;
        match (answer, expected) {
            (Ok(answer), Ok(expected)) => assert_eq!(answer, expected),
            (Err(Error::OrderNotFound { .. }), Err(Error::OrderNotFound { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
}
