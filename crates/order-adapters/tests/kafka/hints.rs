//! Hints: the contract, and what only Kafka can do to them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use order_adapters::kafka::KafkaHintQueue;
use order_core::{HintCapabilities, HintConsumer, HintQueue};
use order_testkit::{
    conformance::hints::HintSubject,
    server::{free_port, report_skip},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{FutureProducer, FutureRecord},
};
use tokio::time::timeout;

use super::*;

/// As short as the test servers allow with room for a busy machine.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// How long hints may take. Only a failing test waits this long.
const DEADLINE: Duration = Duration::from_mins(1);

struct Subject {
    url: String,
}

impl Subject {
    fn queue(&self) -> KafkaHintQueue {
        KafkaHintQueue::with_session_timeout(&url(&self.url), SESSION_TIMEOUT)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", url(&self.url).brokers());
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("a client")
    }

    fn topic(&self) -> String {
        url(&self.url).topic().expect("a topic").to_owned()
    }

    /// How many messages each partition has got so far.
    async fn partition_lens(&self) -> Vec<i64> {
        let (client, topic) = (self.admin(), self.topic());
        let ask = move || {
            let client = client.inner();
            let metadata = client.fetch_metadata(Some(&topic), DEADLINE);
            let n_partitions = metadata.expect("an answer").topics()[0].partitions().len();
            let end = |partition| {
                let partition = i32::try_from(partition).expect("few");
                let ends = client.fetch_watermarks(&topic, partition, DEADLINE);
                ends.expect("an answer").1
            };
            (0..n_partitions).map(end).collect()
        };
        tokio::task::spawn_blocking(ask).await.expect("no panic")
    }

    async fn delete_topic(&self) {
        let deleted = self
            .admin()
            .delete_topics(&[&self.topic()], &AdminOptions::new())
            .await
            .expect("an answer");
        for topic in deleted {
            topic.expect("the topic is deleted");
        }
    }
}

#[async_trait]
impl HintSubject for Subject {
    async fn queue(&self) -> Arc<dyn HintQueue> {
        Arc::new(self.queue())
    }

    fn capabilities(&self) -> HintCapabilities {
        HintCapabilities {
            is_shared: true,
            redelivers: true,
        }
    }

    async fn wipe(&self) {
        self.delete_topic().await;
    }

    async fn send_foreign(&self) -> bool {
        let topic = self.topic();
        // The topic may not be there yet.
        let new = NewTopic::new(&topic, 4, TopicReplication::Fixed(1));
        let created = self
            .admin()
            .create_topics([&new], &AdminOptions::new())
            .await;
        created.expect("an answer");
        let producer: FutureProducer = self.config().create().expect("a client");
        let record = FutureRecord::to(&topic).key("no id").payload("{}");
        let sent = producer.send(record, DEADLINE).await;
        sent.map_err(|(error, _)| error).expect("is sent");
        true
    }
}

async fn subject() -> Backend<Subject> {
    match shared().await {
        Backend::Available(kafka) => Backend::Available(Subject {
            url: private_url(&kafka),
        }),
        Backend::Unavailable(reason) => Backend::Unavailable(reason),
    }
}

/// A subject for the contract, or `None` after saying why there is none.
async fn conforming() -> Option<Subject> {
    match subject().await {
        Backend::Available(subject) => Some(subject),
        Backend::Unavailable(reason) => {
            report_skip(module_path!(), format_args!("Kafka: {reason}"));
            None
        }
    }
}

order_testkit::hint_conformance!(conforming);

async fn receive_all(consumer: &mut dyn HintConsumer, hints: &[OrderId]) {
    let mut missing: BTreeSet<_> = hints.iter().copied().collect();
    while !missing.is_empty() {
        let received = timeout(DEADLINE, consumer.receive(100)).await;
        for hint in received.expect("in time").expect("is received") {
            missing.remove(&hint);
        }
    }
}

#[tokio::test]
async fn deleted_topic_is_created_by_the_next_send() {
    let subject = match subject().await {
        Backend::Available(subject) => subject,
        Backend::Unavailable(reason) => skip!("Kafka: {reason}"),
    };
    let queue = subject.queue();
    let mut consumer = queue.consumer();
    // So many that the consumer is far into every partition: it sees that a topic is another
    // one by the offsets it no longer has.
    let hints = new_hints(400);
    queue.send(&hints).await.expect("is sent");
    receive_all(&mut *consumer, &hints).await;

    subject.delete_topic().await;
    let hints = new_hints(1);
    queue.send(&hints).await.expect("is sent");

    receive_all(&mut *consumer, &hints).await;
}

#[tokio::test]
async fn neighbours_share_a_partition_and_partitions_take_turns() {
    let subject = match subject().await {
        Backend::Available(subject) => subject,
        Backend::Unavailable(reason) => skip!("Kafka: {reason}"),
    };
    let queue = subject.queue();

    // A few hints, again and again, are one record batch each.
    for _ in 0..4 {
        queue.send(&new_hints(3)).await.expect("is sent");
    }
    assert_eq!(subject.partition_lens().await, [3, 3, 3, 3]);

    queue.send(&new_hints(256)).await.expect("is sent");
    assert_eq!(subject.partition_lens().await, [67, 67, 67, 67]);
}

#[tokio::test]
async fn absence_of_brokers_is_told() {
    let address = format!("127.0.0.1:{}", free_port().expect("a port"));
    let queue = KafkaHintQueue::new(&url(&format!("kafka://me:hunter2@{address}")));
    let mut consumer = queue.consumer();

    let hints = new_hints(1);
    let (sent, received) = tokio::join!(queue.send(&hints), consumer.receive(1));

    for error in [sent.unwrap_err(), received.unwrap_err()] {
        assert!(
            matches!(error, BrokerError::Unreachable { .. }),
            "{error:?}"
        );
        let chain = error.chain();
        assert!(
            chain.contains(&address) && chain.contains("refused"),
            "{chain}"
        );
        assert!(!format!("{chain} {error:?}").contains("hunter2"), "{chain}");
    }
    consumer.close().await;
}

#[tokio::test]
async fn password_decides_and_is_not_shown() {
    if let Err(reason) = libs() {
        skip!("Kafka: {reason:#}");
    }
    let server = KafkaServer::start().await.expect("a server");
    let hints = new_hints(1);

    let queue = KafkaHintQueue::new(&url(&server.sasl_url(Some("hunter2"))));
    let mut consumer = queue.consumer();
    let (sent, received) = tokio::join!(queue.send(&hints), consumer.receive(1));
    for error in [sent.unwrap_err(), received.unwrap_err()] {
        assert!(matches!(error, BrokerError::Refused { .. }), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    let queue = KafkaHintQueue::new(&url(&server.sasl_url(None)));
    let mut consumer = queue.consumer();
    queue.send(&hints).await.expect("is sent");
    let received = timeout(DEADLINE, consumer.receive(1)).await;
    assert_eq!(received.expect("in time").expect("is received"), hints);
    consumer.close().await;
}
