//! Versions that a reader was too slow for, and the reads of the history that bring them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::{BoxFuture, WeakShared};
use order_core::{Error, OrderId, UserId, Version};

use crate::{REPLAY_LEN_MAX, SharedEvent};

/// How long a read may take that no caller limits.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Versions of one order between what the reader has seen and what waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Gap {
    pub(crate) order_id: OrderId,
    pub(crate) user_id: UserId,
    /// The version the reader has seen.
    pub(crate) after: Version,
    /// How many versions to read; more may be missing.
    pub(crate) len: usize,
}

impl Gap {
    /// What is missing between the version `seen` and `event`.
    pub(crate) fn before(event: &SharedEvent, seen: Version) -> Option<Self> {
        let n_missing = event.version().saturating_sub(seen).saturating_sub(1);
        if n_missing == 0 {
            return None;
        }
        let event = event.event();
        Some(Self {
            order_id: event.order_id,
            user_id: event.user_id.clone(),
            after: seen,
            len: usize::try_from(n_missing).map_or(REPLAY_LEN_MAX, |n| n.min(REPLAY_LEN_MAX)),
        })
    }
}

/// Consecutive events, oldest first, beginning after a gap's `after`.
pub(crate) type Events = Arc<[Arc<SharedEvent>]>;

/// A read under way.
pub(crate) type Read = BoxFuture<'static, Result<Events, Arc<Error>>>;

/// The gaps that are being read now.
pub(crate) type Reads = Mutex<HashMap<Gap, WeakShared<Read>>>;
