//! Counters for metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// What a worker pool has done since the process began.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Claim statements that were answered.
    pub claims: Counter,
    /// Jobs in the answers to those statements.
    pub claimed_jobs: Counter,
    /// Hints that came from a broker.
    pub hints: Counter,
    /// Hints among them whose jobs were not due: they came twice, or somebody was faster.
    pub idle_hints: Counter,
    /// Jobs that came from an insert, already leased, and needed no claim.
    pub born_leased: Counter,
    /// Orders that are durably PROCESSED.
    pub processed: Counter,
    /// Orders that are durably FAILED.
    pub failed: Counter,
    /// Attempts after which the job is durably due again.
    pub retried: Counter,
    /// Attempts dropped before, during or after the work because their lease was lost: to
    /// another process, to a client who cancelled the order, or to time. A result that had
    /// to be sent twice because the store committed it without an answer counts here too.
    pub fenced: Counter,
    /// Results dropped because the store did not take them before the lease ran out.
    pub dropped: Counter,
    /// Jobs given back unfinished, so that they are due at once.
    pub released: Counter,
    /// Panics of the processor, each caught and retried.
    pub panics: Counter,
    /// Heartbeat statements that were answered.
    pub heartbeats: Counter,
}

impl WorkerStats {
    /// Results that are durable.
    pub(crate) fn completed(&self) -> u64 {
        self.processed.get() + self.failed.get() + self.retried.get()
    }
}

/// What became of hints on their way to a broker since the process began.
#[derive(Debug, Default)]
pub struct HintStats {
    /// Hints the broker has taken.
    pub sent: Counter,
    /// Hints that were dropped because too many waited; the sweep finds their jobs.
    pub unsent: Counter,
}

/// What workers outside this process have done through it since it began.
#[derive(Debug, Default)]
pub struct RemoteWorkersStats {
    /// Jobs that were handed out, each with its order durably PROCESSING.
    pub leased: Counter,
    /// Results that are durable, those of exhausted jobs included.
    pub completed: Counter,
    /// Starts and results that were dropped because their token was not current.
    pub fenced: Counter,
    /// Jobs given back unfinished: by their worker, because a start failed, or because
    /// nobody was there any more to take them.
    pub released: Counter,
}

/// What the relay of events has done in this process since it began.
#[derive(Debug, Default)]
pub struct EventRelayStats {
    /// Events that the other side has, each as often as it was published.
    pub published: Counter,
    /// Calls of the outbox or the sink that failed.
    pub failures: Counter,
}
