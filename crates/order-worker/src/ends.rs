//! Ends of orders: how long they took, and why they failed. Counted alike for workers inside and
//! outside this process.

use std::time::Duration;

use jiff::Timestamp;
use order_core::{
    Completion, OrderEvent, Verdict,
    contention::Contended,
    metrics::{Durations, Family},
};

use crate::{AttemptLabels, DeadLetters};

/// What is counted of the orders that end here.
#[derive(Clone, Debug, Default)]
pub struct EndStats {
    /// From the creation of orders to their end, by the outcome.
    pub durations: Family<AttemptLabels, Durations>,
    /// Orders that became FAILED, by the code of the cause.
    pub dead_letters: DeadLetters,
}

/// The result of an attempt.
#[derive(Clone)]
pub(crate) struct Finished {
    pub(crate) completion: Completion,
    /// When its order was created, if that is known.
    pub(crate) created_at: Option<Timestamp>,
}

impl Contended for Finished {}

impl EndStats {
    /// Counts a result that is durable; `event` says how its order moved, if it did.
    pub(crate) fn count(&self, finished: &Finished, event: Option<&OrderEvent>) {
        let Finished {
            completion,
            created_at,
        } = finished;
        if let Verdict::Failed(cause) = &completion.verdict {
            self.dead_letters.count(&cause.code);
        }
        let Some((event, created_at)) = event.zip(*created_at) else {
            return;
        };
        // Both times are of the clock of the database, which may have been set back.
        let duration = Duration::try_from(event.at.duration_since(created_at));
        let durations = self
            .durations
            .get_or_create(&AttemptLabels::of(&completion.verdict));
        let trace = completion.trace_parent.as_ref();
        durations.observe(duration.unwrap_or_default(), trace);
    }
}
