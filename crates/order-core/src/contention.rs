//! Recently found locks, so that requests that need the same rows are committed separately from
//! all others.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Change, Clock, Completion, CreateOrder, ExternalId, IdempotencyKey, NewOrder, OrderId, Start,
    UserId,
};

/// The most locks that are remembered. One that does not fit is found again.
const SUBJECTS_MAX: usize = 1024;

/// How long a lock is remembered after it was last found.
const MEMORY: Duration = Duration::from_secs(10);

/// Hashes of the rows that an item needs and another transaction may have locked. Two items whose
/// hashes collide are committed together, which is harmless.
pub type Subjects = [Option<u64>; 3];

/// An item of a [group commit](crate::group_commit).
pub trait Contended {
    /// The rows that another transaction may have locked. None by default, for items whose lock
    /// conflicts the flush function handles itself.
    fn subjects(&self) -> Subjects {
        [None; 3]
    }
}

fn hash(subject: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    hasher.finish()
}

fn of_create(
    order_id: Option<OrderId>,
    user_id: &UserId,
    external_id: Option<&ExternalId>,
    key: Option<&IdempotencyKey>,
) -> Subjects {
    [
        order_id.map(hash),
        external_id.map(|id| hash(("external id", user_id, id))),
        key.map(|key| hash(("key", user_id, key))),
    ]
}

impl Contended for CreateOrder {
    fn subjects(&self) -> Subjects {
        of_create(
            self.order_id,
            &self.user_id,
            self.external_id.as_ref(),
            self.idempotency_key.as_ref(),
        )
    }
}

impl Contended for NewOrder {
    fn subjects(&self) -> Subjects {
        of_create(
            Some(self.id),
            &self.user_id,
            self.external_id.as_ref(),
            self.key.as_ref().map(|claim| &claim.key),
        )
    }
}

impl Contended for Change {
    fn subjects(&self) -> Subjects {
        [Some(hash(self.order_id)), None, None]
    }
}

impl Contended for Start {
    fn subjects(&self) -> Subjects {
        [Some(hash(self.token.order_id)), None, None]
    }
}

/// The completer retries locked results itself, until their leases expire.
impl Contended for Completion {}

/// The locks that were found recently.
#[derive(Debug, Default)]
pub(crate) struct Contention {
    is_used: AtomicBool,
    until: Mutex<HashMap<u64, Instant>>,
}

impl Contention {
    /// Whether one of `subjects` was recently found locked. One atomic read while none was.
    pub(crate) fn concerns(&self, subjects: &Subjects, clock: &dyn Clock) -> bool {
        if !self.is_used.load(Ordering::Relaxed) {
            return false;
        }
        let now = clock.instant();
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.retain(|_, until| *until > now);
        self.is_used.store(!until.is_empty(), Ordering::Relaxed);
        let mut subjects = subjects.iter().flatten();
        subjects.any(|subject| until.contains_key(subject))
    }

    /// Remembers `subjects`: one of them is locked, but the error does not say which.
    pub(crate) fn note(&self, subjects: &Subjects, now: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        for subject in subjects.iter().flatten() {
            if until.len() < SUBJECTS_MAX || until.contains_key(subject) {
                until.insert(*subject, now + MEMORY);
            }
        }
        self.is_used.store(!until.is_empty(), Ordering::Relaxed);
    }
}
