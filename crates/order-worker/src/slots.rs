//! The local queue, and how many jobs this process holds.
//!
//! A process holds about as many jobs as it can finish in [`HORIZON`], by the time its jobs
//! have taken, and at least one for each worker. More would wait here while another process is
//! idle; fewer would leave a worker idle during a claim.
//!
//! # Invariants
//! A job holds its slot from its reservation or claim to the end of its attempt. Claimed jobs
//! always get one: new orders and the other claimer may have taken the free slots since the claim
//! was sent, so there can be three times as many jobs as slots, and never more.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use order_core::{Job, group_commit::BATCH_LEN_MAX};
use tokio::{sync::Notify, time::Instant};

/// How much work a process holds.
const HORIZON: Duration = Duration::from_millis(1_500);

/// The weight of one job in the mean of the times that jobs take. Of one that takes longer than
/// the mean it is larger: too few jobs cost a claim, too many wait while others are idle.
const WEIGHT: f64 = 0.125;
const WEIGHT_OF_SLOWER: f64 = 0.5;

/// The most jobs of one claim: enough to hide the round trip, and a row lock on more would
/// only keep other processes from work this one has not begun.
const CLAIM_LEN_MAX: usize = BATCH_LEN_MAX;

/// The local queue, which is bounded by its slots.
#[derive(Clone)]
pub(crate) struct Slots {
    gauge: Arc<Gauge>,
    queue: Arc<Queue>,
}

/// Jobs that wait for a worker. One worker at a time is being woken, and wakes the next one if it
/// leaves jobs behind: where jobs take no time, the first has taken all of them before that, and to
/// wake every worker for each batch would cost more than the jobs.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wakes: Notify,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(Job, Slot)>,
    /// Whether a worker is being woken.
    is_waking: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code that holds the lock can panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<(Job, Slot)> {
        let mut waiting = self.lock();
        let next = waiting.jobs.pop_front();
        self.wake(waiting);
        next
    }

    /// Wakes a worker if there is a job, unless one is on its way.
    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        if !waiting.jobs.is_empty() && !waiting.is_waking {
            waiting.is_waking = true;
            drop(waiting);
            self.wakes.notify_one();
        }
    }
}

impl Slots {
    /// The local queue of `workers`, in which at most `queue_len_max` jobs wait.
    pub(crate) fn new(workers: usize, queue_len_max: usize) -> Self {
        let gauge = Gauge {
            workers,
            queue_len_max,
            usage: Mutex::new(Usage {
                n_taken: 0,
                n_claimers: 0,
                mean_secs: None,
                last_end: Instant::now(),
            }),
            freed: Notify::new(),
        };
        Self {
            gauge: Arc::new(gauge),
            queue: Arc::default(),
        }
    }

    /// Takes a slot for a new order if one is free and no claim waits for it: a backlog is not
    /// starved by new orders.
    pub(crate) fn try_take(&self) -> Option<Slot> {
        let now = Instant::now();
        let mut usage = self.gauge.lock();
        let is_free = usage.n_claimers == 0 && self.gauge.n_free(&usage, now) > 0;
        is_free.then(|| self.gauge.take(&mut usage, now))
    }

    /// Takes a slot for a job that is here already.
    pub(crate) fn take(&self) -> Slot {
        self.gauge.take(&mut self.gauge.lock(), Instant::now())
    }

    /// Queues a job. After the end of the workers it is left to the drain, or to the end of
    /// its lease.
    pub(crate) fn send(&self, job: Job, slot: Slot) {
        let mut waiting = self.queue.lock();
        let has_room = waiting.jobs.len() < 3 * (self.gauge.workers + self.gauge.queue_len_max);
        debug_assert!(has_room, "the queue has room for three times the slots");
        if has_room {
            waiting.jobs.push_back((job, slot));
            self.queue.wake(waiting);
        }
    }

    /// Takes a job from the queue, and waits for one if there is none.
    ///
    /// # Cancel safety
    /// Safe to cancel: the job then stays in the queue, and another worker is woken for it.
    pub(crate) async fn recv(&self) -> (Job, Slot) {
        loop {
            if let Some(next) = self.queue.pop() {
                return next;
            }
            self.queue.wakes.notified().await;
            self.queue.lock().is_waking = false;
        }
    }

    /// How many jobs wait for a worker.
    pub(crate) fn n_queued(&self) -> usize {
        self.queue.lock().jobs.len()
    }

    /// Queues claimed jobs.
    pub(crate) fn hand_over(&self, jobs: Vec<Job>) {
        for job in jobs {
            self.send(job, self.take());
        }
    }

    /// Waits until a claim is worth while, and says how many jobs it may bring. No slot is
    /// taken for them: that would keep new orders from being born leased during the claim.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn wait_for_room(&self) -> usize {
        let _claimer = Claimer::new(&self.gauge);
        loop {
            let freed = self.gauge.freed.notified();
            if let Some(room) = self.gauge.room(&self.gauge.lock(), Instant::now()) {
                return room;
            }
            freed.await;
        }
    }
}

/// One job that this process holds. Dropping it frees the slot.
pub(crate) struct Slot {
    gauge: Arc<Gauge>,
    begun_at: Option<Instant>,
}

impl Slot {
    /// Begins to measure the time that the job takes.
    pub(crate) fn begin(&mut self) {
        self.begun_at = Some(Instant::now());
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut usage = self.gauge.lock();
        usage.n_taken -= 1;
        if let Some(begun_at) = self.begun_at {
            let secs = now.duration_since(begun_at).as_secs_f64();
            let mean = usage.mean_secs.unwrap_or(secs);
            let weight = if secs > mean {
                WEIGHT_OF_SLOWER
            } else {
                WEIGHT
            };
            usage.mean_secs = Some(mean + (secs - mean) * weight);
            usage.last_end = now;
        }
        let is_awaited = usage.n_claimers > 0 && self.gauge.room(&usage, now).is_some();
        drop(usage);
        if is_awaited {
            self.gauge.freed.notify_waiters();
        }
    }
}

/// How many slots there are and how many are taken.
struct Gauge {
    workers: usize,
    queue_len_max: usize,
    usage: Mutex<Usage>,
    freed: Notify,
}

struct Usage {
    n_taken: usize,
    /// Claimers that wait for room.
    n_claimers: usize,
    /// How long jobs take, in seconds; `None` before the first has ended.
    mean_secs: Option<f64>,
    /// When a job ended last, or when the first slot was taken after all had been free.
    last_end: Instant,
}

impl Gauge {
    fn take(self: &Arc<Self>, usage: &mut Usage, now: Instant) -> Slot {
        if usage.n_taken == 0 {
            usage.last_end = now;
        }
        usage.n_taken += 1;
        Slot {
            gauge: Arc::clone(self),
            begun_at: None,
        }
    }

    /// How many slots there are. Jobs that have not ended yet say that they take longer than
    /// those before.
    fn n_slots(&self, usage: &Usage, now: Instant) -> usize {
        let Some(mean) = usage.mean_secs else {
            return self.workers;
        };
        let secs = if usage.n_taken > 0 {
            mean.max(now.duration_since(usage.last_end).as_secs_f64())
        } else {
            mean
        };
        let each = Duration::try_from_secs_f64(secs).map_or(u64::MAX, nanos);
        let jobs_per_worker = nanos(HORIZON).checked_div(each).unwrap_or(u64::MAX);
        let jobs_per_worker = usize::try_from(jobs_per_worker).unwrap_or(usize::MAX);
        self.workers
            .saturating_mul(jobs_per_worker)
            .clamp(self.workers, self.workers + self.queue_len_max)
    }

    fn n_free(&self, usage: &Usage, now: Instant) -> usize {
        self.n_slots(usage, now).saturating_sub(usage.n_taken)
    }

    /// How many jobs a claim may bring; `None` while it is not worth while: a worker has
    /// nothing to do, or half of the slots are free, since a statement for each single job
    /// would cost far more than it brings.
    fn room(&self, usage: &Usage, now: Instant) -> Option<usize> {
        let refill_len = (self.n_slots(usage, now) / 2).clamp(1, CLAIM_LEN_MAX);
        let n_free = self.n_free(usage, now);
        let is_worth_while = usage.n_taken < self.workers || n_free >= refill_len;
        is_worth_while.then_some(n_free.clamp(1, CLAIM_LEN_MAX))
    }

    /// No code that can panic runs under the lock, so what it guards is still whole.
    fn lock(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A claimer that waits for room.
struct Claimer<'a>(&'a Gauge);

impl<'a> Claimer<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.lock().n_claimers += 1;
        Self(gauge)
    }
}

impl Drop for Claimer<'_> {
    fn drop(&mut self) {
        self.0.lock().n_claimers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const WORKERS: usize = 5;

    fn slots() -> Slots {
        Slots::new(WORKERS, 1_024)
    }

    /// Lets jobs of one kind run through, one after another.
    async fn run(slots: &Slots, n_jobs: usize, time: Duration) {
        for _ in 0..n_jobs {
            let mut slot = slots.take();
            slot.begin();
            advance(time).await;
        }
    }

    fn take_all(slots: &Slots) -> Vec<Slot> {
        std::iter::from_fn(|| slots.try_take()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_slot_for_each_worker_before_anything_is_known() {
        assert_eq!(take_all(&slots()).len(), WORKERS);
    }

    #[tokio::test(start_paused = true)]
    async fn process_holds_the_work_of_its_horizon() {
        for (millis, n_slots) in [
            (0, WORKERS + 1_024),
            (1, WORKERS + 1_024),
            (10, 750),
            (500, 15),
            (1_400, WORKERS),
            (60_000, WORKERS),
        ] {
            let slots = slots();
            run(&slots, 1, Duration::from_millis(millis)).await;
            assert_eq!(take_all(&slots).len(), n_slots, "{millis} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_that_become_slow_are_noticed_before_the_first_has_ended() {
        let slots = slots();
        run(&slots, 100, Duration::ZERO).await;
        let mut held = take_all(&slots);
        held.truncate(100);
        assert!(slots.try_take().is_some());

        advance(Duration::from_millis(100)).await;

        assert!(slots.try_take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_counts_for_nothing() {
        let slots = slots();
        run(&slots, 1, Duration::ZERO).await;
        advance(Duration::from_hours(1)).await;
        assert_eq!(take_all(&slots).len(), WORKERS + 1_024);
    }

    #[tokio::test(start_paused = true)]
    async fn claimer_waits_for_half_of_the_slots_and_comes_before_new_orders() {
        let slots = slots();
        run(&slots, 1, Duration::from_millis(500)).await;
        let mut held = take_all(&slots);
        let mut room = Box::pin(slots.wait_for_room());
        for _ in 0..6 {
            held.pop();
            assert_eq!((&mut room).now_or_never(), None);
            assert!(slots.try_take().is_none());
        }
        held.pop();
        assert_eq!((&mut room).now_or_never(), Some(7));
        drop(room);
        assert!(slots.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_worker_is_enough_for_a_claim() {
        let slots = slots();
        let mut held = take_all(&slots);
        assert_eq!(slots.wait_for_room().now_or_never(), None);
        held.pop();
        assert_eq!(slots.wait_for_room().now_or_never(), Some(1));
    }
}
