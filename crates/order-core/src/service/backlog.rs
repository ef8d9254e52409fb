//! The work that waits, read at most as often as the database can afford.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::{Backlog, Clock, Error, OrderStore};

/// How long a reading counts.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// A slow read is followed by a pause of this many times its length, so that all who look together
/// keep a connection busy for 2 % of the time at most.
const REST: u32 = 50;

/// The last reading, for all callers.
#[derive(Default)]
pub(super) struct SharedBacklog(Mutex<Reading>);

#[derive(Default)]
struct Reading {
    /// `None`: no read has succeeded.
    backlog: Option<Backlog>,
    next_at: Option<Instant>,
}

impl SharedBacklog {
    /// The work that waits: read anew, or as it was read last. Several callers share one read.
    pub(super) async fn get(
        &self,
        store: &dyn OrderStore,
        clock: &dyn Clock,
    ) -> Result<Backlog, Error> {
        let mut reading = self.0.lock().await;
        let begun_at = clock.instant();
        if reading.next_at.is_some_and(|next_at| begun_at < next_at) {
            let unknown = || Error::store_unavailable("the backlog could not be read just now");
            return reading.backlog.ok_or_else(unknown);
        }
        let read = store.backlog().await;
        let took = clock.instant().saturating_duration_since(begun_at);
        reading.next_at = Some(clock.instant() + (took * REST).max(FRESH_FOR));
        match read {
            Ok(backlog) => {
                reading.backlog = Some(backlog);
                Ok(backlog)
            }
            Err(error) => reading.backlog.ok_or(error),
        }
    }
}
