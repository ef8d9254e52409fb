//! Which addresses of the service get no calls for a while because calls to them fail.
//!
//! The failure percentage of [gRFC A50] over a short window, with its growing ejection times.
//! An ejection ends by itself. No call is spent as a probe: an address also has to be connected
//! and say that it serves, which its health stream shows at any time.
//!
//! [gRFC A50]: https://github.com/grpc/proposal/blob/master/A50-xds-outlier-detection.md

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The window begins with a failure and ends after this time.
const WINDOW: Duration = Duration::from_secs(2);

/// Fewer failures in a window say nothing.
const FAILURES_MIN: u32 = 3;

/// The first ejection of a row.
const EJECTION_BASE: Duration = Duration::from_secs(1);

/// The longest ejection. The calls that an address fails when it is back are repeated
/// elsewhere, so there is no reason to leave it idle for long.
const EJECTION_MAX: Duration = Duration::from_secs(10);

/// A row of ejections ends when the address got calls for this long.
const ROW_END: Duration = Duration::from_secs(30);

/// The outcome of a call, as far as it says something about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer other than UNAVAILABLE.
    Answered,
    /// UNAVAILABLE, a broken connection, or silence for as long as no answer should take.
    Failed,
}

/// The record of one address. Pure: the caller brings the time.
#[derive(Debug, Default)]
struct Outlier {
    window: Option<Window>,
    /// In this row.
    n_ejections: u32,
    /// The end of the last ejection.
    ejected_until: Option<Instant>,
    /// Whether the last call failed.
    has_failed_last: bool,
}

#[derive(Debug)]
struct Window {
    ends_at: Instant,
    n_failed: u32,
    n_answered: u32,
}

impl Outlier {
    fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    /// Counts a call. Those that end during an ejection began before it, or had no choice. Returns
    /// whether the address fails too many calls. An answer never ejects: after an outage of all
    /// addresses the windows of some are still full of failures.
    fn record(&mut self, outcome: Outcome, now: Instant) -> bool {
        self.has_failed_last = outcome == Outcome::Failed;
        if self.is_ejected(now) {
            return false;
        }
        self.window.take_if(|window| now >= window.ends_at);
        match (&mut self.window, outcome) {
            (Some(window), Outcome::Answered) => window.n_answered += 1,
            (Some(window), Outcome::Failed) => window.n_failed += 1,
            (None, Outcome::Answered) => {}
            (None, Outcome::Failed) => {
                self.window = Some(Window {
                    ends_at: now + WINDOW,
                    n_failed: 1,
                    n_answered: 0,
                });
            }
        }
        self.has_failed_last && self.n_failing(now) >= FAILURES_MIN
    }

    /// How many calls have failed in the window, if at least every second one has.
    fn n_failing(&self, now: Instant) -> u32 {
        match &self.window {
            Some(window) if now < window.ends_at && window.n_failed >= window.n_answered => {
                window.n_failed
            }
            Some(_) | None => 0,
        }
    }

    /// Whether the address answers most of its calls. One that has answered none since its window
    /// ended is no better than it was.
    fn is_good(&self, now: Instant) -> bool {
        !self.has_failed_last && !self.is_ejected(now) && self.n_failing(now) == 0
    }

    /// Begins an ejection, unless one is under way.
    fn eject(&mut self, now: Instant) -> bool {
        if self.is_ejected(now) {
            return false;
        }
        let is_new_row = |until| now >= until + ROW_END;
        if self.ejected_until.is_none_or(is_new_row) {
            self.n_ejections = 0;
        }
        let length = EJECTION_BASE.saturating_mul(2_u32.saturating_pow(self.n_ejections));
        self.ejected_until = Some(now + length.min(EJECTION_MAX));
        self.n_ejections += 1;
        self.window = None;
        true
    }
}

/// The record of one address, shared by its calls. A call to an address without failures costs
/// one atomic read.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Whether `outlier` may have anything to say.
    is_suspect: AtomicBool,
    outlier: Mutex<Outlier>,
}

impl Record {
    /// Counts a call. Returns whether the address should be ejected if others are better.
    pub(super) fn add(&self, outcome: Outcome) -> bool {
        if outcome == Outcome::Answered && !self.is_suspect.load(Ordering::Relaxed) {
            return false;
        }
        self.with(|outlier, now| outlier.record(outcome, now))
    }

    /// Begins an ejection. Returns `false` if one is under way.
    pub(super) fn eject(&self) -> bool {
        self.with(Outlier::eject)
    }

    /// Whether the address gets no calls while there are others.
    pub(super) fn is_ejected(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed) && self.with(|outlier, now| outlier.is_ejected(now))
    }

    /// Whether the address answers most of its calls, as far as is known.
    pub(super) fn is_good(&self) -> bool {
        !self.is_suspect.load(Ordering::Relaxed) || self.with(|outlier, now| outlier.is_good(now))
    }

    fn with<T>(&self, event: impl FnOnce(&mut Outlier, Instant) -> T) -> T {
        let mut outlier = self.outlier.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let result = event(&mut outlier, now);
        let is_suspect =
            outlier.has_failed_last || outlier.window.is_some() || outlier.is_ejected(now);
        self.is_suspect.store(is_suspect, Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests;
