//! Claims whose outcome is unknown.
//!
//! A claim whose answer is lost, or comes too late, may be committed all the same: its jobs
//! are leased and nobody works on them. Such claims are kept here until their jobs were given
//! back, or until their leases have run out, and then nothing rests any longer than that.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

/// The most claims that are kept: a few batches of orders that were to be born leased. One more
/// makes the oldest wait for the end of its lease.
const CLAIMS_MAX: usize = 4096;

/// How often the database is asked about them at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// How much longer a statement may have waited on the server than its answer was waited for,
/// and how far the clocks may run apart meanwhile.
const SLACK: Duration = Duration::from_secs(1);

/// One claim, and the lease it asked for.
struct Claim {
    id: Uuid,
    sent_at: Instant,
    lease: Duration,
}

/// What the database is to be asked.
pub(super) struct GiveBack {
    /// The claims.
    pub(super) ids: Vec<Uuid>,
    /// When the first of their leases ends, from now.
    pub(super) from: Duration,
    /// When the last of their leases ends, from now.
    pub(super) to: Duration,
}

#[derive(Default)]
struct Claims {
    claims: VecDeque<Claim>,
    asked_at: Option<Instant>,
}

/// The claims of a process whose outcome is unknown.
#[derive(Default)]
pub(super) struct Unsure(Mutex<Claims>);

impl Unsure {
    /// Keeps a claim that was sent at `sent_at`.
    pub(super) fn keep(&self, id: Uuid, sent_at: Instant, lease: Duration) {
        let mut state = self.lock();
        if state.claims.len() >= CLAIMS_MAX {
            state.claims.pop_front();
        }
        state.claims.push_back(Claim { id, sent_at, lease });
    }

    /// What to ask the database now; `None` if nothing is unsure or it was asked just now.
    pub(super) fn due(&self) -> Option<GiveBack> {
        let now = Instant::now();
        let mut state = self.lock();
        // A lease that has run out needs nobody to give it back.
        state
            .claims
            .retain(|claim| claim.sent_at + claim.lease > now);
        let is_recent = |at: Instant| now.duration_since(at) < INTERVAL;
        if state.claims.is_empty() || state.asked_at.is_some_and(is_recent) {
            return None;
        }
        state.asked_at = Some(now);
        let from = state.claims.iter().map(|claim| {
            let elapsed = now.duration_since(claim.sent_at);
            claim.lease.saturating_sub(elapsed + SLACK)
        });
        Some(GiveBack {
            from: from.min().unwrap_or_default(),
            to: state.claims.iter().map(|claim| claim.lease).max()? + SLACK,
            ids: state.claims.iter().map(|claim| claim.id).collect(),
        })
    }

    /// Drops claims whose jobs were given back.
    pub(super) fn forget(&self, ids: &[Uuid]) {
        self.lock().claims.retain(|claim| !ids.contains(&claim.id));
    }

    /// No code that can panic runs under the lock, so a poisoned list is still whole.
    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn claim_is_asked_for_until_it_is_found_or_its_lease_is_over() {
        let unsure = Unsure::default();
        assert!(unsure.due().is_none());
        let ids = [1, 2].map(Uuid::from_u128);
        for id in ids {
            unsure.keep(id, Instant::now(), LEASE);
        }
        advance(Duration::from_secs(10)).await;

        let asked = unsure.due().unwrap();
        assert_eq!(asked.ids, ids);
        assert!(asked.from <= Duration::from_secs(20) && LEASE <= asked.to);
        assert!(unsure.due().is_none(), "asked twice at once");
        unsure.forget(&ids[..1]);
        advance(INTERVAL).await;
        assert_eq!(unsure.due().unwrap().ids, ids[1..]);
        advance(LEASE).await;
        assert!(unsure.due().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn list_is_bounded() {
        let unsure = Unsure::default();
        for id in 0..2 * CLAIMS_MAX {
            unsure.keep(Uuid::from_u128(id as u128), Instant::now(), LEASE);
        }
        assert_eq!(unsure.due().unwrap().ids.len(), CLAIMS_MAX);
    }
}
