//! The processes of the system, as they report themselves.
//!
//! Every process sends a [`ProcessReport`] every few seconds. It is stored in the database, so that
//! any process can show all of them, and is answered with a [`Directive`].

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use jiff::Timestamp;

use crate::{Backlog, Cause, Error, Violations};

/// Names a process from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(u64);

impl ProcessId {
    /// The id with this number, which must be random.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ProcessId {
    type Err = Error;

    /// Reads what `Display` writes; the error names the field `process_id`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_id);
        let rule = "must be 16 hexadecimal digits";
        number
            .map(Self)
            .ok_or_else(|| Error::invalid("process_id", rule))
    }
}

/// Who a process is, from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub id: ProcessId,
    /// The program, like `order-worker`.
    pub program: String,
    /// Where it runs: `host:pid`.
    pub place: String,
}

impl Identity {
    /// How the process is named in the record of an order: `order-worker host:pid`.
    pub fn name(&self) -> String {
        format!("{} {}", self.program, self.place)
    }
}

/// What a process says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessReport {
    /// The process.
    pub identity: Identity,
    /// The version of the program.
    pub version: String,
    /// When it was started, by its own clock.
    pub started_at: Timestamp,
    /// Its figures.
    pub figures: Figures,
}

impl ProcessReport {
    /// The time between two reports of a process.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// A process that has not reported for so long is not shown any more.
    pub const SHOWN_FOR: Duration = Duration::from_mins(1);
    /// The most processes that are shown: those that reported last.
    pub const LEN_MAX: u32 = 1_000;
    /// The longest program, place and version, in bytes.
    pub const TEXT_LEN_MAX: usize = 128;

    /// Checks the limits.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for `program`, `place`, `version` and `figures`.
    pub fn check(&self) -> Result<(), Error> {
        let mut violations = Violations::default();
        let texts = [
            ("program", &self.identity.program),
            ("place", &self.identity.place),
            ("version", &self.version),
        ];
        for (field, text) in texts {
            if !(1..=Self::TEXT_LEN_MAX).contains(&text.len()) || text.contains(char::is_control) {
                violations.push(field, "must be 1 to 128 bytes without control characters");
            }
        }
        let Figures {
            request_times,
            completion_times,
            failures,
            ..
        } = &self.figures;
        let is_bounded = |times: &Vec<u64>| times.len() <= Figures::BOUNDS.len();
        if !is_bounded(request_times)
            || !is_bounded(completion_times)
            || failures.len() > Figures::FAILURES_MAX
            || failures.keys().any(|code| code.len() > Cause::CODE_LEN_MAX)
        {
            violations.push(
                "figures",
                "must have at most 15 times and 100 failures by code",
            );
        }
        violations.finish(Some(()))
    }
}

/// The figures of a process. Counters count from its start. A figure that the program of a process
/// does not know is zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Workers.
    pub workers: u32,
    /// Workers with a job.
    pub busy: u32,
    /// Jobs that wait for a worker of the process.
    pub queued: u32,
    /// For how long the leases of the process have not been extended, in milliseconds.
    pub lag_ms: u64,
    /// Open connections over HTTP and gRPC.
    pub connections: u32,
    /// Open WebSockets and event streams.
    pub sockets: u32,
    /// Subscriptions of watchers.
    pub subscriptions: u32,
    /// Orders that were created.
    pub created: u64,
    /// Orders that became PROCESSED.
    pub processed: u64,
    /// Orders that became FAILED.
    pub failed: u64,
    /// Attempts whose jobs are retried.
    pub retried: u64,
    /// Attempts whose leases were lost.
    pub fenced: u64,
    /// Requests over HTTP.
    pub requests: u64,
    /// Requests over HTTP that were answered with a status of 500 or more.
    pub failed_requests: u64,
    /// Requests over HTTP by duration: for each bound of [`Figures::BOUNDS`] those up to it.
    pub request_times: Vec<u64>,
    /// Orders by the time from their creation to their end, in the same way.
    pub completion_times: Vec<u64>,
    /// Orders that became FAILED, by the code of the cause.
    pub failures: BTreeMap<String, u64>,
}

impl Figures {
    /// The bounds of durations, in seconds; the last one is infinite.
    pub const BOUNDS: [f64; 15] = [
        0.0005,
        0.001,
        0.002,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        1.0,
        2.0,
        5.0,
        10.0,
        f64::INFINITY,
    ];
    /// The most causes of failures in a report.
    pub const FAILURES_MAX: usize = 100;
}

/// What a process is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// Whether it claims no jobs. Those that it has claimed are finished.
    pub is_paused: bool,
}

/// A process, as the database knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessState {
    /// Its last report.
    pub report: ProcessReport,
    /// When it came, by the clock of the database.
    pub seen_at: Timestamp,
    /// Whether this process is paused.
    pub is_paused: bool,
}

/// The system at a point in time.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterState {
    /// The point in time, by the clock of the database.
    pub at: Timestamp,
    /// Whether all processes are paused.
    pub is_paused: bool,
    /// The work that waits.
    pub backlog: Backlog,
    /// The processes, by program and place.
    pub processes: Vec<ProcessState>,
}
