//! Which engine carries hints, events between processes and events for others: by the scheme
//! of a URL, and by nothing else.

use std::str::FromStr;

#[cfg(feature = "kafka")]
use order_adapters::kafka_url::KafkaUrl;
use order_adapters::redis::{RedisStreamUrl, RedisUrl};

/// What is said of a URL of Kafka by a program that cannot speak to it.
#[cfg(not(feature = "kafka"))]
const WITHOUT_KAFKA: &str = "must not name kafka://: this program was built without it (cargo \
                             feature kafka)";

/// Who carries hints about due jobs to free workers.
#[derive(Clone, Debug)]
pub enum QueueUrl {
    /// Nobody: new jobs go to the workers of their process, and all ask the database.
    Local,
    /// Redis Streams.
    Redis(Box<RedisUrl>),
    /// Kafka.
    #[cfg(feature = "kafka")]
    Kafka(KafkaUrl),
}

impl FromStr for QueueUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':').map_or(text, |(scheme, _)| scheme) {
            "local" => only("local", text).map(|()| Self::Local),
            "redis" | "rediss" => parse(text).map(Box::new).map(Self::Redis),
            #[cfg(feature = "kafka")]
            "kafka" => parse(text).map(Self::Kafka),
            #[cfg(not(feature = "kafka"))]
            "kafka" => Err(WITHOUT_KAFKA.to_owned()),
            // The text may hold a password, so it is not repeated.
            _ => Err("must be local, or begin with redis://, rediss:// or kafka://".to_owned()),
        }
    }
}

/// Who passes events between processes.
#[derive(Clone, Debug)]
pub enum EventsUrl {
    /// Nobody: watchers learn by reconcile what other processes did.
    Local,
    /// NOTIFY of the database, which must be PostgreSQL.
    Postgres,
    /// Redis Pub/Sub.
    Redis(Box<RedisUrl>),
}

impl FromStr for EventsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':').map_or(text, |(scheme, _)| scheme) {
            "local" => only("local", text).map(|()| Self::Local),
            "postgres" => only("postgres", text).map(|()| Self::Postgres),
            "redis" | "rediss" => parse(text).map(Box::new).map(Self::Redis),
            _ => Err("must be local or postgres, or begin with redis:// or rediss://".to_owned()),
        }
    }
}

/// Who gets every event, for systems outside.
#[derive(Clone, Debug)]
pub enum SinkUrl {
    /// A stream of Redis.
    Redis(Box<RedisStreamUrl>),
    /// A topic of Kafka.
    #[cfg(feature = "kafka")]
    Kafka(KafkaUrl),
}

impl FromStr for SinkUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':').map_or(text, |(scheme, _)| scheme) {
            "redis" | "rediss" => parse(text).map(Box::new).map(Self::Redis),
            #[cfg(feature = "kafka")]
            "kafka" => {
                let url: KafkaUrl = parse(text)?;
                if url.topic().is_none() {
                    return Err("must name a topic, like kafka://host:9092/order-events".to_owned());
                }
                Ok(Self::Kafka(url))
            }
            #[cfg(not(feature = "kafka"))]
            "kafka" => Err(WITHOUT_KAFKA.to_owned()),
            _ => Err("must begin with redis://, rediss:// or kafka://".to_owned()),
        }
    }
}

/// `word` alone: what follows it would be ignored, which nobody means.
fn only(word: &str, text: &str) -> Result<(), String> {
    if text == word {
        return Ok(());
    }
    Err(format!("must be {word} without anything behind it"))
}

fn parse<U: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<U, String> {
    text.parse().map_err(|error: U::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_is_named_by_the_scheme() {
        assert!(matches!("local".parse(), Ok(QueueUrl::Local)));
        assert!(matches!("redis://h:1".parse(), Ok(QueueUrl::Redis(_))));
        assert!(matches!("rediss://h".parse(), Ok(EventsUrl::Redis(_))));
        assert!(matches!("postgres".parse(), Ok(EventsUrl::Postgres)));
        assert!(matches!("redis://h/s".parse(), Ok(SinkUrl::Redis(_))));
    }

    #[test]
    fn refusals_name_the_rule_and_no_secret() {
        let bad = "amqp://user:hunter2@host";
        let errors = [
            bad.parse::<QueueUrl>().map(drop),
            bad.parse::<EventsUrl>().map(drop),
            bad.parse::<SinkUrl>().map(drop),
            "local:hunter2".parse::<QueueUrl>().map(drop),
            "postgres://admin:hunter2@host/db"
                .parse::<EventsUrl>()
                .map(drop),
            "redis://user:hunter2@:x".parse::<QueueUrl>().map(drop),
        ];
        for error in errors {
            let error = error.expect_err("it is refused");
            assert!(error.contains("must"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn kafka_sink_needs_a_topic() {
        assert!("kafka://h:9092/events".parse::<SinkUrl>().is_ok());
        let error = "kafka://h:9092".parse::<SinkUrl>().expect_err("no topic");
        assert!(error.contains("topic"), "{error}");
    }
}
