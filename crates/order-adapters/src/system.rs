//! Time and ids of the operating system: the only module that reads a real clock.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{Clock, IdGen, OrderId};
use uuid::Uuid;

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

#[expect(
    clippy::disallowed_methods,
    reason = "the Clock port ends here: somebody has to read the clock"
)]
#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Version 7 UUIDs, each greater than all that this process made before, from whatever
/// thread or instance and whatever the clock does. Its secrets come from a cryptographic
/// generator that the operating system seeds.
#[derive(Clone, Copy, Debug)]
pub struct UuidV7Ids;

impl IdGen for UuidV7Ids {
    #[expect(
        clippy::disallowed_methods,
        reason = "the IdGen port ends here: its counter is shared by the process"
    )]
    fn order_id(&self) -> OrderId {
        OrderId::from_uuid(Uuid::now_v7())
    }

    fn secret(&self) -> [u8; 32] {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_within_one_millisecond() {
        let ids: Vec<_> = std::iter::repeat_with(|| UuidV7Ids.order_id())
            .take(10_000)
            .collect();
        assert!(ids.is_sorted_by(|left, right| left < right));
        assert!(ids.iter().all(|id| id.as_uuid().get_version_num() == 7));
    }

    #[test]
    fn secrets_differ() {
        assert_ne!(UuidV7Ids.secret(), UuidV7Ids.secret());
    }

    #[test]
    fn clocks_agree_on_the_direction_of_time() {
        let (instant, now) = (SystemClock.instant(), SystemClock.now());
        assert!(SystemClock.instant() >= instant);
        assert!(now.as_second() > 1_700_000_000);
    }
}
