//! A broker that does not work: how long to leave it alone, and what the log says.

use std::time::Duration;

use order_core::RetryPolicy;

/// The longest wait between two attempts.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Full jitter, so that processes do not meet at a broker that comes back.
const PAUSES: RetryPolicy = RetryPolicy {
    attempts_max: u32::MAX,
    delay_base: Duration::from_millis(100),
    delay_max: PAUSE_MAX,
};

/// Counts failures in a row. Logs the first of them and the end of all, and nothing in
/// between, so that a broker that is down for hours costs two lines.
#[derive(Debug)]
pub(crate) struct Outage {
    /// What does not work meanwhile.
    what: &'static str,
    n_failures: u32,
}

impl Outage {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self {
            what,
            n_failures: 0,
        }
    }

    /// Counts a failure and returns how long to wait before the next attempt.
    pub(crate) fn fail(&mut self, cause: &str) -> Duration {
        if self.n_failures == 0 {
            tracing::warn!(error = cause, "{} failed, trying again", self.what);
        }
        self.n_failures = self.n_failures.saturating_add(1);
        PAUSES
            .delay_after(self.n_failures, rand::random())
            .unwrap_or(PAUSE_MAX)
    }

    /// Takes note that it works.
    pub(crate) fn end(&mut self) {
        if self.n_failures > 0 {
            tracing::info!(failures = self.n_failures, "{} works again", self.what);
        }
        self.n_failures = 0;
    }
}
