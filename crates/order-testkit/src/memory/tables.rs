//! The tables and what each element of a call does to them. Every method is one
//! transaction: it changes everything it should or nothing.

mod backlog;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use order_core::{
    Cause, Change, Committed, Completed, Completion, Created, Error, Extended, IdempotencyKey,
    Identity, Insertion, Job, JobEffect, JobToken, KeyClaim, KeyOperation, Listing, NewOrder,
    NewTicket, Order, OrderEvent, OrderId, OrderQuery, OrderState, OrderStatus, Start, Started,
    StoredKey, TicketGrant, TraceParent, UserId, Verdict, Version,
};
use uuid::Uuid;

use self::record::Records;
use super::{admin::Processes, job::JobRow, later, outbox::Outbox};

pub(super) struct Tables {
    orders: BTreeMap<OrderId, Order>,
    /// Where the requests that made orders are in sampled traces.
    traces: BTreeMap<OrderId, TraceParent>,
    jobs: BTreeMap<OrderId, JobRow>,
    /// Every event from version 1 on, in order.
    events: BTreeMap<OrderId, Vec<OrderEvent>>,
    /// The events by which reports of attempts ended orders.
    ends: BTreeMap<(OrderId, u32), OrderEvent>,
    /// The changes that were named.
    change_ids: BTreeSet<(OrderId, Uuid)>,
    keys: BTreeMap<KeyId, Expiring<StoredKey>>,
    tickets: BTreeMap<[u8; 32], Expiring<TicketGrant>>,
    pub(super) outbox: Outbox,
    records: Records,
    pub(super) processes: Processes,
}

/// Whose key it is, what it was used for, and the key.
type KeyId = (UserId, KeyOperation, IdempotencyKey);

/// What may be removed from a point in time on.
struct Expiring<T> {
    value: T,
    expires_at: Timestamp,
}

impl<T> Expiring<T> {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }
}

/// Removes up to `limit` rows that have expired and returns how many.
fn prune<K: Ord + Clone, T>(
    rows: &mut BTreeMap<K, Expiring<T>>,
    limit: usize,
    now: Timestamp,
) -> usize {
    let expired = rows.iter().filter(|(_, row)| row.is_expired(now));
    let expired: Vec<K> = expired.take(limit).map(|(key, _)| key.clone()).collect();
    for key in &expired {
        rows.remove(key);
    }
    expired.len()
}

/// Whether an order passes all filters of a query.
fn is_wanted(query: &OrderQuery, order: &Order) -> bool {
    fn passes<T>(filter: Option<&T>, passes: impl FnOnce(&T) -> bool) -> bool {
        filter.is_none_or(passes)
    }
    let external_id = order.external_id.as_ref();
    passes(query.after.as_ref(), |after| order.id > *after)
        && passes(query.before.as_ref(), |before| order.id < *before)
        && passes(query.user_id.as_ref(), |user| order.user_id == *user)
        && passes(query.external_id.as_ref(), |id| external_id == Some(id))
        && passes(query.created_after.as_ref(), |time| {
            order.created_at > *time
        })
        && passes(query.created_before.as_ref(), |time| {
            order.created_at < *time
        })
        && (query.statuses.is_empty() || query.statuses.contains(&order.status))
}

impl Tables {
    /// Empty tables, in which claims are those of `identity`.
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            orders: BTreeMap::new(),
            traces: BTreeMap::new(),
            jobs: BTreeMap::new(),
            events: BTreeMap::new(),
            ends: BTreeMap::new(),
            change_ids: BTreeSet::new(),
            keys: BTreeMap::new(),
            tickets: BTreeMap::new(),
            outbox: Outbox::default(),
            records: Records::new(identity),
            processes: Processes::default(),
        }
    }

    pub(super) fn create(&mut self, new: &NewOrder, now: Timestamp) -> Result<Created, Error> {
        if let Some(created) = self.find_same(new) {
            return created;
        }
        let order = Order {
            id: new.id,
            user_id: new.user_id.clone(),
            money: new.money,
            status: OrderStatus::Pending,
            version: 1,
            metadata: new.metadata.clone(),
            external_id: new.external_id.clone(),
            failure: None,
            created_at: now,
            updated_at: now,
        };
        let mut job = JobRow::new(0, now);
        if let Some(lease) = new.lease {
            job.claim(later(now, lease));
        }
        self.jobs.insert(order.id, job);
        let trace = new.trace_parent.clone();
        self.traces.extend(trace.map(|trace| (order.id, trace)));
        self.records.create(new);
        self.append_event(order.last_event());
        self.orders.insert(order.id, order.clone());
        if let Some(claim) = &new.key {
            self.store_key(claim, order.id, now);
        }
        Ok(Created {
            order,
            insertion: Insertion::New,
        })
    }

    /// The answer to a create that meets what is stored already: its key, its id, or its
    /// external id.
    fn find_same(&self, new: &NewOrder) -> Option<Result<Created, Error>> {
        if let Some(claim) = &new.key
            && let Some(stored) = self.find_key(&claim.owner, claim.operation, &claim.key)
        {
            let order = self.find(stored.order_id)?.as_created();
            let insertion = if order.id == new.id {
                Insertion::SameId
            } else {
                Insertion::SameKey
            };
            let same = stored.check(claim.fingerprint);
            return Some(same.map(|()| Created { order, insertion }));
        }
        if let Some(order) = self.find(new.id) {
            return Some(if order.is_same_request(new) {
                Ok(Created {
                    order: order.clone(),
                    insertion: Insertion::SameId,
                })
            } else {
                Err(Error::OrderAlreadyExists { order_id: new.id })
            });
        }
        let external_id = new.external_id.as_ref()?;
        let has_it = |order: &&Order| {
            order.user_id == new.user_id && order.external_id.as_ref() == Some(external_id)
        };
        let order = self.orders.values().find(has_it)?;
        Some(Err(Error::ExternalIdTaken {
            external_id: external_id.clone(),
            order_id: order.id,
        }))
    }

    fn store_key(&mut self, claim: &KeyClaim, order_id: OrderId, now: Timestamp) {
        let id = (claim.owner.clone(), claim.operation, claim.key.clone());
        let row = Expiring {
            value: StoredKey {
                fingerprint: claim.fingerprint,
                order_id,
            },
            expires_at: later(now, claim.retention),
        };
        self.keys.insert(id, row);
    }

    /// A key counts as long as it is there, expired or not: it is kept at least so long.
    pub(super) fn find_key(
        &self,
        owner: &UserId,
        operation: KeyOperation,
        key: &IdempotencyKey,
    ) -> Option<StoredKey> {
        let id = (owner.clone(), operation, key.clone());
        self.keys.get(&id).map(|row| row.value)
    }

    pub(super) fn put_ticket(&mut self, ticket: &NewTicket, now: Timestamp) -> Timestamp {
        let expires_at = later(now, ticket.lifetime);
        let row = Expiring {
            value: ticket.grant.clone(),
            expires_at,
        };
        self.tickets.insert(ticket.digest, row);
        expires_at
    }

    pub(super) fn take_ticket(&mut self, digest: &[u8; 32], now: Timestamp) -> Option<TicketGrant> {
        let row = self.tickets.remove(digest)?;
        (!row.is_expired(now)).then_some(row.value)
    }

    pub(super) fn prune(&mut self, limit: usize, now: Timestamp) -> usize {
        prune(&mut self.keys, limit, now) + prune(&mut self.tickets, limit, now)
    }

    pub(super) fn commit(&mut self, change: &Change, now: Timestamp) -> Committed {
        let is_expected = |order: &Order| order.version == change.expected_version;
        if !self.find(change.order_id).is_some_and(is_expected) {
            return Committed::Stale;
        }
        if let Some(claim) = &change.key {
            let stored = self.find_key(&claim.owner, claim.operation, &claim.key);
            if stored.is_some() {
                return Committed::Stale;
            }
            self.store_key(claim, change.order_id, now);
        }
        match change.job {
            JobEffect::Keep => {}
            JobEffect::Delete => {
                self.jobs.remove(&change.order_id);
            }
            JobEffect::Bury => {
                if let Some(job) = self.jobs.get_mut(&change.order_id) {
                    job.let_go(None);
                    job.last_error = change.cause.as_ref().map(|cause| cause.message.clone());
                }
            }
            JobEffect::Requeue => {
                let old = self.jobs.get(&change.order_id);
                let job = JobRow {
                    retried: old.and_then(|job| job.retried),
                    ..JobRow::new(old.map_or(0, |job| job.attempt), now)
                };
                self.jobs.insert(change.order_id, job);
            }
        }
        let change_id = change.id.map(|id| (change.order_id, id));
        self.change_ids.extend(change_id);
        match self.advance(change.order_id, change.status, change.cause.clone(), now) {
            Some((order, event)) => Committed::Applied {
                order: Box::new(order),
                event,
            },
            None => Committed::Stale,
        }
    }

    pub(super) fn has_change(&self, order_id: OrderId, change_id: Uuid) -> bool {
        self.change_ids.contains(&(order_id, change_id))
    }

    /// Moves an order to its next version.
    fn advance(
        &mut self,
        order_id: OrderId,
        status: OrderStatus,
        cause: Option<Cause>,
        now: Timestamp,
    ) -> Option<(Order, OrderEvent)> {
        let order = self.orders.get_mut(&order_id)?;
        order.status = status;
        order.version += 1;
        order.updated_at = order.updated_at.max(now);
        order.failure = cause.clone().filter(|_| status == OrderStatus::Failed);
        let event = OrderEvent {
            cause,
            ..order.last_event()
        };
        let order = order.clone();
        self.append_event(event.clone());
        Some((order, event))
    }

    fn append_event(&mut self, event: OrderEvent) {
        self.outbox.keep(OrderEvent {
            trace_parent: self.traces.get(&event.order_id).cloned(),
            ..event.clone()
        });
        self.events.entry(event.order_id).or_default().push(event);
    }

    pub(super) fn find(&self, order_id: OrderId) -> Option<&Order> {
        self.orders.get(&order_id)
    }

    /// The status of an order, with its cause.
    pub(super) fn state(&self, order_id: OrderId) -> Option<OrderState> {
        let last = self.events.get(&order_id)?.last()?.clone();
        Some(OrderState {
            order_id,
            user_id: last.user_id,
            version: last.version,
            status: last.status,
            updated_at: last.at,
            cause: last.cause,
        })
    }

    pub(super) fn list(&self, query: &OrderQuery) -> Vec<Order> {
        let mut listing = Listing::new(query);
        let mut wanted = self.orders.values().rev();
        while listing.n_missing() > 0
            && let Some(order) = wanted.find(|order| is_wanted(query, order))
        {
            listing.push(order.clone());
        }
        listing.into_orders()
    }

    pub(super) fn events(
        &self,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Vec<OrderEvent> {
        self.events
            .get(&order_id)
            .into_iter()
            .flatten()
            .filter(|event| event.version > after)
            .take(limit)
            .cloned()
            .collect()
    }

    /// Claims free jobs that have been due since `due_by`, the longest due
    /// first.
    pub(super) fn claim(
        &mut self,
        limit: usize,
        lease: Duration,
        due_by: Timestamp,
        now: Timestamp,
    ) -> Vec<Job> {
        let due = self.due(due_by, |job| !job.is_held);
        due.into_iter()
            .take(limit)
            .filter_map(|order_id| self.claim_one(order_id, lease, now))
            .collect()
    }

    /// Claims the longest due job that a claim still holds.
    pub(super) fn claim_abandoned(&mut self, lease: Duration, now: Timestamp) -> Option<Job> {
        let order_id = *self.due(now, |job| job.is_held).first()?;
        self.claim_one(order_id, lease, now)
    }

    /// Claims a job if it is due and free.
    pub(super) fn claim_hinted(
        &mut self,
        order_id: OrderId,
        lease: Duration,
        now: Timestamp,
    ) -> Option<Job> {
        let job = self.jobs.get(&order_id)?;
        let is_free = job.due_at? <= now && !job.is_held;
        is_free.then(|| self.claim_one(order_id, lease, now))?
    }

    /// The jobs that have been due since `due_by`, the longest due first.
    fn due(&self, due_by: Timestamp, is_wanted: impl Fn(&JobRow) -> bool) -> Vec<OrderId> {
        let mut due: Vec<(Option<Timestamp>, OrderId)> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.due_at.is_some_and(|at| at <= due_by) && is_wanted(job))
            .map(|(order_id, job)| (job.due_at, *order_id))
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, order_id)| order_id).collect()
    }

    fn claim_one(&mut self, order_id: OrderId, lease: Duration, now: Timestamp) -> Option<Job> {
        let order = self.orders.get(&order_id)?.clone();
        let job = self.jobs.get_mut(&order_id)?;
        self.records.claim(order_id, job, &self.processes, now);
        job.claim(later(now, lease));
        Some(Job {
            order,
            attempt: job.attempt,
            attempts_before: job.attempts_before,
            trace_parent: self.traces.get(&order_id).cloned(),
        })
    }

    /// The job of a token, if the token is the current one.
    fn current(&mut self, token: JobToken) -> Option<&mut JobRow> {
        self.jobs
            .get_mut(&token.order_id)
            .filter(|job| job.is_current(token.attempt))
    }

    pub(super) fn extend(&mut self, token: JobToken, lease: Duration, now: Timestamp) -> Extended {
        let Some(job) = self.current(token) else {
            return Extended::Stale;
        };
        job.due_at = Some(later(now, lease));
        Extended::Applied
    }

    pub(super) fn release(&mut self, token: JobToken, now: Timestamp) -> bool {
        let Some(job) = self.current(token) else {
            return false;
        };
        job.let_go(Some(now));
        job.attempts_before += 1;
        true
    }

    pub(super) fn start(&mut self, start: &Start, now: Timestamp) -> Started {
        let order_id = start.token.order_id;
        let Some(job) = self.current(start.token) else {
            return Started::Stale;
        };
        job.is_begun |= start.counts;
        let is_started = |order: &Order| order.status == OrderStatus::Processing;
        if !start.moves_order || self.find(order_id).is_some_and(is_started) {
            return Started::Applied(None);
        }
        let moved = self.advance(order_id, OrderStatus::Processing, None, now);
        Started::Applied(moved.map(|(_, event)| event))
    }

    pub(super) fn complete(&mut self, completion: &Completion, now: Timestamp) -> Completed {
        let JobToken { order_id, attempt } = completion.token;
        let Some(job) = self.current(completion.token) else {
            return self.repeated(completion);
        };
        let (status, cause) = match &completion.verdict {
            Verdict::Retry {
                delay,
                error,
                is_counted,
            } => {
                let next_at = later(now, *delay);
                job.attempts_before += u32::from(!is_counted);
                job.let_go(Some(next_at));
                job.retried = Some(attempt);
                job.last_error = Some(error.clone());
                self.records.retry(completion, now, error, next_at);
                return Completed::Applied(None);
            }
            Verdict::Failed(cause) => {
                job.let_go(None);
                job.last_error = Some(cause.message.clone());
                (OrderStatus::Failed, Some(cause.clone()))
            }
            Verdict::Processed => {
                self.jobs.remove(&order_id);
                (OrderStatus::Processed, None)
            }
        };
        let moved = self.advance(order_id, status, cause, now);
        let event = moved.map(|(_, event)| event);
        if let Some(event) = &event {
            self.records.end(completion, event);
            self.ends.insert((order_id, attempt), event.clone());
        }
        Completed::Applied(event)
    }

    /// The answer to a report whose token is not current: that of the first, if it is a
    /// repetition.
    fn repeated(&self, completion: &Completion) -> Completed {
        let JobToken { order_id, attempt } = completion.token;
        let is_success = matches!(completion.verdict, Verdict::Processed);
        let end = self.ends.get(&(order_id, attempt));
        if let Some(event) =
            end.filter(|event| (event.status == OrderStatus::Processed) == is_success)
        {
            return Completed::Applied(Some(event.clone()));
        }
        let retried = self.jobs.get(&order_id).and_then(|job| job.retried);
        if retried == Some(attempt) && !is_success {
            return Completed::Applied(None);
        }
        Completed::Stale
    }
}
