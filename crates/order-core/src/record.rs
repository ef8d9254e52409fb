//! Everything that is known about one order.

use jiff::Timestamp;

use crate::{Order, OrderEvent, ProcessId, Version};

/// The request that made an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The id of the request.
    pub request_id: Option<String>,
    /// The process that took the request from the client.
    pub gateway: Option<String>,
    /// The id of the trace of the request, if it is recorded.
    pub trace_id: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The order became PROCESSED.
    Processed,
    /// The order became FAILED.
    Failed,
    /// The attempt failed, and the job is retried.
    Retried,
    /// The lease ran out without a result: the process ended, or was cut off.
    Lost,
}

/// An attempt that has ended. Attempts of programs that recorded less have fewer fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Its number over the whole life of the job.
    pub attempt: u32,
    /// The process that ran it, and the worker outside that did the work for it.
    pub worker: Option<String>,
    /// When the work began.
    pub begun_at: Option<Timestamp>,
    /// When its end was committed.
    pub ended_at: Timestamp,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// What went wrong.
    pub error: Option<String>,
    /// When the next attempt may begin.
    pub next_at: Option<Timestamp>,
}

/// The state of the job of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It waits for a worker, since this time.
    Due(Timestamp),
    /// It waits for its retry at this time.
    Scheduled(Timestamp),
    /// A process holds it until this time.
    Leased(Timestamp),
    /// It waits for a redrive: the order is FAILED.
    Dead,
}

impl JobState {
    /// The state at `now` of a job that is due at `due_at`, or never if that is `None`.
    pub fn at(now: Timestamp, due_at: Option<Timestamp>, is_held: bool) -> Self {
        match due_at {
            None => Self::Dead,
            Some(due_at) if due_at <= now => Self::Due(due_at),
            Some(due_at) if is_held => Self::Leased(due_at),
            Some(due_at) => Self::Scheduled(due_at),
        }
    }
}

/// The job of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// The number of the last claim.
    pub attempt: u32,
    /// Claims that do not count against the current round of attempts.
    pub attempts_before: u32,
    /// Its state.
    pub state: JobState,
    /// The process that holds it, if it reports itself.
    pub holder: Option<ProcessId>,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// A version of an order that the hub of a process gave to the watchers of the order there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// The version.
    pub version: Version,
    /// When the watchers got it, by the clock of the process.
    pub at: Timestamp,
    /// How many of the watchers are clients: sockets, and streams of events.
    pub clients: u32,
    /// How many are gateways, each of which passes it on to its own clients.
    pub gateways: u32,
}

/// A push, and the process that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRecord {
    /// The process.
    pub process: String,
    /// The push.
    pub push: Push,
}

impl PushRecord {
    /// The pushes of a process.
    pub fn of(process: &str, pushes: Vec<Push>) -> Vec<Self> {
        let record = |push| Self {
            process: process.to_owned(),
            push,
        };
        pushes.into_iter().map(record).collect()
    }
}

/// Everything that is known about one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRecord {
    /// The order.
    pub order: Order,
    /// The request that made it.
    pub origin: Origin,
    /// Its events, oldest first; of a long history the newest.
    pub events: Vec<OrderEvent>,
    /// Its attempts that have ended, oldest first; of many the newest.
    pub attempts: Vec<AttemptRecord>,
    /// Its job; `None` if no work is left.
    pub job: Option<JobRecord>,
    /// Versions whose events wait to be published to a system outside. `None` if no events are
    /// published, or so many wait that these could not be found.
    pub unpublished: Option<Vec<Version>>,
    /// Its newest pushes, as far as the processes that were asked remember them.
    pub pushes: Vec<PushRecord>,
    /// How many processes were asked for pushes and did not answer.
    pub silent_processes: u32,
}

impl OrderRecord {
    /// The most events, the most attempts, and the most pushes of one process, of a record.
    pub const LEN_MAX: u32 = 200;
    /// How many events that wait to be published are searched: the oldest.
    pub const OUTBOX_READ_MAX: u32 = 10_000;
}
