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
    /// Who may finish: the last to claim, until the job is given back, retried, buried or
    /// requeued.
    holder: Option<JobToken>,
    /// Whether the holder said that its work begins.
    is_begun: bool,
    /// Whose report is being retried.
    retried: Option<JobToken>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelOrder {
    pub(super) new: NewOrder,
    /// The statuses it had, in order; as many as it has versions.
    pub(super) history: Vec<OrderStatus>,
    job: Option<ModelJob>,
    /// Whose reports ended the order, each with the version and status it moved to.
    ends: BTreeMap<u32, Moved>,
}

/// What a report does: the version and status the order moves to, if it moves.
pub(super) type Moved = Option<(u32, OrderStatus)>;

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
            is_begun: false,
            retried: None,
        };
        let order = ModelOrder {
            new: new.clone(),
            history: vec![OrderStatus::Pending],
            job: Some(job),
            ends: BTreeMap::new(),
        };
        self.orders.insert(new.id, order);
        token
    }

    /// How many jobs are due: those that nobody holds, or those that were abandoned.
    pub(super) fn n_due(&self, is_abandoned: bool) -> usize {
        let is_due = |job: &&ModelJob| job.due == Due::Now && job.holder.is_some() == is_abandoned;
        let jobs = self.orders.values().filter_map(|order| order.job.as_ref());
        jobs.filter(is_due).count()
    }

    /// The job of `order_id` is claimed. What the claim must look like, or `None` if it is not
    /// due, or abandoned against expectation.
    pub(super) fn claim(
        &mut self,
        order_id: OrderId,
        is_abandoned: bool,
    ) -> Option<(JobToken, u32)> {
        let job = self.orders.get_mut(&order_id)?.job.as_mut()?;
        if job.due != Due::Now || job.holder.is_some() != is_abandoned {
            return None;
        }
        job.n_forgiven += u32::from(is_abandoned && !job.is_begun);
        job.n_claims += 1;
        job.due = Due::Later;
        let token = JobToken {
            order_id,
            attempt: job.n_claims,
        };
        job.holder = Some(token);
        job.is_begun = false;
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
        let (history, job) = self.held(token)?;
        job.is_begun = true;
        let is_moved = history.last() != Some(&OrderStatus::Processing);
        if is_moved {
            history.push(OrderStatus::Processing);
        }
        Some(is_moved)
    }

    /// A result arrives. `None` for a stale token.
    pub(super) fn complete(&mut self, token: JobToken, verdict: &Verdict) -> Option<Moved> {
        let Some((history, job)) = self.held(token) else {
            return self.repeated(token, verdict);
        };
        job.holder = None;
        let status = match verdict {
            Verdict::Retry {
                delay,
                error: _,
                is_counted,
            } => {
                job.n_forgiven += u32::from(!is_counted);
                job.due = if delay.is_zero() {
                    Due::Now
                } else {
                    Due::Later
                };
                job.retried = Some(token);
                return Some(None);
            }
            Verdict::Failed(_) => {
                job.due = Due::Buried;
                OrderStatus::Failed
            }
            Verdict::Processed => OrderStatus::Processed,
        };
        history.push(status);
        let order = self.orders.get_mut(&token.order_id)?;
        if status == OrderStatus::Processed {
            order.job = None;
        }
        let moved = Some((order.version(), status));
        order.ends.insert(token.attempt, moved);
        Some(moved)
    }

    /// A report is repeated, or its token is stale.
    fn repeated(&self, token: JobToken, verdict: &Verdict) -> Option<Moved> {
        let order = self.orders.get(&token.order_id)?;
        let is_success = matches!(verdict, Verdict::Processed);
        if let Some(moved) = order.ends.get(&token.attempt) {
            let was_success = moved.is_some_and(|(_, status)| status == OrderStatus::Processed);
            return (was_success == is_success).then_some(*moved);
        }
        let job = order.job.as_ref()?;
        (job.retried == Some(token) && !is_success).then_some(None)
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
                let retried = job.as_ref().and_then(|job| job.retried);
                *job = Some(ModelJob {
                    due: Due::Now,
                    n_claims,
                    n_forgiven: n_claims,
                    holder: None,
                    is_begun: false,
                    retried,
                });
            }
        }
        true
    }
}
