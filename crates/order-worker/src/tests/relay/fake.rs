//! An outbox and a sink that fail: by chance, or as long as a test wants it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use order_core::{
    BrokerError, Error, EventOutbox, EventSink, OrderEvent, OrderId, OutboxEntry, Version,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// When calls fail or take time.
#[derive(Default)]
pub(super) struct Faults {
    /// All fail.
    pub(super) is_down: AtomicBool,
    /// The dice, if chance decides.
    rng: Mutex<Option<StdRng>>,
    n_random: AtomicUsize,
}

impl Faults {
    pub(super) fn random(seed: u64) -> Self {
        Self {
            rng: Mutex::new(Some(StdRng::seed_from_u64(seed))),
            ..Self::default()
        }
    }

    /// Chance decides nothing any more.
    pub(super) fn heal(&self) {
        *self.rng.lock().unwrap() = None;
    }

    pub(super) fn n_random(&self) -> usize {
        self.n_random.load(Relaxed)
    }

    /// A point at which a call may take time, and fail.
    async fn point(&self, share: f64) -> Result<(), &'static str> {
        let (delay, fails) = match &mut *self.rng.lock().unwrap() {
            Some(rng) => {
                let delay_max = if rng.random_bool(0.05) { 4_000 } else { 20 };
                let delay = rng.random_range(0..delay_max);
                (Duration::from_millis(delay), rng.random_bool(share))
            }
            None => (Duration::ZERO, false),
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.n_random.fetch_add(usize::from(fails), Relaxed);
        if fails || self.is_down.load(Relaxed) {
            return Err("as planned");
        }
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct Tables {
    last_position: i64,
    /// The events by position; `None`: the event no longer exists.
    entries: BTreeMap<i64, Option<OrderEvent>>,
    relay: Option<(Uuid, Instant)>,
}

#[derive(Default)]
pub(super) struct FakeOutbox {
    pub(super) tables: Mutex<Tables>,
    pub(super) faults: Faults,
    /// Removals fail.
    pub(super) keeps_all: AtomicBool,
    pub(super) n_reads: AtomicUsize,
}

impl FakeOutbox {
    /// Draws a position, as a transaction that will commit some time later.
    pub(super) fn next_position(&self) -> i64 {
        let mut tables = self.tables.lock().unwrap();
        tables.last_position += 1;
        tables.last_position
    }

    pub(super) fn commit(&self, position: i64, event: OrderEvent) {
        let mut tables = self.tables.lock().unwrap();
        tables.entries.insert(position, Some(event));
    }

    /// Removes the events of all entries.
    pub(super) fn lose_events(&self) {
        let mut tables = self.tables.lock().unwrap();
        tables.entries.values_mut().for_each(|event| *event = None);
    }

    pub(super) fn len(&self) -> usize {
        self.tables.lock().unwrap().entries.len()
    }

    /// Who has the right, whether or not its lease has run out.
    pub(super) fn holder(&self) -> Option<Uuid> {
        self.tables.lock().unwrap().relay.map(|(relay, _)| relay)
    }

    async fn call<T>(&self, call: impl FnOnce(&mut Tables) -> T + Send) -> Result<T, Error> {
        self.faults
            .point(0.05)
            .await
            .map_err(Error::store_unavailable)?;
        let answer = call(&mut self.tables.lock().unwrap());
        self.faults
            .point(0.05)
            .await
            .map_err(Error::store_unavailable)?;
        Ok(answer)
    }
}

#[async_trait]
impl EventOutbox for FakeOutbox {
    async fn enable(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn disable(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn acquire(&self, relay: Uuid, lease: Duration) -> Result<bool, Error> {
        self.call(move |tables| {
            let now = Instant::now();
            let is_free = tables
                .relay
                .is_none_or(|(holder, end)| holder == relay || end <= now);
            if is_free {
                tables.relay = Some((relay, now + lease));
            }
            is_free
        })
        .await
    }

    async fn release(&self, relay: Uuid) -> Result<(), Error> {
        self.call(move |tables| {
            tables.relay.take_if(|(holder, _)| *holder == relay);
        })
        .await
    }

    async fn read(&self, limit: usize) -> Result<Vec<OutboxEntry>, Error> {
        self.n_reads.fetch_add(1, Relaxed);
        let entry = |(&position, event): (&i64, &Option<OrderEvent>)| OutboxEntry {
            position,
            event: event.clone(),
        };
        self.call(move |tables| tables.entries.iter().take(limit).map(entry).collect())
            .await
    }

    async fn remove(&self, positions: &[i64]) -> Result<(), Error> {
        if self.keeps_all.load(Relaxed) {
            return Err(Error::store_unavailable("as planned"));
        }
        self.call(|tables| {
            tables
                .entries
                .retain(|position, _| !positions.contains(position));
        })
        .await
    }
}

/// Remembers what was published, one by one: a call that is cut has published a part.
#[derive(Default)]
pub(super) struct FakeSink {
    pub(super) faults: Faults,
    pub(super) published: Mutex<Vec<(OrderId, Version)>>,
    /// How long a call takes before its first event.
    pub(super) delay: Mutex<Duration>,
    pub(super) n_calls: AtomicUsize,
}

impl FakeSink {
    pub(super) fn published(&self) -> Vec<(OrderId, Version)> {
        self.published.lock().unwrap().clone()
    }
}

#[async_trait]
impl EventSink for FakeSink {
    async fn publish(&self, events: &[OrderEvent]) -> Result<(), BrokerError> {
        self.n_calls.fetch_add(1, Relaxed);
        let failed = |source: &'static str| BrokerError::Failed {
            server: "fake".to_owned(),
            source: source.into(),
        };
        let delay = *self.delay.lock().unwrap();
        sleep(delay).await;
        for event in events {
            self.faults.point(0.02).await.map_err(failed)?;
            let id = (event.order_id, event.version);
            self.published.lock().unwrap().push(id);
        }
        self.faults.point(0.02).await.map_err(failed)
    }
}
