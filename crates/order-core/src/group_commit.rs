//! Gathers concurrent calls into batches: group commit.
//!
//! A few lanes share one bounded queue. A lane that is free takes everything that waits,
//! up to a limit, and flushes it in one go; there is no timer. A lone item is flushed at
//! once, and under load a batch is what arrived while the lanes were busy. (The same idea
//! as group commit in databases: `DeWitt` et al., "Implementation techniques for main
//! memory database systems", SIGMOD 1984.)

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::{Clock, Deadline, Error};

/// The most items of one flush.
pub const BATCH_LEN_MAX: usize = 512;

/// How wide and deep a group commit is.
#[derive(Clone, Copy, Debug)]
pub struct GroupCommitConfig {
    /// How many flushes run at the same time, at least 1.
    pub lanes: usize,
    /// How many items wait at most; one more is refused with [`Error::Overloaded`].
    pub queue_len_max: usize,
}

/// What a group commit has done so far.
#[derive(Debug, Default)]
pub struct GroupCommitStats {
    flushes: AtomicU64,
    items: AtomicU64,
}

impl GroupCommitStats {
    /// Flushes begun.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Items in those flushes.
    pub fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }
}

struct Entry<T, R> {
    item: T,
    deadline: Deadline,
    answer: oneshot::Sender<Result<R, Error>>,
}

/// The sending side: hands items to the lanes and waits for their answers.
pub struct GroupCommit<T, R> {
    queue: mpsc::Sender<Entry<T, R>>,
    stats: Arc<GroupCommitStats>,
    close: watch::Sender<bool>,
}

/// The lanes. Each is a future that its owner spawns and waits for: a flush that has begun
/// runs to its end, whatever becomes of the caller.
pub type Lanes = Vec<BoxFuture<'static, ()>>;

impl<T, R> GroupCommit<T, R>
where
    T: Send + 'static,
    R: Send + 'static,
{
    /// Builds a group commit around `flush`, which gets 1 to [`BATCH_LEN_MAX`] items and
    /// answers each, in order.
    pub fn new<F>(config: GroupCommitConfig, clock: &Arc<dyn Clock>, flush: F) -> (Self, Lanes)
    where
        F: Fn(Vec<T>) -> BoxFuture<'static, Vec<Result<R, Error>>> + Send + Sync + 'static,
    {
        let (sender, receiver) = mpsc::channel(config.queue_len_max.max(1));
        let (close, closed) = watch::channel(false);
        let stats = Arc::new(GroupCommitStats::default());
        let receiver = Arc::new(Mutex::new(receiver));
        let flush = Arc::new(flush);
        let lanes = (0..config.lanes.max(1))
            .map(|_| {
                let lane = Lane {
                    receiver: Arc::clone(&receiver),
                    closed: closed.clone(),
                    clock: Arc::clone(clock),
                    stats: Arc::clone(&stats),
                    flush: Arc::clone(&flush),
                };
                Box::pin(lane.run()) as BoxFuture<'static, ()>
            })
            .collect();
        (
            Self {
                queue: sender,
                stats,
                close,
            },
            lanes,
        )
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

    /// Counters of what the lanes did.
    pub fn stats(&self) -> &GroupCommitStats {
        &self.stats
    }

    fn enqueue(
        &self,
        item: T,
        deadline: Deadline,
    ) -> Result<oneshot::Receiver<Result<R, Error>>, Error> {
        let (answer, receiver) = oneshot::channel();
        match self.queue.try_send(Entry {
            item,
            deadline,
            answer,
        }) {
            Ok(()) => Ok(receiver),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::overloaded()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::shutting_down()),
        }
    }
}

/// The lane ended without an answer: it panicked, or the runtime is going away. The outcome
/// is unknown, which is what an unavailable store means too.
fn lane_is_gone() -> Error {
    Error::store_unavailable("the commit lane ended before it answered")
}

struct Lane<T, R, F> {
    receiver: Arc<Mutex<mpsc::Receiver<Entry<T, R>>>>,
    closed: watch::Receiver<bool>,
    clock: Arc<dyn Clock>,
    stats: Arc<GroupCommitStats>,
    flush: Arc<F>,
}

impl<T, R, F> Lane<T, R, F>
where
    F: Fn(Vec<T>) -> BoxFuture<'static, Vec<Result<R, Error>>>,
{
    async fn run(mut self) {
        let mut entries = Vec::with_capacity(BATCH_LEN_MAX);
        while self.take(&mut entries).await {
            self.flush(&mut entries).await;
        }
    }

    /// Waits for the next batch; `false` when no more will come.
    async fn take(&mut self, entries: &mut Vec<Entry<T, R>>) -> bool {
        // One free lane at a time waits at the queue; the others wait here.
        let mut receiver = self.receiver.lock().await;
        let n_taken = tokio::select! {
            biased;
            n_taken = receiver.recv_many(entries, BATCH_LEN_MAX) => Some(n_taken),
            _ = self.closed.wait_for(|closed| *closed) => None,
        };
        let n_taken = if let Some(n_taken) = n_taken {
            n_taken
        } else {
            receiver.close();
            receiver.recv_many(entries, BATCH_LEN_MAX).await
        };
        n_taken > 0
    }

    async fn flush(&self, entries: &mut Vec<Entry<T, R>>) {
        let now = self.clock.instant();
        let mut items = Vec::with_capacity(entries.len());
        let mut waiting = Vec::with_capacity(entries.len());
        for entry in entries.drain(..) {
            if entry.deadline.is_expired(now) {
                // The caller is gone; work it no longer waits for is refused, not done.
                let _ = entry.answer.send(Err(Error::DeadlineExceeded));
            } else {
                items.push(entry.item);
                waiting.push(entry.answer);
            }
        }
        if items.is_empty() {
            return;
        }
        self.stats.flushes.fetch_add(1, Ordering::Relaxed);
        self.stats
            .items
            .fetch_add(items.len() as u64, Ordering::Relaxed);
        let answers = (self.flush)(items).await;
        debug_assert_eq!(answers.len(), waiting.len(), "a flush answers every item");
        for (answer, waiting) in answers.into_iter().zip(waiting) {
            // A caller that hung up gave up its answer, nothing else.
            let _ = waiting.send(answer);
        }
    }
}
