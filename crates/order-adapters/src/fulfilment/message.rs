//! What the endpoint is sent: one event of Standard Webhooks 1.0, in the field names of the
//! HTTP API.

use jiff::Timestamp;
use order_core::{Attempt, Metadata, Money, Order};
use serde::{Serialize, Serializer, ser};
use serde_json::value::RawValue;

use crate::event_message::as_micros;

/// The kind of event.
const TYPE: &str = "order.fulfilment";

/// The body of the request for an order.
///
/// # Errors
/// None that could be met: all of it is text and numbers.
pub(super) fn body(
    order: &Order,
    attempt: &Attempt,
    now: Timestamp,
) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Message {
        kind: TYPE,
        timestamp: now,
        data: Data {
            order_id: order.id.to_string(),
            user_id: order.user_id.as_str(),
            amount: order.money,
            currency: order.money.currency(),
            metadata: &order.metadata,
            external_id: order
                .external_id
                .as_ref()
                .map(order_core::ExternalId::as_str),
            attempt: attempt.number,
            created_at: order.created_at,
        },
    })
}

#[derive(Serialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(serialize_with = "as_micros")]
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    order_id: String,
    user_id: &'a str,
    #[serde(serialize_with = "as_number")]
    amount: Money,
    currency: &'a str,
    #[serde(
        skip_serializing_if = "Metadata::is_empty",
        serialize_with = "as_object"
    )]
    metadata: &'a Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    attempt: u32,
    #[serde(serialize_with = "as_micros")]
    created_at: Timestamp,
}

/// Writes the exact decimal number, not the nearest double.
fn as_number<S: Serializer>(money: &Money, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(money.to_string())
        .map_err(ser::Error::custom)?
        .serialize(serializer)
}

fn as_object<S: Serializer>(metadata: &Metadata, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(metadata.iter())
}
