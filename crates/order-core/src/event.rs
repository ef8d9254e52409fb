//! What happened to an order, one version at a time.

use futures_util::stream::BoxStream;
use jiff::Timestamp;

use crate::{Cause, Error, Order, OrderId, OrderStatus, PageSize, TraceParent, UserId, Version};

/// One entry of an order's history. Versions of an order start at 1 and have no gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    /// The order.
    pub order_id: OrderId,
    /// Who placed the order.
    pub user_id: UserId,
    /// The position in the order's history.
    pub version: Version,
    /// The status the order moved to.
    pub status: OrderStatus,
    /// When, by the database's clock.
    pub at: Timestamp,
    /// Why, where there is a reason to give.
    pub cause: Option<Cause>,
    /// The position in a trace of what caused it, while it is passed on. A history has none.
    pub trace_parent: Option<TraceParent>,
}

/// Where an order stands, in the fewest columns: what the reconcile pass of the hub reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderState {
    /// The order.
    pub order_id: OrderId,
    /// Who placed it.
    pub user_id: UserId,
    /// Its version.
    pub version: Version,
    /// Its status.
    pub status: OrderStatus,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Why it is FAILED or CANCELLED, where there is a reason to give.
    pub cause: Option<Cause>,
}

impl OrderState {
    /// The event that led here.
    pub fn into_event(self) -> OrderEvent {
        OrderEvent {
            order_id: self.order_id,
            user_id: self.user_id,
            version: self.version,
            status: self.status,
            at: self.updated_at,
            cause: self.cause,
            trace_parent: None,
        }
    }
}

/// A wanted page of the history of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListEvents {
    /// The order.
    pub order_id: OrderId,
    /// The last version the caller has seen; 0 begins with the creation.
    pub after: Version,
    /// How many events at most.
    pub page_size: PageSize,
}

/// A page of the history of an order, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<OrderEvent>,
    /// Where the order stands now: a settled order whose version is that of the last event
    /// has nothing more to tell until somebody redrives it.
    pub order: Order,
    /// Whether more events follow the last one.
    pub has_more: bool,
}

/// Events as they happen. After the first event of an order every version follows, each
/// exactly once, however slow the reader is; what it missed is read from the history. Ends
/// with an error item when the watch is cut, and goes on from the last version seen when
/// the caller watches again.
pub type OrderEventStream = BoxStream<'static, Result<OrderEvent, Error>>;
