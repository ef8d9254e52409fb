//! Which addresses of the service are left alone for a while.
//!
//! The consecutive detectors of [Envoy's outlier detection][envoy] with the growing ejection
//! times of [gRFC A50], for one address. Two things differ. The end of an ejection lets in
//! one call, not all of them: the half-open state of a circuit breaker. And the part of the
//! addresses that may be out has no limit here; whoever chooses among them uses those that
//! are out when no other is left.
//!
//! [envoy]: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier
//! [gRFC A50]: https://github.com/grpc/proposal/blob/master/A50-xds-outlier-detection.md

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// So many calls that fail one after the other eject an address. Calls fail together when
/// their connection breaks, so a single lost connection may do it; that costs the address
/// one ejection of the shortest time.
const FAILURES_MAX: u32 = 3;

/// The first ejection of a row.
const EJECTION_BASE: Duration = Duration::from_secs(1);

/// The longest ejection. A probe costs at most one call, which is repeated elsewhere, so
/// there is no reason to leave a replica idle for long after it came back.
const EJECTION_MAX: Duration = Duration::from_secs(10);

/// A row of ejections ends when the address was in for this long. Without it an address that
/// answers its probe and fails again would be ejected for the shortest time for ever.
const ROW_END: Duration = Duration::from_secs(30);

/// What became of a call, as far as it speaks about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The service answered. Its errors count too: the other addresses would have answered
    /// the same.
    Answered,
    /// The connection broke, a proxy answered UNAVAILABLE in place of the service, or there
    /// was no answer in a time that was long enough for one.
    Failed,
    /// The service said that it is shutting down.
    Draining,
}

/// Whether an address gets calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does.
    In,
    /// It does not, unless no other is left.
    Out,
    /// It gets one, to find out.
    ProbeDue,
}

/// The record of one address. Pure: who asks brings the time.
#[derive(Debug, Default)]
struct Outlier {
    /// Since the last answer.
    n_failures: u32,
    /// In this row.
    n_ejections: u32,
    ejection: Option<Ejection>,
    /// When the last ejection ended.
    back_at: Option<Instant>,
    /// How many ejections there were. A call that began before the last one says nothing
    /// about now: a replica that is going away still answers what it has begun.
    epoch: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    length: Duration,
    is_probing: bool,
    /// No connection could be made, so one that is made ends it.
    is_unreachable: bool,
}

impl Outlier {
    fn standing(&self, now: Instant) -> Standing {
        match &self.ejection {
            None => Standing::In,
            Some(ejection) if now < ejection.until => Standing::Out,
            Some(_) => Standing::ProbeDue,
        }
    }

    /// Takes the probe that is due: the next one is not due before as much time has passed
    /// again, whatever becomes of this one. `false` if none is due.
    fn begin_probe(&mut self, now: Instant) -> bool {
        match &mut self.ejection {
            Some(ejection) if now >= ejection.until => {
                ejection.until = now + ejection.length;
                ejection.is_probing = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Counts a call that began in `epoch`.
    fn record(&mut self, outcome: Outcome, epoch: u32, now: Instant) {
        if epoch != self.epoch {
            return;
        }
        match outcome {
            Outcome::Answered => self.let_in(now),
            Outcome::Draining => self.eject(now, false),
            Outcome::Failed => {
                self.n_failures = self.n_failures.saturating_add(1);
                if self.ejection.is_some() || self.n_failures >= FAILURES_MAX {
                    self.eject(now, false);
                }
            }
        }
    }

    /// Counts an attempt to connect that failed. One is enough: the next call would fail too.
    fn dial_failed(&mut self, now: Instant) {
        self.eject(now, true);
    }

    /// Counts a new connection. It shows that somebody listens, not that calls are answered.
    fn dial_succeeded(&mut self, now: Instant) {
        match &mut self.ejection {
            Some(ejection) if ejection.is_unreachable => self.let_in(now),
            // The probe goes on, with a call.
            Some(ejection) if ejection.is_probing => {
                ejection.until = now;
                ejection.is_probing = false;
            }
            Some(_) | None => {}
        }
    }

    fn let_in(&mut self, now: Instant) {
        self.n_failures = 0;
        if self.ejection.take().is_some() {
            self.back_at = Some(now);
        }
    }

    /// Begins an ejection. One that is under way goes on as it is, so that the calls that
    /// fail when nobody is left do not prolong it; a failed probe begins the next one.
    fn eject(&mut self, now: Instant, is_unreachable: bool) {
        match &mut self.ejection {
            Some(ejection) if now < ejection.until && !ejection.is_probing => {
                ejection.is_unreachable &= is_unreachable;
                return;
            }
            Some(_) => {}
            None => {
                let is_new_row = |back_at| now.saturating_duration_since(back_at) >= ROW_END;
                if self.back_at.is_none_or(is_new_row) {
                    self.n_ejections = 0;
                }
            }
        }
        let length = ejection_length(self.n_ejections);
        self.ejection = Some(Ejection {
            until: now + length,
            length,
            is_probing: false,
            is_unreachable,
        });
        self.n_ejections = self.n_ejections.saturating_add(1);
        self.n_failures = 0;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

/// The length of an ejection after `n_before` others in the row.
fn ejection_length(n_before: u32) -> Duration {
    let factor = 2_u32.saturating_pow(n_before);
    EJECTION_BASE.saturating_mul(factor).min(EJECTION_MAX)
}

/// The record of one address, shared by its calls. An address without a blemish costs its
/// calls one atomic read each.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Whether `outlier` has anything to say.
    is_suspect: AtomicBool,
    /// That of `outlier`.
    epoch: AtomicU32,
    outlier: Mutex<Outlier>,
}

/// What an event did to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that concerns others.
    None,
    /// It gets no calls from now on.
    Ejected,
    /// It gets calls again.
    Returned,
}

impl Health {
    /// Whether the address gets calls now.
    pub(super) fn standing(&self) -> Standing {
        if !self.is_suspect.load(Ordering::Relaxed) {
            return Standing::In;
        }
        let outlier = self.outlier.lock().unwrap_or_else(PoisonError::into_inner);
        outlier.standing(Instant::now())
    }

    /// What a call that begins now names when it is recorded.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Takes the probe that is due. `false` if somebody else did.
    pub(super) fn begin_probe(&self) -> bool {
        let mut has_begun = false;
        self.update(|outlier, now| has_begun = outlier.begin_probe(now));
        has_begun
    }

    /// Counts a call that began in `epoch`.
    pub(super) fn record(&self, outcome: Outcome, epoch: u32) -> Change {
        if outcome == Outcome::Answered && !self.is_suspect.load(Ordering::Relaxed) {
            return Change::None;
        }
        self.update(|outlier, now| outlier.record(outcome, epoch, now))
    }

    /// Counts an attempt to connect that failed.
    pub(super) fn dial_failed(&self) -> Change {
        self.update(Outlier::dial_failed)
    }

    /// Counts a new connection.
    pub(super) fn dial_succeeded(&self) -> Change {
        if !self.is_suspect.load(Ordering::Relaxed) {
            return Change::None;
        }
        self.update(Outlier::dial_succeeded)
    }

    fn update(&self, event: impl FnOnce(&mut Outlier, Instant)) -> Change {
        let mut outlier = self.outlier.lock().unwrap_or_else(PoisonError::into_inner);
        let was_out = outlier.ejection.is_some();
        event(&mut outlier, Instant::now());
        let is_out = outlier.ejection.is_some();
        let is_suspect = is_out || outlier.n_failures > 0;
        self.is_suspect.store(is_suspect, Ordering::Relaxed);
        self.epoch.store(outlier.epoch, Ordering::Relaxed);
        match (was_out, is_out) {
            (false, true) => Change::Ejected,
            (true, false) => Change::Returned,
            (false, false) | (true, true) => Change::None,
        }
    }
}

#[cfg(test)]
mod tests;
