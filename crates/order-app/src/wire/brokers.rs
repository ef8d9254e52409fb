//! What goes through brokers: hints, events between processes, events for others.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use order_adapters::{
    postgres::{PostgresConfig, PostgresEventTransport},
    redis::{
        RedisEventConfig, RedisEventSink, RedisEventTransport, RedisHintConfig, RedisHintQueue,
    },
};
use order_core::{EventBus, EventSink, EventTransport, HintQueue, JobDispatch};
use order_hub::{Fanout, Hub, Outlet, run_inlet};
use order_worker::{EventRelay, EventRelayConfig, EventRelayDeps, HintSender, WorkerPool};

use super::{
    Background,
    database::{Database, when_tables_are_free},
};
use crate::{
    config::{CoreConfig, DatabaseUrl, EventsUrl, QueueUrl, SinkUrl},
    metrics::Metrics,
};

/// What the configuration names; nothing is connected yet, so a broker that is away keeps
/// no process from starting.
pub(super) struct Brokers {
    /// `None`: every process asks the database.
    pub(super) hints: Option<Arc<dyn HintQueue>>,
    /// `None`: events stay in the process.
    pub(super) events: Option<Arc<dyn EventTransport>>,
    /// `None`: nobody outside gets events from this process.
    pub(super) sink: Option<Arc<dyn EventSink>>,
}

impl Brokers {
    pub(super) fn new(database: &DatabaseUrl, config: &CoreConfig) -> anyhow::Result<Self> {
        Ok(Self {
            hints: hints(&config.queue_url),
            events: events(&config.events_url, database)?,
            sink: config.event_sink.as_ref().map(sink).transpose()?,
        })
    }

    /// The way of events: to the watchers of this process, and to other processes. Theirs
    /// arrive if somebody may watch here.
    pub(super) fn event_bus(
        &self,
        hub: &Arc<Hub>,
        is_watched: bool,
        background: &Background,
        metrics: &mut Metrics,
    ) -> Arc<dyn EventBus> {
        let Some(transport) = &self.events else {
            return Arc::clone(hub) as _;
        };
        let (outlet, publishing) = Outlet::new(Arc::clone(transport), background.stop.clone());
        background.run(publishing);
        metrics.outlet(&outlet);
        if is_watched {
            let (transport, hub) = (Arc::clone(transport), Arc::clone(hub));
            background.spawn("inlet", move |stop, _| {
                run_inlet(Arc::clone(&transport), Arc::clone(&hub) as _, stop)
            });
        }
        Arc::new(Fanout::new(vec![Arc::clone(hub) as _, outlet]))
    }

    /// The way of new jobs: to the workers of this process, or to the broker.
    pub(super) fn dispatch(
        &self,
        pool: &WorkerPool,
        background: &Background,
        metrics: &mut Metrics,
    ) -> Arc<dyn JobDispatch> {
        let Some(hints) = &self.hints else {
            return pool.dispatch();
        };
        let (sender, sending) = HintSender::new(Arc::clone(hints), background.stop.clone());
        background.run(sending);
        metrics.hints(sender.stats());
        sender
    }

    /// Has every event kept from now on, and published. Tables that are busy are waited for,
    /// up to `patience`.
    pub(super) async fn start_relay(
        &self,
        database: &Database,
        patience: Duration,
        background: &Background,
        metrics: &mut Metrics,
    ) -> anyhow::Result<()> {
        let Some(sink) = &self.sink else {
            return Ok(());
        };
        let outbox = database.outbox();
        when_tables_are_free(patience, async || outbox.enable().await)
            .await
            .context("cannot have events kept for EVENT_SINK")?;
        let relay = EventRelay::new(
            EventRelayConfig::default(),
            EventRelayDeps {
                outbox,
                sink: Arc::clone(sink),
            },
        );
        metrics.relay(relay.stats());
        let relay = Arc::new(relay);
        background.spawn("relay", move |stop, beat| {
            Arc::clone(&relay).run(stop, beat)
        });
        Ok(())
    }
}

fn hints(url: &QueueUrl) -> Option<Arc<dyn HintQueue>> {
    match url {
        QueueUrl::Local => None,
        QueueUrl::Redis(url) => Some(Arc::new(RedisHintQueue::new(
            url,
            RedisHintConfig::default(),
        ))),
        #[cfg(feature = "kafka")]
        QueueUrl::Kafka(url) => Some(Arc::new(order_adapters::kafka::KafkaHintQueue::new(url))),
    }
}

fn events(
    url: &EventsUrl,
    database: &DatabaseUrl,
) -> anyhow::Result<Option<Arc<dyn EventTransport>>> {
    Ok(match (url, database) {
        (EventsUrl::Local, _) => None,
        (EventsUrl::Postgres, DatabaseUrl::Postgres(url)) => {
            let events = PostgresEventTransport::new(&PostgresConfig::new(url));
            Some(Arc::new(
                events.context("EVENTS_URL=postgres cannot be used")?,
            ))
        }
        (EventsUrl::Postgres, DatabaseUrl::Sqlite(_)) => {
            bail!("EVENTS_URL=postgres needs a DATABASE_URL that begins with postgres://")
        }
        (EventsUrl::Redis(url), _) => Some(Arc::new(RedisEventTransport::new(
            url,
            RedisEventConfig::default(),
        ))),
    })
}

#[cfg_attr(
    not(feature = "kafka"),
    expect(clippy::unnecessary_wraps, reason = "only Kafka refuses a URL here")
)]
fn sink(url: &SinkUrl) -> anyhow::Result<Arc<dyn EventSink>> {
    Ok(match url {
        SinkUrl::Redis(url) => Arc::new(RedisEventSink::new(url)),
        #[cfg(feature = "kafka")]
        SinkUrl::Kafka(url) => {
            let sink = order_adapters::kafka::KafkaEventSink::new(url);
            Arc::new(sink.context("EVENT_SINK cannot be used")?)
        }
    })
}
