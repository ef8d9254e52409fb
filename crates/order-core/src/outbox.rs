//! Every committed event, for systems outside: kept by the store until it is published.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{BrokerError, Error, OrderEvent};

/// A committed event that has not been published yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// By which it is removed; never used again. Rises with the versions of an order, and
    /// says nothing about the order of commits.
    pub position: i64,
    /// The event; `None` if it is gone or cannot be read, which the store has logged. Such an
    /// entry is removed without being published.
    pub event: Option<OrderEvent>,
}

/// The events that wait to be published to an [`EventSink`].
///
/// An entry is written by the transaction that commits its event and removed after it was
/// published, so there is no position up to which everything counts as published, and a
/// transaction that commits late is not skipped. Of one order, a later version is never
/// visible without the earlier ones that are not yet removed.
///
/// # Cancel safety
/// Futures may be dropped at any point; the call has then taken effect as a whole or not at
/// all. All of them can be repeated without harm.
#[async_trait]
pub trait EventOutbox: Send + Sync + 'static {
    /// Has every event that is committed from now on kept, by whatever process. Repeating
    /// it does nothing. Until then, the outbox costs nothing.
    ///
    /// Of an order that changes meanwhile, what is kept is the end of its history: never a
    /// version without those that follow it.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`] also if the tables are too busy to be changed; the caller
    /// tries again.
    async fn enable(&self) -> Result<(), Error>;

    /// Undoes [`EventOutbox::enable`] and removes what is kept.
    async fn disable(&self) -> Result<(), Error>;

    /// Takes or renews the right to publish, for `lease` by the database's clock. `false`:
    /// another relay has it. A relay that was frozen beyond its lease may publish events
    /// again, never out of order for the first time.
    async fn acquire(&self, relay: Uuid, lease: Duration) -> Result<bool, Error>;

    /// Gives the right back, if `relay` has it.
    async fn release(&self, relay: Uuid) -> Result<(), Error>;

    /// Reads the entries with the lowest positions, at most `limit`, in their order.
    async fn read(&self, limit: usize) -> Result<Vec<OutboxEntry>, Error>;

    /// Removes entries that were published. Those that are gone already are ignored.
    async fn remove(&self, positions: &[i64]) -> Result<(), Error>;
}

/// A system outside that gets every event.
#[async_trait]
pub trait EventSink: Send + Sync + 'static {
    /// Publishes events so that those of one order stay in order. `Ok`: the other side has
    /// all of them, durably by its own standards. After an error any of them may be there,
    /// but of one order none without those before it; the caller repeats the whole batch.
    ///
    /// # Cancel safety
    /// May be dropped, which is an error like any other.
    async fn publish(&self, events: &[OrderEvent]) -> Result<(), BrokerError>;
}
