//! Wires the parts of a worker pool and takes them down again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use order_core::{
    Clock, EventBus, HintQueue, JobDispatch, JobQueue, Processor, RetryPolicy,
    group_commit::{GroupCommitConfig, GroupCommitStats, Lanes},
    supervisor::{STEP_TIME_MAX, Supervisor, Task},
};
use tokio::{
    sync::Notify,
    time::{self, Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

use crate::{
    WorkerStats,
    completer::Completer,
    dispatch::Dispatch,
    executor::Executor,
    fetcher::Fetcher,
    heartbeat::Heartbeat,
    hints::HintFetcher,
    lease::Leases,
    pause::Pause,
    shared::{Shared, Stops},
    slots::Slots,
};

/// How long a drain waits, after its timeout, for statements that are under way. They are
/// bounded by the statement timeout of the store; this is the bound should that one fail.
const HANDOVER_TIME_MAX: Duration = Duration::from_secs(5);

/// Shorter leases would be spent on heartbeats.
const LEASE_MIN: Duration = Duration::from_millis(100);

/// More frequent polls would keep an idle process busy.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Longer than any sensible lease, poll interval or drain, and far from overflow.
const TIME_MAX: Duration = Duration::from_hours(24);

/// More jobs than anybody has memory for, and few enough for every queue used here.
const QUEUE_LEN_LIMIT: usize = 1 << 20;

/// How a pool works. A value outside the limits named here is taken as the nearest within.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// How many jobs are processed at the same time. 0: this process has no workers, claims
    /// nothing, and no job is born leased here.
    pub workers: usize,
    /// How many jobs wait for a worker at most, and how many results for their commit; 1 to
    /// 2^20. Fewer wait if jobs take long: a pool holds the work of about 1.5 s.
    pub queue_len_max: usize,
    /// How long a lease is: after a crash a job is idle for at most this long. 100 ms to
    /// 24 h.
    pub lease: Duration,
    /// How often an idle pool looks for due jobs, ±20 %; 10 ms to 24 h.
    pub poll_interval: Duration,
    /// With hints from a broker: how long a job has been due before it counts as one whose
    /// hint was lost, and is claimed without.
    pub overdue: Duration,
    /// How long an attempt may take: one that takes longer is dropped and has failed. `None`: it
    /// may take for ever.
    pub attempt_timeout: Option<Duration>,
    /// When failed attempts are repeated.
    pub retry: RetryPolicy,
    /// How many commits of results run at the same time, at least 1.
    pub completion_lanes: usize,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            workers: 5,
            queue_len_max: 1024,
            lease: Duration::from_secs(30),
            poll_interval: Duration::from_secs(1),
            overdue: Duration::from_secs(2),
            attempt_timeout: Some(Duration::from_mins(15)),
            retry: RetryPolicy::default(),
            completion_lanes: 2,
        }
    }
}

impl WorkerConfig {
    fn within_limits(self) -> Self {
        Self {
            queue_len_max: self.queue_len_max.clamp(1, QUEUE_LEN_LIMIT),
            lease: self.lease.clamp(LEASE_MIN, TIME_MAX),
            poll_interval: self.poll_interval.clamp(POLL_INTERVAL_MIN, TIME_MAX),
            ..self
        }
    }
}

/// What a pool stands on.
pub struct WorkerDeps {
    /// Where jobs are claimed and completed.
    pub queue: Arc<dyn JobQueue>,
    /// Who is told about changes.
    pub bus: Arc<dyn EventBus>,
    /// What is done with an order. Its effects are asked for once, when the pool is built.
    pub processor: Arc<dyn Processor>,
    /// A broker that brings hints about due jobs of all processes; `None` where every
    /// process asks the store.
    pub hints: Option<Arc<dyn HintQueue>>,
    /// Time, for the group commits. Leases follow tokio's clock, like all timers.
    pub clock: Arc<dyn Clock>,
    /// Runs the tasks.
    pub supervisor: Arc<Supervisor>,
}

/// What became of the jobs that a pool held when its drain began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Their results are durable.
    pub finished: u64,
    /// They were given back and are due at once; no attempt was burnt.
    pub released: u64,
    /// The store did not take them back; they are due when their leases run out.
    pub lost: u64,
}

/// The tasks of a pool, by the step of the drain that waits for them.
#[derive(Default)]
struct Tasks {
    fetching: TaskTracker,
    working: TaskTracker,
    committing: TaskTracker,
    beating: TaskTracker,
}

/// Claims jobs, processes them and commits the results.
///
/// Built by [`WorkerPool::new`], fed through [`WorkerPool::dispatch`] and by its own
/// claims, taken down by [`WorkerPool::stop_claiming`] and [`WorkerPool::drain`]. A pool
/// that is never drained leaves its jobs to the end of their leases.
pub struct WorkerPool {
    config: WorkerConfig,
    shared: Arc<Shared>,
    pub(crate) slots: Slots,
    hints: Option<Arc<dyn HintQueue>>,
    executor: Arc<Executor>,
    heartbeat: Arc<Heartbeat>,
    supervisor: Arc<Supervisor>,
    tasks: Tasks,
    /// Taken by the start.
    lanes: Mutex<Option<Lanes>>,
}

impl WorkerPool {
    /// Wires a pool. Nothing runs before [`WorkerPool::start`].
    pub fn new(config: WorkerConfig, deps: WorkerDeps) -> Self {
        let config = config.within_limits();
        let shared = Arc::new(Shared {
            queue: deps.queue,
            bus: deps.bus,
            leases: Leases::new(config.lease),
            stats: WorkerStats::default(),
            due: Notify::new(),
            stops: Stops::default(),
            pause: Pause::default(),
        });
        if config.workers == 0 {
            shared.stops.claiming.cancel();
        }
        let slots = Slots::new(config.workers, config.queue_len_max);
        let completions = GroupCommitConfig {
            lanes: config.completion_lanes,
            queue_len_max: config.queue_len_max,
            // Nobody waits for a completion, so it is never worth a small statement.
            overlap_below: 1,
        };
        let (completer, mut lanes) = Completer::new(completions, &deps.clock, &shared);
        let (executor, start_lanes) = Executor::new(
            &config,
            &deps.clock,
            &shared,
            deps.processor,
            completer,
            slots.clone(),
        );
        lanes.extend(start_lanes);
        Self {
            config,
            heartbeat: Arc::new(Heartbeat::new(&shared, &deps.clock)),
            executor: Arc::new(executor),
            shared,
            slots,
            hints: deps.hints,
            supervisor: deps.supervisor,
            tasks: Tasks::default(),
            lanes: Mutex::new(Some(lanes)),
        }
    }

    /// The way from new orders to this pool. May be used before [`WorkerPool::start`]; the
    /// jobs then wait in the local queue.
    pub fn dispatch(&self) -> Arc<dyn JobDispatch> {
        Arc::new(Dispatch {
            shared: Arc::clone(&self.shared),
            slots: self.slots.clone(),
        })
    }

    /// Spawns the tasks of the pool on `tracker`. Only the first call does anything, and it
    /// spawns nothing in a process without workers.
    pub fn start(&self, tracker: &TaskTracker) {
        let lanes = self
            .lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(lanes) = lanes.filter(|_| self.config.workers > 0) else {
            return;
        };
        for lane in lanes {
            self.spawn(tracker, &self.tasks.committing, lane);
        }
        for _ in 0..self.config.workers {
            let executor = Arc::clone(&self.executor);
            // An attempt takes as long as it may; `ATTEMPT_TIMEOUT` bounds it.
            let worker = Task::new("worker", TIME_MAX, move |_| Arc::clone(&executor).run());
            self.spawn(tracker, &self.tasks.working, worker);
        }
        let heartbeat = Arc::clone(&self.heartbeat);
        let heartbeat = Task::new("heartbeat", STEP_TIME_MAX, move |beat| {
            Arc::clone(&heartbeat).run(beat)
        });
        self.spawn(tracker, &self.tasks.beating, heartbeat);
        self.start_fetchers(tracker);
    }

    fn spawn(&self, tracker: &TaskTracker, step: &TaskTracker, task: Task) {
        tracker.spawn(step.track_future(self.supervisor.run(task)));
    }

    fn start_fetchers(&self, tracker: &TaskTracker) {
        let fetcher = Arc::new(Fetcher {
            shared: Arc::clone(&self.shared),
            slots: self.slots.clone(),
            poll_interval: self.config.poll_interval,
            overdue: match self.hints {
                Some(_) => self.config.overdue,
                None => Duration::ZERO,
            },
        });
        let fetcher = Task::new("fetcher", STEP_TIME_MAX, move |beat| {
            Arc::clone(&fetcher).run(beat)
        });
        self.spawn(tracker, &self.tasks.fetching, fetcher);
        if let Some(hints) = &self.hints {
            let (shared, slots) = (Arc::clone(&self.shared), self.slots.clone());
            let hints = Arc::clone(hints);
            let fetcher = Task::new("hint fetcher", STEP_TIME_MAX, move |beat| {
                let fetcher = HintFetcher {
                    shared: Arc::clone(&shared),
                    slots: slots.clone(),
                    hints: Arc::clone(&hints),
                    beat,
                };
                fetcher.run()
            });
            self.spawn(tracker, &self.tasks.fetching, fetcher);
        }
    }

    /// Pauses or resumes claiming: while it is paused, no place can be reserved either. What was
    /// claimed is still processed. Once it is resumed, what is due is claimed at once.
    pub fn set_paused(&self, is_paused: bool) {
        self.shared.pause.set(is_paused);
    }

    /// Ends claiming, now and for good: no place can be reserved any more either. What is
    /// queued is still processed.
    pub fn stop_claiming(&self) {
        self.shared.stops.claiming.cancel();
    }

    /// Takes the pool down: gives back what is queued, lets what is running finish within
    /// `timeout` (at most 24 h), gives back the rest, commits the results that are there,
    /// ends all tasks.
    ///
    /// After the timeout, tasks have 5 s more to end; the job of one that does not is given
    /// back all the same, and the compare-and-set of the store decides. How long giving
    /// back takes is bounded by the statement timeout of the store.
    ///
    /// # Cancel safety
    /// A drain that is dropped can be called again. Jobs it was about to give back are then
    /// due when their leases run out.
    pub async fn drain(&self, timeout: Duration) -> DrainReport {
        let deadline = Instant::now() + timeout.min(TIME_MAX);
        let Shared { stats, stops, .. } = &*self.shared;
        let finished_before = stats.completed();
        let released_before = stats.released.get();
        self.stop_claiming();
        stops.taking.cancel();

        // A claim under way first brings its jobs in, so that they are given back as well.
        let _ = timeout_at(deadline, ended(&self.tasks.fetching)).await;
        let mut n_lost = self.heartbeat.release_idle().await;
        if timeout_at(deadline, self.finish()).await.is_err() {
            self.hurry().await;
        }
        stops.beating.cancel();
        let _ = time::timeout(HANDOVER_TIME_MAX, ended(&self.tasks.beating)).await;
        n_lost += self.heartbeat.release_all().await;

        let report = DrainReport {
            finished: stats.completed() - finished_before,
            released: stats.released.get() - released_before,
            lost: n_lost,
        };
        tracing::info!(
            finished = report.finished,
            released = report.released,
            lost = report.lost,
            "worker pool drained"
        );
        report
    }

    /// Counters of the group commits, by operation.
    pub fn commits(&self) -> Vec<(&'static str, GroupCommitStats)> {
        self.executor.commits()
    }

    /// How many workers there are.
    pub fn n_workers(&self) -> usize {
        self.config.workers
    }

    /// Tells how many jobs wait for a worker of this process.
    pub fn queued(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let slots = self.slots.clone();
        move || slots.n_queued()
    }

    /// Counters of what the pool has done.
    pub fn stats(&self) -> &WorkerStats {
        &self.shared.stats
    }

    /// Waits for the running jobs, then for their results.
    async fn finish(&self) {
        ended(&self.tasks.working).await;
        self.executor.close();
        ended(&self.tasks.committing).await;
    }

    /// Drops the running jobs and gives up on results the store does not take at once.
    async fn hurry(&self) {
        self.shared.stops.running.cancel();
        if time::timeout(HANDOVER_TIME_MAX, self.finish())
            .await
            .is_err()
        {
            tracing::warn!("a processor or a statement did not end; its task is left behind");
        }
    }
}

/// Waits until no task of `tasks` is left.
async fn ended(tasks: &TaskTracker) {
    tasks.close();
    tasks.wait().await;
}
