//! How fast a client may send: a token bucket, kept as the one instant at which it is full
//! again (GCRA, ITU-T I.371).

use std::time::Duration;

use tokio::time::Instant;

/// How many seconds' worth of messages may come at once: enough for a client that comes
/// back with a handful of orders, not for one that never waits.
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

    /// Whether one more message may come now.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let is_admitted = full_at - now <= Duration::from_secs(u64::from(BURST_SECONDS));
        if is_admitted {
            self.full_at = full_at;
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_followed_by_the_rate() {
        let start = Instant::now();
        let mut limit = RateLimit::new(20, start);
        let n_admitted = (0..100).filter(|_| limit.admit(start)).count();
        assert_eq!(n_admitted, 40);
        let later = start + Duration::from_millis(500);
        let n_admitted = (0..100).filter(|_| limit.admit(later)).count();
        assert_eq!(n_admitted, 10);
        let much_later = start + Duration::from_hours(1);
        let n_admitted = (0..100).filter(|_| limit.admit(much_later)).count();
        assert_eq!(n_admitted, 40);
    }
}
