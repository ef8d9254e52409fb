//! Reads from the history what a reader was too slow for.
//!
//! The mailbox keeps one event per order, the newest. A reader that is owed every version
//! gets those before it from the store, which has them all. When an order that many watch
//! moves twice in a moment, many readers miss the same versions at the same time: they
//! share one read, and the events it found.

use std::sync::Arc;

use futures_util::{
    FutureExt,
    future::{Shared as SharedFuture, WeakShared},
};
use order_core::{CallContext, Deadline, Error, RequestId};
use tokio::time::timeout;

use crate::{
    SharedEvent,
    gap::{Events, Gap, READ_TIMEOUT, Read},
    hub::Shared,
    lock,
};

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
