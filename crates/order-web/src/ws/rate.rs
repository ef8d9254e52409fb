//! How fast a client may send: a token bucket, kept as the one instant at which it is full
//! again (GCRA, ITU-T I.371).

use std::time::Duration;

use tokio::time::Instant;

/// How many seconds' worth of messages are taken at once: enough for a client that comes
/// back with a handful of orders.
const BURST_SECONDS: u32 = 2;

#[derive(Clone, Copy, Debug)]
pub(super) struct RateLimit {
    /// What one message costs.
    interval: Duration,
    full_at: Instant,
}

impl RateLimit {
    /// Allows `per_second` messages a second, at least one, beginning with a full burst.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            full_at: now,
        }
    }

    /// Counts `n` messages, and returns when the next one may be taken if that is not now.
    pub(super) fn count(&mut self, n: u32, now: Instant) -> Option<Instant> {
        self.full_at = self.full_at.max(now) + self.interval * n;
        let burst = Duration::from_secs(u64::from(BURST_SECONDS));
        let next_at = (self.full_at + self.interval).checked_sub(burst)?;
        (next_at > now).then_some(next_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_followed_by_the_rate() {
        let start = Instant::now();
        let mut limit = RateLimit::new(20, start);
        let mut n_at_once = |now| (1..100).find(|_| limit.count(1, now).is_some());
        assert_eq!(n_at_once(start), Some(40));
        assert_eq!(n_at_once(start + Duration::from_millis(500)), Some(10));
        assert_eq!(n_at_once(start + Duration::from_hours(1)), Some(40));
        let next_at = start + Duration::from_hours(1) + Duration::from_millis(50);
        assert_eq!(limit.count(0, next_at), None);
        assert_eq!(
            limit.count(1, next_at),
            Some(next_at + Duration::from_millis(50))
        );
    }
}
