//! Following an order in the short form beside the long one, and beside its user.

use std::sync::{Arc, atomic::Ordering};

use futures_util::FutureExt;
use order_core::{EventBus, OrderStatus, Version};

use super::{
    fake::{FakeStore, Moment, ctx, order_id, user, watch},
    hub, subscribe_in,
};
use crate::{Form, Inbox, Session};

async fn subscribe_user(session: &mut Session) {
    let answer = session.subscribe_user(user("user-1")).await;
    answer.expect("the store is up");
}

/// The versions of order 1 that wait, short and long, each in the order they come.
fn waiting(inbox: &mut Inbox) -> (Vec<Version>, Vec<Version>) {
    let mut deliveries = Vec::new();
    while let Some(result) = inbox.next(&mut deliveries).now_or_never() {
        result.expect("the hub is open");
    }
    let in_form = |form| {
        let chosen = deliveries.iter().filter(|delivery| delivery.form == form);
        chosen.map(|delivery| delivery.event.version()).collect()
    };
    (in_form(Form::Bare), in_form(Form::Full))
}

#[tokio::test]
async fn short_form_takes_nothing_that_waits_for_the_user() {
    for moment in [None, Some(Moment::BeforeRead), Some(Moment::AfterRead)] {
        let store = FakeStore::new();
        let hub = hub(&store);
        let (mut session, mut inbox) = hub.session().expect("room");
        subscribe_user(&mut session).await;
        let created = store.commit(order_id(1), OrderStatus::Pending);
        match moment {
            None => hub.publish(&[created]),
            Some(moment) => {
                let hub = Arc::clone(&hub);
                store.set_hook(move |now| {
                    if now == moment {
                        hub.publish(std::slice::from_ref(&created));
                    }
                });
            }
        }
        subscribe_in(Form::Bare, &mut session, 1).await;
        assert_eq!(waiting(&mut inbox), (vec![], vec![1]), "{moment:?}");
        hub.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
        assert_eq!(waiting(&mut inbox), (vec![2], vec![2]), "{moment:?}");
        store.set_hook(|_| {});
    }
}

#[tokio::test]
async fn each_form_gets_every_change_whatever_was_asked_for_first() {
    #[derive(Clone, Copy, Debug)]
    enum Ask {
        Bare,
        Full,
        User,
    }
    use Ask::{Bare, Full, User};
    for asks in [
        vec![Bare, Full],
        vec![Full, Bare],
        vec![Bare, User],
        vec![User, Bare],
        vec![Bare, Bare, Full],
        vec![Bare, User, Full],
        vec![User, Full, Bare],
        vec![Full, Bare, User],
    ] {
        let store = FakeStore::new();
        let hub = hub(&store);
        store.commit(order_id(1), OrderStatus::Pending);
        let (mut session, mut inbox) = hub.session().expect("room");
        for ask in &asks {
            match ask {
                Bare => subscribe_in(Form::Bare, &mut session, 1).await,
                Full => subscribe_in(Form::Full, &mut session, 1).await,
                User => subscribe_user(&mut session).await,
            }
        }
        assert_eq!(waiting(&mut inbox), (vec![], vec![]), "{asks:?}");
        for version in 2..=3 {
            hub.publish(&[store.commit(order_id(1), OrderStatus::Failed)]);
            let once = (vec![version], vec![version]);
            assert_eq!(waiting(&mut inbox), once, "{asks:?}");
        }
        let n_queued = hub.stats().delivered.get();
        assert_eq!(n_queued, 2, "{asks:?}: one session, counted once an event");
    }
}

#[tokio::test]
async fn answer_in_one_form_starts_the_order_over_in_that_form_only() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe_in(Form::Bare, &mut session, 1).await;
    subscribe_in(Form::Full, &mut session, 1).await;
    hub.publish(&[store.commit(order_id(1), OrderStatus::Failed)]);
    subscribe_in(Form::Bare, &mut session, 1).await;
    assert_eq!(waiting(&mut inbox), (vec![], vec![2]));
    hub.publish(&[store.commit(order_id(1), OrderStatus::Pending)]);
    let order = watch(order_id(1), Some(1));
    let answer = session.subscribe(&ctx(), order, Form::Full).await;
    assert_eq!(answer.expect("up").into_events().len(), 2, "2 and 3");
    assert_eq!(waiting(&mut inbox), (vec![3], vec![]));
    hub.publish(&[store.commit(order_id(1), OrderStatus::Failed)]);
    subscribe_user(&mut session).await;
    assert_eq!(waiting(&mut inbox), (vec![4], vec![]));
}

#[tokio::test]
async fn failed_subscription_in_one_form_leaves_the_other_as_it_is() {
    for (stays, fails) in [(Form::Bare, Form::Full), (Form::Full, Form::Bare)] {
        let store = FakeStore::new();
        let hub = hub(&store);
        store.commit(order_id(1), OrderStatus::Pending);
        let (mut session, mut inbox) = hub.session().expect("room");
        subscribe_in(stays, &mut session, 1).await;
        store.is_down.store(true, Ordering::Relaxed);
        let order = watch(order_id(1), None);
        assert!(session.subscribe(&ctx(), order, fails).await.is_err());
        hub.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
        let (bare, full) = waiting(&mut inbox);
        assert_eq!(if stays == Form::Bare { bare } else { full }, [2]);
        assert_eq!(hub.n_orders(), 1);
        drop((session, inbox));
        assert_eq!(hub.n_orders(), 0);
    }
}

#[tokio::test]
async fn unsubscribed_order_goes_on_for_its_user_and_the_user_without_its_orders() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    let all = async |session: &mut Session| {
        subscribe_user(session).await;
        subscribe_in(Form::Bare, session, 1).await;
        subscribe_in(Form::Full, session, 1).await;
    };
    all(&mut session).await;
    hub.publish(&[store.commit(order_id(1), OrderStatus::Failed)]);
    assert!(session.unsubscribe(order_id(1)), "both forms");
    assert!(!session.unsubscribe(order_id(1)));
    assert_eq!(hub.n_orders(), 0);
    assert_eq!(
        waiting(&mut inbox),
        (vec![], vec![2]),
        "what waits is the user's"
    );
    hub.publish(&[store.commit(order_id(1), OrderStatus::Pending)]);
    assert_eq!(waiting(&mut inbox), (vec![], vec![3]));

    all(&mut session).await;
    assert!(session.unsubscribe_user(&user("user-1")));
    hub.publish(&[store.commit(order_id(1), OrderStatus::Processed)]);
    assert_eq!(waiting(&mut inbox), (vec![4], vec![4]));
}
