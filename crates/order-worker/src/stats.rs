//! Counters of this crate.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use order_core::{
    Verdict,
    metrics::{Counter, Durations, Family, Gauge},
};
use prometheus_client::encoding::EncodeLabelSet;

use crate::EndStats;

/// What a worker pool has done since the process began.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// Claim statements that were answered.
    pub claims: Counter,
    /// Jobs in the answers to those statements.
    pub claimed_jobs: Counter,
    /// Hints that came from a broker.
    pub hints: Counter,
    /// Hints among them whose jobs were not due: they came twice, or somebody was faster.
    pub idle_hints: Counter,
    /// Jobs that were claimed although hints go through a broker: their hints were lost, or late.
    pub swept: Counter,
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
    /// Attempts that took too long.
    pub timeouts: Counter,
    /// Heartbeat statements that were answered.
    pub heartbeats: Counter,
    /// When all leases were last extended, in seconds since 1970.
    pub last_heartbeat: Gauge,
    /// Attempts, by their outcome.
    pub attempts: Family<AttemptLabels, Durations>,
    /// Orders that ended, by workers outside as well.
    pub ends: EndStats,
    /// Workers that have a job.
    pub busy: Gauge,
}

impl AttemptLabels {
    /// The outcome of an attempt with this verdict.
    pub(crate) const fn of(verdict: &Verdict) -> Self {
        let outcome = match verdict {
            Verdict::Processed => "processed",
            Verdict::Failed(_) => "failed",
            Verdict::Retry { .. } => "retried",
        };
        Self { outcome }
    }
}

impl WorkerStats {
    /// Results that are durable.
    pub(crate) fn completed(&self) -> u64 {
        self.processed.get() + self.failed.get() + self.retried.get()
    }
}

/// The labels of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    /// `processed`, `failed` or `retried` as the processor said, `lost` if the lease was,
    /// `not_begun` if nothing was done, `stopped` with the process.
    pub(crate) outcome: &'static str,
}

/// The labels of an order that became FAILED.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabels {
    code: String,
}

/// Of so many codes, which processors choose, each has its own number.
const CODES_MAX: usize = 50;

/// Counts causes by their codes.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters {
    /// The numbers. Codes beyond the limit are counted as `other`.
    pub by_code: Family<CodeLabels, Counter>,
    codes: Arc<Mutex<HashSet<String>>>,
}

impl DeadLetters {
    pub(crate) fn count(&self, code: &str) {
        // No code that holds the lock can panic.
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let has_own = codes.contains(code) || codes.len() < CODES_MAX;
        let code = if has_own { code } else { "other" }.to_owned();
        codes.insert(code.clone());
        drop(codes);
        self.by_code.get_or_create(&CodeLabels { code }).inc();
    }
}

/// What became of hints on their way to a broker since the process began.
#[derive(Clone, Debug, Default)]
pub struct HintStats {
    /// Hints the broker has taken.
    pub sent: Counter,
    /// Hints that were dropped because too many waited; the sweep finds their jobs.
    pub unsent: Counter,
}

/// What workers outside this process have done through it since it began.
#[derive(Clone, Debug)]
pub struct RemoteWorkersStats {
    /// Jobs that were handed out, each with its order durably PROCESSING.
    pub leased: Counter,
    /// Results that are durable, those of exhausted jobs included, by the outcome: `processed`,
    /// `failed` or `retried`.
    pub completed: Family<AttemptLabels, Counter>,
    /// Starts and results that were dropped because their token was not current.
    pub fenced: Counter,
    /// Jobs given back unfinished: by their worker, because a start failed, or because
    /// nobody was there any more to take them.
    pub released: Counter,
}

impl Default for RemoteWorkersStats {
    fn default() -> Self {
        let completed = Family::default();
        // What has not happened yet is a zero in a scrape, and not absent.
        for outcome in ["processed", "failed", "retried"] {
            drop(completed.get_or_create(&AttemptLabels { outcome }));
        }
        Self {
            leased: Counter::default(),
            completed,
            fenced: Counter::default(),
            released: Counter::default(),
        }
    }
}

/// What the relay of events has done in this process since it began.
#[derive(Clone, Debug, Default)]
pub struct EventRelayStats {
    /// Events that the other side has, each as often as it was published.
    pub published: Counter,
    /// Calls of the outbox or the sink that failed.
    pub failures: Counter,
}
