//! Events between processes: the contract of [`EventTransport`], as tests that run against
//! every broker.
//!
//! An adapter's test file implements [`EventSubject`] and calls
//! [`event_conformance!`](crate::event_conformance).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    BrokerError, Cause, EventReceiver, EventTransport, OrderEvent, OrderId, OrderStatus, Topic,
    TopicChange, UserId, Version,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use uuid::Uuid;

/// How long a condition may take to become true. Only a failing case waits this long.
const DEADLINE: Duration = Duration::from_secs(20);

/// The pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// A broker under test that nobody else uses.
#[async_trait]
pub trait EventSubject: Send + Sync + 'static {
    /// A new handle, as another process would have it. Need not be connected.
    async fn transport(&self) -> Arc<dyn EventTransport>;

    /// Whether handles ask the broker only for what is watched, and say with
    /// [`EventReceiver::heard`] from when on they hear it.
    fn is_selective(&self) -> bool {
        false
    }

    /// Sends a message that is no event to where those who watch user `ada` hear it.
    async fn send_foreign(&self);

    /// Breaks every connection that the handles have to the broker now.
    async fn cut(&self);
}

/// Writes one `#[tokio::test]` per case of the contract of `EventTransport`.
///
/// Takes the path of an `async fn() -> Option<impl EventSubject>` that makes a fresh subject
/// for each case. `None` skips the case; the function must then say so on standard error.
#[macro_export]
macro_rules! event_conformance {
    ($make:path) => {
        $crate::store_conformance! { $make;
            events {
                events_reach_every_other_process_in_order
                events_of_a_watched_order_arrive
                whole_event_arrives
                large_batch_arrives_complete
                empty_batch_is_nothing
                topic_that_is_watched_later_is_heard
                foreign_message_is_ignored
                lost_connection_ends_listening_and_the_next_one_resyncs
            }
        }
    };
}

/// What arrived at a receiver.
#[derive(Debug, Default)]
struct Arrived {
    events: Vec<OrderEvent>,
    heard: Vec<Topic>,
    n_resyncs: usize,
    /// How listening ended, each time.
    ends: Vec<BrokerError>,
}

impl Arrived {
    /// The versions that arrived of an order. One that comes again directly may do so.
    fn versions(&self, order_id: OrderId) -> Vec<Version> {
        let events = self.events.iter();
        let mut versions: Vec<_> = events
            .filter(|event| event.order_id == order_id)
            .map(|event| event.version)
            .collect();
        versions.dedup();
        versions
    }
}

/// A receiver that keeps what it gets, and watches what it is told to.
#[derive(Debug)]
struct Recorder {
    topics: Mutex<Vec<Topic>>,
    /// How many of the topics the transport knows.
    n_told: watch::Sender<usize>,
    n_topics: watch::Sender<usize>,
    arrived: watch::Sender<Arrived>,
}

#[async_trait]
impl EventReceiver for Recorder {
    fn is_watched(&self) -> bool {
        true
    }

    async fn until_watched(&self) {}

    fn receive(&self, events: &[OrderEvent]) {
        self.arrived
            .send_modify(|arrived| arrived.events.extend_from_slice(events));
    }

    fn watched(&self) -> Vec<Topic> {
        let topics = self.topics();
        self.n_told.send_replace(topics.len());
        topics
    }

    async fn topic_changes(&self) -> Vec<TopicChange> {
        let n_told = *self.n_told.borrow();
        let mut n_topics = self.n_topics.subscribe();
        let changed = n_topics.wait_for(|n_topics| *n_topics > n_told).await;
        changed.expect("the sender lives as long as this");
        let topics = self.watched().into_iter().skip(n_told);
        topics
            .map(|topic| TopicChange {
                topic,
                is_watched: true,
            })
            .collect()
    }

    fn heard(&self, topics: &[Topic]) {
        self.arrived
            .send_modify(|arrived| arrived.heard.extend_from_slice(topics));
    }

    fn resync(&self) {
        self.arrived.send_modify(|arrived| arrived.n_resyncs += 1);
    }
}

impl Recorder {
    fn topics(&self) -> Vec<Topic> {
        let topics = self.topics.lock();
        topics.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn watch(&self, topic: Topic) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.push(topic);
        self.n_topics.send_replace(topics.len());
    }
}

/// A process that listens, and listens again when that ends.
struct Listener {
    recorder: Arc<Recorder>,
    _listening: JoinSet<()>,
}

impl Listener {
    /// Begins to listen and waits until everything is heard.
    async fn start(subject: &dyn EventSubject, topics: &[Topic]) -> Self {
        let recorder = Arc::new(Recorder {
            topics: Mutex::new(topics.to_vec()),
            n_told: watch::Sender::new(0),
            n_topics: watch::Sender::new(topics.len()),
            arrived: watch::Sender::default(),
        });
        let transport = subject.transport().await;
        let mut listening = JoinSet::new();
        let receiver = Arc::clone(&recorder);
        listening.spawn(async move {
            loop {
                let Err(end) = transport.listen(Arc::clone(&receiver) as _).await;
                receiver
                    .arrived
                    .send_modify(|arrived| arrived.ends.push(end));
                sleep(PAUSE).await;
            }
        });
        let listener = Self {
            recorder,
            _listening: listening,
        };
        listener.wait_until(|arrived| arrived.n_resyncs > 0).await;
        listener
    }

    async fn wait_until(&self, is_so: impl Fn(&Arrived) -> bool) {
        let mut arrived = self.recorder.arrived.subscribe();
        let waited = timeout(DEADLINE, arrived.wait_for(|arrived| is_so(arrived))).await;
        assert!(
            waited.is_ok(),
            "in vain, with {:?}",
            self.recorder.arrived.borrow()
        );
    }

    async fn wait_for_versions(&self, order_id: OrderId, expected: &[Version]) {
        self.wait_until(|arrived| arrived.versions(order_id).len() >= expected.len())
            .await;
        let arrived = self.recorder.arrived.borrow();
        assert_eq!(arrived.versions(order_id), expected);
    }
}

fn ada() -> Topic {
    Topic::User(UserId::parse("ada").expect("valid"))
}

fn order_id(n: u128) -> OrderId {
    OrderId::from_uuid(Uuid::from_u128(n))
}

/// An event of an order of user `ada`.
fn event(n: u128, version: Version) -> OrderEvent {
    OrderEvent {
        order_id: order_id(n),
        user_id: UserId::parse("ada").expect("valid"),
        version,
        status: OrderStatus::Processing,
        at: Timestamp::UNIX_EPOCH,
        cause: None,
        trace_parent: None,
    }
}

async fn publish(transport: &Arc<dyn EventTransport>, events: &[OrderEvent]) {
    let published = transport.publish(events).await;
    published.expect("the broker takes events");
}

/// Everybody else gets the events of one call in its order, and those of the next call
/// after them.
pub async fn events_reach_every_other_process_in_order(subject: &dyn EventSubject) {
    let one = Listener::start(subject, &[ada()]).await;
    let other = Listener::start(subject, &[ada()]).await;
    let transport = subject.transport().await;

    publish(&transport, &[event(1, 1), event(2, 1), event(1, 2)]).await;
    publish(&transport, &[event(1, 3), event(2, 2), event(1, 4)]).await;

    for listener in [one, other] {
        listener.wait_for_versions(order_id(1), &[1, 2, 3, 4]).await;
        listener.wait_for_versions(order_id(2), &[1, 2]).await;
    }
}

/// Who watches an order hears of it without watching its user.
pub async fn events_of_a_watched_order_arrive(subject: &dyn EventSubject) {
    let topics = [Topic::Order(order_id(1)), Topic::Order(order_id(2))];
    let listener = Listener::start(subject, &topics).await;
    let transport = subject.transport().await;

    publish(&transport, &[event(1, 1), event(2, 1), event(1, 2)]).await;

    listener.wait_for_versions(order_id(1), &[1, 2]).await;
    listener.wait_for_versions(order_id(2), &[1]).await;
}

/// An event arrives as it was, the longest one too.
pub async fn whole_event_arrives(subject: &dyn EventSubject) {
    let user_id = UserId::parse(&"\u{10348}".repeat(UserId::CHARS_MAX)).expect("valid");
    let listener = Listener::start(subject, &[Topic::User(user_id.clone())]).await;
    let message = "\u{10348}".repeat(Cause::MESSAGE_CHARS_MAX);
    let sent = OrderEvent {
        user_id,
        status: OrderStatus::Failed,
        at: Timestamp::from_microsecond(1_795_000_000_123_456).expect("valid"),
        cause: Some(Cause::new("C".repeat(Cause::CODE_LEN_MAX), message)),
        ..event(1, Version::MAX)
    };

    let transport = subject.transport().await;
    publish(&transport, std::slice::from_ref(&sent)).await;

    listener
        .wait_until(|arrived| arrived.events.contains(&sent))
        .await;
}

/// A thousand events of one call arrive, each order by itself in order.
pub async fn large_batch_arrives_complete(subject: &dyn EventSubject) {
    let listener = Listener::start(subject, &[ada()]).await;
    let events: Vec<_> = (1..=5)
        .flat_map(|version| (1..=200).map(move |n| event(n, version)))
        .collect();

    publish(&subject.transport().await, &events).await;

    listener
        .wait_until(|arrived| arrived.events.len() >= events.len())
        .await;
    let arrived = listener.recorder.arrived.borrow();
    let mut by_order: BTreeMap<OrderId, Vec<Version>> = BTreeMap::new();
    for event in &arrived.events {
        by_order
            .entry(event.order_id)
            .or_default()
            .push(event.version);
    }
    let expected: BTreeMap<_, _> = (1..=200)
        .map(|n| (order_id(n), (1..=5).collect()))
        .collect();
    assert_eq!(by_order, expected);
}

/// Nothing to publish is no error.
pub async fn empty_batch_is_nothing(subject: &dyn EventSubject) {
    publish(&subject.transport().await, &[]).await;
}

/// What is watched only when the connection stands is heard as well; a selective transport
/// says from when on.
pub async fn topic_that_is_watched_later_is_heard(subject: &dyn EventSubject) {
    let listener = Listener::start(subject, &[]).await;
    let transport = subject.transport().await;
    for (n, topic) in [(1, Topic::Order(order_id(1))), (2, ada())] {
        listener.recorder.watch(topic.clone());
        if subject.is_selective() {
            listener
                .wait_until(|arrived| arrived.heard.contains(&topic))
                .await;
        }
        publish(&transport, &[event(n, 1)]).await;
        listener.wait_for_versions(order_id(n), &[1]).await;
    }
}

/// A message of some other program disturbs nobody.
pub async fn foreign_message_is_ignored(subject: &dyn EventSubject) {
    let listener = Listener::start(subject, &[ada()]).await;
    let transport = subject.transport().await;

    publish(&transport, &[event(1, 1)]).await;
    subject.send_foreign().await;
    publish(&transport, &[event(1, 2)]).await;

    listener.wait_for_versions(order_id(1), &[1, 2]).await;
    let arrived = listener.recorder.arrived.borrow();
    assert!(arrived.ends.is_empty(), "{:?}", arrived.ends);
    assert_eq!(arrived.events.len(), 2);
}

/// A lost connection is an error of `listen`. The next call hears again and says that
/// something may have been missed; publishing works again, too.
pub async fn lost_connection_ends_listening_and_the_next_one_resyncs(subject: &dyn EventSubject) {
    let listener = Listener::start(subject, &[ada()]).await;
    let transport = subject.transport().await;
    publish(&transport, &[event(1, 1)]).await;
    listener.wait_for_versions(order_id(1), &[1]).await;

    subject.cut().await;

    listener
        .wait_until(|arrived| !arrived.ends.is_empty() && arrived.n_resyncs > 1)
        .await;
    let published = async {
        while transport.publish(&[event(1, 2)]).await.is_err() {
            sleep(PAUSE).await;
        }
    };
    let published = timeout(DEADLINE, published).await;
    published.expect("publishing works again");
    listener.wait_for_versions(order_id(1), &[1, 2]).await;
}
