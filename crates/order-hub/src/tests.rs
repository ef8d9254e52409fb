mod fake;
mod fills;
mod follow;
mod forms;
mod interleaving;
mod outlet;
mod pushes;
mod receiver;
mod reconcile;
mod topic_changes;
mod unsettled;
mod user_interleaving;
mod users;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use fake::{FakeStore, Moment, clock, ctx, event, order_id, watch};
use futures_util::{FutureExt, StreamExt};
use order_core::{Cause, Error, EventBus, OrderStatus, OrderWatch, Version};

use crate::{CatchUp, Form, Hub, HubConfig, Inbox, REPLAY_LEN_MAX, Session, lock};

fn hub(store: &Arc<FakeStore>) -> Arc<Hub> {
    Hub::new(HubConfig::default(), Arc::clone(store) as Arc<_>, clock())
}

/// The (order, version) pairs that wait in the inbox.
fn waiting(inbox: &mut Inbox) -> Vec<(u128, Version)> {
    let mut deliveries = Vec::new();
    if let Some(result) = inbox.next(&mut deliveries).now_or_never() {
        result.expect("the hub is open");
    }
    let mut waiting: Vec<_> = deliveries
        .iter()
        .map(|delivery| delivery.event.event())
        .map(|event| (event.order_id.as_uuid().as_u128(), event.version))
        .collect();
    waiting.sort_unstable();
    waiting
}

async fn subscribe(session: &mut Session, n: u128) {
    subscribe_in(Form::Full, session, n).await;
}

async fn subscribe_in(form: Form, session: &mut Session, n: u128) {
    session
        .subscribe(&ctx(), watch(order_id(n), None), form)
        .await
        .expect("the order exists");
}

#[tokio::test]
async fn unknown_order_is_refused_and_forgotten() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let (mut session, _inbox) = hub.session().expect("room");
    let refused = session
        .subscribe(&ctx(), watch(order_id(1), None), Form::Bare)
        .await;
    assert!(matches!(refused, Err(Error::OrderNotFound { order_id: id }) if id == order_id(1)));
    assert_eq!(hub.n_orders(), 0);
    assert!(!session.unsubscribe(order_id(1)));
}

#[tokio::test]
async fn snapshot_says_why_an_order_ended() {
    for (n, status) in [(1, OrderStatus::Failed), (2, OrderStatus::Cancelled)] {
        let store = FakeStore::new();
        let hub = hub(&store);
        store.commit(order_id(n), OrderStatus::Pending);
        store.commit(order_id(n), status);
        let cause = Cause {
            code: "A_CODE".to_owned(),
            message: "a reason".to_owned(),
        };
        store.give_cause(order_id(n), &cause);
        let (mut session, _inbox) = hub.session().expect("room");

        let subscribed = session
            .subscribe(&ctx(), watch(order_id(n), None), Form::Full)
            .await
            .expect("the order exists");

        let CatchUp::Snapshot(event) = subscribed.catch_up else {
            panic!("{subscribed:?}");
        };
        assert_eq!((event.version, event.cause), (2, Some(cause)), "{status:?}");
    }
}

#[tokio::test]
async fn only_those_who_watch_an_order_hear_of_it() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut first, mut first_inbox) = hub.session().expect("room");
    let (mut second, mut second_inbox) = hub.session().expect("room");
    subscribe(&mut first, 1).await;
    subscribe(&mut second, 1).await;
    subscribe(&mut second, 2).await;

    hub.publish(&[event(order_id(2), 2, OrderStatus::Processed)]);
    assert_eq!(waiting(&mut first_inbox), []);
    assert_eq!(waiting(&mut second_inbox), [(2, 2)]);
    hub.publish(&[event(order_id(1), 2, OrderStatus::Processed)]);
    assert_eq!(waiting(&mut first_inbox), [(1, 2)]);
    assert_eq!(waiting(&mut second_inbox), [(1, 2)]);

    assert!(second.unsubscribe(order_id(1)));
    hub.publish(&[event(order_id(1), 3, OrderStatus::Processed)]);
    assert_eq!(waiting(&mut first_inbox), [(1, 3)]);
    assert_eq!(waiting(&mut second_inbox), []);
}

#[tokio::test]
async fn slow_bare_reader_skips_versions_but_not_the_last() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_in(Form::Bare, &mut session, 1).await;
    subscribe_in(Form::Bare, &mut session, 2).await;
    for version in 2..=1_000 {
        hub.publish(&[
            event(order_id(1), version, OrderStatus::Failed),
            event(order_id(2), version - 1, OrderStatus::Failed),
        ]);
    }
    // An older version that comes late takes nobody's place.
    hub.publish(&[event(order_id(1), 500, OrderStatus::Pending)]);
    assert_eq!(waiting(&mut inbox), [(1, 1_000), (2, 999)]);
    assert_eq!(waiting(&mut inbox), []);
    hub.publish(&[event(order_id(1), 1_000, OrderStatus::Failed)]);
    assert_eq!(waiting(&mut inbox), []);
    assert_eq!(hub.stats().conflated.get(), 998 + 997);
    assert_eq!(*lock(&store.history_limits), [], "the history is not read");
}

#[tokio::test]
async fn waiting_reader_is_woken() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    let mut deliveries = Vec::new();
    let (result, ()) = tokio::join!(inbox.next(&mut deliveries), async {
        // The reader is polled first and has found nothing.
        hub.publish(&[event(order_id(1), 2, OrderStatus::Processed)]);
    });
    result.expect("the hub is open");
    assert_eq!(deliveries.len(), 1);
}

#[tokio::test]
async fn replay_is_complete_or_replaced_by_a_snapshot() {
    let store = FakeStore::new();
    let hub = hub(&store);
    let len_max = Version::try_from(REPLAY_LEN_MAX).expect("small");
    for _ in 0..len_max + 2 {
        store.commit(order_id(1), OrderStatus::Failed);
    }
    let newest = len_max + 2;
    // (since, the first version of the replay, or `None` for a snapshot)
    let cases = [
        (None, None),
        (Some(newest), Some(newest + 1)),
        (Some(newest - 1), Some(newest)),
        (Some(2), Some(3)),
        (Some(1), None),
        (Some(0), None),
        (Some(newest + 1), None),
        (Some(Version::MAX), None),
    ];
    for (since, first) in cases {
        let (mut session, _inbox) = hub.session().expect("room");
        let answer = session
            .subscribe(&ctx(), watch(order_id(1), since), Form::Full)
            .await
            .expect("the order exists");
        assert_eq!(answer.version, newest, "{since:?}");
        match (answer.catch_up, first) {
            (CatchUp::Replay(events), Some(first)) => {
                let versions: Vec<_> = events.iter().map(|event| event.version).collect();
                assert_eq!(versions, (first..=newest).collect::<Vec<_>>(), "{since:?}");
            }
            (CatchUp::Snapshot(event), None) => assert_eq!(event.version, newest, "{since:?}"),
            (other, _) => panic!("since {since:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn pruned_history_is_not_replayed_in_part() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for _ in 0..5 {
        store.commit(order_id(1), OrderStatus::Failed);
    }
    store.prune(order_id(1), 4);
    let (mut session, _inbox) = hub.session().expect("room");
    let answer = session
        .subscribe(&ctx(), watch(order_id(1), Some(2)), Form::Full)
        .await
        .expect("the order exists");
    assert!(matches!(answer.catch_up, CatchUp::Snapshot(event) if event.version == 5));
}

#[tokio::test]
async fn history_with_a_hole_is_not_replayed() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for _ in 0..5 {
        store.commit(order_id(1), OrderStatus::Failed);
    }
    store.prune(order_id(1), 4);
    // Between the two reads the order moves, so that the number of events fits again.
    let growing = Arc::downgrade(&store);
    store.set_hook(move |moment| {
        if let (Moment::AfterRead, Some(store)) = (moment, growing.upgrade()) {
            store.commit(order_id(1), OrderStatus::Pending);
        }
    });
    let (mut session, _inbox) = hub.session().expect("room");
    let answer = session
        .subscribe(&ctx(), watch(order_id(1), Some(2)), Form::Full)
        .await
        .expect("the order exists");
    assert!(matches!(answer.catch_up, CatchUp::Snapshot(event) if event.version == 5));
}

#[tokio::test]
async fn old_read_does_not_step_back() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    let read_later = event(order_id(1), 2, OrderStatus::Processing);
    hub.publish(std::slice::from_ref(&read_later));
    assert_eq!(waiting(&mut inbox), [(1, 2)]);
    subscribe(&mut session, 1).await;
    hub.publish(&[read_later]);
    assert_eq!(waiting(&mut inbox), []);
}

#[tokio::test]
async fn one_subscription_too_many_is_refused() {
    let store = FakeStore::new();
    let config = HubConfig {
        subscriptions_per_session_max: 1,
        ..HubConfig::default()
    };
    let hub = Hub::new(config, Arc::clone(&store) as Arc<_>, clock());
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut session, _inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    // The same order again is not another subscription.
    subscribe(&mut session, 1).await;
    let refused = session
        .subscribe(&ctx(), watch(order_id(2), None), Form::Bare)
        .await;
    assert!(matches!(
        refused,
        Err(Error::LimitExceeded { limit: 1, .. })
    ));
}

#[tokio::test]
async fn dropped_session_leaves_nothing_behind() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=3 {
        store.commit(order_id(n), OrderStatus::Pending);
    }
    let (mut session, inbox) = hub.session().expect("room");
    for n in 1..=3 {
        subscribe(&mut session, n).await;
    }
    assert_eq!((hub.n_sessions(), hub.n_orders()), (1, 3));
    drop((session, inbox));
    assert_eq!((hub.n_sessions(), hub.n_orders()), (0, 0));
}

#[tokio::test]
async fn dropped_or_failed_subscribe_changes_nothing() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    store.n_hanging.store(1, Ordering::Relaxed);
    let ctx = ctx();
    let hanging = session.subscribe(&ctx, watch(order_id(1), None), Form::Full);
    assert!(hanging.now_or_never().is_none());
    assert_eq!(hub.n_orders(), 0);

    subscribe(&mut session, 1).await;
    store.is_down.store(true, Ordering::Relaxed);
    for form in [Form::Bare, Form::Full] {
        let failed = session
            .subscribe(&ctx, watch(order_id(1), None), form)
            .await;
        assert!(matches!(failed, Err(Error::StoreUnavailable { .. })));
    }
    hub.publish(&[event(order_id(1), 2, OrderStatus::Processed)]);
    let mut deliveries = Vec::new();
    inbox.next(&mut deliveries).await.expect("open");
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].form, Form::Full, "the earlier one goes on");
}

#[tokio::test]
async fn closed_hub_hands_out_what_waits_and_ends() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    hub.publish(&[event(order_id(1), 2, OrderStatus::Processed)]);
    hub.close();
    let mut deliveries = Vec::new();
    inbox.next(&mut deliveries).await.expect("an event waits");
    let ended = inbox.next(&mut deliveries).await;
    assert!(matches!(ended, Err(Error::ShuttingDown { .. })));
    assert!(matches!(hub.session(), Err(Error::ShuttingDown { .. })));
}

#[tokio::test]
async fn watch_gives_the_state_then_what_follows_then_the_end() {
    let store = FakeStore::new();
    let hub = hub(&store);
    for n in 1..=2 {
        store.commit(order_id(n), OrderStatus::Pending);
        store.commit(order_id(n), OrderStatus::Processing);
    }
    let orders = vec![watch(order_id(1), None), watch(order_id(2), Some(0))];
    let mut stream = hub.watch(&ctx(), orders).await.expect("both exist");
    hub.publish(&[event(order_id(1), 3, OrderStatus::Processed)]);
    hub.close();
    let mut seen = Vec::new();
    while let Some(item) = stream.next().await {
        seen.push(item.map(|event| (event.order_id.as_uuid().as_u128(), event.version)));
    }
    let end = seen.pop();
    assert!(matches!(end, Some(Err(Error::ShuttingDown { .. }))));
    let seen: Vec<_> = seen.into_iter().map(|item| item.expect("event")).collect();
    assert_eq!(seen, [(1, 2), (2, 1), (2, 2), (1, 3)]);
    drop(stream);
    assert_eq!(hub.n_sessions(), 0);
}

#[tokio::test]
async fn watch_refuses_nothing_twice_and_the_unknown() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let known = watch(order_id(1), None);
    for bad in [vec![], vec![known, known]] {
        let refused = hub.watch(&ctx(), bad).await.map(|_| ());
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
    }
    let unknown = vec![known, watch(order_id(2), None)];
    let refused = hub.watch(&ctx(), unknown).await.map(|_| ());
    assert!(matches!(refused, Err(Error::OrderNotFound { .. })));
    assert_eq!((hub.n_sessions(), hub.n_orders()), (0, 0));
}

#[tokio::test]
async fn event_is_encoded_once_per_form() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let mut sessions = Vec::new();
    for form in [Form::Bare, Form::Full, Form::Bare, Form::Full] {
        let (mut session, inbox) = hub.session().expect("room");
        session
            .subscribe(&ctx(), watch(order_id(1), None), form)
            .await
            .expect("the order exists");
        sessions.push((session, inbox));
    }
    hub.publish(&[event(order_id(1), 2, OrderStatus::Processed)]);
    let n_encoded = AtomicUsize::new(0);
    for (_, inbox) in &mut sessions {
        let mut deliveries = Vec::new();
        inbox.next(&mut deliveries).await.expect("open");
        let delivery = &deliveries[0];
        delivery.event.encoded(delivery.form, |_| {
            n_encoded.fetch_add(1, Ordering::Relaxed);
            Bytes::from_static(b"encoded")
        });
    }
    assert_eq!(n_encoded.into_inner(), 2);
}
