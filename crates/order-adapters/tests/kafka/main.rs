//! The Kafka adapters against a real broker.
#![cfg(feature = "kafka")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests panic like the tests themselves"
)]

mod hints;
mod sink;

use order_adapters::kafka_url::KafkaUrl;
use order_core::{BrokerError, OrderId};
use order_testkit::{
    server::{
        Backend,
        kafka::{KafkaServer, SharedKafka, libs, shared},
    },
    skip,
};
use uuid::Uuid;

fn url(text: &str) -> KafkaUrl {
    text.parse().expect("a url")
}

/// A topic of this cluster that no other test has, with a group of the same name.
fn private_url(kafka: &SharedKafka) -> String {
    let name = format!("test-{:016x}", rand::random::<u64>());
    let brokers = &kafka.brokers;
    format!("kafka://{brokers}/{name}?group={name}&partitions=4")
}

fn new_hints(n: usize) -> Vec<OrderId> {
    std::iter::repeat_with(|| OrderId::from_uuid(Uuid::from_u128(rand::random())))
        .take(n)
        .collect()
}
