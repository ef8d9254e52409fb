//! Time and ids that a test owns: nothing moves unless the test moves it, and the same
//! seed gives the same ids.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{Clock, IdGen, OrderId};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::Notify;
use uuid::Builder;

/// When simulated time begins: 2025-01-01T00:00:00Z, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_735_689_600_000;

/// A clock that stands still until it is advanced.
///
/// Its time of day begins at 2025-01-01T00:00:00Z and counts whole microseconds, which is
/// what databases keep.
#[derive(Debug)]
pub struct SimClock {
    /// Where the monotonic clock begins. Only differences to it are ever seen.
    origin: Instant,
    elapsed_us: AtomicU64,
    /// How far the time of day was set back.
    set_back_us: AtomicU64,
    /// Wakes who sleeps, to look whether it has slept enough.
    advanced: Notify,
}

impl SimClock {
    /// A clock at the beginning of simulated time.
    pub fn new() -> Self {
        Self {
            origin: tokio::time::Instant::now().into_std(),
            elapsed_us: AtomicU64::new(0),
            set_back_us: AtomicU64::new(0),
            advanced: Notify::new(),
        }
    }

    /// Moves time on by `step`, cut to whole microseconds.
    pub fn advance(&self, step: Duration) {
        let step_us = u64::try_from(step.as_micros()).unwrap_or(u64::MAX);
        self.elapsed_us.fetch_add(step_us, Ordering::SeqCst);
        self.advanced.notify_waiters();
    }

    /// Sets the time of day back by `step`, as an administrator does; the monotonic clock goes
    /// on.
    pub fn set_back(&self, step: Duration) {
        let step_us = u64::try_from(step.as_micros()).unwrap_or(u64::MAX);
        self.set_back_us.fetch_add(step_us, Ordering::SeqCst);
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.elapsed_us.load(Ordering::SeqCst))
    }
}

/// The time of day after a time since the beginning of simulated time.
fn time_of_day(elapsed: Duration) -> Timestamp {
    let since_1970 = Duration::from_millis(EPOCH_MS).saturating_add(elapsed);
    let us = i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(us).unwrap_or(Timestamp::MAX)
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let set_back = Duration::from_micros(self.set_back_us.load(Ordering::SeqCst));
        time_of_day(self.elapsed()) - set_back
    }

    fn instant(&self) -> Instant {
        self.origin
            .checked_add(self.elapsed())
            .unwrap_or(self.origin)
    }

    async fn sleep(&self, duration: Duration) {
        let wake_at = self.elapsed().saturating_add(duration);
        loop {
            // Waits from here on, so an advance between the look and the wait is not missed.
            let advanced = self.advanced.notified();
            if self.elapsed() >= wake_at {
                return;
            }
            advanced.await;
        }
    }
}

/// The clock of the tokio runtime, for tests with `start_paused`: time stands still while
/// anything is left to do, then jumps to the next point at which something is.
#[derive(Debug)]
pub struct RuntimeClock {
    origin: tokio::time::Instant,
}

impl RuntimeClock {
    /// A clock at the beginning of simulated time.
    pub fn new() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }
}

impl Default for RuntimeClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        time_of_day(self.origin.elapsed())
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Ids from a seed: version 7 UUIDs whose time rises by one millisecond with each, so that
/// they sort in the order they were made. Its secrets are no secrets.
#[derive(Debug)]
pub struct SeededIds {
    state: Mutex<(u64, StdRng)>,
}

impl SeededIds {
    /// Ids that depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self {
            state: Mutex::new((EPOCH_MS, StdRng::seed_from_u64(seed))),
        }
    }
}

impl IdGen for SeededIds {
    fn order_id(&self) -> OrderId {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (millis, rng) = &mut *state;
        *millis += 1;
        let random: [u8; 10] = rng.random();
        OrderId::from_uuid(Builder::from_unix_timestamp_millis(*millis, &random).into_uuid())
    }

    fn secret(&self) -> [u8; 32] {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_moves_only_when_advanced() {
        let clock = SimClock::new();
        let (now, instant) = (clock.now(), clock.instant());
        assert_eq!(now.to_string(), "2025-01-01T00:00:00Z");
        assert_eq!((clock.now(), clock.instant()), (now, instant));

        clock.advance(Duration::from_millis(1_500));

        assert_eq!(clock.now().to_string(), "2025-01-01T00:00:01.5Z");
        assert_eq!(clock.instant() - instant, Duration::from_millis(1_500));
    }

    #[tokio::test]
    async fn sleeper_wakes_when_its_time_has_come() {
        let clock = SimClock::new();
        clock.sleep(Duration::ZERO).await;
        let mut sleep = clock.sleep(Duration::from_millis(2));
        assert!(futures_util::poll!(&mut sleep).is_pending());

        clock.advance(Duration::from_millis(1));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        clock.advance(Duration::from_millis(1));

        assert!(futures_util::poll!(&mut sleep).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn runtime_clock_follows_paused_time() {
        let clock = RuntimeClock::new();
        let (now, instant) = (clock.now(), clock.instant());
        clock.sleep(Duration::from_hours(1)).await;
        assert_eq!(clock.now().duration_since(now).as_hours(), 1);
        assert_eq!(clock.instant() - instant, Duration::from_hours(1));
    }

    #[test]
    fn ids_sort_and_repeat_with_the_seed() {
        let ids = |seed| {
            let ids = SeededIds::new(seed);
            std::iter::repeat_with(move || ids.order_id())
                .take(100)
                .collect::<Vec<_>>()
        };
        assert!(ids(7).is_sorted());
        assert_eq!(ids(7), ids(7));
        assert_ne!(ids(7), ids(8));
    }
}
