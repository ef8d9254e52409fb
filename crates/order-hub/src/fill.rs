//! Reads from the history what a reader was too slow for.
//!
//! The mailbox keeps one event per order, the newest. A reader that is owed every version
//! gets those before it from the store, which has them all. When an order that many watch
//! moves twice in a moment, many readers miss the same versions at the same time: they
//! share one read, and the events it found.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared as SharedFuture, WeakShared},
};
use order_core::{CallContext, Deadline, Error, OrderId, RequestId, UserId, Version};
use tokio::time::timeout;

use crate::{REPLAY_LEN_MAX, SharedEvent, hub::Shared, lock};

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

type Read = BoxFuture<'static, Result<Events, Arc<Error>>>;

/// The gaps that are being read now.
pub(crate) type Reads = Mutex<HashMap<Gap, WeakShared<Read>>>;

/// A gap that is being read, for one reader.
pub(crate) struct Fill {
    pub(crate) gap: Gap,
    read: SharedFuture<Read>,
}

impl Fill {
    /// Begins to read a gap when its turn comes, or joins whoever reads it already.
    pub(crate) fn begin(shared: &Arc<Shared>, gap: Gap) -> Self {
        let mut reads = lock(&shared.fills);
        let running = reads.get(&gap).and_then(WeakShared::upgrade);
        let read = running.unwrap_or_else(|| {
            let read = read(Arc::clone(shared), gap.clone()).shared();
            if let Some(weak) = read.downgrade() {
                reads.insert(gap.clone(), weak);
            }
            read
        });
        Self { gap, read }
    }

    /// Waits for the events.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn events(&mut self) -> Result<Events, Error> {
        let events = (&mut self.read).await;
        events.map_err(|error| error.without_source())
    }
}

fn read(shared: Arc<Shared>, gap: Gap) -> Read {
    let running = Running { shared, gap };
    Box::pin(async move {
        let read = timeout(READ_TIMEOUT, running.events());
        let events = read.await.unwrap_or(Err(Error::DeadlineExceeded));
        events.map_err(|error| {
            // Here and not where it is handled: that may be in many places.
            tracing::warn!(
                order.id = %running.gap.order_id,
                error.chain = error.chain(),
                "history could not be read"
            );
            error.into()
        })
    })
}

/// A read that is under way. Dropped at its end, or when nobody waits for it any more.
struct Running {
    shared: Arc<Shared>,
    gap: Gap,
}

impl Running {
    async fn events(&self) -> Result<Events, Error> {
        let Self { shared, gap } = self;
        // Nobody asked for this read; the order stands for the request.
        let request_id = RequestId::from_uuid(*gap.order_id.as_uuid());
        let ctx = CallContext::new(request_id, Deadline::NONE);
        let read = shared.store.events(&ctx, gap.order_id, gap.after, gap.len);
        let expected = (gap.after..).skip(1).take(gap.len);
        let events: Events = shared
            .in_turn(read)
            .await?
            .into_iter()
            .zip(expected)
            .take_while(|(event, version)| event.version == *version)
            .map(|(event, _)| Arc::new(SharedEvent::new(event)))
            .collect();
        if events.is_empty() {
            let missing = format!("order {} has no event after {}", gap.order_id, gap.after);
            return Err(Error::store_unavailable(missing));
        }
        Ok(events)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.shared.fills).remove(&self.gap);
    }
}
