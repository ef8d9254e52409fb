//! Publishes every committed event to a system outside.
//!
//! Reads a batch from the [`EventOutbox`], publishes it, removes it: in this order, so that
//! whatever dies in between, an event is published again rather than never. One relay of all
//! processes has the right to publish at a time, by a lease; the others stand by.
//!
//! # Invariants
//! Nothing is removed that was not published. For each order in it, a batch begins with the
//! oldest version that was not removed. So even a relay that was frozen, and publishes after
//! it has lost its right, only repeats events, or publishes them in order: the right saves
//! work, and nothing depends on it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use order_core::{
    Error, EventOutbox, EventSink, OrderEvent,
    group_commit::BATCH_LEN_MAX,
    span::{Span, SpanKind},
    supervisor::Beat,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{EventRelayStats, backoff::Backoff, fetcher::POLL_JITTER, outage::Outage};

/// The most events of one publication.
const EVENTS_LEN_MAX: usize = BATCH_LEN_MAX;

/// How long the relay rests after a batch that was not full, so that events gather.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// How long it rests at most while nothing happens; doubled from [`PAUSE_MIN`] up to here.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long one publication may take. Longer than any sink waits for its broker; this is the
/// bound should that fail.
const PUBLISH_TIME_MAX: Duration = Duration::from_secs(30);

/// The right is renewed three times per lease, so that one renewal may fail without harm,
/// and after a failure sooner, 15 times per lease.
const RENEWALS_PER_LEASE: u32 = 3;
const RETRIES_PER_LEASE: u32 = 15;

/// The share of a lease after which nothing is published: the same margin as for jobs.
const WORK_SHARE: f64 = 0.8;

/// Shorter leases would be spent on renewals.
const LEASE_MIN: Duration = Duration::from_millis(100);

/// Longer than any sensible lease, and far from overflow.
const LEASE_MAX: Duration = Duration::from_hours(24);

/// How a relay works. A value outside the limits named here is taken as the nearest within.
#[derive(Clone, Copy, Debug)]
pub struct EventRelayConfig {
    /// How long the right to publish lasts without a renewal: after a crash nothing is
    /// published for at most 4/3 of this. 100 ms to 24 h.
    pub lease: Duration,
}

impl Default for EventRelayConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
        }
    }
}

/// What a relay stands on.
pub struct EventRelayDeps {
    /// Where events wait. Enabled by the caller.
    pub outbox: Arc<dyn EventOutbox>,
    /// Where they go.
    pub sink: Arc<dyn EventSink>,
}

/// Publishes events, in turn with the relays of other processes.
pub struct EventRelay {
    /// Who this is among all relays.
    id: Uuid,
    lease: Duration,
    outbox: Arc<dyn EventOutbox>,
    sink: Arc<dyn EventSink>,
    stats: EventRelayStats,
    /// Until when this relay may publish. Counted from before the statement that granted the
    /// right, and less a margin, so it is never later than the database's.
    work_end: Mutex<Instant>,
    acquiring: Outage,
    publishing: Outage,
}

impl EventRelay {
    /// Wires the parts. Runs nothing of its own.
    pub fn new(config: EventRelayConfig, deps: EventRelayDeps) -> Self {
        Self {
            id: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
            lease: config.lease.clamp(LEASE_MIN, LEASE_MAX),
            outbox: deps.outbox,
            sink: deps.sink,
            stats: EventRelayStats::default(),
            work_end: Mutex::new(Instant::now()),
            acquiring: Outage::new("asking for the right to publish events"),
            publishing: Outage::new("publishing events"),
        }
    }

    /// Counters of what was done.
    pub fn stats(&self) -> &EventRelayStats {
        &self.stats
    }

    /// Publishes events until `stop`, whenever it is this relay's turn. Then finishes the
    /// batch under way, which takes as long as the sink takes, and gives the right back.
    /// For one caller at a time.
    ///
    /// # Cancel safety
    /// May be dropped at any point: some events are then published again, and no other relay
    /// publishes before the lease has run out.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, beat: Beat) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let pause = match self.acquire().await {
                Ok(true) => {
                    backoff.reset();
                    self.hold(&stop, &beat).await;
                    continue;
                }
                Ok(false) => {
                    backoff.reset();
                    let pause = self.lease / RENEWALS_PER_LEASE;
                    pause.mul_f64(rand::random_range(POLL_JITTER))
                }
                Err(_) => backoff.next_delay(),
            };
            stop.run_until_cancelled(sleep(pause)).await;
        }
        if self.has_time() {
            self.release().await;
        }
    }

    /// Takes or renews the right.
    async fn acquire(&self) -> Result<bool, Error> {
        let sent_at = Instant::now();
        let acquired = self.outbox.acquire(self.id, self.lease).await;
        match &acquired {
            Ok(is_acquired) => {
                self.acquiring.end();
                if *is_acquired {
                    self.set_work_end(sent_at + self.lease.mul_f64(WORK_SHARE));
                }
            }
            Err(error) => {
                self.stats.failures.inc();
                self.acquiring.fail(&error.chain());
            }
        }
        acquired
    }

    async fn release(&self) {
        if let Err(error) = self.outbox.release(self.id).await {
            tracing::warn!(
                error = error.chain(),
                "giving back the right to publish events failed; it is free when its lease runs out"
            );
        }
    }

    /// Publishes until `stop` or until the right is lost.
    async fn hold(&self, stop: &CancellationToken, beat: &Beat) {
        tracing::info!("this process publishes events");
        let (lost, done) = (CancellationToken::new(), CancellationToken::new());
        let keeping = async {
            self.keep(&done).await;
            lost.cancel();
        };
        let publishing = async {
            lost.run_until_cancelled(self.publish_all(stop, beat)).await;
            done.cancel();
        };
        tokio::join!(keeping, publishing);
        if !stop.is_cancelled() {
            tracing::warn!("this process lost the right to publish events");
        }
    }

    /// Renews the right until it is lost, or until `done`. A renewal that is under way is
    /// finished even then: the release must come after it.
    async fn keep(&self, done: &CancellationToken) {
        let mut pause = self.lease / RENEWALS_PER_LEASE;
        while done.run_until_cancelled(sleep(pause)).await.is_some() && self.has_time() {
            pause = match timeout_at(self.work_end(), self.acquire()).await {
                Ok(Ok(true)) => self.lease / RENEWALS_PER_LEASE,
                Ok(Err(_)) => self.lease / RETRIES_PER_LEASE,
                Ok(Ok(false)) | Err(_) => return,
            };
        }
    }

    /// Publishes until `stop`, or until there is no time left.
    async fn publish_all(&self, stop: &CancellationToken, beat: &Beat) {
        let mut backoff = Backoff::default();
        let mut pause = PAUSE_MIN;
        let mut published = Vec::new();
        while !stop.is_cancelled() && self.has_time() {
            beat.busy();
            let batch = self.publish_batch(&mut published).await;
            beat.idle();
            let rest = match batch {
                Ok(n_events) => {
                    self.publishing.end();
                    backoff.reset();
                    if n_events > 0 {
                        pause = PAUSE_MIN;
                    }
                    let next = (pause * 2).min(PAUSE_MAX);
                    let rest = std::mem::replace(&mut pause, next);
                    if n_events < EVENTS_LEN_MAX {
                        rest
                    } else {
                        Duration::ZERO
                    }
                }
                Err(error) => {
                    self.stats.failures.inc();
                    self.publishing.fail(&error);
                    backoff.next_delay()
                }
            };
            stop.run_until_cancelled(sleep(rest)).await;
        }
    }

    /// Publishes the oldest events and removes them; returns how many entries there were, or what
    /// went wrong. `published` are the positions that are still to be removed: while that
    /// fails, nothing is published again and again.
    async fn publish_batch(&self, published: &mut Vec<i64>) -> Result<usize, String> {
        self.remove(published).await?;
        let entries = self.outbox.read(EVENTS_LEN_MAX).await;
        let entries = entries.map_err(|error| error.chain())?;
        // The answer may have taken long.
        if entries.is_empty() || !self.has_time() {
            return Ok(0);
        }
        let positions: Vec<_> = entries.iter().map(|entry| entry.position).collect();
        // Entries without an event are only removed, so that they hold up no others.
        let mut events: Vec<_> = entries
            .into_iter()
            .filter_map(|entry| entry.event)
            .collect();
        if !events.is_empty() {
            let mut spans: Vec<_> = events.iter_mut().filter_map(begin_span).collect();
            let published = match timeout(PUBLISH_TIME_MAX, self.sink.publish(&events)).await {
                Ok(answer) => answer.map_err(|error| error.chain()),
                Err(_) => Err("the sink did not answer in time".to_owned()),
            };
            if published.is_err() {
                for span in &mut spans {
                    span.record(|span| span.fail("not_published"));
                }
            }
            published?;
        }
        self.stats.published.inc_by(events.len() as u64);
        let n_entries = positions.len();
        *published = positions;
        self.remove(published).await?;
        Ok(n_entries)
    }

    async fn remove(&self, published: &mut Vec<i64>) -> Result<(), String> {
        if !published.is_empty() {
            let removed = self.outbox.remove(published).await;
            removed.map_err(|error| error.chain())?;
            published.clear();
        }
        Ok(())
    }

    fn has_time(&self) -> bool {
        Instant::now() < self.work_end()
    }

    fn work_end(&self) -> Instant {
        *self.work_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_work_end(&self, end: Instant) {
        *self.work_end.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }
}

/// Begins the span of the publication of an event, which the other side continues.
fn begin_span(event: &mut OrderEvent) -> Option<Span> {
    let stored = event.trace_parent.as_ref()?;
    let mut span = Span::begin(Some(stored), "publish order event", SpanKind::Producer);
    span.record(|span| {
        span.set("order.id", event.order_id.to_string());
        span.set("order.version", i64::from(event.version));
    });
    event.trace_parent = span.position().cloned();
    Some(span)
}
