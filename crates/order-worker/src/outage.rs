//! A failure that goes on is logged when it begins and when it is over.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Whether something works, and since when it does not.
pub(crate) struct Outage {
    what: &'static str,
    since: Mutex<Option<Instant>>,
}

impl Outage {
    /// Nothing has failed yet.
    pub(crate) const fn new(what: &'static str) -> Self {
        Self {
            what,
            since: Mutex::new(None),
        }
    }

    /// Logs a failure, aloud only if it is the first of an outage.
    pub(crate) fn fail(&self, error: &str) {
        if self.begin() {
            tracing::warn!(error, "{} failed and is tried again", self.what);
        } else {
            tracing::debug!(error, "{} failed again", self.what);
        }
    }

    /// Logs that it works again, if it did not.
    pub(crate) fn end(&self) {
        let since = self
            .since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(since) = since {
            tracing::info!(outage = ?since.elapsed(), "{} works again", self.what);
        }
    }

    /// Whether this is the first failure since the last success.
    fn begin(&self) -> bool {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = since.is_none();
        since.get_or_insert_with(Instant::now);
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_begins_once_and_again_after_its_end() {
        let outage = Outage::new("this");
        assert_eq!([outage.begin(), outage.begin()], [true, false]);

        outage.end();

        assert_eq!([outage.begin(), outage.begin()], [true, false]);
    }
}
