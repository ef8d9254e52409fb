//! How workers outside this process get their jobs.

use order_core::{
    CallContext, Cause, Deadline, Error, LeaseJobs, LeasedJob, RequestId, Reservation, WorkerApi,
};

use super::*;
use crate::{EndStats, RemoteWorkers, RemoteWorkersConfig, RemoteWorkersDeps};

/// Asks for more than any test has, and does not wait.
pub(super) const ALL: LeaseJobs = LeaseJobs {
    limit: 1_000,
    lease: LEASE,
    wait: Duration::ZERO,
};

/// Asks for one job and waits as long as it may.
const ONE_PATIENTLY: LeaseJobs = LeaseJobs {
    limit: 1,
    lease: LEASE,
    wait: LeaseJobs::WAIT_MAX,
};

/// A process without workers of its own.
struct NoWorkers;

impl JobDispatch for NoWorkers {
    fn try_reserve(&self) -> Option<Reservation> {
        None
    }

    fn notify_due(&self, _: &[OrderId]) {}
}

/// Remote workers with everything around them.
pub(super) struct RemoteRig {
    pub(super) queue: Arc<FakeQueue>,
    pub(super) bus: Arc<FakeBus>,
    pub(super) clock: Arc<SimClock>,
    pub(super) remote: Arc<RemoteWorkers>,
    dispatch: Arc<dyn JobDispatch>,
    tasks: TaskTracker,
    ids: SeededIds,
}

impl RemoteRig {
    /// Never polls, and leases as often as a test likes.
    pub(super) fn new() -> Self {
        Self::counting(EndStats::default())
    }

    /// As [`Self::new`], and counts ends in `ends`.
    pub(super) fn counting(ends: EndStats) -> Self {
        let config = RemoteWorkersConfig {
            retry: config().retry,
            poll_interval: NEVER,
            lease_calls_max: 1_000,
        };
        Self::with_ends(config, ends)
    }

    pub(super) fn with(config: RemoteWorkersConfig) -> Self {
        Self::with_ends(config, EndStats::default())
    }

    fn with_ends(config: RemoteWorkersConfig, ends: EndStats) -> Self {
        let queue = Arc::new(FakeQueue::new());
        let bus = Arc::new(FakeBus::default());
        let clock = Arc::new(SimClock::new());
        let tasks = TaskTracker::new();
        let remote = RemoteWorkers::new(
            config,
            RemoteWorkersDeps {
                queue: queue.clone(),
                bus: bus.clone(),
                clock: clock.clone(),
                tasks: tasks.clone(),
                ends,
            },
        );
        Self {
            dispatch: remote.dispatch(Arc::new(NoWorkers)),
            remote: Arc::new(remote),
            queue,
            bus,
            clock,
            tasks,
            ids: SeededIds::new(1),
        }
    }

    /// Another process on the same database.
    pub(super) fn replica(&self) -> RemoteWorkers {
        RemoteWorkers::new(
            RemoteWorkersConfig {
                retry: config().retry,
                ..RemoteWorkersConfig::default()
            },
            RemoteWorkersDeps {
                queue: self.queue.clone(),
                bus: self.bus.clone(),
                clock: self.clock.clone(),
                tasks: self.tasks.clone(),
                ends: EndStats::default(),
            },
        )
    }

    /// Inserts an order whose job is due, without a word to anybody.
    pub(super) fn insert_due(&self) -> OrderId {
        let order = new_order(&self.ids, &self.clock);
        self.queue.insert(order, None).order.id
    }

    /// Inserts a job that was claimed before.
    pub(super) fn insert_claimed(&self, attempt: u32, attempts_before: u32) -> OrderId {
        let order = new_order(&self.ids, &self.clock);
        let job = Job {
            order,
            attempt,
            attempts_before,
            trace_parent: None,
        };
        self.queue.insert_job(&job, Instant::now());
        job.order.id
    }

    pub(super) async fn lease(&self, request: LeaseJobs) -> Result<Vec<LeasedJob>, Error> {
        self.remote.lease(&ctx(Deadline::NONE), request).await
    }

    /// Leases the one job there is.
    pub(super) async fn lease_one(&self) -> LeasedJob {
        let mut jobs = self.lease(ALL).await.unwrap();
        assert_eq!(jobs.len(), 1);
        jobs.remove(0)
    }

    /// A call that waits, in a task of its own.
    fn lease_patiently(&self) -> tokio::task::JoinHandle<Result<Vec<LeasedJob>, Error>> {
        let remote = Arc::clone(&self.remote);
        self.tasks
            .spawn(async move { remote.lease(&ctx(Deadline::NONE), ONE_PATIENTLY).await })
    }
}

pub(super) fn ctx(deadline: Deadline) -> CallContext {
    CallContext::new(RequestId::parse("test").unwrap(), deadline)
}

fn order_ids(jobs: &[LeasedJob]) -> Vec<OrderId> {
    jobs.iter().map(|job| job.order.id).collect()
}

#[tokio::test(start_paused = true)]
async fn leased_order_is_durably_processing() {
    let rig = RemoteRig::new();
    let order_id = rig.insert_due();

    let job = rig.lease_one().await;

    assert_eq!(job.order, rig.queue.jobs()[&order_id].job.order);
    let state = (job.order.status, job.order.version);
    assert_eq!(state, (OrderStatus::Processing, 2));
    let first = Attempt {
        number: 1,
        is_last: false,
        trace_parent: None,
    };
    assert_eq!(job.attempt, first);
    assert_eq!(rig.bus.statuses(), [OrderStatus::Processing]);
    assert_eq!(rig.remote.stats().leased.get(), 1);
    assert_eq!(rig.lease(ALL).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn job_beyond_its_last_attempt_fails_and_is_not_handed_out() {
    let rig = RemoteRig::new();
    let exhausted = rig.insert_claimed(7, 4);
    let last = rig.insert_claimed(6, 4);

    let job = rig.lease_one().await;

    assert_eq!(job.order.id, last);
    assert!(job.attempt.is_last);
    let failure = rig.queue.jobs()[&exhausted].job.order.failure.clone();
    assert_eq!(failure.unwrap().code, "ATTEMPTS_EXHAUSTED");
    assert_eq!(
        rig.bus.statuses(),
        [OrderStatus::Failed, OrderStatus::Processing]
    );
}

#[tokio::test(start_paused = true)]
async fn job_that_was_claimed_elsewhere_before_its_start_is_dropped() {
    let rig = RemoteRig::new();
    let order_id = rig.insert_due();
    rig.queue
        .set_latency(Statement::Start, Duration::from_secs(1));
    let mut leasing = Box::pin(rig.lease(ALL));
    assert!((&mut leasing).now_or_never().is_none());
    sleep(Duration::from_millis(500)).await;

    rig.queue.steal(order_id);

    assert_eq!(leasing.await.unwrap(), []);
    assert_eq!(rig.remote.stats().fenced.get(), 1);
    assert_eq!(rig.bus.statuses(), []);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_could_not_be_started_are_given_back_and_burn_no_attempt() {
    let rig = RemoteRig::new();
    rig.insert_due();
    rig.queue.set_away(&[Statement::Start], true);
    for _ in 0..5 {
        let answer = rig.lease(ALL).await;
        assert!(matches!(answer, Err(Error::StoreUnavailable { .. })));
    }

    rig.queue.set_away(&[Statement::Start], false);
    let job = rig.lease_one().await;

    assert!(!job.attempt.is_last, "still the first of its round");
    assert_eq!(rig.remote.stats().released.get(), 5);
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_caller_that_hung_up_are_given_back() {
    let rig = RemoteRig::new();
    let order_id = rig.insert_due();
    rig.queue
        .set_latency(Statement::Start, Duration::from_secs(1));

    // Hangs up before the start, then after the answer but before it was looked at.
    for pause in [Duration::from_millis(500), Duration::from_secs(2)] {
        let mut leasing = Box::pin(rig.lease(ALL));
        assert!((&mut leasing).now_or_never().is_none());
        sleep(pause).await;
        drop(leasing);
        sleep(Duration::from_secs(2)).await;
        assert!(rig.queue.jobs()[&order_id].due_at <= Instant::now());
    }

    assert_eq!(rig.remote.stats().released.get(), 2);
    assert_eq!(rig.remote.stats().leased.get(), 0);
    let job = rig.lease_one().await;
    assert_eq!(job.attempt.number, 3);
    assert!(!job.attempt.is_last, "still the first of its round");
}

#[tokio::test(start_paused = true)]
async fn waiting_call_is_woken_by_a_hint() {
    let rig = RemoteRig::new();
    let leasing = rig.lease_patiently();
    sleep(Duration::from_secs(1)).await;
    let order_id = rig.insert_due();
    let hinted_at = Instant::now();

    rig.dispatch.notify_due(&[]);

    assert_eq!(order_ids(&leasing.await.unwrap().unwrap()), [order_id]);
    assert_eq!(hinted_at.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn one_hint_wakes_as_many_waiting_calls_as_there_are_jobs() {
    let rig = RemoteRig::new();
    let calls = [(); 4].map(|()| rig.lease_patiently());
    sleep(Duration::from_secs(1)).await;
    for _ in 0..3 {
        rig.insert_due();
    }

    rig.dispatch.notify_due(&[]);
    let answers = futures_util::future::join_all(calls).await;

    let mut n_jobs: Vec<_> = answers
        .into_iter()
        .map(|jobs| jobs.unwrap().unwrap().len())
        .collect();
    n_jobs.sort_unstable();
    assert_eq!(n_jobs, [0, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn released_job_wakes_a_waiting_call() {
    let rig = RemoteRig::new();
    rig.insert_due();
    let token = rig.lease_one().await.token();
    let leasing = rig.lease_patiently();
    sleep(Duration::from_secs(1)).await;

    let released = rig.remote.release(&ctx(Deadline::NONE), vec![token]).await;

    assert_eq!(released.unwrap(), 1);
    let job = leasing.await.unwrap().unwrap().remove(0);
    assert_eq!(job.attempt.number, 2);
    assert!(!job.attempt.is_last);
}

#[tokio::test(start_paused = true)]
async fn many_waiting_calls_poll_like_one() {
    let rig = RemoteRig::with(RemoteWorkersConfig {
        poll_interval: Duration::from_secs(1),
        ..RemoteWorkersConfig::default()
    });
    let calls = [(); 50].map(|()| rig.lease_patiently());
    sleep(Duration::from_secs(10)).await;
    let n_claims = rig.queue.n_claim_statements();
    assert!((58..=63).contains(&n_claims), "{n_claims}");

    // Nobody says that it is due.
    let order_id = rig.insert_due();
    let answers = futures_util::future::join_all(calls).await;

    let jobs: Vec<_> = answers
        .into_iter()
        .flat_map(|jobs| jobs.unwrap().unwrap())
        .collect();
    assert_eq!(order_ids(&jobs), [order_id]);
}

#[tokio::test(start_paused = true)]
async fn empty_answer_comes_before_the_deadline() {
    let rig = RemoteRig::new();
    let asked_at = Instant::now();
    let deadline = Deadline::at(rig.clock.instant() + Duration::from_secs(5));

    let jobs = rig.remote.lease(&ctx(deadline), ONE_PATIENTLY).await;

    assert_eq!(jobs.unwrap(), []);
    let waited = asked_at.elapsed();
    assert!(
        waited > Duration::from_secs(4) && waited < Duration::from_secs(5),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn work_past_its_deadline_is_refused() {
    let rig = RemoteRig::new();
    rig.insert_due();
    let deadline = Deadline::at(rig.clock.instant());

    let jobs = rig.remote.lease(&ctx(deadline), ALL).await;

    assert!(matches!(jobs, Err(Error::DeadlineExceeded)));
    assert_eq!(rig.queue.n_claim_statements(), 0);
}

#[tokio::test(start_paused = true)]
async fn stop_ends_waiting_calls_at_once_and_leases_nothing_more() {
    let rig = RemoteRig::new();
    let leasing = rig.lease_patiently();
    sleep(Duration::from_secs(1)).await;
    let stopped_at = Instant::now();

    rig.remote.stop();

    let answer = leasing.await.unwrap();
    assert!(matches!(answer, Err(Error::ShuttingDown { .. })));
    assert_eq!(stopped_at.elapsed(), Duration::ZERO);
    rig.insert_due();
    let answer = rig.lease(ALL).await;
    assert!(matches!(answer, Err(Error::ShuttingDown { .. })));
    assert_eq!(rig.bus.statuses(), []);
}

#[tokio::test(start_paused = true)]
async fn one_call_too_many_is_refused() {
    let rig = RemoteRig::with(RemoteWorkersConfig {
        lease_calls_max: 2,
        ..RemoteWorkersConfig::default()
    });
    let calls = [(); 2].map(|()| rig.lease_patiently());
    sleep(Duration::from_secs(1)).await;

    let answer = rig.lease(ALL).await;

    assert!(matches!(answer, Err(Error::LimitExceeded { limit: 2, .. })));
    futures_util::future::join_all(calls).await;
    assert_eq!(rig.lease(ALL).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn start_the_store_refuses_counts_as_an_attempt() {
    let rig = RemoteRig::new();
    let order_id = rig.insert_claimed(2, 0);
    rig.queue.spoil_start(order_id);

    let jobs = rig.lease(ALL).await;

    assert_eq!(jobs.unwrap(), []);
    let failure = rig.queue.jobs()[&order_id].job.order.failure.clone();
    let cause = Cause::new("ATTEMPTS_EXHAUSTED", "an internal error occurred: bad row");
    assert_eq!(failure, Some(cause));
}

#[tokio::test]
async fn limits_are_named_in_the_error() {
    let rig = RemoteRig::new();
    let too_much = LeaseJobs {
        limit: 1_001,
        lease: Duration::ZERO,
        wait: Duration::from_secs(31),
    };

    let Err(Error::InvalidArgument { violations }) = rig.lease(too_much).await else {
        panic!("was taken");
    };

    let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["limit", "lease", "wait"]);
    assert_eq!(rig.queue.n_claim_statements(), 0);
}

/// A worker that dies with what it holds is not asked which of it it had begun.
#[tokio::test(start_paused = true)]
async fn jobs_of_a_worker_that_died_are_handed_out_one_by_one() {
    let rig = RemoteRig::with(RemoteWorkersConfig {
        retry: config().retry,
        ..RemoteWorkersConfig::default()
    });
    for _ in 0..3 {
        rig.insert_due();
    }
    for _ in 0..5 {
        let held = rig.lease(ALL).await.unwrap();
        assert_eq!(held.len(), 3);
        assert!(held.iter().all(|job| !job.attempt.is_last));
        rig.remote
            .release(
                &ctx(Deadline::NONE),
                held.iter().map(LeasedJob::token).collect(),
            )
            .await
            .unwrap();
    }
    rig.lease(ALL).await.unwrap();
    sleep(LEASE * 2).await;

    let mut alone = Vec::new();
    for _ in 0..3 {
        alone.push(rig.lease_one().await.order.id);
    }
    assert_eq!(
        alone
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        3
    );
    // Those were marked as begun; three rounds later each has had its attempts.
    for _ in 0..2 {
        sleep(LEASE * 2).await;
        for _ in 0..3 {
            rig.lease_one().await;
        }
    }
    sleep(LEASE * 2).await;
    while rig.queue.jobs().values().any(|job| !job.is_buried) {
        assert_eq!(rig.lease(ALL).await.unwrap(), []);
    }
}
