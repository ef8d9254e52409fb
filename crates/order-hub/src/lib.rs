//! Subscriptions and fan-out: who watches which order, and how each of them hears of it.
//!
//! The hub owns the map from orders to sessions, one conflating mailbox per session and the
//! reconcile pass. It knows the store only to read where an order stands, and it knows
//! neither sockets nor any wire format: transports keep their encodings in the event.
//!
//! Invariants:
//! - A session registers first, reads the store second and forwards what is newer third, so
//!   there is no gap and no step back.
//! - A session holds at most one undelivered event per subscription. A slow reader skips
//!   versions in between and never the last one.
//! - The bus is a hint. Whatever it drops is healed from the store by the reconcile pass.
//! - Locks are taken in the order shard, then mailbox, and never held across an await.

mod event;
mod hub;
mod mailbox;
mod reconcile;
mod session;
mod topics;

#[cfg(test)]
mod tests;

pub use event::{Form, SharedEvent};
pub use hub::{Hub, HubConfig, HubStats};
pub use mailbox::Delivery;
pub use session::{CatchUp, Inbox, REPLAY_LEN_MAX, Session, Subscribed};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. A poisoned lock is taken as it is: every critical section of this crate
/// leaves its state valid at each step, so a panic elsewhere must not end the fan-out.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
