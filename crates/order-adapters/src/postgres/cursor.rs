//! The position among the due jobs at which the next claim starts.
//!
//! A job that is claimed or done leaves a dead entry at the front of the index of due jobs. As
//! long as any transaction of the server may still see it, perhaps for hours, no vacuum removes
//! it, and every scan from the beginning reads all of them. So a scan begins where the last one
//! ended, and only now and then at the beginning: for jobs that another transaction had locked
//! when the last scan passed them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

/// The bounds of the time between two scans from the beginning.
const FULL_INTERVAL_MIN: Duration = Duration::from_secs(10);
const FULL_INTERVAL_MAX: Duration = Duration::from_mins(1);

/// Scans from the beginning take at most this share of the time, as a divisor.
const FULL_DIVISOR: u32 = 100;

#[derive(Default)]
struct State {
    /// Nothing was due before it, by the time of the database.
    end: Option<Timestamp>,
    next_full: Option<Instant>,
}

/// The position that one kind of claim has reached.
#[derive(Default)]
pub(super) struct Cursor(Mutex<State>);

/// One scan of the due jobs.
pub(super) struct Scan {
    begun_at: Instant,
    /// When the jobs became due at which it begins; `None`: at the beginning.
    pub(super) from: Option<Timestamp>,
}

impl Cursor {
    /// Begins a scan.
    pub(super) fn scan(&self) -> Scan {
        let begun_at = Instant::now();
        let state = self.lock();
        let is_full = state.next_full.is_none_or(|next| next <= begun_at);
        Scan {
            begun_at,
            from: state.end.filter(|_| !is_full),
        }
    }

    /// Ends a scan that left nothing behind that became due before `end`.
    pub(super) fn advance(&self, scan: &Scan, end: Timestamp) {
        let mut state = self.lock();
        state.end = Some(end);
        if scan.from.is_none() {
            let now = Instant::now();
            let pause = (now - scan.begun_at) * FULL_DIVISOR;
            state.next_full = Some(now + pause.clamp(FULL_INTERVAL_MIN, FULL_INTERVAL_MAX));
        }
    }

    /// Has the next scan begin at the beginning: what a statement had locked that was not
    /// answered may be free again.
    pub(super) fn forget(&self) {
        *self.lock() = State::default();
    }

    /// No code that can panic runs under the lock, so the state is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn scan_begins_where_the_last_one_ended() {
        let cursor = Cursor::default();
        assert_eq!(cursor.scan().from, None);
        let first = cursor.scan();
        assert_eq!(first.from, None);
        cursor.advance(&first, Timestamp::UNIX_EPOCH);
        assert_eq!(cursor.scan().from, Some(Timestamp::UNIX_EPOCH));
        cursor.forget();
        assert_eq!(cursor.scan().from, None);
    }

    #[tokio::test(start_paused = true)]
    async fn now_and_then_a_look_begins_at_the_beginning() {
        for (time, interval) in [
            (Duration::ZERO, 10 * SECOND),
            (SECOND / 5, 20 * SECOND),
            (5 * SECOND, Duration::from_mins(1)),
        ] {
            let cursor = Cursor::default();
            let full = cursor.scan();
            advance(time).await;
            cursor.advance(&full, Timestamp::UNIX_EPOCH);
            advance(interval * 99 / 100).await;
            assert!(cursor.scan().from.is_some());
            advance(interval / 100).await;
            assert!(cursor.scan().from.is_none());
        }
    }
}
