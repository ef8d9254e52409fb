//! What the server sends, to the byte.

use bytes::Bytes;
use order_core::{Error, OrderEvent, OrderId, UserId, Violation};
use order_hub::{CatchUp, Delivery, Form, Subscribed, SubscribedUser};
use serde::{Serialize, Serializer};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::command::Subject;
use crate::http::dto::EventBody;

/// A change of an order, in the form the subscriber asked for; encoded once for all who
/// asked for the same form.
pub(super) fn push(delivery: &Delivery) -> Message {
    let encode = match delivery.form {
        Form::Bare => bare_bytes,
        Form::Full => full_bytes,
    };
    text(delivery.event.encoded(delivery.form, encode))
}

/// The state of an order, for a bare subscription.
pub(super) fn bare(event: &OrderEvent) -> Message {
    text(bare_bytes(event))
}

/// The answer to a subscription by JSON.
pub(super) fn subscribed(id: Option<u64>, subscribed: &Subscribed) -> Message {
    let (events, snapshot) = match &subscribed.catch_up {
        CatchUp::Replay(events) => (events.as_slice(), None),
        CatchUp::Snapshot(event) => (&[][..], Some(event)),
    };
    text(json(&SubscribedFrame {
        id,
        subscribed: SubscribedBody {
            order: subscribed.order_id,
            version: subscribed.version,
            recovered: snapshot.is_none(),
            events: events.iter().map(EventBody::from).collect(),
            snapshot: snapshot.map(EventBody::from),
        },
    }))
}

/// The answer to the subscription of a user.
pub(super) fn subscribed_user(id: Option<u64>, subscribed: &SubscribedUser) -> Message {
    text(json(&SubscribedUserFrame {
        id,
        subscribed: UserOrdersBody {
            user: subscribed.user_id.as_str(),
            orders: subscribed.orders.iter().map(EventBody::from).collect(),
        },
    }))
}

/// The answer to the end of a subscription, whether there was one or not.
pub(super) fn unsubscribed(id: Option<u64>, subject: &Subject) -> Message {
    let unsubscribed = match subject {
        Subject::Order(order) => SubjectBody::Order(*order),
        Subject::User(user) => SubjectBody::User(user.as_str()),
    };
    text(json(&UnsubscribedFrame { id, unsubscribed }))
}

/// The answer to a ticket that was good.
pub(super) fn authenticated(id: Option<u64>, user_id: &UserId) -> Message {
    text(json(&AuthenticatedFrame {
        id,
        authenticated: UserBody {
            user: user_id.as_str(),
        },
    }))
}

/// The answer to a ping by JSON, which browsers need because they cannot see those of the
/// protocol.
pub(super) fn pong(id: Option<u64>) -> Message {
    text(json(&PongFrame { id, pong: true }))
}

/// What went wrong; the socket stays open. `order_id` is named where it is known.
pub(super) fn error(id: Option<u64>, order_id: Option<OrderId>, error: &Error) -> Message {
    let violations = match error {
        Error::InvalidArgument { violations } => violations.as_slice(),
        _ => &[],
    };
    text(json(&ErrorFrame {
        id,
        error: ErrorBody {
            code: error.reason().as_str(),
            message: error.to_string(),
            order_id: order_id.map(|order_id| order_id.to_string()),
            errors: violations.iter().map(FieldError::from).collect(),
        },
    }))
}

/// A text message of bytes that are UTF-8, because they are JSON made here.
fn text(bytes: Bytes) -> Message {
    Message::Frame(Frame::message(bytes, OpCode::Data(Data::Text), true))
}

fn bare_bytes(event: &OrderEvent) -> Bytes {
    json(&BareFrame {
        order_id: event.order_id,
        status: event.status.as_str(),
    })
}

fn full_bytes(event: &OrderEvent) -> Bytes {
    json(&EventBody::from(event))
}

fn json(frame: &impl Serialize) -> Bytes {
    // Strings, numbers and lists always serialise.
    serde_json::to_vec(frame).unwrap_or_default().into()
}

#[derive(Serialize)]
struct BareFrame {
    #[serde(serialize_with = "as_text")]
    order_id: OrderId,
    status: &'static str,
}

#[derive(Serialize)]
struct SubscribedFrame<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    subscribed: SubscribedBody<'a>,
}

#[derive(Serialize)]
struct SubscribedBody<'a> {
    #[serde(serialize_with = "as_text")]
    order: OrderId,
    version: u32,
    recovered: bool,
    events: Vec<EventBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<EventBody<'a>>,
}

#[derive(Serialize)]
struct SubscribedUserFrame<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    subscribed: UserOrdersBody<'a>,
}

#[derive(Serialize)]
struct UserOrdersBody<'a> {
    user: &'a str,
    orders: Vec<EventBody<'a>>,
}

#[derive(Serialize)]
struct UnsubscribedFrame<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    unsubscribed: SubjectBody<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum SubjectBody<'a> {
    #[serde(serialize_with = "as_text")]
    Order(OrderId),
    User(&'a str),
}

#[derive(Serialize)]
struct AuthenticatedFrame<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    authenticated: UserBody<'a>,
}

#[derive(Serialize)]
struct UserBody<'a> {
    user: &'a str,
}

#[derive(Serialize)]
struct PongFrame {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    pong: bool,
}

#[derive(Serialize)]
struct ErrorFrame<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError<'a>>,
}

/// One broken rule, as in a problem document: a JSON Pointer and the rule.
#[derive(Serialize)]
struct FieldError<'a> {
    pointer: String,
    detail: &'a str,
}

impl<'a> From<&'a Violation> for FieldError<'a> {
    fn from(violation: &'a Violation) -> Self {
        let pointer = match violation.field.as_str() {
            "" => String::new(),
            field => format!("/{field}"),
        };
        Self {
            pointer,
            detail: &violation.rule,
        }
    }
}

fn as_text<S: Serializer>(order_id: &OrderId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(order_id)
}
