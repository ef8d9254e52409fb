//! Hints about due jobs, through a broker: the way to workers of any process.
//!
//! [`HintSender`] is the end at which orders are committed, [`HintFetcher`] the one at which
//! they are worked on. Between them anything may get lost: the fetcher of the pool claims
//! what has been due for too long, whatever became of its hint.
//!
//! # Invariants
//! A hint is acknowledged after the claim it led to was answered. From then on the lease
//! protocol answers for the job, and before that the broker does, as well as it can.

use std::{sync::Arc, time::Duration};

use order_core::{
    BrokerError, HintConsumer, HintQueue, Job, JobDispatch, OrderId, Reservation,
    group_commit::BATCH_LEN_MAX,
    supervisor::{Beat, STEP_TIME_MAX, Task},
};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{HintStats, backoff::Backoff, outage::Outage, shared::Shared, slots::Slots};

/// Hints that wait to be sent. More than are committed in the second a broker may need to
/// come back; those beyond it are dropped, and their jobs found by the sweep.
const UNSENT_LEN_MAX: usize = 1 << 15;

/// The least time between the beginnings of two sends, and of two claims, unless a full batch
/// says that more waits. A lone hint waits for neither. What a broker and a database do for a
/// batch costs far more than what they do for each hint in it: with claims of 20 jobs instead
/// of 190, PostgreSQL was seen to spend half as much again on each order.
const BATCH_INTERVAL: Duration = Duration::from_millis(20);

/// How long the end of the sender may take.
const LAST_SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The way from new orders to a broker: no job is born leased, so that every process with
/// free workers gets its share.
pub struct HintSender {
    unsent: mpsc::Sender<OrderId>,
    stats: Arc<HintStats>,
}

impl HintSender {
    /// A sender, and the task that sends; it ends some time after `stop`, when what waits is
    /// sent, or 1 s later.
    pub fn new(hints: Arc<dyn HintQueue>, stop: CancellationToken) -> (Arc<Self>, Task) {
        let (unsent, waiting) = mpsc::channel(UNSENT_LEN_MAX);
        let stats = Arc::new(HintStats::default());
        let sender = Self {
            unsent,
            stats: Arc::clone(&stats),
        };
        let sending = Sending {
            hints,
            waiting,
            stats,
        };
        let sending = Arc::new(Mutex::new(sending));
        let task = Task::new("hint sender", STEP_TIME_MAX, move |beat| {
            let (sending, stop) = (Arc::clone(&sending), stop.clone());
            async move { sending.lock().await.run(stop, &beat).await }
        });
        (Arc::new(sender), task)
    }

    /// Counters of what was sent.
    pub fn stats(&self) -> &HintStats {
        &self.stats
    }
}

impl JobDispatch for HintSender {
    fn try_reserve(&self) -> Option<Reservation> {
        None
    }

    fn notify_due(&self, order_ids: &[OrderId]) {
        for order_id in order_ids {
            if self.unsent.try_send(*order_id).is_err() {
                self.stats.unsent.inc();
            }
        }
    }
}

/// The task of a [`HintSender`].
struct Sending {
    hints: Arc<dyn HintQueue>,
    waiting: mpsc::Receiver<OrderId>,
    stats: Arc<HintStats>,
}

impl Sending {
    async fn run(&mut self, stop: CancellationToken, beat: &Beat) {
        if stop
            .run_until_cancelled(self.send_all(beat))
            .await
            .is_none()
        {
            self.waiting.close();
            if timeout(LAST_SEND_TIMEOUT, self.send_all(beat))
                .await
                .is_err()
            {
                tracing::warn!(hints = self.waiting.len(), "hints were left unsent");
            }
        }
    }

    /// Sends until the channel is closed and empty. A batch that could not be sent is tried
    /// again until it is; what comes meanwhile waits or is dropped.
    async fn send_all(&mut self, beat: &Beat) {
        let outage = Outage::new("sending hints");
        let mut batch = Vec::with_capacity(BATCH_LEN_MAX);
        while self.waiting.recv_many(&mut batch, BATCH_LEN_MAX).await > 0 {
            let next_send = Instant::now() + BATCH_INTERVAL;
            let mut backoff = Backoff::default();
            beat.busy();
            while let Err(error) = self.hints.send(&batch).await {
                outage.fail(&error.chain());
                sleep(backoff.next_delay()).await;
                beat.busy();
            }
            beat.idle();
            outage.end();
            self.stats.sent.inc_by(batch.len() as u64);
            // A full batch says that more waits.
            if batch.len() < BATCH_LEN_MAX {
                sleep_until(next_send).await;
            }
            batch.clear();
        }
    }
}

/// Hints of one receive.
struct Received {
    ids: Vec<OrderId>,
    /// Whether more may wait.
    is_full: bool,
}

/// Takes hints and claims the jobs they name.
pub(crate) struct HintFetcher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slots: Slots,
    pub(crate) hints: Arc<dyn HintQueue>,
    pub(crate) beat: Beat,
}

impl HintFetcher {
    /// Runs until claiming is stopped, then leaves the broker. A claim that is under way is
    /// finished, as in the other fetcher. During a pause the broker is left, so that the hints go to
    /// other processes.
    pub(crate) async fn run(self) {
        let Shared { stops, pause, .. } = &*self.shared;
        while stops.while_claiming(pause.over()).await.is_some() {
            let mut consumer = self.hints.consumer();
            self.take_all(&mut *consumer).await;
            self.beat.idle();
            consumer.close().await;
        }
    }

    /// Takes hints until claiming is stopped or paused.
    async fn take_all(&self, consumer: &mut dyn HintConsumer) {
        let shared = &*self.shared;
        let outage = Outage::new("receiving hints");
        let mut backoff = Backoff::default();
        while let Some(hints) = shared.unless_paused(self.receive(consumer)).await {
            match hints {
                Ok(hints) => {
                    outage.end();
                    backoff.reset();
                    let next_claim = Instant::now() + BATCH_INTERVAL;
                    self.take(consumer, &hints.ids).await;
                    self.beat.idle();
                    if !hints.is_full {
                        let wait = sleep_until(next_claim);
                        if shared.unless_paused(wait).await.is_none() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    outage.fail(&error.chain());
                    let wait = sleep(backoff.next_delay());
                    if shared.unless_paused(wait).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for room, then for hints.
    async fn receive(&self, consumer: &mut dyn HintConsumer) -> Result<Received, BrokerError> {
        let limit = self.slots.wait_for_room().await;
        let ids = consumer.receive(limit).await?;
        let is_full = ids.len() >= limit;
        Ok(Received { ids, is_full })
    }

    /// Claims what the hints name. While the store is away the hints are kept: there is
    /// nothing else that could be done.
    async fn take(&self, consumer: &mut dyn HintConsumer, hints: &[OrderId]) {
        let Shared {
            queue,
            leases,
            stats,
            ..
        } = &*self.shared;
        let outage = Outage::new("claiming hinted jobs");
        let mut backoff = Backoff::default();
        let (sent_at, jobs) = loop {
            let sent_at = Instant::now();
            self.beat.busy();
            match queue.claim_hinted(hints, leases.duration()).await {
                Ok(jobs) => break (sent_at, jobs),
                Err(error) => {
                    outage.fail(&error.chain());
                    let wait = sleep(backoff.next_delay());
                    if self.shared.unless_paused(wait).await.is_none() {
                        return;
                    }
                }
            }
        };
        outage.end();
        stats.claims.inc();
        stats.claimed_jobs.inc_by(jobs.len() as u64);
        stats.hints.inc_by(hints.len() as u64);
        stats
            .idle_hints
            .inc_by(hints.len().saturating_sub(jobs.len()) as u64);
        leases.hold(jobs.iter().map(Job::token), sent_at);
        self.slots.hand_over(jobs);
        if let Err(error) = consumer.acknowledge().await {
            tracing::debug!(error = error.chain(), "hints were not acknowledged");
        }
    }
}
