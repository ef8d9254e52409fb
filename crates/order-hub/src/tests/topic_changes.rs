//! What a transport that subscribes in its broker is told about what is watched here.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::FutureExt;
use order_core::{EventReceiver, OrderStatus, Topic, TopicChange};
use proptest::prelude::*;

use super::{
    fake::{FakeStore, clock, order_id, user},
    subscribe,
};
use crate::{
    Hub, HubConfig,
    mailbox::{Mailbox, Watcher},
    topics::Topics,
};

fn tracking_hub(store: &Arc<FakeStore>) -> Arc<Hub> {
    let config = HubConfig {
        tracks_topics: true,
        ..HubConfig::default()
    };
    Hub::new(config, Arc::clone(store) as Arc<_>, clock())
}

/// Orders 1 to 4 and users 5 to 8.
fn topic(n: u8) -> Topic {
    if n <= 4 {
        Topic::Order(order_id(n.into()))
    } else {
        Topic::User(user(&format!("user-{n}")))
    }
}

fn changes(hub: &Hub) -> Vec<TopicChange> {
    hub.topic_changes().now_or_never().unwrap_or_default()
}

#[tokio::test]
async fn first_watcher_and_last_one_are_told() {
    let store = FakeStore::new();
    store.commit(order_id(1), OrderStatus::Pending);
    let hub = tracking_hub(&store);
    let (mut first, _inbox) = hub.session().expect("room");
    let (mut second, _inbox) = hub.session().expect("room");
    let order = Topic::Order(order_id(1));
    let change = |topic: &Topic, is_watched| TopicChange {
        topic: topic.clone(),
        is_watched,
    };

    subscribe(&mut first, 1).await;
    assert_eq!(changes(&hub), [change(&order, true)]);
    subscribe(&mut second, 1).await;
    drop(first);
    assert_eq!(changes(&hub), []);
    second.unsubscribe(order_id(1));
    assert_eq!(changes(&hub), [change(&order, false)]);

    let user_1 = Topic::User(user("user-1"));
    let answer = second.subscribe_user(user("user-1")).await;
    answer.expect("the store answers");
    assert_eq!(changes(&hub), [change(&user_1, true)]);
    assert_eq!(hub.watched(), std::slice::from_ref(&user_1));
    drop(second);
    assert_eq!(changes(&hub), [change(&user_1, false)]);
}

#[tokio::test]
async fn what_came_and_went_is_not_told() {
    let store = FakeStore::new();
    store.commit(order_id(1), OrderStatus::Pending);
    let hub = tracking_hub(&store);
    let (mut session, _inbox) = hub.session().expect("room");
    for _ in 0..3 {
        subscribe(&mut session, 1).await;
        session.unsubscribe(order_id(1));
    }
    assert_eq!(changes(&hub), []);
    subscribe(&mut session, 1).await;
    assert_eq!(hub.watched(), [Topic::Order(order_id(1))]);
    assert_eq!(changes(&hub), [], "it is in what was watched");
}

#[tokio::test]
async fn waiting_for_changes_ends_with_one_and_loses_none() {
    let store = FakeStore::new();
    store.commit(order_id(1), OrderStatus::Pending);
    let hub = tracking_hub(&store);
    let (mut session, _inbox) = hub.session().expect("room");
    let mut waiting = hub.topic_changes();
    assert_eq!((&mut waiting).now_or_never(), None);
    subscribe(&mut session, 1).await;
    // Told, and dropped before it took anything.
    drop(waiting);
    let mut waiting = hub.topic_changes();
    assert_eq!((&mut waiting).now_or_never().map(|c| c.len()), Some(1));
    drop(waiting);

    let (found, ()) = tokio::join!(hub.topic_changes(), async {
        session.unsubscribe(order_id(1));
    });
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn hub_that_nobody_asks_notes_nothing() {
    let store = FakeStore::new();
    store.commit(order_id(1), OrderStatus::Pending);
    let hub = super::hub(&store);
    let (mut session, _inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    assert_eq!(hub.topic_changes().now_or_never(), None);
    assert_eq!(hub.watched(), [Topic::Order(order_id(1))]);
}

/// The watched topics as a transport knows them.
#[derive(Debug, Default)]
struct View(HashSet<Topic>);

impl View {
    fn apply(&mut self, changes: Vec<TopicChange>) {
        for TopicChange { topic, is_watched } in changes {
            if is_watched {
                self.0.insert(topic);
            } else {
                self.0.remove(&topic);
            }
        }
    }
}

fn join(topics: &Topics, topic: &Topic, mailbox: &Arc<Mailbox>) {
    match topic {
        Topic::Order(order_id) => topics.join(*order_id, mailbox),
        Topic::User(user_id) => topics.join_user(user_id, mailbox),
    }
}

fn leave(topics: &Topics, topic: &Topic, mailbox: &Arc<Mailbox>) {
    match topic {
        Topic::Order(order_id) => topics.leave(*order_id, mailbox),
        Topic::User(user_id) => topics.leave_user(user_id, mailbox),
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A mailbox joins what it does not follow, and leaves what it follows.
    Toggle {
        mailbox: usize,
        topic: u8,
    },
    Changes,
    Watched,
}

proptest! {
    #[test]
    fn view_of_a_transport_is_what_is_watched(
        steps in proptest::collection::vec(prop_oneof![
            8 => (0_usize..3, 1_u8..=8).prop_map(|(mailbox, topic)| Step::Toggle { mailbox, topic }),
            1 => Just(Step::Changes),
            1 => Just(Step::Watched),
        ], 0..100),
    ) {
        let topics = Topics::new(true);
        let mailboxes = [(); 3].map(|()| Arc::new(Mailbox::new(Watcher::Client)));
        let mut followed = HashSet::new();
        let mut view = View::default();
        for step in steps {
            match step {
                Step::Toggle { mailbox, topic: n } => {
                    if followed.insert((mailbox, n)) {
                        join(&topics, &topic(n), &mailboxes[mailbox]);
                    } else {
                        followed.remove(&(mailbox, n));
                        leave(&topics, &topic(n), &mailboxes[mailbox]);
                    }
                }
                Step::Changes => {
                    let changes = topics.changes().now_or_never().unwrap_or_default();
                    for change in &changes {
                        let is_known = view.0.contains(&change.topic);
                        prop_assert!(is_known != change.is_watched, "{change:?} is no change");
                    }
                    view.apply(changes);
                }
                Step::Watched => view.0 = topics.watched().into_iter().collect(),
            }
        }
        view.apply(topics.changes().now_or_never().unwrap_or_default());
        let watched: HashSet<_> = followed.iter().map(|(_, n)| topic(*n)).collect();
        prop_assert_eq!(view.0, watched);
    }
}

#[test]
fn view_is_right_after_a_race() {
    let topics = Topics::new(true);
    let is_over = AtomicBool::new(false);
    let mut view = View::default();
    std::thread::scope(|scope| {
        let watchers: Vec<_> = (0..3_u8)
            .map(|_| {
                let topics = &topics;
                scope.spawn(move || {
                    let mailbox = Arc::new(Mailbox::new(Watcher::Client));
                    for round in 0..2_000_u16 {
                        let topic = topic(u8::try_from(round % 8 + 1).expect("small"));
                        join(topics, &topic, &mailbox);
                        leave(topics, &topic, &mailbox);
                    }
                    for n in [1, 8] {
                        join(topics, &topic(n), &mailbox);
                    }
                })
            })
            .collect();
        let transport = scope.spawn(|| {
            let mut view = View::default();
            while !is_over.load(Ordering::Acquire) {
                view.0 = topics.watched().into_iter().collect();
                for _ in 0..8 {
                    view.apply(topics.changes().now_or_never().unwrap_or_default());
                }
            }
            view
        });
        for watcher in watchers {
            watcher.join().expect("no watcher panics");
        }
        is_over.store(true, Ordering::Release);
        view = transport.join().expect("the transport does not panic");
    });
    view.apply(topics.changes().now_or_never().unwrap_or_default());
    assert_eq!(view.0, [topic(1), topic(8)].into());
}
