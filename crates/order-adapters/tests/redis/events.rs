//! Events between processes.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use jiff::Timestamp;
use order_adapters::redis::{RedisEventConfig, RedisEventTransport};
use order_core::{
    EventReceiver, EventTransport, OrderEvent, OrderId, OrderStatus, Topic, TopicChange, UserId,
    Version,
};
use tokio::{sync::Notify, task::JoinSet};
use uuid::Uuid;

use super::*;

pub(crate) fn event(order: u128, user: &str, version: Version) -> OrderEvent {
    OrderEvent {
        order_id: OrderId::from_uuid(Uuid::from_u128(order)),
        user_id: UserId::parse(user).unwrap(),
        version,
        status: OrderStatus::Processing,
        at: Timestamp::UNIX_EPOCH,
        cause: None,
        trace_parent: None,
    }
}

pub(crate) fn order(order: u128) -> Topic {
    Topic::Order(OrderId::from_uuid(Uuid::from_u128(order)))
}

fn user(user: &str) -> Topic {
    Topic::User(UserId::parse(user).unwrap())
}

/// A receiver that writes down what it is told.
#[derive(Default)]
pub(crate) struct Recorder {
    watched: Mutex<BTreeSet<Topic>>,
    changes: Mutex<VecDeque<TopicChange>>,
    changed: Notify,
    events: Mutex<Vec<OrderEvent>>,
    heard: Mutex<Vec<Topic>>,
    n_resyncs: AtomicUsize,
}

impl Recorder {
    pub(crate) fn new(watched: &[Topic]) -> Arc<Self> {
        let recorder = Self::default();
        recorder.watched.lock().unwrap().extend(watched.to_vec());
        Arc::new(recorder)
    }

    fn change(&self, changes: Vec<(Topic, bool)>) {
        let mut watched = self.watched.lock().unwrap();
        let mut waiting = self.changes.lock().unwrap();
        for (topic, is_watched) in changes {
            if is_watched {
                watched.insert(topic.clone());
            } else {
                watched.remove(&topic);
            }
            waiting.push_back(TopicChange { topic, is_watched });
        }
        self.changed.notify_one();
    }

    fn events(&self) -> Vec<OrderEvent> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) async fn wait_for_event(&self, event: &OrderEvent) {
        wait_until("an event arrives", async || self.events().contains(event)).await;
    }

    async fn wait_for_heard(&self, topic: &Topic) {
        wait_until("a topic is heard", async || {
            self.heard.lock().unwrap().contains(topic)
        })
        .await;
    }

    pub(crate) async fn wait_for_resyncs(&self, n: usize) {
        wait_until("everything is looked up", async || {
            self.n_resyncs.load(Ordering::SeqCst) == n
        })
        .await;
    }
}

#[async_trait]
impl EventReceiver for Recorder {
    fn is_watched(&self) -> bool {
        true
    }

    async fn until_watched(&self) {}

    fn receive(&self, events: &[OrderEvent]) {
        self.events.lock().unwrap().extend_from_slice(events);
    }

    fn watched(&self) -> Vec<Topic> {
        let watched = self.watched.lock().unwrap();
        self.changes.lock().unwrap().clear();
        watched.iter().cloned().collect()
    }

    async fn topic_changes(&self) -> Vec<TopicChange> {
        loop {
            let changes: Vec<_> = self.changes.lock().unwrap().drain(..).collect();
            if !changes.is_empty() {
                return changes;
            }
            self.changed.notified().await;
        }
    }

    fn heard(&self, topics: &[Topic]) {
        self.heard.lock().unwrap().extend_from_slice(topics);
    }

    fn resync(&self) {
        self.n_resyncs.fetch_add(1, Ordering::SeqCst);
    }
}

/// A transport that listens for its recorder, and goes on when the connection is lost.
struct Listening {
    transport: Arc<RedisEventTransport>,
    recorder: Arc<Recorder>,
    _task: JoinSet<()>,
}

async fn listen(url: &str, watched: &[Topic]) -> Listening {
    let transport = RedisEventTransport::new(&parse(url), RedisEventConfig::default());
    let (transport, recorder) = (Arc::new(transport), Recorder::new(watched));
    let mut task = JoinSet::new();
    let (far, receiver) = (Arc::clone(&transport), Arc::clone(&recorder));
    task.spawn(async move {
        loop {
            let lost = far.listen(receiver.clone()).await.unwrap_err();
            assert!(errors::is_unreachable(&lost), "{}", lost.chain());
            sleep(Duration::from_millis(10)).await;
        }
    });
    recorder.wait_for_resyncs(1).await;
    Listening {
        transport,
        recorder,
        _task: task,
    }
}

async fn channels(raw: &Raw, prefix: &str) -> BTreeSet<String> {
    let channels: Vec<String> = raw.run(&format!("PUBSUB CHANNELS {prefix}:*")).await;
    channels
        .into_iter()
        .map(|mut channel| channel.split_off(prefix.len() + 1))
        .collect()
}

fn order_channel(order: u128) -> String {
    format!("order:{}", Uuid::from_u128(order))
}

#[tokio::test]
async fn only_what_is_watched_is_subscribed() {
    let (url, prefix) = available!(private());
    let raw = Raw::connect(&url).await;
    let near = listen(&url, &[order(1), user("a")]).await;
    let expected = [order_channel(1), "user:a".to_owned()];
    assert_eq!(channels(&raw, &prefix).await, expected.into());

    near.recorder.change(vec![
        (order(2), true),
        (order(1), false),
        (order(3), true),
        (order(3), false),
        (user("a"), false),
        (user("a"), true),
    ]);

    near.recorder.wait_for_heard(&order(2)).await;
    near.recorder.wait_for_heard(&user("a")).await;
    let expected = [order_channel(2), "user:a".to_owned()];
    assert_eq!(channels(&raw, &prefix).await, expected.into());
    assert!(!near.recorder.heard.lock().unwrap().contains(&order(3)));
}

#[tokio::test]
async fn every_topic_is_subscribed_however_many_there_are() {
    let (url, prefix) = available!(private());
    let raw = Raw::connect(&url).await;
    let topics: Vec<_> = (1..=2500).map(order).collect();
    let near = listen(&url, &topics).await;
    assert_eq!(channels(&raw, &prefix).await.len(), 2500);

    let later = (2501..=4600).map(|n| (order(n), true));
    near.recorder.change(later.collect());

    wait_until("all are heard", async || {
        near.recorder.heard.lock().unwrap().len() == 2100
    })
    .await;
    assert_eq!(channels(&raw, &prefix).await.len(), 4600);
}

#[tokio::test]
async fn events_of_watched_orders_and_users_arrive() {
    let (url, _) = available!(private());
    let near = listen(&url, &[order(1), user("b")]).await;
    let far = RedisEventTransport::new(&parse(&url), RedisEventConfig::default());
    let unwatched = event(3, "c", 1);
    let events = [
        unwatched.clone(),
        event(1, "a", 2),
        event(1, "a", 3),
        event(2, "b", 1),
    ];

    far.publish(&events).await.unwrap();
    far.publish(&[]).await.unwrap();

    near.recorder.wait_for_event(&events[3]).await;
    assert_eq!(near.recorder.events(), events[1..]);
}

#[tokio::test]
async fn batch_is_one_message_for_each_topic() {
    // One of its own, since it counts for all its clients together.
    let server = available!(own_server(&[]));
    let raw = Raw::connect(&server.url()).await;
    let near = listen(&server.url(), &[order(1), user("a")]).await;
    let calls = async || {
        let stats: String = raw.run("INFO commandstats").await;
        let mut lines = stats.lines();
        let line = lines.find_map(|line| line.strip_prefix("cmdstat_publish:calls="));
        let calls = line.and_then(|line| line.split(',').next());
        calls.map_or(0, |calls| calls.parse::<usize>().unwrap())
    };
    let before = calls().await;

    let events = [event(1, "a", 1), event(2, "a", 1), event(1, "a", 2)];
    near.transport.publish(&events).await.unwrap();

    near.recorder.wait_for_event(&events[1]).await;
    assert_eq!(calls().await - before, 3);
}

#[tokio::test]
async fn message_holds_what_concerns_its_topic_and_nothing_else() {
    let (url, _) = available!(private());
    let near = listen(&url, &[user("a"), order(3)]).await;
    let of_a = [event(1, "a", 1), event(1, "a", 2), event(4, "a", 1)];
    let of_b = [event(3, "b", 1), event(3, "b", 2)];
    let unwatched = event(2, "b", 1);

    // As a batch comes: whatever happened, in the sequence in which it did.
    let batch = [&of_b[0], &of_a[0], &unwatched, &of_a[2], &of_a[1], &of_b[1]].map(Clone::clone);
    near.transport.publish(&batch).await.unwrap();

    near.recorder.wait_for_event(&of_b[1]).await;
    assert_eq!(near.recorder.events(), [&of_a[..], &of_b[..]].concat());
}

#[tokio::test]
async fn events_arrive_from_the_moment_a_topic_is_heard() {
    let (url, _) = available!(private());
    let near = listen(&url, &[]).await;
    for n in 1..=50 {
        near.recorder.change(vec![(order(n), true)]);
        near.recorder.wait_for_heard(&order(n)).await;
        let event = event(n, "a", 1);
        near.transport
            .publish(std::slice::from_ref(&event))
            .await
            .unwrap();
        near.recorder.wait_for_event(&event).await;
    }
}

#[tokio::test]
async fn foreign_messages_are_skipped() {
    let (url, prefix) = available!(private());
    let raw = Raw::connect(&url).await;
    let near = listen(&url, &[order(1)]).await;
    for payload in ["hello", "[]", "{\"id\":1}"] {
        let channel = order_channel(1);
        let command = format!("PUBLISH {prefix}:{channel} {payload}");
        assert_eq!(raw.run::<usize>(&command).await, 1);
    }
    let event = event(1, "a", 1);
    near.transport
        .publish(std::slice::from_ref(&event))
        .await
        .unwrap();

    near.recorder.wait_for_event(&event).await;
    assert_eq!(near.recorder.events(), [event]);
    assert_eq!(near.transport.n_foreign(), 3);
}

#[tokio::test]
async fn everything_is_looked_up_after_a_reconnect() {
    let mut server = available!(own_server(&[]));
    let near = listen(&server.url(), &[order(1)]).await;
    near.recorder.change(vec![(order(2), true)]);
    near.recorder.wait_for_heard(&order(2)).await;

    server.kill().await.unwrap();
    server.restart().await.unwrap();

    near.recorder.wait_for_resyncs(2).await;
    let events = [event(1, "a", 1), event(2, "a", 1)];
    near.transport.publish(&events).await.unwrap();
    near.recorder.wait_for_event(&events[1]).await;
    assert_eq!(near.recorder.events(), events);
}
