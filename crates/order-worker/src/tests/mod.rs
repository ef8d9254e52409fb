//! The pool and the remote workers as a whole, on paused time, against a queue that fails on
//! demand.

mod abandoned;
mod attempts;
mod claiming;
mod completing;
mod drain;
mod ends;
mod fake;
mod hints;
mod leases;
mod paused;
mod relay;
mod remote;
mod remote_reports;
mod supervised;
mod throughput;

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use order_core::{
    Attempt, Clock, Effects, HintQueue, IdGen as _, Job, JobDispatch, JobQueue as _, Metadata,
    Money, Order, OrderId, OrderStatus, Outcome, RetryPolicy, UserId, supervisor::Supervisor,
};
use order_testkit::clock::{RuntimeClock, SeededIds, SimClock};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use self::fake::{FakeBus, FakeProcessor, FakeQueue, Statement};
use crate::{WorkerConfig, WorkerDeps, WorkerPool};

const LEASE: Duration = Duration::from_secs(30);

/// Longer than any test takes: nothing happens by polling unless a test wants it.
const NEVER: Duration = Duration::from_hours(1_000);

/// One worker that never polls; tests change what they are about.
fn config() -> WorkerConfig {
    WorkerConfig {
        workers: 1,
        queue_len_max: 100,
        lease: LEASE,
        poll_interval: NEVER,
        overdue: Duration::from_secs(2),
        attempt_timeout: None,
        retry: RetryPolicy {
            attempts_max: 3,
            ..RetryPolicy::default()
        },
        completion_lanes: 1,
    }
}

/// Runs the tasks of a pool on the clock of the runtime.
fn supervisor() -> Arc<Supervisor> {
    let clock: Arc<dyn Clock> = Arc::new(RuntimeClock::new());
    Supervisor::new(&clock)
}

/// A processor without outside effects.
fn inside<F, R>(script: F) -> FakeProcessor
where
    F: Fn(Order, Attempt) -> R + Send + Sync + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    FakeProcessor {
        effects: Effects::None,
        script: Box::new(move |order, attempt| script(order, attempt).boxed()),
        seen: Mutex::default(),
    }
}

/// A processor with outside effects.
fn outside<F, R>(script: F) -> FakeProcessor
where
    F: Fn(Order, Attempt) -> R + Send + Sync + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    FakeProcessor {
        effects: Effects::Outside,
        ..inside(script)
    }
}

fn done() -> FakeProcessor {
    inside(|_, _| async { Outcome::Done })
}

/// Never answers; counts the attempts that were dropped.
fn stuck() -> (FakeProcessor, Arc<AtomicUsize>) {
    struct CountDrop(Arc<AtomicUsize>);
    impl Drop for CountDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let n_dropped = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&n_dropped);
    let processor = inside(move |_, _| {
        let guard = CountDrop(Arc::clone(&counter));
        async move {
            let _guard = guard;
            pending().await
        }
    });
    (processor, n_dropped)
}

fn retry(error: &str, after: Option<Duration>) -> Outcome {
    Outcome::Retry {
        error: error.to_owned(),
        after,
    }
}

fn new_order(ids: &SeededIds, clock: &SimClock) -> Order {
    Order {
        id: ids.order_id(),
        user_id: UserId::parse("user-1").unwrap(),
        money: Money::parse("100", "USD").unwrap(),
        status: OrderStatus::Pending,
        version: 1,
        metadata: Metadata::NONE,
        external_id: None,
        failure: None,
        created_at: clock.now(),
        updated_at: clock.now(),
    }
}

/// A pool with everything around it.
struct Rig {
    queue: Arc<FakeQueue>,
    bus: Arc<FakeBus>,
    processor: Arc<FakeProcessor>,
    pool: WorkerPool,
    dispatch: Arc<dyn JobDispatch>,
    tracker: TaskTracker,
    clock: Arc<SimClock>,
    ids: SeededIds,
}

impl Rig {
    /// A pool that is not started yet.
    fn new(config: WorkerConfig, processor: FakeProcessor) -> Self {
        Self::with_hints(config, processor, None)
    }

    fn with_hints(
        config: WorkerConfig,
        processor: FakeProcessor,
        hints: Option<Arc<dyn HintQueue>>,
    ) -> Self {
        let queue = Arc::new(FakeQueue::new());
        let bus = Arc::new(FakeBus::default());
        let processor = Arc::new(processor);
        let clock = Arc::new(SimClock::new());
        let pool = WorkerPool::new(
            config,
            WorkerDeps {
                queue: queue.clone(),
                bus: bus.clone(),
                processor: processor.clone(),
                hints,
                clock: clock.clone(),
                supervisor: supervisor(),
            },
        );
        // As after a job that took no time: the queue has all its slots.
        pool.slots.take().begin();
        Self {
            queue,
            bus,
            processor,
            dispatch: pool.dispatch(),
            pool,
            tracker: TaskTracker::new(),
            clock,
            ids: SeededIds::new(1),
        }
    }

    /// A pool that runs and has taken its first look at the empty queue.
    async fn started(config: WorkerConfig, processor: FakeProcessor) -> Self {
        let rig = Self::new(config, processor);
        rig.pool.start(&rig.tracker);
        rig.eventually(|rig| rig.pool.stats().claims.get() == 1)
            .await;
        rig
    }

    fn order(&self) -> Order {
        new_order(&self.ids, &self.clock)
    }

    /// Creates an order as the service does: born leased if there is a place.
    fn create(&self) -> OrderId {
        let reservation = self.dispatch.try_reserve();
        let lease = reservation.as_ref().map(order_core::Reservation::lease);
        let job = self.queue.insert(self.order(), lease);
        let order_id = job.order.id;
        match reservation {
            Some(reservation) => reservation.dispatch(job),
            None => self.dispatch.notify_due(&[order_id]),
        }
        order_id
    }

    /// Inserts an order whose job is due, without a word to the pool.
    fn insert_due(&self) -> OrderId {
        self.queue.insert(self.order(), None).order.id
    }

    /// Waits until `is_true`, in simulated time.
    async fn eventually(&self, is_true: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_mins(5);
        while !is_true(self) {
            assert!(Instant::now() < deadline, "condition was never met");
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn processed(&self, n_orders: usize) {
        self.eventually(|rig| rig.queue.processed().len() == n_orders)
            .await;
        // The counters follow the commit.
        self.eventually(|rig| rig.pool.stats().processed.get() == n_orders as u64)
            .await;
    }

    /// What another process gets when it claims now.
    async fn claim_elsewhere(&self) -> Vec<Job> {
        self.queue.claim(1_000, LEASE).await.unwrap()
    }

    /// The number of attempts that were begun.
    fn n_attempts(&self) -> usize {
        self.processor.attempts().len()
    }
}
