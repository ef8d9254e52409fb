//! JSON out: the order of the base contract, its history, and the answers made of them.
//!
//! `api/openapi.yaml` has the schema of each struct; tests hold real answers against it.

use std::collections::BTreeMap;

use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, ETAG},
};
use jiff::fmt::temporal::DateTimePrinter;
use order_core::{
    Cause, Error, EventPage, ExternalId, ListEvents, Metadata, Money, Order, OrderEvent, OrderId,
    OrderPage, Receipt, StreamTicket,
};
use serde::{Serialize, Serializer, ser};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{etag::entity_tag, media::JSON, problem::Document};

/// Comes with the answer to a repeated request
/// (draft-ietf-httpapi-idempotency-key-header-07).
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The usual number of headers of an answer, at most.
const N_HEADERS: usize = 8;

/// The length of the JSON of an order without metadata, roughly.
const BODY_LEN: usize = 300;

/// How timestamps are written: with microseconds, the resolution of the database.
const TIMESTAMPS: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// The length of such a timestamp.
const TIMESTAMP_LEN: usize = "2026-01-02T03:04:05.000006Z".len();

/// An answer that is one order, with its version as a strong `ETag`.
pub(super) fn order_response(status: StatusCode, order: &Order) -> Result<Response, Error> {
    let mut response = json_response(status, &OrderBody::from(order))?;
    let etag = header_value(entity_tag(order.version))?;
    response.headers_mut().insert(ETAG, etag);
    Ok(response)
}

/// Says whether an earlier request with the same key did the work.
pub(super) fn announce_replay(is_replayed: bool, response: &mut Response) {
    if is_replayed {
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, replayed);
    }
}

/// The answer to a client that has the order at this version already.
pub(super) fn not_modified(order: &Order) -> Result<Response, Error> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let etag = header_value(entity_tag(order.version))?;
    response.headers_mut().insert(ETAG, etag);
    Ok(response)
}

/// An answer that is a page of orders.
pub(super) fn page_response(page: &OrderPage) -> Result<Response, Error> {
    let body = PageBody {
        orders: page.orders.iter().map(OrderBody::from).collect(),
        next_page_token: page.next_page_token.as_deref(),
    };
    json_response(StatusCode::OK, &body)
}

/// An answer that is the results of a batch, in the order of its requests.
pub(super) fn batch_response(
    results: &[Result<Receipt, Box<Document>>],
) -> Result<Response, Error> {
    let results = results.iter().map(|result| match result {
        Ok(Receipt { order, is_replayed }) => ResultBody::Created {
            order: order.into(),
            replayed: *is_replayed,
        },
        Err(problem) => ResultBody::Refused { problem },
    });
    let body = BatchBody {
        results: results.collect(),
    };
    json_response(StatusCode::OK, &body)
}

/// An answer that is a page of the history of an order.
pub(super) fn events_response(list: &ListEvents, page: &EventPage) -> Result<Response, Error> {
    let body = EventsBody {
        order_id: list.order_id,
        events: page.events.iter().map(EventBody::from).collect(),
        next_after: next_after(page),
    };
    json_response(StatusCode::OK, &body)
}

/// The version after which the next page of a history begins; `None` on the last page.
pub(super) fn next_after(page: &EventPage) -> Option<u32> {
    let last = page.events.last().filter(|_| page.has_more);
    last.map(|event| event.version)
}

/// An event as it is listed and streamed.
pub(super) fn event_json(event: &OrderEvent) -> Result<String, Error> {
    serde_json::to_string(&EventBody::from(event)).map_err(Error::internal)
}

/// The answer to a wish for a ticket.
pub(super) fn ticket_response(ticket: &StreamTicket) -> Result<Response, Error> {
    let body = TicketBody {
        ticket: ticket.secret.to_text(),
        user_id: ticket.grant.user_id.as_str(),
        expires_at: ticket.expires_at,
    };
    json_response(StatusCode::CREATED, &body)
}

/// Text that this crate made, as a header value.
pub(super) fn header_value(text: String) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(text).map_err(Error::internal)
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Result<Response, Error> {
    let mut bytes = Vec::with_capacity(BODY_LEN);
    serde_json::to_writer(&mut bytes, body).map_err(Error::internal)?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let mut headers = HeaderMap::with_capacity(N_HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    *response.headers_mut() = headers;
    Ok(response)
}

/// An order as JSON, in the form of the base contract.
#[derive(Serialize)]
pub struct OrderBody<'a> {
    /// Its id.
    #[serde(serialize_with = "as_text")]
    order_id: OrderId,
    /// Who placed it.
    user_id: &'a str,
    /// What it is worth, in major units, exactly.
    #[serde(serialize_with = "as_number")]
    amount: Money,
    /// ISO 4217.
    currency: &'a str,
    /// Where it stands.
    status: &'static str,
    /// Its position in its own history: 1 when it is created, raised by one with every
    /// change. Also in `ETag`.
    version: u32,
    /// What the client attached to it; absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<&'a str, &'a str>>,
    /// Its name in the client's own system.
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    /// Why it failed, while it is FAILED.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<CauseBody<'a>>,
    /// When the database first saw it.
    #[serde(serialize_with = "as_micros")]
    created_at: jiff::Timestamp,
    /// When it last changed.
    #[serde(serialize_with = "as_micros")]
    updated_at: jiff::Timestamp,
}

/// Why an order moved.
#[derive(Serialize)]
pub struct CauseBody<'a> {
    /// For programs.
    code: &'a str,
    /// For people.
    message: &'a str,
}

/// The results of a batch.
#[derive(Serialize)]
struct BatchBody<'a> {
    results: Vec<ResultBody<'a>>,
}

/// The outcome of one request of a batch: the answer that the request alone would get.
#[derive(Serialize)]
#[serde(untagged)]
enum ResultBody<'a> {
    Created {
        order: OrderBody<'a>,
        /// Whether an earlier request with the same key did the work.
        replayed: bool,
    },
    Refused {
        problem: &'a Document,
    },
}

/// A page of orders, newest first.
#[derive(Serialize)]
struct PageBody<'a> {
    /// The orders.
    orders: Vec<OrderBody<'a>>,
    /// Where the next page begins; absent on the last page, and only there.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<&'a str>,
}

/// A page of the history of an order, oldest event first.
#[derive(Serialize)]
struct EventsBody<'a> {
    /// The order.
    #[serde(serialize_with = "as_text")]
    order_id: OrderId,
    /// The events.
    events: Vec<EventBody<'a>>,
    /// The value of `after` for the next page; absent on the last page, and only there.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_after: Option<u32>,
}

/// One entry of the history of an order. Versions start at 1 and have no gaps.
#[derive(Serialize)]
pub struct EventBody<'a> {
    /// The order.
    #[serde(serialize_with = "as_text")]
    order_id: OrderId,
    /// The status that the order moved to.
    status: &'static str,
    /// The position in the history.
    version: u32,
    /// When.
    #[serde(serialize_with = "as_micros")]
    at: jiff::Timestamp,
    /// Why, where there is a reason to give.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<CauseBody<'a>>,
}

/// A ticket with which a client opens one stream.
#[derive(Serialize)]
struct TicketBody<'a> {
    /// The ticket. It is shown once.
    ticket: String,
    /// Whose orders may be watched with it.
    user_id: &'a str,
    /// When it is worth nothing any more.
    #[serde(serialize_with = "as_micros")]
    expires_at: jiff::Timestamp,
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
            metadata: Some(&order.metadata)
                .filter(|metadata| !metadata.is_empty())
                .map(|metadata| Metadata::iter(metadata).collect()),
            external_id: order.external_id.as_ref().map(ExternalId::as_str),
            failure: order.failure.as_ref().map(CauseBody::from),
            created_at: order.created_at,
            updated_at: order.updated_at,
        }
    }
}

impl<'a> From<&'a Cause> for CauseBody<'a> {
    fn from(cause: &'a Cause) -> Self {
        Self {
            code: &cause.code,
            message: &cause.message,
        }
    }
}

impl<'a> From<&'a OrderEvent> for EventBody<'a> {
    fn from(event: &'a OrderEvent) -> Self {
        Self {
            order_id: event.order_id,
            status: event.status.as_str(),
            version: event.version,
            at: event.at,
            cause: event.cause.as_ref().map(CauseBody::from),
        }
    }
}

fn as_text<S: Serializer>(id: &OrderId, serializer: S) -> Result<S::Ok, S::Error> {
    let mut buffer = Uuid::encode_buffer();
    serializer.serialize_str(id.as_uuid().as_hyphenated().encode_lower(&mut buffer))
}

/// Writes the exact decimal number, not the nearest double.
fn as_number<S: Serializer>(money: &Money, serializer: S) -> Result<S::Ok, S::Error> {
    if let Some(whole) = money.whole() {
        return serializer.serialize_i64(whole);
    }
    RawValue::from_string(money.to_string())
        .map_err(ser::Error::custom)?
        .serialize(serializer)
}

/// Writes RFC 3339 in UTC.
fn as_micros<S: Serializer>(at: &jiff::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(TIMESTAMP_LEN);
    TIMESTAMPS
        .print_timestamp(at, &mut text)
        .map_err(ser::Error::custom)?;
    serializer.serialize_str(&text)
}
