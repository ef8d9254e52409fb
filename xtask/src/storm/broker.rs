//! What carries hints and events between the processes, and can lose all of it.

use order_testkit::server::{kafka::KafkaServer, redis::RedisServer};

use super::FleetArgs;

/// What carries hints about jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Queue {
    /// Nothing: workers find jobs in the database.
    Local,
    /// A Redis stream.
    Redis,
    /// A Kafka topic.
    Kafka,
}

/// What carries events to the hubs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Events {
    /// Nothing: hubs find changes of other processes in the database.
    Local,
    /// NOTIFY of the database.
    Postgres,
    /// Redis Pub/Sub.
    Redis,
}

/// The servers, and the settings that name them.
pub(super) struct Broker {
    redis: Option<RedisServer>,
    kafka: Option<KafkaServer>,
    /// For services and workers.
    pub(super) settings: Vec<(&'static str, String)>,
}

impl Broker {
    /// Starts what is needed.
    pub(super) async fn start(args: FleetArgs) -> anyhow::Result<Self> {
        let needs_redis = args.queue == Queue::Redis || args.events == Events::Redis;
        let redis = if needs_redis {
            Some(RedisServer::start(&[]).await?)
        } else {
            None
        };
        let kafka = if args.queue == Queue::Kafka {
            Some(KafkaServer::start().await?)
        } else {
            None
        };
        let url = redis.as_ref().map(RedisServer::url).unwrap_or_default();
        let queue = match args.queue {
            Queue::Local => "local".to_owned(),
            Queue::Redis => url.clone(),
            Queue::Kafka => kafka.as_ref().map(KafkaServer::url).unwrap_or_default(),
        };
        let events = match args.events {
            Events::Local => "local".to_owned(),
            Events::Postgres => "postgres".to_owned(),
            Events::Redis => url,
        };
        Ok(Self {
            redis,
            kafka,
            settings: vec![("QUEUE_URL", queue), ("EVENTS_URL", events)],
        })
    }

    /// How many wipes of those asked for can happen: without a broker, none.
    pub(super) fn wipes_of(&self, args: FleetArgs) -> u32 {
        match (&self.redis, &self.kafka) {
            (None, None) => 0,
            _ => args.wipes,
        }
    }

    /// Makes the broker forget everything. Kafka takes seconds to start again.
    pub(super) async fn wipe(&mut self) -> anyhow::Result<()> {
        if let Some(redis) = &self.redis {
            redis.flush_all().await?;
        }
        if let Some(kafka) = &mut self.kafka {
            kafka.wipe().await?;
        }
        Ok(())
    }
}
