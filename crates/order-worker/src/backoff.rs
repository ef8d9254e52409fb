//! How long to leave a store or a broker alone that did not answer.

use std::time::Duration;

use order_core::RetryPolicy;

/// Full jitter from 50 ms up to 2 s: a store that comes back is used again within seconds,
/// and until then each loop of this crate asks it about once a second.
const STORE_BACKOFF: RetryPolicy = RetryPolicy {
    attempts_max: u32::MAX,
    delay_base: Duration::from_millis(50),
    delay_max: Duration::from_secs(2),
};

/// Counts failures in a row and says how long to wait after each.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    n_failures: u32,
}

impl Backoff {
    /// The wait after one more failure.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.n_failures = self.n_failures.saturating_add(1);
        STORE_BACKOFF
            .delay_after(self.n_failures, rand::random())
            .unwrap_or(STORE_BACKOFF.delay_max)
    }

    /// Forgets the failures: the store has answered.
    pub(crate) fn reset(&mut self) {
        self.n_failures = 0;
    }
}
