//! What every transport calls and what every transport's client implements.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::{
    Cause, Error, ListOrders, Money, Order, OrderEventStream, OrderId, OrderPage, OrderStatus,
    RequestId, UserId, Version,
};

/// The point in time after which nobody waits for the answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No limit; for work the system does for itself.
    pub const NONE: Self = Self(None);

    /// Ends at `instant`.
    pub const fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// The instant, if there is a limit.
    pub const fn instant(&self) -> Option<Instant> {
        self.0
    }

    /// Whether the time has run out at `now`.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.0.is_some_and(|deadline| deadline <= now)
    }

    /// The time left at `now`, zero if it has run out, `None` if there is no limit.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.0
            .map(|deadline| deadline.saturating_duration_since(now))
    }
}

/// What comes with every call, whatever the transport.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// The id of the request, for logs.
    pub request_id: RequestId,
    /// When the caller stops waiting. Work that has not begun by then is refused.
    pub deadline: Deadline,
}

/// A wanted order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOrder {
    /// The id, if the caller made one. A caller that repeats a call with the same id and
    /// content gets the same order, however often.
    pub order_id: Option<OrderId>,
    /// Who places it.
    pub user_id: UserId,
    /// What it is worth.
    pub money: Money,
}

/// A wish to withdraw an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelOrder {
    /// The order.
    pub order_id: OrderId,
    /// Why, in the client's words.
    pub reason: Option<String>,
}

/// A wish to move an order to a status by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateStatus {
    /// The order.
    pub order_id: OrderId,
    /// The wanted status.
    pub status: OrderStatus,
    /// Why.
    pub cause: Option<Cause>,
}

/// One order to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchOrder {
    /// The order.
    pub order_id: OrderId,
    /// The last version the caller has seen: what came after is sent first. `None` sends
    /// the current state first.
    pub since: Option<Version>,
}

/// The system, as its callers see it.
///
/// Implemented by [`OrderService`](crate::OrderService) in process and by the gRPC client
/// over the network; one contract suite runs against both.
///
/// Every method refuses work whose deadline has passed with [`Error::DeadlineExceeded`].
///
/// # Cancel safety
/// Dropping a future gives up the answer, never half of the work: a write either happens
/// as a whole or not at all.
#[async_trait]
pub trait OrderApi: Send + Sync + 'static {
    /// Stores an order durably and has it processed. Idempotent by
    /// [`CreateOrder::order_id`].
    async fn create_order(&self, ctx: &CallContext, request: CreateOrder) -> Result<Order, Error>;

    /// Stores many orders, each for itself: the answers are in the order of the requests,
    /// and one that fails leaves the others alone.
    ///
    /// # Errors
    /// The outer error means that no answer is known for any of them.
    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Order, Error>>, Error>;

    /// Reads an order.
    async fn get_order(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error>;

    /// Reads a page of orders, newest id first.
    async fn list_orders(&self, ctx: &CallContext, request: ListOrders)
    -> Result<OrderPage, Error>;

    /// Withdraws an order. One that is already cancelled is answered as it is.
    async fn cancel_order(&self, ctx: &CallContext, request: CancelOrder) -> Result<Order, Error>;

    /// Moves an order along the state machine. One that already stands there is answered
    /// as it is.
    async fn update_status(&self, ctx: &CallContext, request: UpdateStatus)
    -> Result<Order, Error>;

    /// Follows orders until the stream is dropped or cut.
    ///
    /// Fails at once if one of the orders does not exist.
    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error>;

    /// Whether calls can be answered now: reaches through to the database.
    async fn check_ready(&self, ctx: &CallContext) -> Result<(), Error>;
}
