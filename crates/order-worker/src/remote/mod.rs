//! Workers outside this process: [`WorkerApi`] over the job queue.
//!
//! Owns who may wait for jobs and for how long. The leases themselves are in the hands of
//! the workers: no table, no local queue and no heartbeat of this process knows them, so a
//! worker may lease from one replica and report to another.
//!
//! # Waiting
//! A call that finds nothing waits its turn. The first in line looks when somebody says
//! that jobs are due, and otherwise every `poll_interval`, so a process polls once per
//! interval however many workers wait.
//!
//! # Invariants
//! Statements run in tracked tasks that the callers only await: a caller that hangs up
//! never cuts between a claim and its start, and jobs that nobody is there to take are given
//! back at once.

mod desk;
mod rounds;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use order_core::{
    CallContext, Clock, Completed, Error, EventBus, JobDispatch, JobQueue, JobReport, JobToken,
    LeaseJobs, LeasedJob, OrderId, Reservation, RetryPolicy, WorkerApi,
};
use tokio::{
    sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    desk::{Desk, Handover},
    rounds::Rounds,
};
use crate::{
    EndStats, RemoteWorkersStats, abandoned::Abandoned, fetcher::POLL_JITTER, pause::Pause,
};

/// The most tokens or reports of one call.
const TOKENS_LEN_MAX: usize = LeaseJobs::LIMIT_MAX;

/// What is left of the deadline of a call when it stops waiting for jobs: time for the last
/// claim, the start and the way back of the answer.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// More frequent polls would keep an idle process busy.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// How remote workers are served. A value outside the limits named here is taken as the
/// nearest within.
#[derive(Clone, Copy, Debug)]
pub struct RemoteWorkersConfig {
    /// When failed attempts are repeated. The same for every process on a database.
    pub retry: RetryPolicy,
    /// How often this process looks for due jobs while workers wait, ±20 %; at least 10 ms.
    pub poll_interval: Duration,
    /// How many calls of [`WorkerApi::lease`] run or wait at the same time, claims for callers who
    /// have hung up included; at least 1. One more is refused with [`Error::LimitExceeded`]. A
    /// transport that gives each client its share should allow fewer.
    pub lease_calls_max: usize,
}

impl Default for RemoteWorkersConfig {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            poll_interval: Duration::from_secs(1),
            lease_calls_max: 512,
        }
    }
}

/// What remote workers stand on.
pub struct RemoteWorkersDeps {
    /// Where jobs are claimed and completed.
    pub queue: Arc<dyn JobQueue>,
    /// Who is told about changes.
    pub bus: Arc<dyn EventBus>,
    /// By which deadlines are measured. Waiting follows tokio's clock, like all timers.
    pub clock: Arc<dyn Clock>,
    /// Where statements are run. Wait for it before the database is closed.
    pub tasks: TaskTracker,
    /// Where ends of orders are counted, together with those by the workers of this process.
    pub ends: EndStats,
}

/// Serves workers outside this process.
pub struct RemoteWorkers {
    desk: Arc<Desk>,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
    poll_interval: Duration,
    places: Arc<Semaphore>,
    lease_calls_max: usize,
    /// Whoever waits for jobs on behalf of all.
    turn: Mutex<()>,
    pause: Pause,
    stopping: CancellationToken,
}

impl RemoteWorkers {
    /// Wires the parts. Runs nothing of its own.
    pub fn new(config: RemoteWorkersConfig, deps: RemoteWorkersDeps) -> Self {
        let poll_interval = config.poll_interval.max(POLL_INTERVAL_MIN);
        let lease_calls_max = config.lease_calls_max.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            desk: Arc::new(Desk {
                queue: deps.queue,
                bus: deps.bus,
                retry: config.retry,
                stats: RemoteWorkersStats::default(),
                ends: deps.ends,
                rounds: Rounds::default(),
                abandoned: Abandoned::new(poll_interval),
                due: Notify::new(),
            }),
            clock: deps.clock,
            tasks: deps.tasks,
            poll_interval,
            places: Arc::new(Semaphore::new(lease_calls_max)),
            lease_calls_max,
            turn: Mutex::new(()),
            pause: Pause::default(),
            stopping: CancellationToken::new(),
        }
    }

    /// Puts remote workers beside those of this process: new orders take the way of `local`
    /// as before, and what is due is told to both. Pass the result to the order service.
    pub fn dispatch(&self, local: Arc<dyn JobDispatch>) -> Arc<dyn JobDispatch> {
        Arc::new(DispatchToBoth {
            local,
            desk: Arc::clone(&self.desk),
        })
    }

    /// Pauses or resumes leasing: while it is paused, calls wait as if nothing was due. Jobs that
    /// were leased go on.
    pub fn set_paused(&self, is_paused: bool) {
        self.pause.set(is_paused);
    }

    /// Leases nothing any more, now and for good: calls that wait end at once with
    /// [`Error::ShuttingDown`]. Reports and releases are still taken.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Counters of what was done.
    pub fn stats(&self) -> &RemoteWorkersStats {
        &self.desk.stats
    }

    fn check_deadline(&self, ctx: &CallContext) -> Result<(), Error> {
        if ctx.deadline.is_expired(self.clock.instant()) {
            return Err(Error::DeadlineExceeded);
        }
        Ok(())
    }

    /// How long a call may wait for jobs, so that even an empty answer comes in time.
    fn patience(&self, ctx: &CallContext, wait: Duration) -> Duration {
        match ctx.deadline.remaining(self.clock.instant()) {
            Some(left) => wait.min(left.saturating_sub(ANSWER_TIME)),
            None => wait,
        }
    }

    async fn lease_or_wait(
        &self,
        request: LeaseJobs,
        place: OwnedSemaphorePermit,
        patience: Duration,
    ) -> Result<Vec<LeasedJob>, Error> {
        let end = Instant::now() + patience;
        let place = Arc::new(place);
        let mut jobs = Vec::new();
        if !self.pause.is_on() {
            // This claim answers every hint there is: jobs are committed before they are hinted.
            let _ = self.desk.due.notified().now_or_never();
            jobs = self.lease_once(request, &place).await?;
        }
        if !jobs.is_empty() {
            return Ok(jobs);
        }
        let Ok(_turn) = timeout_at(end, self.turn.lock()).await else {
            return Ok(jobs);
        };
        while jobs.is_empty() && timeout_at(end, self.due_or_poll()).await.is_ok() {
            jobs = self.lease_once(request, &place).await?;
        }
        Ok(jobs)
    }

    /// Waits for a reason to look for jobs; the end of a pause is one.
    async fn due_or_poll(&self) {
        let poll = self.poll_interval.mul_f64(rand::random_range(POLL_JITTER));
        tokio::select! {
            () = self.desk.due.notified() => {}
            () = sleep(poll) => {}
            () = self.pause.begun() => {}
        }
        self.pause.over().await;
    }

    /// Leases once. The task keeps the caller's place until it is done, so that callers who
    /// hang up cannot run more of them than there are places.
    async fn lease_once(
        &self,
        request: LeaseJobs,
        place: &Arc<OwnedSemaphorePermit>,
    ) -> Result<Vec<LeasedJob>, Error> {
        let (answer, answered) = oneshot::channel();
        let desk = Arc::clone(&self.desk);
        let place = Arc::clone(place);
        self.tasks.spawn(async move {
            desk.lease(request, answer).await;
            drop(place);
        });
        let Handover { jobs, taken } = answered.await.unwrap_or_else(|_| Err(task_is_gone()))?;
        // Nothing is awaited from here on, so the jobs are the caller's.
        self.stats().leased.inc_by(jobs.len() as u64);
        let _ = taken.send(());
        Ok(jobs)
    }

    /// Runs a statement to its end, whatever becomes of the caller.
    async fn run<T, F>(&self, statement: impl FnOnce(Arc<Desk>) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let task = self.tasks.spawn(statement(Arc::clone(&self.desk)));
        task.await.map_err(|_| task_is_gone())
    }
}

#[async_trait]
impl WorkerApi for RemoteWorkers {
    async fn lease(&self, ctx: &CallContext, request: LeaseJobs) -> Result<Vec<LeasedJob>, Error> {
        request.check()?;
        self.check_deadline(ctx)?;
        let places = Arc::clone(&self.places);
        let place = places
            .try_acquire_owned()
            .map_err(|_| Error::LimitExceeded {
                what: "concurrent lease calls".to_owned(),
                limit: self.lease_calls_max as u64,
            })?;
        let patience = self.patience(ctx, request.wait);
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(Error::shutting_down()),
            jobs = self.lease_or_wait(request, place, patience) => jobs,
        }
    }

    async fn heartbeat(
        &self,
        ctx: &CallContext,
        tokens: Vec<JobToken>,
        lease: Duration,
    ) -> Result<Vec<JobToken>, Error> {
        check_len("tokens", tokens.len())?;
        let as_leased = LeaseJobs {
            limit: tokens.len(),
            lease,
            wait: Duration::ZERO,
        };
        as_leased.check()?;
        self.check_deadline(ctx)?;
        self.run(|desk| async move { desk.extend(&tokens, lease).await })
            .await?
    }

    async fn report(
        &self,
        ctx: &CallContext,
        reports: Vec<JobReport>,
    ) -> Result<Vec<Result<Completed, Error>>, Error> {
        check_len("reports", reports.len())?;
        self.check_deadline(ctx)?;
        let trace_parent = ctx.trace_parent.clone();
        self.run(|desk| async move { desk.report(trace_parent, reports).await })
            .await
    }

    async fn release(&self, ctx: &CallContext, tokens: Vec<JobToken>) -> Result<usize, Error> {
        check_len("tokens", tokens.len())?;
        self.check_deadline(ctx)?;
        self.run(|desk| async move { desk.release(&tokens).await })
            .await?
    }
}

/// Tells the workers of this process and those outside of due jobs.
struct DispatchToBoth {
    local: Arc<dyn JobDispatch>,
    desk: Arc<Desk>,
}

impl JobDispatch for DispatchToBoth {
    fn try_reserve(&self) -> Option<Reservation> {
        self.local.try_reserve()
    }

    fn notify_due(&self, order_ids: &[OrderId]) {
        self.local.notify_due(order_ids);
        self.desk.due.notify_one();
    }
}

fn check_len(field: &str, len: usize) -> Result<(), Error> {
    if (1..=TOKENS_LEN_MAX).contains(&len) {
        return Ok(());
    }
    let rule = format!("must have 1 to {TOKENS_LEN_MAX} elements");
    Err(Error::invalid(field, rule))
}

/// The task ended without an answer: it panicked, or the runtime is going away. The outcome
/// is unknown, which is what an unavailable store means too.
fn task_is_gone() -> Error {
    Error::store_unavailable("the task ended before it answered")
}
