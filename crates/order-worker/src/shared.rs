//! What all parts of one pool share.

use std::sync::Arc;

use order_core::{EventBus, JobQueue};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{WorkerStats, lease::Leases, pause::Pause};

/// Ports, leases, counters and the way down.
pub(crate) struct Shared {
    pub(crate) queue: Arc<dyn JobQueue>,
    pub(crate) bus: Arc<dyn EventBus>,
    pub(crate) leases: Leases,
    pub(crate) stats: WorkerStats,
    /// Somebody knows of due jobs.
    pub(crate) due: Notify,
    pub(crate) stops: Stops,
    pub(crate) pause: Pause,
}

impl Shared {
    /// The outcome of `future`, or `None` if claiming is over or paused.
    ///
    /// # Cancel safety
    /// That of `future`.
    pub(crate) async fn unless_paused<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let unless_paused = async {
            tokio::select! {
                biased;
                () = self.pause.begun() => None,
                outcome = future => Some(outcome),
            }
        };
        self.stops.while_claiming(unless_paused).await.flatten()
    }
}

/// The steps in which a pool is taken down. Each is set once and stays set.
#[derive(Default)]
pub(crate) struct Stops {
    /// No job is claimed and no place reserved any more.
    pub(crate) claiming: CancellationToken,
    /// Workers take no more jobs from the local queue.
    pub(crate) taking: CancellationToken,
    /// Running jobs are dropped, and what failed is not tried again.
    pub(crate) running: CancellationToken,
    /// The leases are no longer extended.
    pub(crate) beating: CancellationToken,
}

impl Stops {
    /// The outcome of `future`, or `None` if claiming is over: once it is, nothing that
    /// is ready at the same moment counts any more.
    ///
    /// # Cancel safety
    /// That of `future`.
    pub(crate) async fn while_claiming<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.claiming.cancelled() => None,
            outcome = future => Some(outcome),
        }
    }
}
