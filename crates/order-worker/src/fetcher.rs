//! The one claimer of this process.
//!
//! Claims due jobs, as many as there are free places, in one statement, and puts them into
//! the local queue. It looks when somebody says that jobs are due, when the last claim left
//! some behind and places are free again, and otherwise every `poll_interval`.
//!
//! There is no separate rescue of dead workers: a lease that has run out *is* a due job, so
//! the poll of any living process claims it. Hints may therefore all be lost without harm.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use order_core::{Error, Job, group_commit::BATCH_LEN_MAX};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{backoff::Backoff, shared::Shared};

/// The most jobs of one claim: enough to hide the round trip, and a row lock on more would
/// only keep other processes from work this one has not begun.
const CLAIM_LEN_MAX: usize = BATCH_LEN_MAX;

/// Polls of many processes drift apart by this share of the interval.
pub(crate) const POLL_JITTER: std::ops::RangeInclusive<f64> = 0.8..=1.2;

/// Claims jobs until it is told to stop.
pub(crate) struct Fetcher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) places: mpsc::Sender<Job>,
    pub(crate) poll_interval: Duration,
}

impl Fetcher {
    /// Runs until claiming is stopped. A claim that is under way is finished, and its jobs
    /// are entered in the table of leases, so that a drain can give them back.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        // Jobs may be due from before this process began.
        let mut is_backlog = true;
        while self.wait(is_backlog).await {
            match self.claim().await {
                Ok(is_full) => {
                    backoff.reset();
                    is_backlog = is_full;
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::warn!(error = error.chain(), ?delay, "claiming jobs failed");
                    let stopped = self.shared.stops.claiming.cancelled();
                    if timeout(delay, stopped).await.is_ok() {
                        return;
                    }
                    is_backlog = true;
                }
            }
        }
    }

    /// Waits for a reason to claim and for room; `false` when claiming is over.
    async fn wait(&self, is_backlog: bool) -> bool {
        let ready = async {
            if !is_backlog {
                let poll = self.poll_interval.mul_f64(rand::random_range(POLL_JITTER));
                tokio::select! {
                    () = self.shared.due.notified() => {}
                    () = sleep(poll) => {}
                }
            }
            // The places are given back at once: holding them during the statement would
            // keep new orders from being born leased. This wait has its turn before theirs,
            // so a backlog is not starved by new orders.
            drop(self.places.reserve_many(self.refill_len()).await);
        };
        tokio::select! {
            biased;
            () = self.shared.stops.claiming.cancelled() => false,
            () = ready => true,
        }
    }

    /// How many places must be free for a claim: half of the queue, since a statement for
    /// each single place would cost far more than it brings.
    fn refill_len(&self) -> usize {
        (self.places.max_capacity() / 2).clamp(1, CLAIM_LEN_MAX)
    }

    /// Claims once; whether the claim was full, so that more is likely due.
    async fn claim(&self) -> Result<bool, Error> {
        let limit = self
            .places
            .capacity()
            .clamp(self.refill_len(), CLAIM_LEN_MAX);
        let Shared {
            queue,
            leases,
            stats,
            ..
        } = &*self.shared;
        // This claim answers every hint there is: jobs are committed before they are hinted.
        let _ = self.shared.due.notified().now_or_never();
        let sent_at = Instant::now();
        let jobs = queue.claim(limit, leases.duration()).await?;
        stats.claims.increment();
        stats.claimed_jobs.add(jobs.len());
        let is_full = jobs.len() >= limit;
        leases.hold(jobs.iter().map(Job::token), sent_at);
        self.hand_over(jobs).await;
        Ok(is_full)
    }

    /// Queues claimed jobs. New orders may have taken the free places meanwhile; then the
    /// jobs wait here, with their leases kept alive like all others.
    async fn hand_over(&self, jobs: Vec<Job>) {
        for job in jobs {
            tokio::select! {
                biased;
                () = self.shared.stops.taking.cancelled() => return,
                _ = self.places.send(job) => {}
            }
        }
    }
}
