//! Watches over tasks that must run for as long as the process does.
//!
//! A task that panics, or makes no progress for longer than it may, is started again, and the
//! process is not ready until it runs. Its owner still spawns it, stops it and waits for it: a
//! task that returns was told to.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};

use prometheus_client::encoding::EncodeLabelSet;

use crate::{
    Clock, Error,
    metrics::{Counter, Family},
};

/// A time that no step of a task takes: statements and calls of brokers have shorter limits.
pub const STEP_TIME_MAX: Duration = Duration::from_mins(2);

/// The bounds of the pause before a task is started again; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A task that was started again counts as running after this time.
const SETTLED: Duration = Duration::from_secs(2);

/// A task that ran for this long before it failed begins with the shortest pause again.
const STEADY: Duration = Duration::from_mins(1);

/// A task that can be started again.
pub struct Task {
    name: &'static str,
    step_time_max: Duration,
    run: Box<dyn Fn(Beat) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Task {
    /// A task that makes progress at least every `step_time_max` while it is busy. Each call of
    /// `run` begins it anew; what the last run left behind must be of use to the next.
    pub fn new<F>(
        name: &'static str,
        step_time_max: Duration,
        run: impl Fn(Beat) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            name,
            step_time_max,
            run: Box::new(move |beat| run(beat).boxed()),
        }
    }

    /// The same task, with other limits for its steps.
    #[must_use]
    pub fn with_step_time_max(self, step_time_max: Duration) -> Self {
        Self {
            step_time_max,
            ..self
        }
    }
}

/// The handle by which a task reports that it makes progress.
#[derive(Clone)]
pub struct Beat(Arc<Status>);

impl Beat {
    /// Begins a step of the work, which may take as long as the limit of the task.
    pub fn busy(&self) {
        let nanos = self
            .0
            .clock
            .instant()
            .duration_since(self.0.base)
            .as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.0.busy_since.store(nanos.max(1), Ordering::Relaxed);
    }

    /// Waits for work, for as long as it takes.
    pub fn idle(&self) {
        self.0.busy_since.store(0, Ordering::Relaxed);
    }
}

/// The status of a task.
struct Status {
    name: &'static str,
    step_time_max: Duration,
    clock: Arc<dyn Clock>,
    base: Instant,
    /// When the step under way began, in nanoseconds since `base`; 0: there is none.
    busy_since: AtomicU64,
    /// Whether it failed and has not run for a while since.
    is_down: AtomicBool,
}

impl Status {
    /// How long the task may still be busy; `None`: it is stuck.
    fn time_left(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed);
        if since == 0 {
            return Some(self.step_time_max);
        }
        let begun_at = self.base + Duration::from_nanos(since);
        let elapsed = self.clock.instant().saturating_duration_since(begun_at);
        self.step_time_max
            .checked_sub(elapsed)
            .filter(|t| !t.is_zero())
    }

    fn is_bad(&self) -> bool {
        self.is_down.load(Ordering::Relaxed) || self.time_left().is_none()
    }

    async fn until_stuck(&self) {
        if self.is_down.load(Ordering::Relaxed) {
            self.clock.sleep(SETTLED).await;
            self.is_down.store(false, Ordering::Relaxed);
        }
        while let Some(time_left) = self.time_left() {
            self.clock.sleep(time_left).await;
        }
    }
}

/// The tasks of a process.
pub struct Supervisor {
    clock: Arc<dyn Clock>,
    tasks: Mutex<Vec<Arc<Status>>>,
    restarts: Family<TaskLabels, Counter>,
}

/// The labels of a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TaskLabels {
    task: &'static str,
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new(clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            tasks: Mutex::default(),
            restarts: Family::default(),
        })
    }

    /// The future that runs `task` until it returns.
    ///
    /// # Cancel safety
    /// Dropping it drops the task.
    pub fn run(self: &Arc<Self>, task: Task) -> BoxFuture<'static, ()> {
        let Task {
            name,
            step_time_max,
            run,
        } = task;
        let status = Arc::new(Status {
            name,
            step_time_max,
            clock: Arc::clone(&self.clock),
            base: self.clock.instant(),
            busy_since: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
        });
        let supervisor = Arc::clone(self);
        async move {
            supervisor.lock().push(Arc::clone(&status));
            let restarts = supervisor
                .restarts
                .get_or_create_owned(&TaskLabels { task: name });
            supervise(&status, &restarts, run).await;
            supervisor.lock().retain(|task| !Arc::ptr_eq(task, &status));
        }
        .boxed()
    }

    /// How often each task was started again.
    pub fn restarts(&self) -> Family<TaskLabels, Counter> {
        self.restarts.clone()
    }

    /// How many tasks do not run, or make no progress.
    pub fn n_down(&self) -> usize {
        self.lock().iter().filter(|task| task.is_bad()).count()
    }

    /// Whether all tasks run and make progress.
    ///
    /// # Errors
    /// [`Error::ServiceUnavailable`], which names a task.
    pub fn check(&self) -> Result<(), Error> {
        let tasks = self.lock();
        match tasks.iter().find(|task| task.is_bad()) {
            Some(task) => {
                let problem = format!("the task {} does not run", task.name);
                Err(Error::service_unavailable(problem))
            }
            None => Ok(()),
        }
    }

    /// No code that can panic runs under the lock, so the list is still whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Status>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn supervise(
    status: &Arc<Status>,
    restarts: &Counter,
    run: impl Fn(Beat) -> BoxFuture<'static, ()>,
) {
    let beat = Beat(Arc::clone(status));
    let mut pause = PAUSE_MIN;
    loop {
        beat.idle();
        let begun_at = status.clock.instant();
        // Making the future may panic, too.
        let running = AssertUnwindSafe(async { run(beat.clone()).await }).catch_unwind();
        let problem = tokio::select! {
            biased;
            ended = running => match ended {
                Ok(()) => return,
                Err(_) => "panicked",
            },
            () = status.until_stuck() => "makes no progress",
        };
        status.is_down.store(true, Ordering::Relaxed);
        restarts.inc();
        if status.clock.instant().duration_since(begun_at) >= STEADY {
            pause = PAUSE_MIN;
        }
        tracing::error!(
            task = status.name,
            problem,
            ?pause,
            "task failed and is started again"
        );
        status.clock.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
