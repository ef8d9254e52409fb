//! The table of leases this process holds.
//!
//! One entry per order, from the moment a job arrives until its result is committed. The
//! entry carries the local end of the lease, counted from before the statement that granted
//! it, so it is never later than the database's.
//!
//! # Invariants
//! An entry belongs to one attempt; a newer attempt of the same order replaces it and an
//! older one never does. Whoever holds a job of an attempt without an entry holds nothing.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use order_core::{Extended, JobToken, OrderId};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The last part of a lease, as a divisor, in which no work is begun or continued: 20 %
/// leave room for a pause of the process between the check and the effect.
const MARGIN_DIVISOR: u32 = 5;

/// What a job that is held waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A worker.
    Waiting,
    /// Its processor.
    Running,
    /// The commit of its result. From here on the compare-and-set of the commit alone
    /// decides; a heartbeat that finds the token gone may just be late.
    Completing,
    /// The heartbeat, which gives it back.
    Returned,
}

struct Held {
    attempt: u32,
    end: Instant,
    stage: Stage,
}

impl Held {
    const fn token(&self, order_id: OrderId) -> JobToken {
        JobToken {
            order_id,
            attempt: self.attempt,
        }
    }
}

/// Whether a worker may begin a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// The job is the worker's.
    Run,
    /// Too little is left of the lease; the job was marked to be given back.
    Returned,
    /// The lease is lost.
    Lost,
}

/// Hashed with a random seed, because clients may choose the ids of their orders.
type Table = HashMap<OrderId, Held, foldhash::fast::RandomState>;

/// The leases this process holds, each for `duration` from its last extension.
pub(crate) struct Leases {
    duration: Duration,
    held: Mutex<Table>,
    lost: Notify,
}

impl Leases {
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            duration,
            held: Mutex::default(),
            lost: Notify::new(),
        }
    }

    /// How long a lease is.
    pub(crate) const fn duration(&self) -> Duration {
        self.duration
    }

    /// Enters jobs that were leased by a statement sent at `sent_at`.
    pub(crate) fn hold(&self, tokens: impl IntoIterator<Item = JobToken>, sent_at: Instant) {
        let end = sent_at + self.duration;
        let mut is_any_replaced = false;
        let mut held = self.lock();
        for token in tokens {
            let new = Held {
                attempt: token.attempt,
                end,
                stage: Stage::Waiting,
            };
            match held.entry(token.order_id) {
                Entry::Vacant(entry) => {
                    entry.insert(new);
                }
                Entry::Occupied(mut entry) if entry.get().attempt < token.attempt => {
                    is_any_replaced = true;
                    entry.insert(new);
                }
                Entry::Occupied(_) => {}
            }
        }
        drop(held);
        if is_any_replaced {
            self.lost.notify_waiters();
        }
    }

    /// Asks for the right to run a job that waited.
    pub(crate) fn begin(&self, token: JobToken) -> Begin {
        let now = Instant::now();
        let mut held = self.lock();
        let Some(entry) = find(&mut held, token).filter(|entry| entry.stage == Stage::Waiting)
        else {
            return Begin::Lost;
        };
        if self.work_end(entry) <= now {
            entry.stage = Stage::Returned;
            return Begin::Returned;
        }
        entry.stage = Stage::Running;
        Begin::Run
    }

    /// Marks a job whose result goes to the commit; `false` if its lease is lost.
    pub(crate) fn begin_completing(&self, token: JobToken) -> bool {
        let mut held = self.lock();
        let entry = find(&mut held, token);
        entry.map(|entry| entry.stage = Stage::Completing).is_some()
    }

    /// Marks a job to be given back by the next heartbeat.
    pub(crate) fn give_back(&self, token: JobToken) {
        if let Some(entry) = find(&mut self.lock(), token) {
            entry.stage = Stage::Returned;
        }
    }

    /// Strikes out jobs that are done with.
    pub(crate) fn forget<'a>(&self, tokens: impl IntoIterator<Item = &'a JobToken>) {
        let mut held = self.lock();
        for token in tokens {
            if find(&mut held, *token).is_some() {
                held.remove(&token.order_id);
            }
        }
    }

    /// Whether the lease has not run out by this process's clock.
    pub(crate) fn is_held(&self, token: JobToken) -> bool {
        let now = Instant::now();
        find(&mut self.lock(), token).is_some_and(|entry| entry.end > now)
    }

    /// Whether there is time left to begin something under the lease.
    pub(crate) fn has_time(&self, token: JobToken) -> bool {
        let now = Instant::now();
        find(&mut self.lock(), token).is_some_and(|entry| self.work_end(entry) > now)
    }

    /// Waits until the job must not be worked on any longer: its entry is gone, or the
    /// lease is about to run out because no heartbeat got through.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn lost(&self, token: JobToken) {
        loop {
            // Registered before the look at the table, so no loss in between is missed.
            let changed = self.lost.notified();
            let work_end = find(&mut self.lock(), token).map(|entry| self.work_end(entry));
            let Some(work_end) = work_end.filter(|end| *end > Instant::now()) else {
                return;
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(work_end) => {}
            }
        }
    }

    /// The jobs whose leases are to be extended.
    pub(crate) fn active(&self) -> Vec<JobToken> {
        self.collect(|stage| stage != Stage::Returned)
    }

    /// The jobs that are to be given back.
    pub(crate) fn returned(&self) -> Vec<JobToken> {
        self.collect(|stage| stage == Stage::Returned)
    }

    /// Enters the answers to an extension that was sent at `sent_at`.
    pub(crate) fn renew(
        &self,
        answers: impl IntoIterator<Item = (JobToken, Extended)>,
        sent_at: Instant,
    ) {
        let end = sent_at + self.duration;
        let mut is_any_lost = false;
        let mut held = self.lock();
        for (token, answer) in answers {
            let Some(entry) = find(&mut held, token) else {
                continue;
            };
            match answer {
                Extended::Applied => entry.end = entry.end.max(end),
                Extended::Stale if entry.stage != Stage::Completing => {
                    held.remove(&token.order_id);
                    is_any_lost = true;
                }
                Extended::Stale | Extended::Locked => {}
            }
        }
        drop(held);
        if is_any_lost {
            self.lost.notify_waiters();
        }
    }

    /// Takes out the jobs nobody works on.
    pub(crate) fn take_idle(&self) -> Vec<JobToken> {
        let mut held = self.lock();
        held.extract_if(|_, entry| matches!(entry.stage, Stage::Waiting | Stage::Returned))
            .map(|(order_id, entry)| entry.token(order_id))
            .collect()
    }

    /// Takes out all jobs.
    pub(crate) fn take_all(&self) -> Vec<JobToken> {
        let mut held = self.lock();
        held.drain()
            .map(|(order_id, entry)| entry.token(order_id))
            .collect()
    }

    fn collect(&self, is_wanted: impl Fn(Stage) -> bool) -> Vec<JobToken> {
        let held = self.lock();
        held.iter()
            .filter(|(_, entry)| is_wanted(entry.stage))
            .map(|(order_id, entry)| entry.token(*order_id))
            .collect()
    }

    fn work_end(&self, entry: &Held) -> Instant {
        entry
            .end
            .checked_sub(self.duration / MARGIN_DIVISOR)
            .unwrap_or(entry.end)
    }

    /// No code that can panic runs under the lock, so a poisoned table is still whole.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(held: &mut Table, token: JobToken) -> Option<&mut Held> {
    held.get_mut(&token.order_id)
        .filter(|entry| entry.attempt == token.attempt)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use order_core::IdGen as _;
    use order_testkit::clock::SeededIds;

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn two_attempts() -> [JobToken; 2] {
        let order_id = SeededIds::new(1).order_id();
        [1, 2].map(|attempt| JobToken { order_id, attempt })
    }

    #[tokio::test(start_paused = true)]
    async fn newer_attempt_takes_the_lease_from_the_older() {
        let [older, newer] = two_attempts();
        let leases = Leases::new(LEASE);
        leases.hold([older], Instant::now());
        assert_eq!(leases.begin(older), Begin::Run);
        let mut lost = Box::pin(leases.lost(older));
        assert_eq!((&mut lost).now_or_never(), None);

        leases.hold([newer], Instant::now());

        assert_eq!(lost.now_or_never(), Some(()));
        assert!(!leases.begin_completing(older));
        leases.forget([&older]);
        assert_eq!(leases.active(), [newer]);
    }

    #[tokio::test(start_paused = true)]
    async fn older_attempt_never_replaces_a_newer() {
        let [older, newer] = two_attempts();
        let leases = Leases::new(LEASE);
        leases.hold([newer], Instant::now());

        leases.hold([older], Instant::now());

        assert_eq!(leases.begin(older), Begin::Lost);
        assert_eq!(leases.begin(newer), Begin::Run);
    }

    #[tokio::test(start_paused = true)]
    async fn job_is_begun_once() {
        let [token, _] = two_attempts();
        let leases = Leases::new(LEASE);
        leases.hold([token], Instant::now());

        assert_eq!(leases.begin(token), Begin::Run);
        assert_eq!(leases.begin(token), Begin::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn late_heartbeat_leaves_a_result_to_its_commit() {
        let [token, _] = two_attempts();
        let leases = Leases::new(LEASE);
        leases.hold([token], Instant::now());
        leases.begin_completing(token);

        leases.renew([(token, Extended::Stale)], Instant::now());

        assert!(leases.is_held(token));
    }

    #[tokio::test(start_paused = true)]
    async fn extension_never_shortens_a_lease() {
        let [token, _] = two_attempts();
        let leases = Leases::new(LEASE);
        let sent_at = Instant::now();
        leases.hold([token], sent_at + LEASE);

        leases.renew([(token, Extended::Applied)], sent_at);

        tokio::time::advance(LEASE * 3 / 2).await;
        assert!(leases.is_held(token));
    }
}
