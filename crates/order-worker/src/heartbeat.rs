//! Keeps the leases of this process alive, and gives back what it will not finish.
//!
//! # Invariants
//! A failed statement takes no lease away: the local end of the lease decides. Extending and
//! releasing may overlap: a release ends its token, and no extension of it counts after that.

use std::{sync::Arc, time::Duration};

use futures_util::{future::join_all, join};
use order_core::{Clock, Error, JobToken, supervisor::Beat};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::{backoff::Backoff, shared::Shared};

/// A heartbeat comes three times per lease, so that one may fail without harm.
const BEATS_PER_LEASE: u32 = 3;

/// After a failure the next beat comes sooner, 15 times per lease: a short outage is then
/// over before the margin of any lease is reached.
const RETRIES_PER_LEASE: u32 = 15;

/// The most tokens of one statement. More than a pool of the default size ever holds, so
/// it is one statement, and no larger pool can send one without bounds.
pub(crate) const TOKENS_LEN_MAX: usize = 4096;

/// How often a release is tried before the leases are left to run out.
const RELEASE_TRIES_MAX: usize = 3;

/// Extends and releases the leases of a pool.
pub(crate) struct Heartbeat {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    /// Held over each statement that moves the end of a lease.
    turn: Mutex<()>,
}

impl Heartbeat {
    pub(crate) fn new(shared: &Arc<Shared>, clock: &Arc<dyn Clock>) -> Self {
        let now = clock.now().as_second();
        shared.stats.last_heartbeat.set(now);
        Self {
            shared: Arc::clone(shared),
            clock: Arc::clone(clock),
            turn: Mutex::new(()),
        }
    }

    /// Beats until it is told to stop.
    pub(crate) async fn run(self: Arc<Self>, beat: Beat) {
        let mut is_healthy = true;
        loop {
            tokio::select! {
                biased;
                () = self.shared.stops.beating.cancelled() => return,
                () = sleep(self.pause(is_healthy)) => {}
            }
            beat.busy();
            let beaten = self.beat().await;
            beat.idle();
            is_healthy = match beaten {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "extending leases failed");
                    false
                }
            };
        }
    }

    fn pause(&self, is_healthy: bool) -> Duration {
        let divisor = if is_healthy {
            BEATS_PER_LEASE
        } else {
            RETRIES_PER_LEASE
        };
        self.shared.leases.duration() / divisor
    }

    /// Gives back the jobs that were put aside and extends the leases of all others. One
    /// does not wait for the success of the other.
    async fn beat(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let (released, extended) = join!(self.release_returned(), self.extend_active());
        released.and(extended)
    }

    async fn release_returned(&self) -> Result<(), Error> {
        let Shared { leases, .. } = &*self.shared;
        let mut result = Ok(());
        for tokens in leases.returned().chunks(TOKENS_LEN_MAX) {
            let released = self.release_once(tokens).await;
            // A release that can never succeed is not tried for ever: those leases run out.
            if !matches!(released, Err(Error::StoreUnavailable { .. })) {
                leases.forget(tokens);
            }
            result = result.and(released.map(drop));
        }
        result
    }

    async fn extend_active(&self) -> Result<(), Error> {
        let Shared {
            queue,
            leases,
            stats,
            ..
        } = &*self.shared;
        let active = leases.active();
        // Together, so that one that fails late does not take the time of the others.
        let extensions = active.chunks(TOKENS_LEN_MAX).map(|tokens| async move {
            let sent_at = Instant::now();
            let answers = queue.extend(tokens, leases.duration()).await?;
            stats.heartbeats.inc();
            leases.renew(tokens.iter().copied().zip(answers), sent_at);
            Ok(())
        });
        let extended = join_all(extensions).await;
        extended.into_iter().collect::<Result<(), Error>>()?;
        stats.last_heartbeat.set(self.clock.now().as_second());
        Ok(())
    }

    /// Gives back the jobs nobody works on; returns how many could not be.
    pub(crate) async fn release_idle(&self) -> u64 {
        let _turn = self.turn.lock().await;
        self.release(&self.shared.leases.take_idle()).await
    }

    /// Gives back every job; returns how many could not be.
    pub(crate) async fn release_all(&self) -> u64 {
        let _turn = self.turn.lock().await;
        self.release(&self.shared.leases.take_all()).await
    }

    async fn release(&self, tokens: &[JobToken]) -> u64 {
        let mut n_lost = 0;
        for tokens in tokens.chunks(TOKENS_LEN_MAX) {
            if let Err(error) = self.try_release(tokens).await {
                tracing::warn!(
                    error = error.chain(),
                    jobs = tokens.len(),
                    "releasing jobs failed; they are due when their leases run out"
                );
                n_lost += tokens.len() as u64;
            }
        }
        n_lost
    }

    async fn try_release(&self, tokens: &[JobToken]) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        let mut tries = 1;
        loop {
            match self.release_once(tokens).await {
                Err(_) if tries < RELEASE_TRIES_MAX => sleep(backoff.next_delay()).await,
                released => return released,
            }
            tries += 1;
        }
    }

    async fn release_once(&self, tokens: &[JobToken]) -> Result<(), Error> {
        let n_released = self.shared.queue.release(tokens).await?;
        self.shared.stats.released.inc_by(n_released as u64);
        Ok(())
    }
}
