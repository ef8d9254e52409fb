//! Events between processes, over channels: one of each order and one of each user.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use order_core::{
    BrokerError, EventReceiver, EventTransport, OrderEvent, OrderId, Topic, TopicChange,
};
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, PushInfo, PushKind, Value, aio::MultiplexedConnection,
};
use tokio::{sync::mpsc, time::sleep};

use super::{
    RedisUrl,
    connect::{Server, SharedConnection},
};
use crate::event_message::{decode, encode_into};

/// How many channels one command subscribes.
const CHANNELS_MAX: usize = 1000;

/// How many messages may wait for the receiver. What is more is dropped, and made up for by
/// a look at everything.
const MESSAGES_MAX: usize = 4096;

/// How many messages are handed on at once.
const BATCH_MAX: usize = 256;

/// How events are passed.
#[derive(Clone, Debug)]
pub struct RedisEventConfig {
    /// How often a connection is checked. One that is silently dead, and a server that was
    /// demoted to a replica, are noticed after this and two seconds. Default: 10 s.
    pub ping_interval: Duration,
}

impl Default for RedisEventConfig {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(10),
        }
    }
}

/// An [`EventTransport`] over Pub/Sub. Each process hears what it watches and nothing else.
pub struct RedisEventTransport {
    server: Server,
    publisher: SharedConnection,
    prefix: String,
    config: RedisEventConfig,
    n_foreign: AtomicU64,
}

impl RedisEventTransport {
    /// A transport that connects when it is used.
    pub fn new(url: &RedisUrl, config: RedisEventConfig) -> Self {
        Self {
            server: url.server.clone(),
            publisher: SharedConnection::new(url.server.clone()),
            prefix: url.prefix.clone(),
            config,
            n_foreign: AtomicU64::new(0),
        }
    }

    /// How many messages were skipped because they are not events.
    pub fn n_foreign(&self) -> u64 {
        self.n_foreign.load(Ordering::Relaxed)
    }

    fn order_channel(&self, order_id: OrderId) -> String {
        format!("{}:order:{order_id}", self.prefix)
    }

    fn user_channel(&self, user_id: &str) -> String {
        format!("{}:user:{user_id}", self.prefix)
    }

    /// Publishes to each topic all that concerns it in one message, since a command costs more
    /// than what it carries.
    fn publications(&self, events: &[OrderEvent]) -> Pipeline {
        let mut sorted: Vec<&OrderEvent> = events.iter().collect();
        // The sort is stable: what happened to an order stays in its sequence.
        sorted.sort_by(|a, b| (&a.user_id, a.order_id).cmp(&(&b.user_id, b.order_id)));
        let mut commands = redis::pipe();
        for of_user in sorted.chunk_by(|a, b| a.user_id == b.user_id) {
            // The message of a user is made of those of the orders: each event is written once.
            let mut message = Vec::new();
            for of_order in of_user.chunk_by(|a, b| a.order_id == b.order_id) {
                let start = message.len() + usize::from(!message.is_empty());
                for event in of_order {
                    if !message.is_empty() {
                        message.push(b'\n');
                    }
                    encode_into(&mut message, event);
                }
                if let (Some(event), Some(message)) = (of_order.first(), message.get(start..)) {
                    publish(&mut commands, &self.order_channel(event.order_id), message);
                }
            }
            if let Some(event) = of_user.first() {
                let channel = self.user_channel(event.user_id.as_str());
                publish(&mut commands, &channel, &message);
            }
        }
        // A replica takes PUBLISH and passes it to nobody but its own subscribers.
        commands.cmd("HELLO");
        commands
    }

    fn channels(&self, topics: &[Topic]) -> Vec<String> {
        topics
            .iter()
            .map(|topic| match topic {
                Topic::Order(order_id) => self.order_channel(*order_id),
                Topic::User(user_id) => self.user_channel(user_id.as_str()),
            })
            .collect()
    }

    async fn subscribe(
        &self,
        connection: &mut MultiplexedConnection,
        topics: &[Topic],
    ) -> Result<(), BrokerError> {
        // Returns when the server has confirmed every channel.
        connection
            .subscribe(self.channels(topics))
            .await
            .map_err(|error| self.server.error(&error))
    }

    /// Keeps the subscriptions in step with what is watched, until the connection is lost.
    async fn follow(
        &self,
        mut connection: MultiplexedConnection,
        receiver: &dyn EventReceiver,
    ) -> Result<Infallible, BrokerError> {
        self.server.check_role(&mut connection).await?;
        for topics in receiver.watched().chunks(CHANNELS_MAX) {
            self.subscribe(&mut connection, topics).await?;
        }
        receiver.resync();
        loop {
            let changes = tokio::select! {
                changes = receiver.topic_changes() => changes,
                () = sleep(self.config.ping_interval) => {
                    self.server.check_role(&mut connection).await?;
                    continue;
                }
            };
            let (begun, ended) = last_changes(changes);
            for topics in ended.chunks(CHANNELS_MAX) {
                connection
                    .unsubscribe(self.channels(topics))
                    .await
                    .map_err(|error| self.server.error(&error))?;
            }
            for topics in begun.chunks(CHANNELS_MAX) {
                self.subscribe(&mut connection, topics).await?;
                receiver.heard(topics);
            }
        }
    }

    /// Hands on what arrives, until the connection is lost.
    async fn hear(&self, mut inbox: Inbox, receiver: &dyn EventReceiver) -> BrokerError {
        let mut messages = Vec::with_capacity(BATCH_MAX);
        while inbox.messages.recv_many(&mut messages, BATCH_MAX).await > 0 {
            let decoded: Vec<_> = messages.iter().flat_map(lines).collect();
            let n_lines = decoded.len();
            let events: Vec<OrderEvent> = decoded.into_iter().flatten().collect();
            let n_foreign = n_lines - events.len();
            self.n_foreign
                .fetch_add(n_foreign as u64, Ordering::Relaxed);
            if !events.is_empty() {
                receiver.receive(&events);
            }
            messages.clear();
            if inbox.has_lost.swap(false, Ordering::Relaxed) {
                receiver.resync();
            }
        }
        self.server.unreachable("the connection was lost")
    }
}

#[async_trait]
impl EventTransport for RedisEventTransport {
    async fn publish(&self, events: &[OrderEvent]) -> Result<(), BrokerError> {
        if events.is_empty() {
            return Ok(());
        }
        self.publisher.run(&self.publications(events)).await
    }

    async fn listen(&self, receiver: Arc<dyn EventReceiver>) -> Result<Infallible, BrokerError> {
        let (push, inbox) = Inbox::open();
        let config = AsyncConnectionConfig::new().set_push_sender(push);
        let connection = self.server.connect_with(config).await?;
        // Messages are taken while subscriptions are under way.
        tokio::select! {
            error = self.hear(inbox, &*receiver) => Err(error),
            ended = self.follow(connection, &*receiver) => ended,
        }
    }
}

/// Where the connection puts messages.
struct Inbox {
    /// Ends with the connection.
    messages: mpsc::Receiver<PushInfo>,
    has_lost: Arc<AtomicBool>,
}

impl Inbox {
    /// An inbox and what fills it, which must not wait: what does not fit is lost.
    fn open() -> (impl Fn(PushInfo) -> Result<(), Infallible>, Self) {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let has_lost = Arc::new(AtomicBool::new(false));
        let loses = Arc::clone(&has_lost);
        let push = move |push: PushInfo| {
            // Confirmations of subscriptions come here, too.
            if push.kind == PushKind::Message && sender.try_send(push).is_err() {
                loses.store(true, Ordering::Relaxed);
            }
            Ok(())
        };
        (push, Self { messages, has_lost })
    }
}

fn publish(commands: &mut Pipeline, channel: &str, message: &[u8]) {
    let mut command = Cmd::with_capacity(3, "PUBLISH".len() + channel.len() + message.len());
    command.arg("PUBLISH").arg(channel).arg(message);
    commands.add_command(command).ignore();
}

/// The lines of a message, which has the name of its channel and a payload, as events; `None`
/// for what is none.
fn lines(message: &PushInfo) -> impl Iterator<Item = Option<OrderEvent>> {
    let payload = match message.data.as_slice() {
        [_, Value::BulkString(payload)] => std::str::from_utf8(payload).unwrap_or_default(),
        _ => "",
    };
    payload.split('\n').map(decode)
}

/// The topics whose watch begins and those whose watch ends, if all changes are made. A
/// topic is in one of both: by its last change.
fn last_changes(changes: Vec<TopicChange>) -> (Vec<Topic>, Vec<Topic>) {
    let last: HashMap<Topic, bool> = changes
        .into_iter()
        .map(|change| (change.topic, change.is_watched))
        .collect();
    let mut topics = (Vec::new(), Vec::new());
    for (topic, is_watched) in last {
        if is_watched {
            topics.0.push(topic);
        } else {
            topics.1.push(topic);
        }
    }
    topics
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A receiver that counts.
    #[derive(Default)]
    struct Counter {
        n_events: AtomicUsize,
        n_resyncs: AtomicUsize,
    }

    #[async_trait]
    impl EventReceiver for Counter {
        fn is_watched(&self) -> bool {
            true
        }

        async fn until_watched(&self) {}

        fn receive(&self, events: &[OrderEvent]) {
            self.n_events.fetch_add(events.len(), Ordering::Relaxed);
        }

        fn watched(&self) -> Vec<Topic> {
            Vec::new()
        }

        async fn topic_changes(&self) -> Vec<TopicChange> {
            std::future::pending().await
        }

        fn heard(&self, _topics: &[Topic]) {}

        fn resync(&self) {
            self.n_resyncs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What a receiver gets of `n` events that came faster than it takes them.
    async fn burst(n: usize) -> (usize, usize) {
        let url: RedisUrl = "redis://127.0.0.1".parse().unwrap();
        let transport = RedisEventTransport::new(&url, RedisEventConfig::default());
        let payload = br#"["0198c5a05d5c7abc8def0123456789ab","u",1,1,0,null]"#;
        let (push, inbox) = Inbox::open();
        for _ in 0..n {
            let data = [&b"channel"[..], payload].map(|part| Value::BulkString(part.to_vec()));
            let (kind, data) = (PushKind::Message, data.into());
            push(PushInfo { kind, data }).unwrap();
        }
        // As the connection does when it is lost.
        drop(push);
        let counter = Counter::default();
        let error = transport.hear(inbox, &counter).await;
        assert!(matches!(error, BrokerError::Unreachable { .. }));
        (
            counter.n_events.into_inner(),
            counter.n_resyncs.into_inner(),
        )
    }

    #[tokio::test]
    async fn lost_messages_are_made_up_for_by_a_look_at_everything() {
        assert_eq!(burst(MESSAGES_MAX).await, (MESSAGES_MAX, 0));
        assert_eq!(burst(MESSAGES_MAX + 1).await, (MESSAGES_MAX, 1));
    }

    #[test]
    fn last_change_of_a_topic_counts() {
        let topic = |n| Topic::Order(OrderId::from_uuid(uuid::Uuid::from_u128(n)));
        let change = |n, is_watched| TopicChange {
            topic: topic(n),
            is_watched,
        };
        let changes = vec![
            change(1, true),
            change(2, false),
            change(1, false),
            change(2, true),
        ];
        assert_eq!(last_changes(changes), (vec![topic(2)], vec![topic(1)]));
    }
}
