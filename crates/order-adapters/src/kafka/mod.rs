//! Hints and events through Apache Kafka, with librdkafka.
//!
//! Owns everything that knows a topic, a partition or an offset. A client is made when it is
//! first used and made anew after it failed; the topic is created where it is missing. What
//! librdkafka does on its own threads goes on behind the futures here.

mod client;
mod hints;
mod producer;
mod sink;

pub use hints::KafkaHintQueue;
pub use sink::KafkaEventSink;
