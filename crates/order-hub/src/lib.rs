//! Subscriptions and fan-out: who watches which order or user, and how each of them hears
//! of it.
//!
//! The hub owns the map from orders and users to sessions, one conflating mailbox per
//! session, the reconcile pass, and the queues between this process and the broker that
//! carries events to others. It knows the store only to read where orders stand and what
//! happened to them, and it knows neither sockets nor any wire format: transports keep their
//! encodings in the event.
//!
//! Invariants:
//! - A session registers first, reads the store second and forwards what is newer third, so
//!   there is no gap and no step back.
//! - A session holds at most one undelivered event per order and form, however slow its reader is.
//!   Where the reader is owed every version, those in between are read from the store when
//!   it comes; where it is not, it skips them, and never the last one.
//! - The bus is a hint. Whatever it drops is healed from the store by the reconcile pass: every
//!   order that a session follows or has been shown unfinished is asked about until it is settled.
//! - Locks are taken in the order users, shard, mailbox, and never held across an await. Under that
//!   of the pushes no other is taken.
//!   What topics came and went is noted under the lock of the users or the shard that
//!   decides it, so the last change that is told is the last that happened.

mod changes;
mod event;
mod fill;
mod gap;
mod hub;
mod inbox;
mod inlet;
mod lookups;
mod mailbox;
mod offer;
mod outage;
mod outlet;
mod pushes;
mod reconcile;
mod session;
mod topics;
mod unsettled;
mod user_feed;
mod users;

#[cfg(test)]
mod tests;

pub use event::{Form, SharedEvent};
pub use hub::{Hub, HubConfig, HubStats, StatusLabels};
pub use inbox::Inbox;
pub use inlet::run_inlet;
pub use offer::Delivery;
pub use outlet::{Fanout, Outlet, OutletStats};
pub use session::{CatchUp, REPLAY_LEN_MAX, Session, Subscribed, SubscribedUser};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. A poisoned lock is taken as it is: every critical section of this crate
/// leaves its state valid at each step, so a panic elsewhere must not end the fan-out.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
