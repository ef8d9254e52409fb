//! The one claimer of this process.
//!
//! Claims due jobs, as many as there are free slots, in one statement, and puts them into
//! the local queue. It looks when somebody says that jobs are due, when the last claim left
//! some behind and slots are free again, when a pause is over, and otherwise every `poll_interval`.
//!
//! There is no separate rescue of dead workers: a lease that has run out *is* a due job, so
//! the poll of any living process claims it. Hints may therefore all be lost without harm.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use order_core::{Error, Job, supervisor::Beat};
use tokio::time::{Instant, sleep};

use crate::{backoff::Backoff, shared::Shared, slots::Slots};

/// Polls of many processes drift apart by this share of the interval.
pub(crate) const POLL_JITTER: std::ops::RangeInclusive<f64> = 0.8..=1.2;

/// Claims jobs until it is told to stop.
pub(crate) struct Fetcher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slots: Slots,
    pub(crate) poll_interval: Duration,
    /// How long a job has been due before it is claimed here. Zero, unless hints go through
    /// a broker: then this is the sweep for those that were lost.
    pub(crate) overdue: Duration,
}

impl Fetcher {
    /// Runs until claiming is stopped. A claim that is under way is finished, and its jobs
    /// are entered in the table of leases, so that a drain can give them back.
    pub(crate) async fn run(self: Arc<Self>, beat: Beat) {
        let mut backoff = Backoff::default();
        // Jobs may be due from before this process began.
        let mut is_backlog = true;
        while let Some(limit) = self.wait(is_backlog).await {
            beat.busy();
            let claimed = self.claim(limit).await;
            beat.idle();
            match claimed {
                Ok(is_full) => {
                    backoff.reset();
                    is_backlog = is_full;
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::warn!(error = error.chain(), ?delay, "claiming jobs failed");
                    let wait = sleep(delay);
                    if self.shared.stops.while_claiming(wait).await.is_none() {
                        return;
                    }
                    is_backlog = true;
                }
            }
        }
    }

    /// Waits for a reason to claim and for room, and says for how many jobs; `None` when
    /// claiming is over.
    async fn wait(&self, is_backlog: bool) -> Option<usize> {
        let ready = async {
            let Shared { due, pause, .. } = &*self.shared;
            if !is_backlog {
                let poll = self.poll_interval.mul_f64(rand::random_range(POLL_JITTER));
                tokio::select! {
                    () = due.notified() => {}
                    () = sleep(poll) => {}
                    // What comes due meanwhile is claimed when it is over.
                    () = pause.begun() => {}
                }
            }
            loop {
                pause.over().await;
                let room = self.slots.wait_for_room().await;
                if !pause.is_on() {
                    return room;
                }
            }
        };
        self.shared.stops.while_claiming(ready).await
    }

    /// Claims once; whether the claim was full, so that more is likely due.
    async fn claim(&self, limit: usize) -> Result<bool, Error> {
        let Shared {
            queue,
            leases,
            stats,
            ..
        } = &*self.shared;
        // This claim answers every hint there is: jobs are committed before they are hinted.
        let _ = self.shared.due.notified().now_or_never();
        let sent_at = Instant::now();
        let jobs = queue
            .claim_overdue(limit, leases.duration(), self.overdue)
            .await?;
        stats.claims.inc();
        stats.claimed_jobs.inc_by(jobs.len() as u64);
        if !self.overdue.is_zero() {
            stats.swept.inc_by(jobs.len() as u64);
        }
        let is_full = jobs.len() >= limit;
        leases.hold(jobs.iter().map(Job::token), sent_at);
        self.slots.hand_over(jobs);
        Ok(is_full)
    }
}
