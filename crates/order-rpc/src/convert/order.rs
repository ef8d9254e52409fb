//! Orders, events and tickets, which the service sends and the client reads.

use jiff::Timestamp;
use order_core::{
    Cause, Error, ExternalId, Metadata, Money, Order, OrderEvent, OrderId, OrderStatus,
    StreamTicket, TicketGrant, TicketSecret, TraceParent, UserId,
};

use super::etag::etag_of;
use crate::proto;

/// The message of the service breaks the contract.
#[derive(Debug, thiserror::Error)]
#[error("the service sent {what} that is missing or not valid")]
struct InvalidAnswer {
    what: &'static str,
}

pub(super) fn invalid_answer(what: &'static str) -> Error {
    Error::internal(InvalidAnswer { what })
}

/// Writes an order.
pub(crate) fn order_to_proto(order: Order) -> proto::Order {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    proto::Order {
        order_id: order.id.to_string(),
        user_id: order.user_id.as_str().to_owned(),
        money: Some(money_to_proto(order.money)),
        status: status_to_proto(order.status).into(),
        version: order.version,
        failure: order.failure.map(cause_to_proto),
        created_at: Some(time_to_proto(order.created_at)),
        updated_at: Some(time_to_proto(order.updated_at)),
        metadata: order.metadata.iter().map(owned).collect(),
        external_id: order
            .external_id
            .map(|id| id.as_str().to_owned())
            .unwrap_or_default(),
        etag: etag_of(order.version),
    }
}

/// Reads an order of an answer.
///
/// # Errors
/// [`Error::Internal`] if it is missing or breaks the contract.
pub(crate) fn order_from_proto(order: Option<proto::Order>) -> Result<Order, Error> {
    let order = order.ok_or_else(|| invalid_answer("an order"))?;
    let money = order.money.ok_or_else(|| invalid_answer("an amount"))?;
    let external_id = Some(order.external_id.as_str()).filter(|id| !id.is_empty());
    Ok(Order {
        id: id_from_proto(&order.order_id)?,
        user_id: user_of_answer(&order.user_id)?,
        money: money_of_answer(&money)?,
        status: status_of_answer(order.status)?,
        version: order.version,
        metadata: Metadata::new(order.metadata).map_err(|_| invalid_answer("metadata"))?,
        external_id: external_id.map(ExternalId::from_accepted),
        failure: order.failure.map(cause_of_answer),
        created_at: time_of_answer(order.created_at)?,
        updated_at: time_of_answer(order.updated_at)?,
    })
}

/// Reads the orders of a page. One that breaks the contract, as one of a service of another
/// version may, is logged and left out, so that it does not cost the whole page.
pub(crate) fn page_from_proto(orders: Vec<proto::Order>) -> Vec<Order> {
    let read = |order: proto::Order| {
        let order_id = order.order_id.clone();
        let logged = |error: &Error| {
            tracing::error!(
                order.id = order_id,
                error = error.chain(),
                "order is unreadable"
            );
        };
        order_from_proto(Some(order)).inspect_err(logged).ok()
    };
    orders.into_iter().filter_map(read).collect()
}

/// Writes an event.
pub(crate) fn event_to_proto(event: OrderEvent) -> proto::OrderEvent {
    proto::OrderEvent {
        order_id: event.order_id.to_string(),
        version: event.version,
        status: status_to_proto(event.status).into(),
        at: Some(time_to_proto(event.at)),
        cause: event.cause.map(cause_to_proto),
        user_id: event.user_id.as_str().to_owned(),
        traceparent: sampled_to_proto(event.trace_parent.as_ref()),
    }
}

/// Writes a position in a sampled trace; empty for any other.
pub(super) fn sampled_to_proto(trace: Option<&TraceParent>) -> String {
    let trace = trace.filter(|trace| trace.is_sampled());
    trace.map(TraceParent::to_string).unwrap_or_default()
}

/// Reads an event.
///
/// # Errors
/// [`Error::Internal`] if it breaks the contract.
pub(crate) fn event_from_proto(event: proto::OrderEvent) -> Result<OrderEvent, Error> {
    Ok(OrderEvent {
        order_id: id_from_proto(&event.order_id)?,
        user_id: user_of_answer(&event.user_id)?,
        version: event.version,
        status: status_of_answer(event.status)?,
        at: time_of_answer(event.at)?,
        cause: event.cause.map(cause_of_answer),
        trace_parent: TraceParent::parse(&event.traceparent),
    })
}

/// Writes a ticket.
pub(crate) fn ticket_to_proto(ticket: &StreamTicket) -> proto::CreateStreamTicketResponse {
    proto::CreateStreamTicketResponse {
        ticket: ticket.secret.to_text(),
        expires_at: Some(time_to_proto(ticket.expires_at)),
    }
}

/// Reads the ticket for what was asked for.
///
/// # Errors
/// [`Error::Internal`] if it breaks the contract.
pub(crate) fn ticket_from_proto(
    ticket: &proto::CreateStreamTicketResponse,
    grant: TicketGrant,
) -> Result<StreamTicket, Error> {
    Ok(StreamTicket {
        secret: TicketSecret::parse(&ticket.ticket).ok_or_else(|| invalid_answer("a ticket"))?,
        grant,
        expires_at: time_of_answer(ticket.expires_at)?,
    })
}

pub(super) fn money_to_proto(money: Money) -> proto::Money {
    proto::Money {
        currency: money.currency().to_owned(),
        minor_units: money.minor_units(),
        minor_digits: Some(money.minor_digits().into()),
    }
}

pub(super) fn cause_to_proto(cause: Cause) -> proto::Cause {
    proto::Cause {
        code: cause.code,
        message: cause.message,
    }
}

pub(super) fn status_to_proto(status: OrderStatus) -> proto::OrderStatus {
    match status {
        OrderStatus::Pending => proto::OrderStatus::Pending,
        OrderStatus::Processing => proto::OrderStatus::Processing,
        OrderStatus::Processed => proto::OrderStatus::Processed,
        OrderStatus::Failed => proto::OrderStatus::Failed,
        OrderStatus::Cancelled => proto::OrderStatus::Cancelled,
    }
}

/// `None` for a number this version does not know, and for the unspecified status.
pub(super) fn status_from_proto(status: i32) -> Option<OrderStatus> {
    match proto::OrderStatus::try_from(status).ok()? {
        proto::OrderStatus::Unspecified => None,
        proto::OrderStatus::Pending => Some(OrderStatus::Pending),
        proto::OrderStatus::Processing => Some(OrderStatus::Processing),
        proto::OrderStatus::Processed => Some(OrderStatus::Processed),
        proto::OrderStatus::Failed => Some(OrderStatus::Failed),
        proto::OrderStatus::Cancelled => Some(OrderStatus::Cancelled),
    }
}

fn id_from_proto(text: &str) -> Result<OrderId, Error> {
    text.parse().map_err(|_| invalid_answer("an order id"))
}

fn user_of_answer(text: &str) -> Result<UserId, Error> {
    if text.is_empty() {
        return Err(invalid_answer("a user id"));
    }
    Ok(UserId::from_accepted(text))
}

/// A service of another version may know other currencies, so its amounts are trusted. An older
/// one sends no decimal places.
fn money_of_answer(money: &proto::Money) -> Result<Money, Error> {
    let bad = || invalid_answer("an amount");
    let minor_digits = money.minor_digits.map(u8::try_from).transpose();
    let minor_digits = minor_digits.map_err(|_| bad())?;
    Money::from_accepted(money.minor_units, &money.currency, minor_digits).map_err(|_| bad())
}

fn status_of_answer(status: i32) -> Result<OrderStatus, Error> {
    status_from_proto(status).ok_or_else(|| invalid_answer("an order status"))
}

fn cause_of_answer(cause: proto::Cause) -> Cause {
    Cause {
        code: cause.code,
        message: cause.message,
    }
}

pub(super) fn time_to_proto(time: Timestamp) -> prost_types::Timestamp {
    // The message wants nanoseconds that count forward, before 1970 too.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// `None` for a time that no calendar here can hold.
pub(super) fn time_from_proto(time: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

pub(super) fn time_of_answer(time: Option<prost_types::Timestamp>) -> Result<Timestamp, Error> {
    time.and_then(time_from_proto)
        .ok_or_else(|| invalid_answer("a time"))
}

/// `None` for a time that is absent.
pub(super) fn optional_time_of_answer(
    time: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Error> {
    time.map(|time| time_of_answer(Some(time))).transpose()
}
