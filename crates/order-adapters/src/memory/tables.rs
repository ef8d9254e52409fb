//! The tables and what each element of a call does to them. Every method is one
//! transaction: it changes everything it should or nothing.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use order_core::{
    Cause, Change, Committed, Completed, Completion, Created, Error, Job, JobEffect, JobToken,
    NewOrder, Order, OrderEvent, OrderId, OrderQuery, OrderStatus, Started, Verdict, Version,
};

#[derive(Default)]
pub(super) struct Tables {
    orders: BTreeMap<OrderId, Order>,
    jobs: BTreeMap<OrderId, JobRow>,
    /// Every event from version 1 on, in order.
    events: BTreeMap<OrderId, Vec<OrderEvent>>,
}

/// The work an order still needs.
struct JobRow {
    attempt: u32,
    attempts_before: u32,
    /// From when on the job may be claimed; `None` while it is buried.
    due_at: Option<Timestamp>,
}

impl JobRow {
    /// Whether `attempt` is a claim of the current round and nobody has claimed since.
    fn is_current(&self, attempt: u32) -> bool {
        self.due_at.is_some() && self.attempt == attempt && self.attempts_before < attempt
    }
}

/// The time after `duration`, or the end of time.
fn later(now: Timestamp, duration: Duration) -> Timestamp {
    now.checked_add(duration).unwrap_or(Timestamp::MAX)
}

impl Tables {
    pub(super) fn create(&mut self, new: &NewOrder, now: Timestamp) -> Result<Created, Error> {
        if let Some(order) = self.orders.get(&new.id) {
            if !order.is_same_request(new) {
                return Err(Error::OrderAlreadyExists { order_id: new.id });
            }
            return Ok(Created {
                order: order.clone(),
                is_new: false,
            });
        }
        let order = Order {
            id: new.id,
            user_id: new.user_id.clone(),
            money: new.money,
            status: OrderStatus::Pending,
            version: 1,
            failure: None,
            created_at: now,
            updated_at: now,
        };
        let job = JobRow {
            attempt: u32::from(new.lease.is_some()),
            attempts_before: 0,
            due_at: Some(new.lease.map_or(now, |lease| later(now, lease))),
        };
        self.jobs.insert(order.id, job);
        self.events.insert(order.id, vec![order.last_event()]);
        self.orders.insert(order.id, order.clone());
        Ok(Created {
            order,
            is_new: true,
        })
    }

    pub(super) fn commit(&mut self, change: &Change, now: Timestamp) -> Committed {
        let is_expected = |order: &Order| order.version == change.expected_version;
        if !self.find(change.order_id).is_some_and(is_expected) {
            return Committed::Stale;
        }
        match change.job {
            JobEffect::Keep => {}
            JobEffect::Delete => {
                self.jobs.remove(&change.order_id);
            }
            JobEffect::Bury => {
                if let Some(job) = self.jobs.get_mut(&change.order_id) {
                    job.due_at = None;
                }
            }
            JobEffect::Requeue => {
                let attempt = self.jobs.get(&change.order_id).map_or(0, |job| job.attempt);
                let job = JobRow {
                    attempt,
                    attempts_before: attempt,
                    due_at: Some(now),
                };
                self.jobs.insert(change.order_id, job);
            }
        }
        match self.advance(change.order_id, change.status, change.cause.clone(), now) {
            Some((order, event)) => Committed::Applied {
                order: Box::new(order),
                event,
            },
            None => Committed::Stale,
        }
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
        order.updated_at = now;
        order.failure = cause.clone().filter(|_| status == OrderStatus::Failed);
        let event = OrderEvent {
            cause,
            ..order.last_event()
        };
        self.events.entry(order_id).or_default().push(event.clone());
        Some((order.clone(), event))
    }

    pub(super) fn find(&self, order_id: OrderId) -> Option<&Order> {
        self.orders.get(&order_id)
    }

    pub(super) fn list(&self, query: &OrderQuery) -> Vec<Order> {
        self.orders
            .values()
            .rev()
            .filter(|order| query.before.is_none_or(|before| order.id < before))
            .filter(|order| {
                let user = query.user_id.as_ref();
                user.is_none_or(|user| order.user_id == *user)
            })
            .filter(|order| query.statuses.is_empty() || query.statuses.contains(&order.status))
            .take(query.limit)
            .cloned()
            .collect()
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

    pub(super) fn claim(&mut self, limit: usize, lease: Duration, now: Timestamp) -> Vec<Job> {
        let mut due: Vec<(Timestamp, OrderId)> = self
            .jobs
            .iter()
            .filter_map(|(order_id, job)| Some((job.due_at?, *order_id)))
            .filter(|(due_at, _)| *due_at <= now)
            .collect();
        due.sort_unstable();
        due.into_iter()
            .take(limit)
            .filter_map(|(_, order_id)| {
                let order = self.orders.get(&order_id)?.clone();
                let job = self.jobs.get_mut(&order_id)?;
                job.attempt += 1;
                job.due_at = Some(later(now, lease));
                Some(Job {
                    order,
                    attempt: job.attempt,
                    attempts_before: job.attempts_before,
                })
            })
            .collect()
    }

    /// The job of a token, if the token is the current one.
    fn current(&mut self, token: JobToken) -> Option<&mut JobRow> {
        self.jobs
            .get_mut(&token.order_id)
            .filter(|job| job.is_current(token.attempt))
    }

    pub(super) fn extend(&mut self, token: JobToken, lease: Duration, now: Timestamp) -> bool {
        let Some(job) = self.current(token) else {
            return false;
        };
        job.due_at = Some(later(now, lease));
        true
    }

    pub(super) fn release(&mut self, token: JobToken, now: Timestamp) -> bool {
        let Some(job) = self.current(token) else {
            return false;
        };
        job.due_at = Some(now);
        job.attempts_before += 1;
        true
    }

    pub(super) fn start(&mut self, token: JobToken, now: Timestamp) -> Started {
        if self.current(token).is_none() {
            return Started::Stale;
        }
        let is_started = |order: &Order| order.status == OrderStatus::Processing;
        if self.find(token.order_id).is_some_and(is_started) {
            return Started::Applied(None);
        }
        let moved = self.advance(token.order_id, OrderStatus::Processing, None, now);
        Started::Applied(moved.map(|(_, event)| event))
    }

    pub(super) fn complete(&mut self, completion: &Completion, now: Timestamp) -> Completed {
        let order_id = completion.token.order_id;
        let Some(job) = self.current(completion.token) else {
            return Completed::Stale;
        };
        let (status, cause) = match &completion.verdict {
            Verdict::Retry { delay, error: _ } => {
                job.due_at = Some(later(now, *delay));
                return Completed::Applied(None);
            }
            Verdict::Failed(cause) => {
                job.due_at = None;
                (OrderStatus::Failed, Some(cause.clone()))
            }
            Verdict::Processed => {
                self.jobs.remove(&order_id);
                (OrderStatus::Processed, None)
            }
        };
        let moved = self.advance(order_id, status, cause, now);
        Completed::Applied(moved.map(|(_, event)| event))
    }
}
