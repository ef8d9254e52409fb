//! The records of orders.

use std::collections::BTreeMap;

use jiff::Timestamp;
use order_core::{
    AttemptOutcome, AttemptRecord, Completion, Identity, JobRecord, JobState, NewOrder, OrderEvent,
    OrderId, OrderRecord, OrderStatus, Origin, RequestId, TraceParent,
};

use super::{Processes, Tables};
use crate::memory::job::JobRow;

/// What is only kept to be shown.
pub(super) struct Records {
    /// The process that makes all claims.
    identity: Identity,
    origins: BTreeMap<OrderId, Origin>,
    attempts: BTreeMap<(OrderId, u32), AttemptRecord>,
}

impl Records {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            identity,
            origins: BTreeMap::new(),
            attempts: BTreeMap::new(),
        }
    }

    /// Records where a new order comes from.
    pub(super) fn create(&mut self, new: &NewOrder) {
        let trace = new.trace_parent.as_ref().map(TraceParent::trace_id);
        let request_id = new.request_id.as_ref().map(RequestId::as_str);
        let origin = Origin {
            request_id: request_id.map(ToOwned::to_owned),
            gateway: new.gateway.as_deref().map(ToOwned::to_owned),
            trace_id: trace.map(ToOwned::to_owned),
        };
        self.origins.insert(new.id, origin);
    }

    /// Records the attempt that a claim of `job` finds to be lost, if there is one.
    pub(super) fn claim(
        &mut self,
        order_id: OrderId,
        job: &JobRow,
        processes: &Processes,
        now: Timestamp,
    ) {
        if job.is_held && job.is_begun {
            let lost = AttemptRecord {
                attempt: job.attempt,
                worker: processes.name(self.identity.id),
                begun_at: None,
                ended_at: now,
                outcome: AttemptOutcome::Lost,
                error: None,
                next_at: None,
            };
            self.attempts.insert((order_id, job.attempt), lost);
        }
    }

    /// Records an attempt whose job is retried at `next_at`.
    pub(super) fn retry(
        &mut self,
        completion: &Completion,
        now: Timestamp,
        error: &str,
        next_at: Timestamp,
    ) {
        let attempt = AttemptRecord {
            error: Some(error.to_owned()),
            next_at: Some(next_at),
            ..self.ended(completion, now, AttemptOutcome::Retried)
        };
        self.insert(completion, attempt);
    }

    /// Records an attempt that ended the order with `event`.
    pub(super) fn end(&mut self, completion: &Completion, event: &OrderEvent) {
        let outcome = match event.status {
            OrderStatus::Processed => AttemptOutcome::Processed,
            _ => AttemptOutcome::Failed,
        };
        let attempt = AttemptRecord {
            error: event.cause.as_ref().map(|cause| cause.message.clone()),
            ..self.ended(completion, event.at, outcome)
        };
        self.insert(completion, attempt);
    }

    fn ended(
        &self,
        completion: &Completion,
        ended_at: Timestamp,
        outcome: AttemptOutcome,
    ) -> AttemptRecord {
        let took = completion.took;
        AttemptRecord {
            attempt: completion.token.attempt,
            worker: Some(self.identity.name()),
            begun_at: took.and_then(|took| ended_at.checked_sub(took).ok()),
            ended_at,
            outcome,
            error: None,
            next_at: None,
        }
    }

    fn insert(&mut self, completion: &Completion, attempt: AttemptRecord) {
        let token = completion.token;
        self.attempts
            .insert((token.order_id, token.attempt), attempt);
    }
}

/// The last [`OrderRecord::LEN_MAX`] of `items`, in their order.
fn newest<T>(mut items: Vec<T>) -> Vec<T> {
    let n_older = items.len().saturating_sub(OrderRecord::LEN_MAX as usize);
    items.drain(..n_older);
    items
}

impl Tables {
    pub(in crate::memory) fn record(
        &self,
        order_id: OrderId,
        now: Timestamp,
    ) -> Option<OrderRecord> {
        let order = self.find(order_id)?.clone();
        let attempts = &self.records.attempts;
        let attempts = attempts.range((order_id, 0)..=(order_id, u32::MAX));
        let id = self.records.identity.id;
        let job = self.jobs.get(&order_id).map(|job| JobRecord {
            attempt: job.attempt,
            attempts_before: job.attempts_before,
            state: JobState::at(now, job.due_at, job.is_held),
            holder: (job.is_held && self.processes.name(id).is_some()).then_some(id),
            last_error: job.last_error.clone(),
        });
        Some(OrderRecord {
            order,
            origin: self
                .records
                .origins
                .get(&order_id)
                .cloned()
                .unwrap_or_default(),
            events: newest(self.events(order_id, 0, usize::MAX)),
            attempts: newest(attempts.map(|(_, attempt)| attempt.clone()).collect()),
            job,
            unpublished: self.outbox.unpublished(order_id),
            pushes: Vec::new(),
            silent_processes: 0,
        })
    }
}
