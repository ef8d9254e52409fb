//! Sends batches of records and waits until the brokers have them.

use std::sync::{Arc, Mutex, PoisonError};

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

/// A message to be sent.
pub(super) struct Record {
    /// Decides on the partition.
    pub(super) key: String,
    pub(super) payload: String,
    /// What the payload is, for the header `content-type`.
    pub(super) media_type: Option<&'static str>,
}

type Connection = Detached<FutureProducer<Context>>;

/// A producer for the topic of a cluster.
pub(super) struct Producer {
    cluster: Cluster,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Producer {
    pub(super) const fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            connection: Mutex::new(None),
        }
    }

    /// Sends records together. `Ok`: the brokers have all of them. After an error some may be
    /// there, and none of them is on its way any more.
    ///
    /// # Cancel safety
    /// May be dropped; the records are then sent or not.
    pub(super) async fn send(&self, records: &[Record]) -> Result<(), BrokerError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut is_repeated = false;
        loop {
            let connection = self.connect().await?;
            let Err(error) = produce(&connection, self.cluster.topic(), records).await else {
                return Ok(());
            };
            // A producer that failed may never work again; a new one always can.
            self.disconnect(&connection);
            if is_repeated || !is_topic_missing(&error) {
                return Err(self.cluster.error(error, connection.context()));
            }
            // The topic was deleted: connecting creates it.
            is_repeated = true;
        }
    }

    async fn connect(&self) -> Result<Arc<Connection>, BrokerError> {
        if let Some(connection) = &*self.slot() {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(self.cluster.client(SETTINGS)?);
        match self.has_topic(&connection).await {
            Ok(true) => {}
            Ok(false) => self.cluster.create_topic().await?,
            Err(error) => return Err(self.cluster.error(error, connection.context())),
        }
        // Another task may have been faster; what is made in vain is rare and does no harm.
        Ok(Arc::clone(self.slot().get_or_insert(connection)))
    }

    /// Asks with the producer itself, since a client that cannot connect tells only itself why.
    async fn has_topic(&self, connection: &Arc<Connection>) -> Result<bool, KafkaError> {
        let (connection, topic) = (Arc::clone(connection), self.cluster.topic().to_owned());
        let ask = move || {
            let client = connection.client();
            let metadata = client.fetch_metadata(Some(&topic), REQUEST_TIMEOUT)?;
            Ok(metadata
                .topics()
                .iter()
                .any(|found| found.name() == topic && found.error().is_none()))
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

/// Queues all records and waits for all of them.
async fn produce(
    connection: &Connection,
    topic: &str,
    records: &[Record],
) -> Result<(), KafkaError> {
    let mut result = Ok(());
    let mut deliveries = Vec::with_capacity(records.len());
    for record in records {
        let mut message = FutureRecord::to(topic)
            .key(&record.key)
            .payload(&record.payload);
        if let Some(media_type) = record.media_type {
            message = message.headers(OwnedHeaders::new().insert(Header {
                key: "content-type",
                value: Some(media_type),
            }));
        }
        match connection.send_result(message) {
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
