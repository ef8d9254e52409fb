//! What the contracts say, as a map. It shares no code and no idea with an adapter: where
//! they compare numbers, it remembers who holds a job.

use std::collections::BTreeMap;

use order_core::{
    Change, Job, JobEffect, JobToken, NewOrder, OrderId, OrderStatus, TRANSITIONS, Verdict,
};

/// When a job may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Now.
    Now,
    /// When leases and delays have run out.
    Later,
    /// After a redrive.
    Buried,
}

#[derive(Clone, Debug)]
struct ModelJob {
    due: Due,
    /// Claims so far.
    n_claims: u32,
    /// Claims that do not count.
    n_forgiven: u32,
    /// Who may finish: the last to claim, until the job is given back, buried or requeued.
    holder: Option<JobToken>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelOrder {
    pub(super) new: NewOrder,
    /// The statuses it had, in order; as many as it has versions.
    pub(super) history: Vec<OrderStatus>,
    job: Option<ModelJob>,
}

impl ModelOrder {
    pub(super) fn status(&self) -> OrderStatus {
        *self.history.last().expect("every order was created")
    }

    pub(super) fn version(&self) -> u32 {
        u32::try_from(self.history.len()).expect("histories are short")
    }
}

/// Every order there should be.
#[derive(Default)]
pub(super) struct Model {
    pub(super) orders: BTreeMap<OrderId, ModelOrder>,
}

impl Model {
    /// An order is stored; the token is that of a job born leased.
    pub(super) fn create(&mut self, new: &NewOrder) -> Option<JobToken> {
        let token = new.lease.map(|_| JobToken {
            order_id: new.id,
            attempt: 1,
        });
        let job = ModelJob {
            due: if token.is_some() {
                Due::Later
            } else {
                Due::Now
            },
            n_claims: u32::from(token.is_some()),
            n_forgiven: 0,
            holder: token,
        };
        let order = ModelOrder {
            new: new.clone(),
            history: vec![OrderStatus::Pending],
            job: Some(job),
        };
        self.orders.insert(new.id, order);
        token
    }

    pub(super) fn n_due(&self) -> usize {
        let is_due = |order: &&ModelOrder| order.job.as_ref().is_some_and(|j| j.due == Due::Now);
        self.orders.values().filter(is_due).count()
    }

    /// The job of `order_id` is claimed. What the claim must look like, or `None` if the
    /// job is not due.
    pub(super) fn claim(&mut self, order_id: OrderId) -> Option<(JobToken, u32)> {
        let job = self.orders.get_mut(&order_id)?.job.as_mut()?;
        if job.due != Due::Now {
            return None;
        }
        job.n_claims += 1;
        job.due = Due::Later;
        let token = JobToken {
            order_id,
            attempt: job.n_claims,
        };
        job.holder = Some(token);
        Some((token, job.n_forgiven))
    }

    /// Whether a claim shows the order as it is.
    pub(super) fn is_shown(&self, job: &Job) -> bool {
        self.orders.get(&job.order.id).is_some_and(|order| {
            job.order.is_same_request(&order.new)
                && job.order.status == order.status()
                && job.order.version == order.version()
        })
    }

    /// The order and job of a token, if it may finish them.
    fn held(&mut self, token: JobToken) -> Option<(&mut Vec<OrderStatus>, &mut ModelJob)> {
        let order = self.orders.get_mut(&token.order_id)?;
        let job = order.job.as_mut()?;
        (job.holder == Some(token)).then_some((&mut order.history, job))
    }

    pub(super) fn heartbeat(&mut self, token: JobToken) -> bool {
        let held = self.held(token);
        held.map(|(_, job)| job.due = Due::Later).is_some()
    }

    pub(super) fn release(&mut self, token: JobToken) -> bool {
        let Some((_, job)) = self.held(token) else {
            return false;
        };
        job.due = Due::Now;
        job.n_forgiven += 1;
        job.holder = None;
        true
    }

    /// An effect begins. `None` for a stale token, else whether the order moves.
    pub(super) fn start(&mut self, token: JobToken) -> Option<bool> {
        let (history, _) = self.held(token)?;
        let is_moved = history.last() != Some(&OrderStatus::Processing);
        if is_moved {
            history.push(OrderStatus::Processing);
        }
        Some(is_moved)
    }

    /// A result arrives. `None` for a stale token, else whether the order moves.
    pub(super) fn complete(&mut self, token: JobToken, verdict: &Verdict) -> Option<bool> {
        let (history, job) = self.held(token)?;
        match verdict {
            Verdict::Retry {
                delay,
                error: _,
                is_counted,
            } => {
                if !is_counted {
                    job.n_forgiven += 1;
                    job.holder = None;
                }
                job.due = if delay.is_zero() {
                    Due::Now
                } else {
                    Due::Later
                };
                return Some(false);
            }
            Verdict::Failed(_) => {
                history.push(OrderStatus::Failed);
                job.due = Due::Buried;
                job.holder = None;
            }
            Verdict::Processed => {
                history.push(OrderStatus::Processed);
                self.orders.get_mut(&token.order_id)?.job = None;
            }
        }
        Some(true)
    }

    pub(super) fn expire_leases(&mut self) {
        for order in self.orders.values_mut() {
            if let Some(job) = order.job.as_mut().filter(|job| job.due == Due::Later) {
                job.due = Due::Now;
            }
        }
    }

    /// The moves that `order_id` has.
    pub(super) fn moves(&self, order_id: OrderId) -> Vec<(OrderStatus, JobEffect)> {
        let from = self.orders[&order_id].status();
        let moves = TRANSITIONS.iter().filter(|t| t.from == from);
        moves.map(|t| (t.to, t.job)).collect()
    }

    /// A client's change; `false` if it was decided on another version.
    pub(super) fn commit(&mut self, change: &Change) -> bool {
        let Some(order) = self.orders.get_mut(&change.order_id) else {
            return false;
        };
        if order.version() != change.expected_version {
            return false;
        }
        order.history.push(change.status);
        match (change.job, &mut order.job) {
            (JobEffect::Keep, _) => {}
            (JobEffect::Delete, job) => *job = None,
            (JobEffect::Bury, job) => {
                if let Some(job) = job {
                    job.due = Due::Buried;
                    job.holder = None;
                }
            }
            (JobEffect::Requeue, job) => {
                let n_claims = job.as_ref().map_or(0, |job| job.n_claims);
                *job = Some(ModelJob {
                    due: Due::Now,
                    n_claims,
                    n_forgiven: n_claims,
                    holder: None,
                });
            }
        }
        true
    }
}
