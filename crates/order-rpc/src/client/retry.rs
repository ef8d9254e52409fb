//! Which failed calls are made again, when, and how many.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use order_core::Error;

/// How often a call is made at most.
pub(super) const ATTEMPTS_MAX: u32 = 3;

/// The upper bound of the first delay: a replica that is going away is gone by then, and
/// the next attempt takes another connection anyway.
const DELAY_BASE: Duration = Duration::from_millis(50);

/// Whether a call may be sent again when it is not known what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Harmless,
    /// The call names its change, so that the service recognises it when it comes again. A
    /// service or store that cannot would refuse it because the order has moved.
    Change,
    Never,
}

impl Repeat {
    /// Whether a repetition may be refused with `error` because the first attempt succeeded.
    pub(super) const fn may_be_own_work(self, error: &Error) -> bool {
        matches!(self, Self::Change)
            && matches!(
                error,
                Error::EtagMismatch { .. }
                    | Error::OrderNotCancellable { .. }
                    | Error::OrderNotRetryable { .. }
                    | Error::TransitionRefused { .. }
                    | Error::VersionConflict { .. }
            )
    }
}

/// Whether the failure may pass soon and is not a plea for less load.
pub(super) const fn is_retryable(error: &Error) -> bool {
    match error {
        Error::ServiceUnavailable { .. }
        | Error::StoreUnavailable { .. }
        | Error::ShuttingDown { .. } => true,
        Error::InvalidArgument { .. }
        | Error::OrderNotFound { .. }
        | Error::OrderAlreadyExists { .. }
        | Error::ExternalIdTaken { .. }
        | Error::IdempotencyKeyReused
        | Error::RequestInProgress { .. }
        | Error::EtagMismatch { .. }
        | Error::OrderNotCancellable { .. }
        | Error::OrderNotRetryable { .. }
        | Error::TransitionRefused { .. }
        | Error::VersionConflict { .. }
        | Error::TicketInvalid
        | Error::PermissionDenied { .. }
        | Error::LimitExceeded { .. }
        | Error::Overloaded { .. }
        | Error::DeadlineExceeded
        | Error::Internal { .. } => false,
    }
}

/// The delay after `n_attempts`: uniform in 0 to `DELAY_BASE × 2^(n − 1)` (full jitter), for
/// `random` uniform in 0.0 to 1.0.
pub(super) fn backoff(n_attempts: u32, random: f64) -> Duration {
    let factor = 2_u32.saturating_pow(n_attempts.saturating_sub(1));
    DELAY_BASE.saturating_mul(factor).mul_f64(random)
}

/// Limits retries to a tenth of the calls, so that a service in trouble sees at most 10 %
/// more load than its clients have.
///
/// A bucket that every call fills by a tenth of a retry. It begins full and holds ten, for
/// clients that make few calls.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// In tenths of a retry.
    tenths: AtomicU32,
}

/// What one retry costs.
const RETRY_TENTHS: u32 = 10;

/// What the bucket holds.
const BUDGET_TENTHS_MAX: u32 = 10 * RETRY_TENTHS;

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            tenths: AtomicU32::new(BUDGET_TENTHS_MAX),
        }
    }
}

impl RetryBudget {
    /// Counts a call.
    pub(super) fn deposit(&self) {
        // A full bucket, the usual case, is only read: a write would move the cache line
        // from core to core with every call.
        let add = |tenths| (tenths < BUDGET_TENTHS_MAX).then(|| tenths + 1);
        let _ = self
            .tenths
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Pays for a retry, or refuses it.
    pub(super) fn withdraw(&self) -> bool {
        let take = |tenths: u32| tenths.checked_sub(RETRY_TENTHS);
        self.tenths
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_allows_ten_retries_and_then_one_for_ten_calls() {
        let budget = RetryBudget::default();
        for _ in 0..1_000 {
            budget.deposit();
        }
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 10);
        for _ in 0..25 {
            budget.deposit();
        }
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 2);
    }

    #[test]
    fn backoff_is_jittered_over_its_whole_range() {
        assert_eq!(backoff(1, 0.0), Duration::ZERO);
        assert_eq!(backoff(1, 1.0), Duration::from_millis(50));
        assert_eq!(backoff(2, 1.0), Duration::from_millis(100));
    }
}
