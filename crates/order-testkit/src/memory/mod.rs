//! Orders, jobs and hints in the memory of the process: the model the other stores are measured
//! by, and the store of simulations.
//!
//! It is meant to be obviously right, not fast: plain ordered maps under one lock, so the
//! same calls give the same answers in every run. Nothing outlives the process. Time is the
//! injected [`Clock`]'s.

mod admin;
mod hints;
mod job;
mod outbox;
mod tables;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    Backlog, CallContext, Change, Clock, Committed, Completed, Completion, Created,
    DeadLetterGroup, Error, Extended, IdempotencyKey, Identity, Job, JobQueue, JobToken,
    KeyOperation, NewOrder, NewTicket, Order, OrderEvent, OrderId, OrderQuery, OrderReads,
    OrderState, OrderStore, PageTokenKey, Start, Started, StoredKey, TicketGrant, UserId, Version,
};
use uuid::Uuid;

pub use self::hints::MemoryHintQueue;
use self::tables::Tables;

/// An [`OrderStore`] with its [`JobQueue`], in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
    page_token_key: PageTokenKey,
}

impl MemoryStore {
    /// An empty store whose leases run by `clock`. Claims and attempts are those of `identity`.
    pub fn new(clock: Arc<dyn Clock>, identity: Identity) -> Self {
        Self {
            clock,
            tables: Mutex::new(Tables::new(identity)),
            page_token_key: PageTokenKey::from_bytes(rand::random()),
        }
    }

    /// The tables, and the time by which the whole call counts.
    fn lock(&self) -> (MutexGuard<'_, Tables>, Timestamp) {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        (tables, self.clock.now())
    }
}

#[async_trait]
impl OrderReads for MemoryStore {
    async fn find(&self, _ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error> {
        let (tables, _) = self.lock();
        Ok(tables.find(order_id).cloned())
    }

    async fn events(
        &self,
        _ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error> {
        let (tables, _) = self.lock();
        Ok(tables.events(order_id, after, limit))
    }

    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error> {
        let (tables, _) = self.lock();
        Ok(order_ids
            .iter()
            .filter_map(|order_id| tables.state(*order_id))
            .collect())
    }

    async fn recent_states(
        &self,
        user_ids: &[UserId],
        limit_per_user: usize,
    ) -> Result<Vec<OrderState>, Error> {
        let (tables, _) = self.lock();
        let newest = |user_id: &UserId| {
            tables.list(&OrderQuery {
                user_id: Some(user_id.clone()),
                limit: limit_per_user,
                ..OrderQuery::default()
            })
        };
        Ok(user_ids
            .iter()
            .flat_map(newest)
            .filter_map(|order| tables.state(order.id))
            .collect())
    }
}

#[async_trait]
impl OrderStore for MemoryStore {
    async fn create(&self, orders: &[NewOrder]) -> Vec<Result<Created, Error>> {
        let (mut tables, now) = self.lock();
        orders.iter().map(|new| tables.create(new, now)).collect()
    }

    async fn commit(&self, changes: &[Change]) -> Vec<Result<Committed, Error>> {
        let (mut tables, now) = self.lock();
        changes
            .iter()
            .map(|change| Ok(tables.commit(change, now)))
            .collect()
    }

    async fn has_change(
        &self,
        _ctx: &CallContext,
        order_id: OrderId,
        change_id: Uuid,
    ) -> Result<bool, Error> {
        let (tables, _) = self.lock();
        Ok(tables.has_change(order_id, change_id))
    }

    async fn find_key(
        &self,
        _ctx: &CallContext,
        owner: &UserId,
        operation: KeyOperation,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredKey>, Error> {
        let (tables, _) = self.lock();
        Ok(tables.find_key(owner, operation, key))
    }

    async fn list(&self, _ctx: &CallContext, query: &OrderQuery) -> Result<Vec<Order>, Error> {
        let (tables, _) = self.lock();
        Ok(tables.list(query))
    }

    async fn put_ticket(&self, ticket: &NewTicket) -> Result<Timestamp, Error> {
        let (mut tables, now) = self.lock();
        Ok(tables.put_ticket(ticket, now))
    }

    async fn take_ticket(&self, digest: &[u8; 32]) -> Result<Option<TicketGrant>, Error> {
        let (mut tables, now) = self.lock();
        Ok(tables.take_ticket(digest, now))
    }

    async fn page_token_key(&self) -> Result<PageTokenKey, Error> {
        Ok(self.page_token_key.clone())
    }

    async fn prune(&self, limit: usize) -> Result<usize, Error> {
        let (mut tables, now) = self.lock();
        Ok(tables.prune(limit, now))
    }

    async fn dead_letters(&self, _ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        let (tables, _) = self.lock();
        Ok(tables.dead_letters())
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        let (tables, now) = self.lock();
        Ok(tables.backlog(now))
    }

    async fn confirm(&self, _ctx: &CallContext) -> Result<(), Error> {
        Ok(())
    }

    async fn check(&self, _ctx: &CallContext) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl JobQueue for MemoryStore {
    async fn claim_overdue(
        &self,
        limit: usize,
        lease: Duration,
        overdue: Duration,
    ) -> Result<Vec<Job>, Error> {
        let (mut tables, now) = self.lock();
        let due_by = now.saturating_sub(overdue).map_err(Error::internal)?;
        Ok(tables.claim(limit, lease, due_by, now))
    }

    async fn claim_hinted(
        &self,
        order_ids: &[OrderId],
        lease: Duration,
    ) -> Result<Vec<Job>, Error> {
        let (mut tables, now) = self.lock();
        let claimed = order_ids
            .iter()
            .filter_map(|order_id| tables.claim_hinted(*order_id, lease, now));
        Ok(claimed.collect())
    }

    async fn claim_abandoned(&self, lease: Duration) -> Result<Option<Job>, Error> {
        let (mut tables, now) = self.lock();
        Ok(tables.claim_abandoned(lease, now))
    }

    async fn extend(&self, tokens: &[JobToken], lease: Duration) -> Result<Vec<Extended>, Error> {
        let (mut tables, now) = self.lock();
        Ok(tokens
            .iter()
            .map(|token| tables.extend(*token, lease, now))
            .collect())
    }

    async fn start(&self, starts: &[Start]) -> Vec<Result<Started, Error>> {
        let (mut tables, now) = self.lock();
        starts
            .iter()
            .map(|start| Ok(tables.start(start, now)))
            .collect()
    }

    async fn complete(&self, completions: &[Completion]) -> Vec<Result<Completed, Error>> {
        let (mut tables, now) = self.lock();
        completions
            .iter()
            .map(|completion| Ok(tables.complete(completion, now)))
            .collect()
    }

    async fn release(&self, tokens: &[JobToken]) -> Result<usize, Error> {
        let (mut tables, now) = self.lock();
        Ok(tokens
            .iter()
            .filter(|token| tables.release(**token, now))
            .count())
    }
}

/// The time after `duration`, or the end of time.
fn later(now: Timestamp, duration: Duration) -> Timestamp {
    now.checked_add(duration).unwrap_or(Timestamp::MAX)
}
