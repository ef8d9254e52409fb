//! Gathers concurrent calls into batches: group commit.
//!
//! A few lanes share one bounded queue. A lane that is free takes everything that waits,
//! up to a limit, and flushes it in one go; there is no timer. A lone item is flushed at
//! once, and under load a batch is what arrived while the lanes were busy.
//!
//! A free lane joins those that flush only if that helps: while little is being flushed,
//! waiting would cost latency and save nothing; while much is, a second small batch would
//! cost more than it gains, so the lane waits until a full one has gathered or the others
//! are done. (The same idea
//! as group commit in databases: `DeWitt` et al., "Implementation techniques for main
//! memory database systems", SIGMOD 1984.)
//!
//! An item that waits for a lock delays its whole batch. Items that need a recently found lock are
//! therefore flushed by a separate lane.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};

use crate::{
    Clock, Deadline, Error,
    contention::{Contended, Contention, Subjects},
    metrics::{Counter, Gauge, Sizes, Steps},
    supervisor::{Beat, Task},
};

/// How long a flush may take before its lane counts as stuck: statements are bounded, and the
/// longest batch is one in which every item turns out to be locked.
pub const FLUSH_TIME_MAX: Duration = Duration::from_mins(5);

/// The most items of one flush.
pub const BATCH_LEN_MAX: usize = 512;

/// With this many items waiting, a free lane takes them at once, whatever the others do: a
/// larger batch costs hardly less per item (measured with PostgreSQL, see
/// `docs/benchmarks.md`).
const WAITING_MANY: usize = 64;

/// How wide and deep a group commit is.
#[derive(Clone, Copy, Debug)]
pub struct GroupCommitConfig {
    /// How many flushes run at the same time, at least 1.
    pub lanes: usize,
    /// How many items wait at most; one more is refused with [`Error::Overloaded`].
    pub queue_len_max: usize,
    /// While fewer items than this are being flushed, a free lane takes what waits at once.
    /// Small where a batch saves much, large where waiting costs more than it saves.
    pub overlap_below: usize,
}

/// Counters of a group commit.
#[derive(Clone, Debug, Default)]
pub struct GroupCommitStats {
    /// Items of each flush.
    pub sizes: Sizes,
    /// From the arrival of an item to the begin of its flush.
    pub waits: Steps,
    /// How long flushes take.
    pub durations: Steps,
    /// Items that wait.
    pub waiting: Gauge,
    /// Items that were refused because too many waited.
    pub refused: Counter,
}

struct Entry<T, R> {
    item: T,
    subjects: Subjects,
    deadline: Deadline,
    queued_at: Instant,
    answer: oneshot::Sender<Result<R, Error>>,
}

/// What the lanes know of each other.
struct Traffic {
    /// See [`GroupCommitConfig::overlap_below`]; at least 1.
    overlap_below: usize,
    /// Items being flushed.
    flushing: AtomicUsize,
    /// Told when a lane that holds back may look again.
    changed: Notify,
}

/// The sending side: hands items to the lanes and waits for their answers.
pub struct GroupCommit<T, R> {
    queue: mpsc::Sender<Entry<T, R>>,
    /// For what was found locked lately.
    apart: mpsc::Sender<Entry<T, R>>,
    contention: Arc<Contention>,
    clock: Arc<dyn Clock>,
    traffic: Arc<Traffic>,
    stats: Arc<GroupCommitStats>,
    close: watch::Sender<bool>,
}

/// The lanes. Their owner has a supervisor run each and waits for it: a flush that has begun
/// runs to its end, whatever becomes of the caller.
pub type Lanes = Vec<Task>;

impl<T, R> GroupCommit<T, R>
where
    T: Contended + Send + 'static,
    R: Send + 'static,
{
    /// Builds a group commit around `flush`, which gets 1 to [`BATCH_LEN_MAX`] items and
    /// answers each, in order.
    pub fn new<F>(config: GroupCommitConfig, clock: &Arc<dyn Clock>, flush: F) -> (Self, Lanes)
    where
        F: Fn(Vec<T>) -> BoxFuture<'static, Vec<Result<R, Error>>> + Send + Sync + 'static,
    {
        let (close, closed) = watch::channel(false);
        let stats = Arc::new(GroupCommitStats::default());
        let contention = Arc::new(Contention::default());
        let flush = Arc::new(flush);
        let lanes_of = |n, overlap_below: usize, is_apart| {
            let (sender, receiver) = mpsc::channel(config.queue_len_max.max(1));
            let receiver = Arc::new(Mutex::new(receiver));
            let traffic = Arc::new(Traffic {
                overlap_below: overlap_below.max(1),
                flushing: AtomicUsize::new(0),
                changed: Notify::new(),
            });
            let lane = || {
                let lane = Arc::new(Lane {
                    receiver: Arc::clone(&receiver),
                    closed: closed.clone(),
                    clock: Arc::clone(clock),
                    traffic: Arc::clone(&traffic),
                    stats: Arc::clone(&stats),
                    contention: Arc::clone(&contention),
                    is_apart,
                    flush: Arc::clone(&flush),
                });
                Task::new("commit lane", FLUSH_TIME_MAX, move |beat| {
                    Arc::clone(&lane).run(beat)
                })
            };
            let lanes: Lanes = (0..n).map(|_| lane()).collect();
            (sender, lanes, traffic)
        };
        let (queue, mut lanes, traffic) =
            lanes_of(config.lanes.max(1), config.overlap_below, false);
        let (apart, lane_apart, _) = lanes_of(1, 1, true);
        lanes.extend(lane_apart);
        let group = Self {
            queue,
            apart,
            contention,
            clock: Arc::clone(clock),
            traffic,
            stats,
            close,
        };
        (group, lanes)
    }

    /// Has `item` flushed and returns its answer.
    ///
    /// # Errors
    /// [`Error::Overloaded`] at once if the queue is full, [`Error::ShuttingDown`] after
    /// [`GroupCommit::close`], [`Error::DeadlineExceeded`] if the deadline passed before the
    /// flush began, else what the flush answered.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the answer; an item that is queued is flushed all the same.
    pub async fn submit(&self, item: T, deadline: Deadline) -> Result<R, Error> {
        self.enqueue(item, deadline)?
            .await
            .unwrap_or_else(|_| Err(lane_is_gone()))
    }

    /// Has all `items` flushed, in as few batches as possible, and returns their answers in order.
    ///
    /// # Cancel safety
    /// As for [`GroupCommit::submit`].
    pub async fn submit_all(&self, items: Vec<T>, deadline: Deadline) -> Vec<Result<R, Error>> {
        let waiting: Vec<_> = items
            .into_iter()
            .map(|item| self.enqueue(item, deadline))
            .collect();
        let mut answers = Vec::with_capacity(waiting.len());
        for answer in waiting {
            answers.push(match answer {
                Ok(answer) => answer.await.unwrap_or_else(|_| Err(lane_is_gone())),
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Refuses new items; the lanes end when what waits is flushed.
    pub fn close(&self) {
        self.close.send_replace(true);
    }

    /// Counters of the lanes.
    pub fn stats(&self) -> &GroupCommitStats {
        &self.stats
    }

    fn enqueue(
        &self,
        item: T,
        deadline: Deadline,
    ) -> Result<oneshot::Receiver<Result<R, Error>>, Error> {
        let (answer, receiver) = oneshot::channel();
        let subjects = item.subjects();
        let entry = Entry {
            item,
            subjects,
            deadline,
            queued_at: self.clock.instant(),
            answer,
        };
        let queue = if self.contention.concerns(&subjects, &*self.clock) {
            &self.apart
        } else {
            &self.queue
        };
        match queue.try_send(entry) {
            Ok(()) => {
                self.stats.waiting.inc();
                if self.queue.max_capacity() - self.queue.capacity() >= WAITING_MANY {
                    self.traffic.changed.notify_one();
                }
                Ok(receiver)
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.stats.refused.inc();
                Err(Error::overloaded())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::shutting_down()),
        }
    }
}

/// The flush ended without an answer: it panicked, or the runtime is going away. The outcome
/// is unknown, which is what an unavailable store means too.
fn lane_is_gone() -> Error {
    Error::store_unavailable("the commit lane ended before it answered")
}

impl Traffic {
    /// Takes what waits, once that is worth a flush beside those under way.
    ///
    /// What was taken is in `entries` even if the future is dropped.
    async fn take_from<E>(&self, queue: &mut mpsc::Receiver<E>, entries: &mut Vec<E>) {
        loop {
            let changed = self.changed.notified();
            let is_quiet = self.flushing.load(Ordering::Relaxed) < self.overlap_below;
            if is_quiet || queue.len() >= WAITING_MANY {
                break;
            }
            changed.await;
        }
        if queue.recv_many(entries, BATCH_LEN_MAX).await == 0 {
            return;
        }
        // Whoever woke the lane is often about to bring more. Letting the other tasks run
        // once costs a lone item about a microsecond.
        tokio::task::yield_now().await;
        while entries.len() < BATCH_LEN_MAX
            && let Ok(entry) = queue.try_recv()
        {
            entries.push(entry);
        }
    }
}

/// Items that are being flushed, until it is dropped.
struct Flushing<'a>(&'a Traffic, usize);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.flushing.fetch_sub(self.1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

struct Lane<T, R, F> {
    receiver: Arc<Mutex<mpsc::Receiver<Entry<T, R>>>>,
    closed: watch::Receiver<bool>,
    clock: Arc<dyn Clock>,
    traffic: Arc<Traffic>,
    stats: Arc<GroupCommitStats>,
    contention: Arc<Contention>,
    is_apart: bool,
    flush: Arc<F>,
}

impl<T, R, F> Lane<T, R, F>
where
    F: Fn(Vec<T>) -> BoxFuture<'static, Vec<Result<R, Error>>>,
{
    async fn run(self: Arc<Self>, beat: Beat) {
        let mut entries = Vec::with_capacity(BATCH_LEN_MAX);
        while self.take(&mut entries).await {
            beat.busy();
            let _flushing = Flushing(&self.traffic, entries.len());
            if self.is_apart {
                self.flush_firsts(&mut entries).await;
            } else {
                self.flush(&mut entries).await;
            }
            beat.idle();
        }
    }

    /// Waits for the next batch; `false` when no more will come.
    async fn take(&self, entries: &mut Vec<Entry<T, R>>) -> bool {
        let mut closed = self.closed.clone();
        // One free lane at a time waits at the queue; the others wait here.
        let mut receiver = self.receiver.lock().await;
        let is_closed = tokio::select! {
            biased;
            () = self.traffic.take_from(&mut receiver, entries) => false,
            _ = closed.wait_for(|closed| *closed) => true,
        };
        if is_closed {
            receiver.close();
            let limit = BATCH_LEN_MAX.saturating_sub(entries.len());
            receiver.recv_many(entries, limit).await;
        }
        self.traffic
            .flushing
            .fetch_add(entries.len(), Ordering::Relaxed);
        let n_taken = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        self.stats.waiting.dec_by(n_taken);
        !entries.is_empty()
    }

    /// Flushes one item for each subject. If it is still locked, it speaks for those behind it,
    /// so that a lock costs one wait however many items want what it holds.
    async fn flush_firsts(&self, entries: &mut Vec<Entry<T, R>>) {
        let mut seen = HashSet::new();
        let mut firsts: Vec<_> = entries
            .extract_if(.., |entry| {
                let subjects = || entry.subjects.iter().flatten();
                let is_first = subjects().all(|subject| !seen.contains(subject));
                seen.extend(subjects().copied());
                is_first
            })
            .collect();
        let locked = self.flush(&mut firsts).await;
        let is_locked = |entry: &mut Entry<T, R>| {
            let mut subjects = entry.subjects.iter().flatten();
            subjects.any(|subject| locked.contains(subject))
        };
        for entry in entries.extract_if(.., is_locked) {
            let _ = entry.answer.send(Err(Error::request_in_progress()));
        }
        self.flush(entries).await;
    }

    /// Flushes and answers. Returns the subjects of what was locked.
    async fn flush(&self, entries: &mut Vec<Entry<T, R>>) -> HashSet<u64> {
        let mut locked = HashSet::new();
        let now = self.clock.instant();
        let mut items = Vec::with_capacity(entries.len());
        let mut waiting = Vec::with_capacity(entries.len());
        for entry in entries.drain(..) {
            let wait = now.saturating_duration_since(entry.queued_at);
            self.stats.waits.observe(wait);
            if entry.deadline.is_expired(now) {
                // The caller is gone; work it no longer waits for is refused, not done.
                let _ = entry.answer.send(Err(Error::DeadlineExceeded));
            } else {
                items.push(entry.item);
                waiting.push((entry.answer, entry.subjects));
            }
        }
        if items.is_empty() {
            return locked;
        }
        self.stats.sizes.observe(items.len());
        let flushed = AssertUnwindSafe(async { (self.flush)(items).await }).catch_unwind();
        let flushed = flushed.await;
        let duration = self.clock.instant().saturating_duration_since(now);
        self.stats.durations.observe(duration);
        // A panic must not end the lane for ever. Nobody knows what became of the items, and
        // dropping `waiting` says just that.
        let Ok(answers) = flushed else {
            return locked;
        };
        debug_assert_eq!(answers.len(), waiting.len(), "a flush answers every item");
        for (answer, (waiting, subjects)) in answers.into_iter().zip(waiting) {
            if matches!(answer, Err(Error::RequestInProgress { .. })) {
                self.contention.note(&subjects, self.clock.instant());
                locked.extend(subjects.into_iter().flatten());
            }
            // A caller that hung up gave up its answer, nothing else.
            let _ = waiting.send(answer);
        }
        locked
    }
}
