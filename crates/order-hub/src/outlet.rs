//! The way out of this process: a bounded queue in front of an [`EventTransport`].
//!
//! Whoever commits must never wait for a broker. Events are queued, and one task publishes
//! them: when it is free it takes all that waits, so a lone event is sent at once, and a burst
//! shares a round trip. What the broker does not take is dropped: the
//! other processes find it in the store.

use std::{pin::pin, sync::Arc, time::Duration};

use order_core::{
    EventBus, EventTransport, OrderEvent,
    metrics::Counter,
    supervisor::{Beat, STEP_TIME_MAX, Task},
};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::outage::Outage;

/// How many events wait at most: seconds of full load, some megabytes.
const QUEUE_LEN_MAX: usize = 16_384;

/// The most events of one batch.
const BATCH_LEN_MAX: usize = 1_024;

/// The least time between the beginnings of two batches, unless one is full. A lone event
/// waits for nothing; under load, a batch wakes the broker and every process that listens,
/// which costs more than the events in it.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// How long one batch may take. Transports have shorter limits of their own; this one holds
/// for those that forget.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the end may take: the events are hints, and nothing waits for them.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Counters of an outlet.
#[derive(Clone, Debug, Default)]
pub struct OutletStats {
    /// Events that the transport has taken.
    pub sent: Counter,
    /// Events that were dropped, because too many waited or the transport failed.
    pub dropped: Counter,
}

/// Queues events for a transport.
#[derive(Debug)]
pub struct Outlet {
    queue: mpsc::Sender<OrderEvent>,
    stats: OutletStats,
}

impl Outlet {
    /// Builds an outlet, and the task that publishes what is queued. Its owner has it run and
    /// waits for it: after `stop` it publishes what is queued and ends within a second.
    pub fn new(transport: Arc<dyn EventTransport>, stop: CancellationToken) -> (Arc<Self>, Task) {
        let (sender, queue) = mpsc::channel(QUEUE_LEN_MAX);
        let stats = OutletStats::default();
        let publisher = Publisher {
            transport,
            queue,
            batch: Vec::new(),
            stats: stats.clone(),
        };
        let outlet = Self {
            queue: sender,
            stats,
        };
        let publisher = Arc::new(Mutex::new(publisher));
        let task = Task::new("outlet", STEP_TIME_MAX, move |beat| {
            let (publisher, stop) = (Arc::clone(&publisher), stop.clone());
            async move { publisher.lock().await.run(stop, &beat).await }
        });
        (Arc::new(outlet), task)
    }

    /// Counters of events.
    pub fn stats(&self) -> &OutletStats {
        &self.stats
    }

    /// How many events wait.
    pub fn n_queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

impl EventBus for Outlet {
    fn publish(&self, events: &[OrderEvent]) {
        for (idx, event) in events.iter().enumerate() {
            let Ok(place) = self.queue.try_reserve() else {
                let n_dropped = events.len() - idx;
                self.stats.dropped.inc_by(n_dropped as u64);
                return;
            };
            place.send(event.clone());
        }
    }
}

struct Publisher {
    transport: Arc<dyn EventTransport>,
    queue: mpsc::Receiver<OrderEvent>,
    /// The events that are being published.
    batch: Vec<OrderEvent>,
    stats: OutletStats,
}

impl Publisher {
    async fn run(&mut self, stop: CancellationToken, beat: &Beat) {
        // What a run before this one failed on is not tried again.
        self.stats.dropped.inc_by(self.batch.len() as u64);
        self.batch.clear();
        let time_is_up = async {
            stop.cancelled().await;
            sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            () = self.publish_all(&stop, beat) => {}
            () = time_is_up => {}
        }
        self.queue.close();
        let n_dropped = self.batch.len() + self.queue.len();
        self.stats.dropped.inc_by(n_dropped as u64);
    }

    /// Publishes until `stop`, and what is queued then, unless that fails.
    async fn publish_all(&mut self, stop: &CancellationToken, beat: &Beat) {
        let mut outage = Outage::new("publishing events to other processes");
        let mut stopped = pin!(stop.cancelled());
        loop {
            if self.batch.is_empty() {
                tokio::select! {
                    biased;
                    () = &mut stopped, if !self.queue.is_closed() => {
                        self.queue.close();
                        continue;
                    }
                    n_taken = self.queue.recv_many(&mut self.batch, BATCH_LEN_MAX) => {
                        if n_taken == 0 {
                            return;
                        }
                    }
                }
            }
            let (begun_at, is_full) = (Instant::now(), self.batch.len() >= BATCH_LEN_MAX);
            beat.busy();
            let published = self.publish_batch().await;
            beat.idle();
            let Err(cause) = published else {
                outage.end();
                if !is_full && !self.queue.is_closed() {
                    sleep_until(begun_at + PUBLISH_INTERVAL).await;
                }
                continue;
            };
            let pause = outage.fail(&cause);
            if timeout(pause, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// Publishes the batch; whatever comes of it, the batch is empty then.
    async fn publish_batch(&mut self) -> Result<(), String> {
        let publish = self.transport.publish(&self.batch);
        let published = match timeout(PUBLISH_TIMEOUT, publish).await {
            Ok(published) => published.map_err(|error| error.chain()),
            Err(_) => Err(format!("no answer within {PUBLISH_TIMEOUT:?}")),
        };
        let counter = match published {
            Ok(()) => &self.stats.sent,
            Err(_) => &self.stats.dropped,
        };
        counter.inc_by(self.batch.len() as u64);
        self.batch.clear();
        published
    }
}

/// Passes events on to several buses, one after the other: first to the hub of this process,
/// whose watchers need no broker, then to the outlet.
pub struct Fanout(Vec<Arc<dyn EventBus>>);

impl Fanout {
    /// Buses in the order in which they get each batch.
    pub fn new(buses: Vec<Arc<dyn EventBus>>) -> Self {
        Self(buses)
    }
}

impl EventBus for Fanout {
    fn publish(&self, events: &[OrderEvent]) {
        for bus in &self.0 {
            bus.publish(events);
        }
    }
}
