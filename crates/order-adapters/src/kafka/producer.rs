//! Sends batches of records and waits until the brokers have them.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use order_core::BrokerError;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _},
};

use super::client::{Cluster, Context, Detached, REQUEST_TIMEOUT, is_topic_missing};

/// Every replica in sync has what counts as sent, once and in order within a partition.
const SETTINGS: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // Long enough for the records of one batch to travel together: they are queued at once.
    ("linger.ms", "1"),
    ("message.timeout.ms", "5000"),
    // The partitioner of Kafka's own clients, so that others find a key where they expect it.
    ("partitioner", "murmur2_random"),
    // How long a topic may seem to be missing because it has just been created.
    ("topic.metadata.propagation.max.ms", "1000"),
];

/// How many neighbours go to one partition with [`Placement::InRuns`]: about what one worker
/// process takes at once.
const RUN_LEN: usize = 64;

/// Which partition a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// The one of its key, so that records with one key stay in order.
    ByKey,
    /// The one of its neighbours, whatever its key; the partitions take turns. A send is a
    /// record batch for each partition it goes to, which costs the brokers far more than the
    /// few records in it.
    InRuns,
}

/// A message to be sent.
pub(super) struct Record {
    pub(super) key: String,
    pub(super) payload: String,
    /// What the payload is, for the header `content-type`.
    pub(super) media_type: Option<&'static str>,
}

type Client = Detached<FutureProducer<Context>>;

/// A client, and how many partitions the topic had when it connected.
struct Connection {
    client: Arc<Client>,
    n_partitions: usize,
}

/// A producer for the topic of a cluster.
pub(super) struct Producer {
    cluster: Cluster,
    connection: Mutex<Option<Arc<Connection>>>,
    /// Runs begun so far, from a random start: modulo the partitions, where the next one goes.
    n_runs: AtomicUsize,
}

impl Producer {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            connection: Mutex::new(None),
            n_runs: AtomicUsize::new(rand::random_range(0..1 << 16)),
        }
    }

    /// Sends records together. `Ok`: the brokers have all of them. After an error some may be
    /// there, and none of them is on its way any more.
    ///
    /// # Cancel safety
    /// May be dropped; the records are then sent or not.
    pub(super) async fn send(
        &self,
        records: &[Record],
        placement: Placement,
    ) -> Result<(), BrokerError> {
        if records.is_empty() {
            return Ok(());
        }
        let first_run = match placement {
            Placement::ByKey => None,
            Placement::InRuns => {
                let n_runs = records.len().div_ceil(RUN_LEN);
                Some(self.n_runs.fetch_add(n_runs, Ordering::Relaxed))
            }
        };
        let mut is_repeated = false;
        loop {
            let connection = self.connect().await?;
            let produced = produce(&connection, self.cluster.topic(), records, first_run).await;
            let Err(error) = produced else {
                return Ok(());
            };
            // A producer that failed may never work again; a new one always can.
            self.disconnect(&connection);
            if is_repeated || !is_topic_missing(&error) {
                return Err(self.cluster.error(error, connection.client.context()));
            }
            // The topic was deleted: connecting creates it.
            is_repeated = true;
        }
    }

    async fn connect(&self) -> Result<Arc<Connection>, BrokerError> {
        if let Some(connection) = &*self.slot() {
            return Ok(Arc::clone(connection));
        }
        let client = Arc::new(self.cluster.client(SETTINGS)?);
        let n_partitions = match self.n_partitions(&client).await {
            Ok(Some(n_partitions)) => n_partitions,
            Ok(None) => {
                self.cluster.create_topic().await?;
                self.cluster.partitions()
            }
            Err(error) => return Err(self.cluster.error(error, client.context())),
        };
        let connection = Arc::new(Connection {
            client,
            n_partitions: n_partitions.max(1),
        });
        // Another task may have been faster; what is made in vain is rare and does no harm.
        Ok(Arc::clone(self.slot().get_or_insert(connection)))
    }

    /// Asks with the producer itself, since a client that cannot connect tells only itself why.
    /// `None` if there is no such topic.
    async fn n_partitions(&self, client: &Arc<Client>) -> Result<Option<usize>, KafkaError> {
        let (client, topic) = (Arc::clone(client), self.cluster.topic().to_owned());
        let ask = move || {
            let client = client.client();
            let metadata = client.fetch_metadata(Some(&topic), REQUEST_TIMEOUT)?;
            Ok(metadata
                .topics()
                .iter()
                .find(|found| found.name() == topic && found.error().is_none())
                .map(|found| found.partitions().len()))
        };
        let asked = tokio::task::spawn_blocking(ask).await;
        asked.unwrap_or(Err(KafkaError::Canceled))
    }

    fn disconnect(&self, failed: &Arc<Connection>) {
        let mut slot = self.slot();
        if slot
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, failed))
        {
            *slot = None;
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues all records and waits for all of them. Runs begin with `first_run`; without it
/// the keys decide.
async fn produce(
    connection: &Connection,
    topic: &str,
    records: &[Record],
    first_run: Option<usize>,
) -> Result<(), KafkaError> {
    let mut result = Ok(());
    let mut deliveries = Vec::with_capacity(records.len());
    for (idx, record) in records.iter().enumerate() {
        let mut message = FutureRecord::to(topic)
            .key(&record.key)
            .payload(&record.payload);
        if let Some(media_type) = record.media_type {
            message = message.headers(OwnedHeaders::new().insert(Header {
                key: "content-type",
                value: Some(media_type),
            }));
        }
        if let Some(first_run) = first_run {
            let run = first_run.wrapping_add(idx / RUN_LEN);
            let partition = i32::try_from(run % connection.n_partitions).unwrap_or_default();
            message = message.partition(partition);
        }
        match connection.client.send_result(message) {
            Ok(delivery) => deliveries.push(delivery),
            Err((error, _)) => {
                result = Err(error);
                break;
            }
        }
    }
    for delivery in deliveries {
        let delivered = match delivery.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(error),
            Err(_) => Err(KafkaError::MessageProduction(RDKafkaErrorCode::PurgeQueue)),
        };
        result = result.and(delivered);
    }
    result
}
