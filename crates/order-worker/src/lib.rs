//! Claim → process → complete: the worker pool over the [`JobQueue`](order_core::JobQueue)
//! port, the built-in [`AutoProcessor`], and the same protocol for [`RemoteWorkers`]. Beside
//! it the [`EventRelay`], which publishes what was committed.
//!
//! # The life of a job in this process
//! ```text
//!  new order ── try_reserve ── insert, born leased ──┐        jobs that are due
//!  (dispatch.rs)                                     │               │ claim (fetcher.rs)
//!                                                    ▼               ▼
//!                                         ┌── bounded local queue (WAITING) ──┐
//!                                         ▼                                   ▼
//!                                    worker 1 … worker N   RUNNING (executor.rs)
//!                                         │  effect outside? start first, durably
//!                                         │  process, give or take a panic
//!                                         ▼
//!                                    commit lanes          COMPLETING (completer.rs)
//!                                         │  one statement for all that waits
//!                                         ▼
//!                        done │ due again after a delay │ given up; then the event bus
//! ```
//! From the first box to the commit a job has one entry in the table of leases
//! (`lease.rs`), and one heartbeat (`heartbeat.rs`) extends all of them. A job leaves the
//! table early when its lease is lost: its work is dropped, and whoever claims it next
//! starts over. Nothing here is the truth: a process that dies at any point leaves rows
//! whose lease runs out, which is the same as jobs that are due.
//!
//! Where hints go through a broker (`hints.rs`), no job is born leased: the hint of a new job
//! goes to whichever process has free workers, which claims the job by its id, and the
//! fetcher only sweeps up jobs whose hints were lost.
//!
//! Workers outside this process (`remote/`) take the same way without the local queue and
//! the table: they hold their leases themselves. What an attempt means for its job is
//! decided in one place for both (`verdict.rs`).
//!
//! # What this crate must not know
//! Which database, queue or bus is behind the ports, and how orders are made. It keeps no
//! time of its own that decides a claim: the database does that. The local monotonic clock
//! only ends work early, never late, because every local lease is counted from before its
//! statement was sent.
//!
//! # Limits
//! The local queue and the results that are not committed yet are bounded by
//! [`WorkerConfig::queue_len_max`] each. How long one attempt may take is the processor's
//! business: the heartbeat keeps the lease of a slow one alive.

mod abandoned;
mod auto;
mod backoff;
mod completer;
mod dispatch;
mod ends;
mod executor;
mod fetcher;
mod heartbeat;
mod hints;
mod lease;
mod outage;
mod pause;
mod pool;
mod relay;
mod remote;
mod shared;
mod slots;
mod start;
mod stats;
#[cfg(test)]
mod tests;
mod verdict;

pub use auto::AutoProcessor;
pub use ends::EndStats;
pub use hints::HintSender;
pub use pool::{DrainReport, WorkerConfig, WorkerDeps, WorkerPool};
pub use relay::{EventRelay, EventRelayConfig, EventRelayDeps};
pub use remote::{RemoteWorkers, RemoteWorkersConfig, RemoteWorkersDeps};
pub use stats::{
    AttemptLabels, CodeLabels, DeadLetters, EventRelayStats, HintStats, RemoteWorkersStats,
    WorkerStats,
};
