//! What happened to an order, one version at a time.

use futures_util::stream::BoxStream;
use jiff::Timestamp;

use crate::{Cause, Error, OrderId, OrderStatus, Version};

/// One entry of an order's history. Versions of an order start at 1 and have no gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    /// The order.
    pub order_id: OrderId,
    /// The position in the order's history.
    pub version: Version,
    /// The status the order moved to.
    pub status: OrderStatus,
    /// When, by the database's clock.
    pub at: Timestamp,
    /// Why, where there is a reason to give.
    pub cause: Option<Cause>,
}

/// Where an order stands, in the fewest columns: what the reconcile pass of the hub reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderState {
    /// The order.
    pub order_id: OrderId,
    /// Its version.
    pub version: Version,
    /// Its status.
    pub status: OrderStatus,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl OrderState {
    /// The event that led here, without its cause.
    pub fn into_event(self) -> OrderEvent {
        OrderEvent {
            order_id: self.order_id,
            version: self.version,
            status: self.status,
            at: self.updated_at,
            cause: None,
        }
    }
}

/// Events as they happen. Versions of one order only rise; versions in between may be
/// skipped when the reader is slow. Ends with an error item when the watch is cut.
pub type OrderEventStream = BoxStream<'static, Result<OrderEvent, Error>>;
