//! Hints in a topic: the key is the order, the payload is empty. The partitions are shared by
//! one group, whose offsets say what was handed over.
//!
//! A topic that was deleted and made again begins at offset zero. A consumer notices when the
//! offset it waits for does not exist; hints that came before it does are found in the store.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use order_core::{BrokerError, HintCapabilities, HintConsumer, HintQueue, OrderId};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    client::{Cluster, Context, Detached, is_topic_missing, millis},
    producer::{Placement, Producer, Record},
};
use crate::kafka_url::KafkaUrl;

/// How long a consumer may be silent before its partitions go to others.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long leaving the group may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often one receive creates a topic that is missing, which a cluster of several brokers
/// may need a moment to agree on.
const TOPIC_TRIES_MAX: u32 = 3;

/// Settings of every consumer.
const SETTINGS: &[(&str, &str)] = &[
    // Hints from before the group existed count.
    ("auto.offset.reset", "earliest"),
    // What is acknowledged is stored here and committed by librdkafka.
    ("enable.auto.offset.store", "false"),
    ("enable.auto.commit", "true"),
    ("auto.commit.interval.ms", "1000"),
    // A consumer keeps its partitions while others come and go.
    ("partition.assignment.strategy", "cooperative-sticky"),
    // What waits in this process cannot be taken by another.
    ("queued.min.messages", "1000"),
    ("queued.max.messages.kbytes", "1024"),
    // With that many waiting, the consumer looks again after this time, not a second.
    ("fetch.queue.backoff.ms", "50"),
];

/// The queue of hints, shared by all processes that use the same topic and group.
pub struct KafkaHintQueue {
    producer: Producer,
    group: Arc<Group>,
}

/// What the consumers of a queue have in common.
struct Group {
    cluster: Cluster,
    name: String,
    session_timeout: Duration,
    n_foreign: AtomicU64,
}

impl KafkaHintQueue {
    /// The topic, if the URL names none.
    pub const TOPIC_DEFAULT: &str = "order-jobs";
    /// The group of consumers, if the URL names none.
    pub const GROUP_DEFAULT: &str = "order-workers";

    /// A queue in this cluster. Connects when it is first used.
    pub fn new(url: &KafkaUrl) -> Self {
        Self::with_session_timeout(url, SESSION_TIMEOUT)
    }

    /// The same, whose consumers count as dead after this time of silence. Brokers refuse
    /// less than six seconds, unless they are told otherwise.
    pub fn with_session_timeout(url: &KafkaUrl, session_timeout: Duration) -> Self {
        let cluster = Cluster::new(url, url.topic().unwrap_or(Self::TOPIC_DEFAULT));
        Self {
            producer: Producer::new(cluster.clone()),
            group: Arc::new(Group {
                cluster,
                name: url.group().unwrap_or(Self::GROUP_DEFAULT).to_owned(),
                session_timeout,
                n_foreign: AtomicU64::new(0),
            }),
        }
    }
}

#[async_trait]
impl HintQueue for KafkaHintQueue {
    fn capabilities(&self) -> HintCapabilities {
        HintCapabilities {
            is_shared: true,
            redelivers: true,
        }
    }

    async fn send(&self, order_ids: &[OrderId]) -> Result<(), BrokerError> {
        let records: Vec<Record> = order_ids
            .iter()
            .map(|order_id| Record {
                key: order_id.to_string(),
                payload: String::new(),
                media_type: None,
            })
            .collect();
        self.producer.send(&records, Placement::InRuns).await
    }

    fn consumer(&self) -> Box<dyn HintConsumer> {
        Box::new(KafkaHintConsumer {
            group: Arc::clone(&self.group),
            connection: None,
            received: BTreeMap::new(),
        })
    }

    fn n_foreign(&self) -> u64 {
        self.group.n_foreign.load(Ordering::Relaxed)
    }
}

type Connection = Detached<StreamConsumer<Context>>;

struct KafkaHintConsumer {
    group: Arc<Group>,
    connection: Option<Connection>,
    /// By partition, the offset after the last message that was received and not yet
    /// acknowledged.
    received: BTreeMap<i32, i64>,
}

#[async_trait]
impl HintConsumer for KafkaHintConsumer {
    async fn receive(&mut self, limit: usize) -> Result<Vec<OrderId>, BrokerError> {
        let mut n_tries = 0;
        loop {
            let connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.group.join()?,
            };
            // Kept here while waiting, so that a future that is dropped loses no connection.
            let connection = self.connection.insert(connection);
            let taken = take(connection, limit, &mut self.received, &self.group.n_foreign).await;
            let error = match taken {
                Ok(hints) => return Ok(hints),
                Err(error) => error,
            };
            let is_missing = is_topic_missing(&error);
            let error = self.group.cluster.error(error, connection.context());
            self.connection = None;
            // What was not acknowledged comes again.
            self.received.clear();
            if !is_missing || n_tries == TOPIC_TRIES_MAX {
                return Err(error);
            }
            n_tries += 1;
            self.group.cluster.create_topic().await?;
        }
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        self.group
            .acknowledge(connection, mem::take(&mut self.received))
    }

    async fn close(&mut self) {
        self.received.clear();
        if let Some(connection) = self.connection.take() {
            connection.close(CLOSE_TIMEOUT).await;
        }
    }
}

impl Group {
    fn join(&self) -> Result<Connection, BrokerError> {
        let session_timeout = millis(self.session_timeout);
        let heartbeat = millis(self.session_timeout / 3);
        let own = [
            ("group.id", self.name.as_str()),
            ("session.timeout.ms", &session_timeout),
            ("heartbeat.interval.ms", &heartbeat),
        ];
        let connection: Connection = self.cluster.client(&[SETTINGS, &own].concat())?;
        match connection.subscribe(&[self.cluster.topic()]) {
            Ok(()) => Ok(connection),
            Err(error) => Err(self.cluster.error(error, connection.context())),
        }
    }

    /// Has these offsets committed soon, or when the consumer leaves.
    fn acknowledge(
        &self,
        connection: &Connection,
        received: BTreeMap<i32, i64>,
    ) -> Result<(), BrokerError> {
        let mut offsets = TopicPartitionList::with_capacity(received.len());
        let stored = received
            .into_iter()
            .try_for_each(|(partition, offset)| {
                let topic = self.cluster.topic();
                offsets.add_partition_offset(topic, partition, Offset::Offset(offset))
            })
            .and_then(|()| connection.store_offsets(&offsets));
        match stored {
            // All partitions went to others, which get these hints once more.
            Err(KafkaError::StoreOffset(
                RDKafkaErrorCode::State | RDKafkaErrorCode::UnknownPartition,
            )) => Ok(()),
            stored => stored.map_err(|error| self.cluster.error(error, connection.context())),
        }
    }
}

/// Waits for one hint and takes what else is there.
///
/// # Cancel safety
/// Dropping the future loses nothing: after the first hint it does not wait.
async fn take(
    connection: &Connection,
    limit: usize,
    received: &mut BTreeMap<i32, i64>,
    n_foreign: &AtomicU64,
) -> Result<Vec<OrderId>, KafkaError> {
    let mut hints = Vec::new();
    while hints.len() < limit.max(1) {
        let message = if hints.is_empty() {
            connection.recv().await
        } else {
            match connection.recv().now_or_never() {
                Some(message) => message,
                None => break,
            }
        };
        match message {
            Ok(message) => {
                received.insert(message.partition(), message.offset() + 1);
                match message.key().and_then(parse) {
                    Some(hint) => hints.push(hint),
                    None => {
                        n_foreign.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Err(error) if heals_by_itself(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hints)
}

fn parse(key: &[u8]) -> Option<OrderId> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

/// What a consumer reports and gets over: one of several brokers that is gone for now, and a
/// pause between two receives that was so long that it has to join the group again.
fn heals_by_itself(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::PollExceeded
        )
    )
}
