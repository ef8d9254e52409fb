//! One reader: its subscriptions and the inbox they fill.

use std::sync::Arc;

use order_core::{CallContext, Error, Order, OrderEvent, OrderId, OrderStore, Version, WatchOrder};
use tokio_util::sync::CancellationToken;

use crate::{
    Form,
    hub::Shared,
    mailbox::{Delivery, Mailbox},
};

/// The most events that are replayed to a subscriber; one that missed more starts over
/// from the current state.
pub const REPLAY_LEN_MAX: usize = 300;

/// The answer to a subscription: where the order stands, and how the subscriber gets there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The order.
    pub order_id: OrderId,
    /// The version this answer leads to; everything newer follows through the inbox.
    pub version: Version,
    /// How the subscriber catches up.
    pub catch_up: CatchUp,
}

/// How a subscriber catches up with an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Every event after the version the subscriber named, oldest first, at most
    /// [`REPLAY_LEN_MAX`].
    Replay(Vec<OrderEvent>),
    /// The event that led to the current state: the subscriber named no version, or one
    /// that cannot be continued without a gap.
    Snapshot(OrderEvent),
}

impl Subscribed {
    /// The events of the answer, oldest first.
    pub fn into_events(self) -> Vec<OrderEvent> {
        match self.catch_up {
            CatchUp::Replay(events) => events,
            CatchUp::Snapshot(event) => vec![event],
        }
    }
}

/// The subscriptions of one reader. Dropping it ends them all.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
}

/// Where the events of a [`Session`] arrive.
#[derive(Debug)]
pub struct Inbox {
    mailbox: Arc<Mailbox>,
    closed: CancellationToken,
}

impl Session {
    pub(crate) fn open(shared: Arc<Shared>) -> Result<(Self, Inbox), Error> {
        shared.enter()?;
        let mailbox = Arc::new(Mailbox::default());
        let inbox = Inbox {
            mailbox: Arc::clone(&mailbox),
            closed: shared.closed.clone(),
        };
        Ok((Self { shared, mailbox }, inbox))
    }

    /// Follows an order: registers, reads the state from the store, then forwards what is
    /// newer to the inbox in `form`. Events arrive there only after this call has returned.
    ///
    /// Subscribing again reads again and sets the new form; no version is delivered twice.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] beyond the subscriptions of a session,
    /// [`Error::OrderNotFound`], or what the store answers. An error leaves the session as
    /// it was before.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the session as it was before.
    pub async fn subscribe(
        &mut self,
        ctx: &CallContext,
        order: WatchOrder,
        form: Form,
    ) -> Result<Subscribed, Error> {
        let opening = Opening::begin(self, order.order_id)?;
        let subscribed = self.shared.read(ctx, order).await?;
        opening.complete(form, subscribed.version);
        Ok(subscribed)
    }

    /// Stops following an order. `false` if it was not followed.
    pub fn unsubscribe(&mut self, order_id: OrderId) -> bool {
        let was_subscribed = self.mailbox.remove(order_id);
        if was_subscribed {
            self.shared.topics.leave(order_id, &self.mailbox);
        }
        was_subscribed
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for order_id in self.mailbox.clear() {
            self.shared.topics.leave(order_id, &self.mailbox);
        }
        self.shared.leave();
    }
}

impl Inbox {
    /// Appends all that waits to `deliveries`, at least one and at most one per
    /// subscription. Versions of one order only rise; nothing is said about the order
    /// between orders.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] once the hub is closed and nothing waits.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self, deliveries: &mut Vec<Delivery>) -> Result<(), Error> {
        let n_before = deliveries.len();
        loop {
            self.mailbox.take(deliveries);
            if deliveries.len() > n_before {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.mailbox.woken() => {}
                () = self.closed.cancelled() => return Err(Error::shutting_down()),
            }
        }
    }
}

/// A registration whose answer is still being read. Dropped before it is complete, it
/// takes the registration back.
struct Opening {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    order_id: OrderId,
    is_complete: bool,
}

impl Opening {
    fn begin(session: &Session, order_id: OrderId) -> Result<Self, Error> {
        let len_max = session.shared.config.subscriptions_per_session_max;
        // The mailbox comes first: an event that is offered to a mailbox without an entry
        // is dropped, and from `join` on none may be.
        if session.mailbox.open(order_id, len_max)? {
            session.shared.topics.join(order_id, &session.mailbox);
        }
        Ok(Self {
            shared: Arc::clone(&session.shared),
            mailbox: Arc::clone(&session.mailbox),
            order_id,
            is_complete: false,
        })
    }

    fn complete(mut self, form: Form, version: Version) {
        self.mailbox.establish(self.order_id, form, version);
        self.is_complete = true;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.is_complete && self.mailbox.abandon(self.order_id) {
            self.shared.topics.leave(self.order_id, &self.mailbox);
        }
    }
}

/// Reads where the order stands and what the subscriber missed.
pub(crate) async fn read(
    store: &dyn OrderStore,
    ctx: &CallContext,
    WatchOrder { order_id, since }: WatchOrder,
) -> Result<Subscribed, Error> {
    let order = store
        .find(ctx, order_id)
        .await?
        .ok_or(Error::OrderNotFound { order_id })?;
    if let Some(since) = since
        && let Some(events) = replay(store, ctx, &order, since).await?
    {
        return Ok(Subscribed {
            order_id,
            version: events.last().map_or(order.version, |last| last.version),
            catch_up: CatchUp::Replay(events),
        });
    }
    Ok(Subscribed {
        order_id,
        version: order.version,
        catch_up: CatchUp::Snapshot(order.last_event()),
    })
}

/// Every event after `since`, or `None` if they cannot be given without a gap: `since` is
/// ahead of the order, too far behind, or the history does not reach back to it.
async fn replay(
    store: &dyn OrderStore,
    ctx: &CallContext,
    order: &Order,
    since: Version,
) -> Result<Option<Vec<OrderEvent>>, Error> {
    let Some(n_missed) = order.version.checked_sub(since).map(|n| n as usize) else {
        return Ok(None);
    };
    if n_missed == 0 {
        return Ok(Some(Vec::new()));
    }
    if n_missed > REPLAY_LEN_MAX {
        return Ok(None);
    }
    let events = store.events(ctx, order.id, since, REPLAY_LEN_MAX).await?;
    let is_gap_free = events
        .iter()
        .zip(u64::from(since) + 1..)
        .all(|(event, version)| u64::from(event.version) == version);
    Ok((is_gap_free && events.len() >= n_missed).then_some(events))
}
