//! A store that fails: before the work, after it, or by being slow.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    AdminStore, Backlog, CallContext, Change, ClusterState, Committed, Completed, Completion,
    Created, DeadLetterGroup, Directive, Error, Extended, IdempotencyKey, Job, JobQueue, JobToken,
    KeyOperation, NewOrder, NewTicket, Order, OrderEvent, OrderId, OrderQuery, OrderReads,
    OrderRecord, OrderState, OrderStore, PageTokenKey, ProcessId, ProcessReport, Start, Started,
    StoredKey, TicketGrant, UserId, Version,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

/// How a [`FaultStore`] fails. The default never does.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    /// Share of calls that fail without having done anything, 0.0 to 1.0.
    pub before: f64,
    /// Share of calls that are done and then fail, so that the caller cannot know, 0.0 to 1.0.
    pub after: f64,
    /// The longest time a call takes; each takes a random share of it.
    pub delay_max: Duration,
}

/// One process's view of a store that others may use too.
///
/// While it is partitioned, every call fails, as on a machine that lost its network; the
/// work that was under way goes on and finds out later.
pub struct FaultStore<S> {
    inner: Arc<S>,
    plan: FaultPlan,
    rng: Mutex<StdRng>,
    is_healed: AtomicBool,
    is_partitioned: AtomicBool,
    are_keys_busy: AtomicBool,
    n_faults: AtomicU64,
}

impl<S> FaultStore<S> {
    /// A view that fails as planned; the same seed fails the same way.
    pub fn new(inner: Arc<S>, plan: FaultPlan, seed: u64) -> Self {
        Self {
            inner,
            plan,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            is_healed: AtomicBool::new(false),
            is_partitioned: AtomicBool::new(false),
            are_keys_busy: AtomicBool::new(false),
            n_faults: AtomicU64::new(0),
        }
    }

    /// Cuts the view off, or connects it again.
    pub fn set_partitioned(&self, is_partitioned: bool) {
        self.is_partitioned.store(is_partitioned, Ordering::SeqCst);
    }

    /// Answers creates with a key as if transactions under way were storing their keys, or
    /// no longer.
    pub fn set_keys_busy(&self, are_keys_busy: bool) {
        self.are_keys_busy.store(are_keys_busy, Ordering::SeqCst);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.set_partitioned(false);
        self.set_keys_busy(false);
        self.is_healed.store(true, Ordering::SeqCst);
    }

    /// How many calls have failed on purpose.
    pub fn n_faults(&self) -> u64 {
        self.n_faults.load(Ordering::SeqCst)
    }

    fn random(&self) -> f64 {
        self.rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }

    fn fails(&self, share: f64) -> bool {
        let is_healed = self.is_healed.load(Ordering::SeqCst);
        let fails =
            self.is_partitioned.load(Ordering::SeqCst) || (!is_healed && self.random() < share);
        self.n_faults.fetch_add(u64::from(fails), Ordering::SeqCst);
        fails
    }

    async fn call<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        if !self.is_healed.load(Ordering::SeqCst) {
            tokio::time::sleep(self.plan.delay_max.mul_f64(self.random())).await;
        }
        if self.fails(self.plan.before) {
            return Err(Error::store_unavailable("injected before the work"));
        }
        let done = work.await;
        if self.fails(self.plan.after) {
            return Err(Error::store_unavailable("injected after the work"));
        }
        Ok(done)
    }

    async fn call_each<T>(
        &self,
        n: usize,
        work: impl Future<Output = Vec<Result<T, Error>>>,
    ) -> Vec<Result<T, Error>> {
        self.call(work)
            .await
            .unwrap_or_else(|error| (0..n).map(|_| Err(error.without_source())).collect())
    }
}

impl<S: OrderStore> FaultStore<S> {
    /// Creates orders while keys are busy: only those without a key get through.
    async fn create_keyless(&self, orders: &[NewOrder]) -> Vec<Result<Created, Error>> {
        let is_keyless = |order: &&NewOrder| order.key.is_none();
        let keyless: Vec<_> = orders.iter().filter(is_keyless).cloned().collect();
        let mut created = self.inner.create(&keyless).await.into_iter();
        let answer = |order: &NewOrder| match order.key {
            Some(_) => Err(Error::request_in_progress()),
            None => created
                .next()
                .unwrap_or_else(|| Err(Error::internal("an answer is missing"))),
        };
        orders.iter().map(answer).collect()
    }
}

#[async_trait]
impl<S: OrderStore> OrderReads for FaultStore<S> {
    async fn find(&self, ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error> {
        self.call(self.inner.find(ctx, order_id)).await?
    }

    async fn events(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error> {
        self.call(self.inner.events(ctx, order_id, after, limit))
            .await?
    }

    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error> {
        self.call(self.inner.states(order_ids)).await?
    }

    async fn recent_states(
        &self,
        user_ids: &[UserId],
        limit_per_user: usize,
    ) -> Result<Vec<OrderState>, Error> {
        self.call(self.inner.recent_states(user_ids, limit_per_user))
            .await?
    }
}

#[async_trait]
impl<S: OrderStore> OrderStore for FaultStore<S> {
    async fn create(&self, orders: &[NewOrder]) -> Vec<Result<Created, Error>> {
        let create = async {
            if self.are_keys_busy.load(Ordering::SeqCst) {
                self.create_keyless(orders).await
            } else {
                self.inner.create(orders).await
            }
        };
        self.call_each(orders.len(), create).await
    }

    async fn commit(&self, changes: &[Change]) -> Vec<Result<Committed, Error>> {
        self.call_each(changes.len(), self.inner.commit(changes))
            .await
    }

    async fn has_change(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        change_id: Uuid,
    ) -> Result<bool, Error> {
        self.call(self.inner.has_change(ctx, order_id, change_id))
            .await?
    }

    async fn find_key(
        &self,
        ctx: &CallContext,
        owner: &UserId,
        operation: KeyOperation,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredKey>, Error> {
        self.call(self.inner.find_key(ctx, owner, operation, key))
            .await?
    }

    async fn list(&self, ctx: &CallContext, query: &OrderQuery) -> Result<Vec<Order>, Error> {
        self.call(self.inner.list(ctx, query)).await?
    }

    async fn put_ticket(&self, ticket: &NewTicket) -> Result<Timestamp, Error> {
        self.call(self.inner.put_ticket(ticket)).await?
    }

    async fn take_ticket(&self, digest: &[u8; 32]) -> Result<Option<TicketGrant>, Error> {
        self.call(self.inner.take_ticket(digest)).await?
    }

    async fn page_token_key(&self) -> Result<PageTokenKey, Error> {
        self.call(self.inner.page_token_key()).await?
    }

    async fn prune(&self, limit: usize) -> Result<usize, Error> {
        self.call(self.inner.prune(limit)).await?
    }

    async fn dead_letters(&self, ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        self.call(self.inner.dead_letters(ctx)).await?
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        self.call(self.inner.backlog()).await?
    }

    async fn confirm(&self, ctx: &CallContext) -> Result<(), Error> {
        self.call(self.inner.confirm(ctx)).await?
    }

    async fn check(&self, ctx: &CallContext) -> Result<(), Error> {
        self.call(self.inner.check(ctx)).await?
    }
}

#[async_trait]
impl<S: JobQueue> JobQueue for FaultStore<S> {
    async fn claim_overdue(
        &self,
        limit: usize,
        lease: Duration,
        overdue: Duration,
    ) -> Result<Vec<Job>, Error> {
        self.call(self.inner.claim_overdue(limit, lease, overdue))
            .await?
    }

    async fn claim_hinted(
        &self,
        order_ids: &[OrderId],
        lease: Duration,
    ) -> Result<Vec<Job>, Error> {
        self.call(self.inner.claim_hinted(order_ids, lease)).await?
    }

    async fn claim_abandoned(&self, lease: Duration) -> Result<Option<Job>, Error> {
        self.call(self.inner.claim_abandoned(lease)).await?
    }

    async fn extend(&self, tokens: &[JobToken], lease: Duration) -> Result<Vec<Extended>, Error> {
        self.call(self.inner.extend(tokens, lease)).await?
    }

    async fn start(&self, starts: &[Start]) -> Vec<Result<Started, Error>> {
        self.call_each(starts.len(), self.inner.start(starts)).await
    }

    async fn complete(&self, completions: &[Completion]) -> Vec<Result<Completed, Error>> {
        self.call_each(completions.len(), self.inner.complete(completions))
            .await
    }

    async fn release(&self, tokens: &[JobToken]) -> Result<usize, Error> {
        self.call(self.inner.release(tokens)).await?
    }
}

#[async_trait]
impl<S: AdminStore> AdminStore for FaultStore<S> {
    async fn record(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
    ) -> Result<Option<OrderRecord>, Error> {
        self.call(self.inner.record(ctx, order_id)).await?
    }

    async fn cluster(&self, ctx: &CallContext) -> Result<ClusterState, Error> {
        self.call(self.inner.cluster(ctx)).await?
    }

    async fn report(&self, ctx: &CallContext, report: &ProcessReport) -> Result<Directive, Error> {
        self.call(self.inner.report(ctx, report)).await?
    }

    async fn set_paused(
        &self,
        ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<bool, Error> {
        self.call(self.inner.set_paused(ctx, process_id, is_paused))
            .await?
    }
}
