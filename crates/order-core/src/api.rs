//! What every transport calls and what every transport's client implements.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    Cause, Error, EventPage, ExternalId, IdempotencyKey, ListEvents, ListOrders, Metadata, Money,
    Order, OrderEventStream, OrderId, OrderPage, OrderStatus, RequestId, StreamTicket, TicketGrant,
    TraceParent, UserId, Version,
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
    /// Where the call is in a distributed trace, if the caller takes part in one.
    pub trace_parent: Option<TraceParent>,
    /// Names the change that the call makes, if the caller may repeat it: a store that keeps
    /// the id answers the repetition as it answered the first call.
    pub change_id: Option<Uuid>,
    /// The process that took the request from the client, if that is not this one.
    pub gateway: Option<Arc<str>>,
}

impl CallContext {
    /// A call outside any trace.
    pub const fn new(request_id: RequestId, deadline: Deadline) -> Self {
        Self {
            request_id,
            deadline,
            trace_parent: None,
            change_id: None,
            gateway: None,
        }
    }
}

/// At which version an order must be for a change to happen (RFC 9110 §13.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// At any: the order only has to exist.
    Any,
    /// At one of these. None of an empty list: nothing matches.
    Versions(Vec<Version>),
}

impl IfMatch {
    /// Whether an order at `version` may change.
    pub fn is_met(&self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
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
    /// What the client attaches to it.
    pub metadata: Metadata,
    /// Its name in the client's own system, unique among the orders of the user.
    pub external_id: Option<ExternalId>,
    /// By which the client repeats the request.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Of an order in a batch: where its request is in a trace. Any other has the position of its
    /// call.
    pub trace_parent: Option<TraceParent>,
    /// Of an order in a batch: the id of its request, if that is not the one of the call.
    pub request_id: Option<RequestId>,
}

impl CreateOrder {
    /// An order with nothing but what it needs.
    pub const fn new(user_id: UserId, money: Money) -> Self {
        Self {
            order_id: None,
            user_id,
            money,
            metadata: Metadata::NONE,
            external_id: None,
            idempotency_key: None,
            trace_parent: None,
            request_id: None,
        }
    }
}

/// The answer to a request that a client may repeat by a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The order, as the first of the repeated requests was answered.
    pub order: Order,
    /// Whether an earlier request with the same key did the work.
    pub is_replayed: bool,
}

impl Receipt {
    /// The answer to a request that did the work itself.
    pub const fn first(order: Order) -> Self {
        Self {
            order,
            is_replayed: false,
        }
    }
}

/// A wish to withdraw an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelOrder {
    /// The order.
    pub order_id: OrderId,
    /// Why, in the client's words.
    pub reason: Option<String>,
    /// At which version the order must be.
    pub if_match: Option<IfMatch>,
    /// By which the client repeats the request. Kept only if the order moved.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A wish to redrive a FAILED order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOrder {
    /// The order.
    pub order_id: OrderId,
    /// At which version the order must be.
    pub if_match: Option<IfMatch>,
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
    /// At which version the order must be.
    pub if_match: Option<IfMatch>,
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
    /// [`CreateOrder::order_id`] and by [`CreateOrder::idempotency_key`].
    async fn create_order(&self, ctx: &CallContext, request: CreateOrder)
    -> Result<Receipt, Error>;

    /// Stores many orders, each for itself: the answers are in the order of the requests,
    /// and one that fails leaves the others alone.
    ///
    /// # Errors
    /// The outer error means that no answer is known for any of them.
    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error>;

    /// Reads an order.
    async fn get_order(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error>;

    /// Reads a page of orders, newest id first.
    async fn list_orders(&self, ctx: &CallContext, request: ListOrders)
    -> Result<OrderPage, Error>;

    /// Withdraws an order. One that is already cancelled is answered as it is.
    async fn cancel_order(&self, ctx: &CallContext, request: CancelOrder)
    -> Result<Receipt, Error>;

    /// Gives a FAILED order a new round of attempts. One that is PENDING is answered as it
    /// is, so that the request can be repeated.
    async fn retry_order(&self, ctx: &CallContext, request: RetryOrder) -> Result<Order, Error>;

    /// Moves an order along the state machine. One that already stands there is answered
    /// as it is.
    async fn update_status(&self, ctx: &CallContext, request: UpdateStatus)
    -> Result<Order, Error>;

    /// Reads a page of the history of an order, oldest first.
    async fn list_events(&self, ctx: &CallContext, request: ListEvents)
    -> Result<EventPage, Error>;

    /// Makes a ticket with which a client opens one stream within 30 s.
    async fn create_ticket(
        &self,
        ctx: &CallContext,
        grant: TicketGrant,
    ) -> Result<StreamTicket, Error>;

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
