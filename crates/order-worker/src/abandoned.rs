//! Abandoned jobs: their last claim ended without a result, so they may be what killed it.
//!
//! They never wait in the local queue. A free worker claims one, marks the attempt as begun, and
//! runs it at once. A process runs one at a time, so when it dies, that one is counted and no
//! other. On its last attempt an abandoned job has the process for itself: whatever order
//! fails because its process died was alone in it.

use std::{sync::Arc, time::Duration};

use order_core::{Error, Job, JobQueue};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Instant, sleep_until},
};

use crate::fetcher::POLL_JITTER;

/// When this process looks for an abandoned job, and what it runs beside.
pub(crate) struct Abandoned {
    next_look: Arc<Mutex<Instant>>,
    poll_interval: Duration,
    /// Held for reading while a job runs, for writing while one runs alone.
    running: RwLock<()>,
}

/// The right to look for an abandoned job and to run it. Dropping it gives the right back.
pub(crate) struct Turn(OwnedMutexGuard<Instant>);

/// Keeps other jobs from running alone, or from running at all.
#[expect(dead_code, reason = "held for what its end means")]
pub(crate) enum Beside<'a> {
    Others(RwLockReadGuard<'a, ()>),
    None(RwLockWriteGuard<'a, ()>),
}

impl Abandoned {
    pub(crate) fn new(poll_interval: Duration) -> Self {
        Self {
            next_look: Arc::new(Mutex::new(Instant::now())),
            poll_interval,
            running: RwLock::new(()),
        }
    }

    /// The turn, if it is time to look and nobody has it.
    pub(crate) fn try_turn(&self) -> Option<Turn> {
        let next_look = Arc::clone(&self.next_look).try_lock_owned().ok()?;
        (*next_look <= Instant::now()).then_some(Turn(next_look))
    }

    /// Waits for the turn.
    ///
    /// # Cancel safety
    /// Safe to cancel: the turn is then given back.
    pub(crate) async fn turn(&self) -> Turn {
        let next_look = Arc::clone(&self.next_look).lock_owned().await;
        sleep_until(*next_look).await;
        Turn(next_look)
    }

    /// Claims an abandoned job for `lease`. Where there is none, the next look is after the
    /// poll interval.
    pub(crate) async fn claim(
        &self,
        turn: &mut Turn,
        queue: &dyn JobQueue,
        lease: Duration,
    ) -> Result<Option<Job>, Error> {
        let claimed = queue.claim_abandoned(lease).await;
        if !matches!(claimed, Ok(Some(_))) {
            let poll = self.poll_interval.mul_f64(rand::random_range(POLL_JITTER));
            *turn.0 = Instant::now() + poll;
        }
        claimed
    }

    /// Waits until a job may run: beside others, or alone.
    ///
    /// # Cancel safety
    /// Safe to cancel.
    pub(crate) async fn beside(&self, is_alone: bool) -> Beside<'_> {
        if is_alone {
            Beside::None(self.running.write().await)
        } else {
            Beside::Others(self.running.read().await)
        }
    }
}
