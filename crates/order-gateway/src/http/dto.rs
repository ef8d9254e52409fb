//! JSON out: the order of the base contract, and the answers made of it.

use std::fmt;

use axum::{body::Body, response::Response};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, ETAG},
};
use order_core::{Cause, Error, Money, Order, OrderPage};
use serde::{Serialize, Serializer, ser};
use serde_json::value::RawValue;

/// An answer that is one order, with its version as a strong `ETag`.
pub(super) fn order_response(status: StatusCode, order: &Order) -> Result<Response, Error> {
    let mut response = json_response(&OrderBody::from(order))?;
    *response.status_mut() = status;
    let etag = format!("\"{}\"", order.version);
    response.headers_mut().insert(ETAG, header_value(etag)?);
    Ok(response)
}

/// An answer that is a page of orders.
pub(super) fn page_response(page: &OrderPage) -> Result<Response, Error> {
    json_response(&PageBody {
        orders: page.orders.iter().map(OrderBody::from).collect(),
        next_page_token: page.next_page_token.as_deref(),
    })
}

/// Text that this crate made, as a header value.
pub(super) fn header_value(text: String) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(text).map_err(Error::internal)
}

fn json_response(body: &impl Serialize) -> Result<Response, Error> {
    let bytes = serde_json::to_vec(body).map_err(Error::internal)?;
    let mut response = Response::new(Body::from(bytes));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[derive(Serialize)]
struct OrderBody<'a> {
    #[serde(serialize_with = "as_text")]
    order_id: order_core::OrderId,
    user_id: &'a str,
    #[serde(serialize_with = "as_number")]
    amount: Money,
    currency: &'static str,
    status: &'static str,
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureBody<'a>>,
    #[serde(serialize_with = "as_micros")]
    created_at: jiff::Timestamp,
    #[serde(serialize_with = "as_micros")]
    updated_at: jiff::Timestamp,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct PageBody<'a> {
    orders: Vec<OrderBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<&'a str>,
}

impl<'a> From<&'a Order> for OrderBody<'a> {
    fn from(order: &'a Order) -> Self {
        Self {
            order_id: order.id,
            user_id: order.user_id.as_str(),
            amount: order.money,
            currency: order.money.currency(),
            status: order.status.as_str(),
            version: order.version,
            failure: order.failure.as_ref().map(FailureBody::from),
            created_at: order.created_at,
            updated_at: order.updated_at,
        }
    }
}

impl<'a> From<&'a Cause> for FailureBody<'a> {
    fn from(cause: &'a Cause) -> Self {
        Self {
            code: &cause.code,
            message: &cause.message,
        }
    }
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Writes the exact decimal number, not the nearest double.
fn as_number<S: Serializer>(money: &Money, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(money.to_string())
        .map_err(ser::Error::custom)?
        .serialize(serializer)
}

/// Writes RFC 3339 in UTC with microseconds, the resolution of the database.
fn as_micros<S: Serializer>(at: &jiff::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.6}"))
}
