//! The short way from an insert to a worker: jobs that are born leased.
//!
//! Owns the sending side of the local queue as the order service sees it. A slot is taken
//! before the insert, so a job is only born leased if it surely fits.

use std::sync::Arc;

use order_core::{Job, JobDispatch, OrderId, Reservation};
use tokio::time::Instant;

use crate::{shared::Shared, slots::Slots};

/// The slots of the local queue, for new orders of this process.
pub(crate) struct Dispatch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slots: Slots,
}

impl JobDispatch for Dispatch {
    fn try_reserve(&self) -> Option<Reservation> {
        if self.shared.stops.claiming.is_cancelled() || self.shared.pause.is_on() {
            return None;
        }
        let slot = self.slots.try_take()?;
        // Taken before the insert is sent, so that the local end of the lease is never
        // later than the database's.
        let reserved_at = Instant::now();
        let lease = self.shared.leases.duration();
        let (shared, slots) = (Arc::clone(&self.shared), self.slots.clone());
        Some(Reservation::new(lease, move |job: Job| {
            shared.leases.hold([job.token()], reserved_at);
            shared.stats.born_leased.inc();
            slots.send(job, slot);
        }))
    }

    fn notify_due(&self, _: &[OrderId]) {
        self.shared.due.notify_one();
    }
}
