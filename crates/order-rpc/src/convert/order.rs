//! Orders and events, which the service sends and the client reads.

use jiff::Timestamp;
use order_core::{Cause, Error, Money, Order, OrderEvent, OrderId, OrderStatus, UserId};

use crate::proto;

/// The message of the service breaks the contract.
#[derive(Debug, thiserror::Error)]
#[error("the service sent {what} that is missing or not valid")]
struct InvalidAnswer {
    what: &'static str,
}

fn invalid_answer(what: &'static str) -> Error {
    Error::internal(InvalidAnswer { what })
}

/// Writes an order.
pub(crate) fn order_to_proto(order: Order) -> proto::Order {
    proto::Order {
        order_id: order.id.to_string(),
        user_id: order.user_id.as_str().to_owned(),
        money: Some(money_to_proto(order.money)),
        status: status_to_proto(order.status).into(),
        version: order.version,
        failure: order.failure.map(cause_to_proto),
        created_at: Some(time_to_proto(order.created_at)),
        updated_at: Some(time_to_proto(order.updated_at)),
    }
}

/// Reads an order of an answer.
///
/// # Errors
/// [`Error::Internal`] if it is missing or breaks the contract.
pub(crate) fn order_from_proto(order: Option<proto::Order>) -> Result<Order, Error> {
    let order = order.ok_or_else(|| invalid_answer("an order"))?;
    let money = order.money.ok_or_else(|| invalid_answer("an amount"))?;
    Ok(Order {
        id: id_from_proto(&order.order_id)?,
        user_id: UserId::parse(&order.user_id).map_err(|_| invalid_answer("a user id"))?,
        money: Money::from_minor_units(money.minor_units, &money.currency)
            .map_err(|_| invalid_answer("an amount"))?,
        status: status_of_answer(order.status)?,
        version: order.version,
        failure: order.failure.map(cause_of_answer),
        created_at: time_from_proto(order.created_at)?,
        updated_at: time_from_proto(order.updated_at)?,
    })
}

/// Writes an event.
pub(crate) fn event_to_proto(event: OrderEvent) -> proto::OrderEvent {
    proto::OrderEvent {
        order_id: event.order_id.to_string(),
        version: event.version,
        status: status_to_proto(event.status).into(),
        at: Some(time_to_proto(event.at)),
        cause: event.cause.map(cause_to_proto),
    }
}

/// Reads an event of a watch.
///
/// # Errors
/// [`Error::Internal`] if it breaks the contract.
pub(crate) fn event_from_proto(event: proto::OrderEvent) -> Result<OrderEvent, Error> {
    Ok(OrderEvent {
        order_id: id_from_proto(&event.order_id)?,
        version: event.version,
        status: status_of_answer(event.status)?,
        at: time_from_proto(event.at)?,
        cause: event.cause.map(cause_of_answer),
    })
}

pub(super) fn money_to_proto(money: Money) -> proto::Money {
    proto::Money {
        currency: money.currency().to_owned(),
        minor_units: money.minor_units(),
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

fn status_of_answer(status: i32) -> Result<OrderStatus, Error> {
    status_from_proto(status).ok_or_else(|| invalid_answer("an order status"))
}

fn cause_of_answer(cause: proto::Cause) -> Cause {
    Cause {
        code: cause.code,
        message: cause.message,
    }
}

fn time_to_proto(time: Timestamp) -> prost_types::Timestamp {
    // The message wants nanoseconds that count forward, before 1970 too.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

fn time_from_proto(time: Option<prost_types::Timestamp>) -> Result<Timestamp, Error> {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
        .ok_or_else(|| invalid_answer("a time"))
}
