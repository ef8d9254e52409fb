//! The pushes that a hub remembers.

use order_core::{EventBus as _, OrderFollow as _, OrderRecord, OrderStatus, OrderWatch as _};

use super::{
    fake::{FakeStore, clock, ctx, event, order_id, user, watch},
    hub, subscribe, subscribe_in,
};
use crate::{Form, Hub, pushes::PUSHES_MAX};

/// The version, clients and gateways of each push.
fn pushes(hub: &Hub, n: u128) -> Vec<(u32, u32, u32)> {
    let pushes = hub.pushes(order_id(n)).into_iter();
    let counts = pushes.map(|push| (push.version, push.clients, push.gateways));
    counts.collect()
}

#[tokio::test]
async fn pushes_are_counted_by_watcher() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut first, _first_inbox) = hub.session().expect("room");
    let (mut second, _second_inbox) = hub.session().expect("room");
    // Both forms of an order, and the order of a user that is followed too, are one push.
    subscribe(&mut first, 1).await;
    subscribe_in(Form::Bare, &mut first, 1).await;
    let of_user = second.subscribe_user(user("user-1")).await;
    of_user.expect("a user");
    subscribe(&mut second, 1).await;
    let (mut follower, _events) = hub.follow().expect("a feed");
    follower.add(&ctx(), vec![watch(order_id(1), None)]).await;

    hub.publish(&[
        event(order_id(1), 2, OrderStatus::Processing),
        event(order_id(2), 2, OrderStatus::Processing),
    ]);
    // The watchers have this version.
    hub.publish(&[event(order_id(1), 2, OrderStatus::Processing)]);
    drop((first, second));
    hub.publish(&[
        event(order_id(1), 3, OrderStatus::Processed),
        event(order_id(2), 3, OrderStatus::Processed),
    ]);

    assert_eq!(pushes(&hub, 1), [(2, 2, 1), (3, 0, 1)]);
    assert_eq!(pushes(&hub, 2), [(2, 1, 0)]);
    let at: Vec<_> = hub.pushes(order_id(2)).iter().map(|push| push.at).collect();
    assert_eq!(at, [clock().now()]);
}

#[tokio::test]
async fn only_the_newest_pushes_are_kept() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut session, _inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    subscribe(&mut session, 2).await;
    let last = u32::try_from(PUSHES_MAX).expect("a small number") + 1;
    hub.publish(&[event(order_id(2), 2, OrderStatus::Processing)]);
    for version in 2..=last {
        hub.publish(&[event(order_id(1), version, OrderStatus::Processing)]);
    }
    assert_eq!(pushes(&hub, 2), []);
    let newest = pushes(&hub, 1);
    let first = last - OrderRecord::LEN_MAX + 1;
    assert!(newest.iter().map(|push| push.0).eq(first..=last));
}
