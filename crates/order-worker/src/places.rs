//! The places of the local queue, as the fetchers see them.

use std::sync::Arc;

use order_core::{Job, group_commit::BATCH_LEN_MAX};
use tokio::sync::mpsc;

use crate::shared::Shared;

/// The most jobs of one claim: enough to hide the round trip, and a row lock on more would
/// only keep other processes from work this one has not begun.
const CLAIM_LEN_MAX: usize = BATCH_LEN_MAX;

/// The sending side of the local queue.
#[derive(Clone)]
pub(crate) struct Places(pub(crate) mpsc::Sender<Job>);

impl Places {
    /// Waits until a claim is worth while, and says how many jobs it may bring.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn wait_for_room(&self) -> usize {
        // The places are given back at once: holding them during the statement would keep
        // new orders from being born leased. This wait has its turn before theirs, so a
        // backlog is not starved by new orders.
        drop(self.0.reserve_many(self.refill_len()).await);
        self.0.capacity().clamp(self.refill_len(), CLAIM_LEN_MAX)
    }

    /// How many places must be free for a claim: half of the queue, since a statement for
    /// each single place would cost far more than it brings.
    fn refill_len(&self) -> usize {
        (self.0.max_capacity() / 2).clamp(1, CLAIM_LEN_MAX)
    }
}

/// Queues claimed jobs. Others may have taken the free places meanwhile; then the jobs wait
/// here, with their leases kept alive like all others.
pub(crate) async fn hand_over(shared: &Arc<Shared>, places: &Places, jobs: Vec<Job>) {
    for job in jobs {
        tokio::select! {
            biased;
            () = shared.stops.taking.cancelled() => return,
            _ = places.0.send(job) => {}
        }
    }
}
