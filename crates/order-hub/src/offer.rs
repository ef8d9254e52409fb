//! Events on their way into the mailbox of a session, and out of it.

use std::sync::Arc;

use order_core::Version;

use crate::{Form, SharedEvent};

/// One event for one session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The form the session asked for when it subscribed.
    pub form: Form,
    /// The event, shared with the other sessions that get it.
    pub event: Arc<SharedEvent>,
}

/// What became of an event that was offered to a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Offered {
    /// The reader has this version or a newer one.
    NotNewer,
    /// It waits for the reader.
    Queued,
    /// It waits for the reader in place of an older one.
    Conflated,
    /// There is no room for one more order now. A later pass offers it again.
    NoRoom,
    /// There is no room for one more order. The session ends.
    Overflowed,
}

/// An event on offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    pub(crate) event: &'a Arc<SharedEvent>,
    /// The version that every session of the user was offered, if the order is unfinished.
    pub(crate) known: Option<Version>,
    pub(crate) source: Source,
}

/// The origin of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A bus, which delivers it at most once.
    Bus,
    /// The reconcile pass, which offers it again if a mailbox has no room.
    Store,
}
