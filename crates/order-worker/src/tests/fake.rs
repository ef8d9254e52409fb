//! A queue in memory that follows the lease protocol on tokio's clock and fails on demand,
//! a bus that remembers, and a processor made of a closure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use order_core::{
    Attempt, Completed, Completion, Effects, Error, EventBus, Extended, Job, JobQueue, JobToken,
    Order, OrderEvent, OrderId, OrderStatus, Outcome, Processor, Start, Started, Verdict,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// The statements of a queue, for faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Statement {
    Claim,
    Extend,
    Start,
    Complete,
    Release,
}

pub(super) struct FakeJob {
    pub(super) job: Job,
    pub(super) due_at: Instant,
    pub(super) last_error: Option<String>,
    pub(super) is_buried: bool,
    pub(super) is_held: bool,
    pub(super) is_begun: bool,
}

impl FakeJob {
    fn is_current(&self, token: JobToken) -> bool {
        self.is_held && self.job.attempt == token.attempt
    }

    fn let_go(&mut self) {
        self.is_held = false;
        self.is_begun = false;
    }

    fn claim(&mut self, lease: Duration) -> Job {
        if self.is_held && !self.is_begun {
            self.job.attempts_before += 1;
        }
        self.job.attempt += 1;
        self.due_at = Instant::now() + lease;
        self.is_held = true;
        self.is_begun = false;
        self.job.clone()
    }

    fn move_to(&mut self, status: OrderStatus) -> OrderEvent {
        self.job.order.status = status;
        self.job.order.version += 1;
        self.job.order.last_event()
    }
}

pub(super) struct FakeQueue {
    jobs: Mutex<BTreeMap<OrderId, FakeJob>>,
    /// What left the queue as PROCESSED, with the attempt that did it.
    processed: Mutex<Vec<JobToken>>,
    /// How long the attempts took whose results came, as far as that was told.
    took: Mutex<Vec<Option<Duration>>>,
    away: Mutex<BTreeSet<Statement>>,
    panics: Mutex<BTreeSet<Statement>>,
    bad_rows: Mutex<BTreeSet<OrderId>>,
    bad_starts: Mutex<BTreeSet<OrderId>>,
    locked: Mutex<BTreeSet<OrderId>>,
    is_commit_open: watch::Sender<bool>,
    n_claim_statements: AtomicUsize,
    n_complete_statements: AtomicUsize,
    latencies: Mutex<BTreeMap<Statement, Duration>>,
    extend_len_max: AtomicUsize,
}

impl FakeQueue {
    pub(super) fn new() -> Self {
        Self {
            jobs: Mutex::default(),
            processed: Mutex::default(),
            took: Mutex::default(),
            away: Mutex::default(),
            panics: Mutex::default(),
            bad_rows: Mutex::default(),
            bad_starts: Mutex::default(),
            locked: Mutex::default(),
            is_commit_open: watch::Sender::new(true),
            n_claim_statements: AtomicUsize::new(0),
            n_complete_statements: AtomicUsize::new(0),
            latencies: Mutex::default(),
            extend_len_max: AtomicUsize::new(usize::MAX),
        }
    }

    /// Inserts an order; with a lease its job is born as attempt 1.
    pub(super) fn insert(&self, order: Order, lease: Option<Duration>) -> Job {
        let job = Job {
            order,
            attempt: u32::from(lease.is_some()),
            attempts_before: 0,
            trace_parent: None,
        };
        self.insert_job(&job, Instant::now() + lease.unwrap_or_default());
        if lease.is_some() {
            self.jobs().get_mut(&job.order.id).unwrap().is_held = true;
        }
        job
    }

    pub(super) fn insert_job(&self, job: &Job, due_at: Instant) {
        let fake = FakeJob {
            job: job.clone(),
            due_at,
            last_error: None,
            is_buried: false,
            is_held: false,
            is_begun: false,
        };
        self.jobs().insert(job.order.id, fake);
    }

    /// Inserts a job whose last claim ended without a result.
    pub(super) fn insert_abandoned(&self, job: &Job, is_begun: bool) {
        self.insert_job(job, Instant::now());
        let mut jobs = self.jobs();
        let fake = jobs.get_mut(&job.order.id).unwrap();
        fake.is_held = true;
        fake.is_begun = is_begun;
    }

    pub(super) fn jobs(&self) -> MutexGuard<'_, BTreeMap<OrderId, FakeJob>> {
        self.jobs.lock().unwrap()
    }

    pub(super) fn took(&self) -> Vec<Option<Duration>> {
        self.took.lock().unwrap().clone()
    }

    pub(super) fn processed(&self) -> Vec<JobToken> {
        self.processed.lock().unwrap().clone()
    }

    /// Lets another process claim the job before its lease ran out, as it looks from here
    /// after a pause.
    pub(super) fn steal(&self, order_id: OrderId) {
        let mut jobs = self.jobs();
        let fake = jobs.get_mut(&order_id).unwrap();
        fake.job.attempt += 1;
        fake.due_at = Instant::now() + Duration::from_hours(10_000);
    }

    /// Makes statements of a kind answer that the store is away, or not any longer.
    pub(super) fn set_away(&self, statements: &[Statement], is_away: bool) {
        let mut away = self.away.lock().unwrap();
        for statement in statements {
            if is_away {
                away.insert(*statement);
            } else {
                away.remove(statement);
            }
        }
    }

    /// Makes every completion of this order fail for good.
    pub(super) fn spoil(&self, order_id: OrderId) {
        self.bad_rows.lock().unwrap().insert(order_id);
    }

    /// Locks the job of this order, as another transaction would.
    pub(super) fn lock_job(&self, order_id: OrderId) {
        self.locked.lock().unwrap().insert(order_id);
    }

    /// Ends the lock.
    pub(super) fn unlock_job(&self, order_id: OrderId) {
        self.locked.lock().unwrap().remove(&order_id);
    }

    /// Makes every start of this order fail for good.
    pub(super) fn spoil_start(&self, order_id: OrderId) {
        self.bad_starts.lock().unwrap().insert(order_id);
    }

    /// Holds completions back, or lets them through.
    pub(super) fn set_commit_open(&self, is_open: bool) {
        self.is_commit_open.send_replace(is_open);
    }

    /// Makes extensions of more leases fail.
    pub(super) fn set_extend_len_max(&self, len_max: usize) {
        self.extend_len_max.store(len_max, Ordering::Relaxed);
    }

    /// Makes statements of a kind take this long.
    pub(super) fn set_latency(&self, statement: Statement, latency: Duration) {
        self.latencies.lock().unwrap().insert(statement, latency);
    }

    async fn wait_latency(&self, statement: Statement) {
        let latency = self.latencies.lock().unwrap().get(&statement).copied();
        if let Some(latency) = latency {
            sleep(latency).await;
        }
    }

    pub(super) fn n_claim_statements(&self) -> usize {
        self.n_claim_statements.load(Ordering::Relaxed)
    }

    pub(super) fn n_complete_statements(&self) -> usize {
        self.n_complete_statements.load(Ordering::Relaxed)
    }

    /// Has the next statement of a kind panic.
    pub(super) fn panic_once(&self, statement: Statement) {
        self.panics.lock().unwrap().insert(statement);
    }

    /// Whether the next statement of a kind will panic.
    pub(super) fn panics(&self, statement: Statement) -> bool {
        self.panics.lock().unwrap().contains(&statement)
    }

    fn check(&self, statement: Statement) -> Result<(), Error> {
        let panics = self.panics.lock().unwrap().remove(&statement);
        assert!(!panics, "a defect of the store");
        if self.away.lock().unwrap().contains(&statement) {
            return Err(Error::store_unavailable("connection refused"));
        }
        Ok(())
    }

    fn complete_one(&self, completion: &Completion) -> Result<Completed, Error> {
        let JobToken { order_id, .. } = completion.token;
        self.check(Statement::Complete)?;
        self.took.lock().unwrap().push(completion.took);
        if self.locked.lock().unwrap().contains(&order_id) {
            return Err(Error::request_in_progress());
        }
        if self.bad_rows.lock().unwrap().contains(&order_id) {
            return Err(Error::internal("bad row"));
        }
        let mut jobs = self.jobs();
        let Some(fake) = jobs
            .get_mut(&order_id)
            .filter(|fake| fake.is_current(completion.token))
        else {
            return Ok(Completed::Stale);
        };
        let event = match &completion.verdict {
            Verdict::Processed => {
                let event = fake.move_to(OrderStatus::Processed);
                jobs.remove(&order_id);
                self.processed.lock().unwrap().push(completion.token);
                Some(event)
            }
            Verdict::Failed(cause) => {
                fake.is_buried = true;
                fake.let_go();
                fake.job.order.failure = Some(cause.clone());
                Some(fake.move_to(OrderStatus::Failed))
            }
            Verdict::Retry {
                delay,
                error,
                is_counted,
            } => {
                fake.job.attempts_before += u32::from(!is_counted);
                fake.let_go();
                fake.due_at = Instant::now() + *delay;
                fake.last_error = Some(error.clone());
                None
            }
        };
        Ok(Completed::Applied(event))
    }
}

impl FakeQueue {
    async fn claim_where(
        &self,
        limit: usize,
        lease: Duration,
        is_wanted: impl Fn(OrderId, Instant) -> bool,
    ) -> Result<Vec<Job>, Error> {
        self.n_claim_statements.fetch_add(1, Ordering::Relaxed);
        self.wait_latency(Statement::Claim).await;
        self.check(Statement::Claim)?;
        let mut jobs = self.jobs();
        let mut due: Vec<_> = jobs
            .values_mut()
            .filter(|fake| !fake.is_buried && !fake.is_held)
            .filter(|fake| is_wanted(fake.job.order.id, fake.due_at))
            .collect();
        due.sort_by_key(|fake| fake.due_at);
        let claimed = due.into_iter().take(limit).map(|fake| fake.claim(lease));
        Ok(claimed.collect())
    }
}

#[async_trait]
impl JobQueue for FakeQueue {
    async fn claim_overdue(
        &self,
        limit: usize,
        lease: Duration,
        overdue: Duration,
    ) -> Result<Vec<Job>, Error> {
        self.claim_where(limit, lease, |_, due_at| due_at + overdue <= Instant::now())
            .await
    }

    async fn claim_hinted(
        &self,
        order_ids: &[OrderId],
        lease: Duration,
    ) -> Result<Vec<Job>, Error> {
        self.claim_where(order_ids.len(), lease, |order_id, due_at| {
            due_at <= Instant::now() && order_ids.contains(&order_id)
        })
        .await
    }

    async fn claim_abandoned(&self, lease: Duration) -> Result<Option<Job>, Error> {
        self.check(Statement::Claim)?;
        let mut jobs = self.jobs();
        let abandoned = jobs
            .values_mut()
            .filter(|fake| !fake.is_buried && fake.is_held && fake.due_at <= Instant::now());
        let first = abandoned.min_by_key(|fake| fake.due_at);
        Ok(first.map(|fake| fake.claim(lease)))
    }

    async fn extend(&self, tokens: &[JobToken], lease: Duration) -> Result<Vec<Extended>, Error> {
        self.check(Statement::Extend)?;
        if tokens.len() > self.extend_len_max.load(Ordering::Relaxed) {
            return Err(Error::store_unavailable("as planned"));
        }
        let locked = self.locked.lock().unwrap();
        let mut jobs = self.jobs();
        let extend_one = |token: &JobToken| match jobs.get_mut(&token.order_id) {
            Some(fake) if fake.is_current(*token) => {
                if locked.contains(&token.order_id) {
                    return Extended::Locked;
                }
                fake.due_at = Instant::now() + lease;
                Extended::Applied
            }
            _ => Extended::Stale,
        };
        Ok(tokens.iter().map(extend_one).collect())
    }

    async fn start(&self, starts: &[Start]) -> Vec<Result<Started, Error>> {
        self.wait_latency(Statement::Start).await;
        let start_one = |start: &Start| {
            let token = &start.token;
            self.check(Statement::Start)?;
            if self.bad_starts.lock().unwrap().contains(&token.order_id) {
                return Err(Error::internal("bad row"));
            }
            let mut jobs = self.jobs();
            let Some(fake) = jobs
                .get_mut(&token.order_id)
                .filter(|fake| fake.is_current(*token))
            else {
                return Ok(Started::Stale);
            };
            fake.is_begun |= start.counts;
            let is_new = start.moves_order && fake.job.order.status != OrderStatus::Processing;
            Ok(Started::Applied(
                is_new.then(|| fake.move_to(OrderStatus::Processing)),
            ))
        };
        starts.iter().map(start_one).collect()
    }

    async fn complete(&self, completions: &[Completion]) -> Vec<Result<Completed, Error>> {
        let mut is_open = self.is_commit_open.subscribe();
        is_open.wait_for(|is_open| *is_open).await.unwrap();
        self.n_complete_statements.fetch_add(1, Ordering::Relaxed);
        completions.iter().map(|c| self.complete_one(c)).collect()
    }

    async fn release(&self, tokens: &[JobToken]) -> Result<usize, Error> {
        self.check(Statement::Release)?;
        let mut jobs = self.jobs();
        let mut n_released = 0;
        for token in tokens {
            if let Some(fake) = jobs.get_mut(&token.order_id)
                && fake.is_current(*token)
            {
                fake.let_go();
                fake.due_at = Instant::now();
                fake.job.attempts_before += 1;
                n_released += 1;
            }
        }
        Ok(n_released)
    }
}

#[derive(Default)]
pub(super) struct FakeBus(Mutex<Vec<OrderEvent>>);

impl FakeBus {
    pub(super) fn statuses(&self) -> Vec<OrderStatus> {
        let events = self.0.lock().unwrap();
        events.iter().map(|event| event.status).collect()
    }
}

impl EventBus for FakeBus {
    fn publish(&self, events: &[OrderEvent]) {
        self.0.lock().unwrap().extend_from_slice(events);
    }
}

type Script = dyn Fn(Order, Attempt) -> BoxFuture<'static, Outcome> + Send + Sync;

/// Does what its script says and remembers the attempts it saw.
pub(super) struct FakeProcessor {
    pub(super) effects: Effects,
    pub(super) script: Box<Script>,
    pub(super) seen: Mutex<Vec<(Order, Attempt)>>,
}

impl FakeProcessor {
    /// The attempts that were begun.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(_, attempt)| attempt.clone()).collect()
    }

    /// The orders as they were handed over.
    pub(super) fn orders(&self) -> Vec<Order> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(order, _)| order.clone()).collect()
    }
}

#[async_trait]
impl Processor for FakeProcessor {
    fn effects(&self) -> Effects {
        self.effects
    }

    async fn process(&self, order: &Order, attempt: Attempt) -> Outcome {
        self.seen
            .lock()
            .unwrap()
            .push((order.clone(), attempt.clone()));
        (self.script)(order.clone(), attempt).await
    }
}
