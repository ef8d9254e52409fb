//! The short way from an insert to a worker: jobs that are born leased.
//!
//! Owns the sending side of the local queue as the order service sees it. A place is
//! reserved before the insert, so a job is only born leased if it surely fits.

use std::sync::Arc;

use order_core::{Job, JobDispatch, OrderId, Reservation};
use tokio::{sync::mpsc, time::Instant};

use crate::shared::Shared;

/// The places of the local queue, for new orders of this process.
pub(crate) struct Dispatch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) places: mpsc::Sender<Job>,
}

impl JobDispatch for Dispatch {
    fn try_reserve(&self) -> Option<Reservation> {
        if self.shared.stops.claiming.is_cancelled() {
            return None;
        }
        let place = self.places.clone().try_reserve_owned().ok()?;
        // Taken before the insert is sent, so that the local end of the lease is never
        // later than the database's.
        let reserved_at = Instant::now();
        let lease = self.shared.leases.duration();
        let shared = Arc::clone(&self.shared);
        Some(Reservation::new(lease, move |job: Job| {
            shared.leases.hold([job.token()], reserved_at);
            shared.stats.born_leased.increment();
            place.send(job);
        }))
    }

    fn notify_due(&self, _: &[OrderId]) {
        self.shared.due.notify_one();
    }
}
