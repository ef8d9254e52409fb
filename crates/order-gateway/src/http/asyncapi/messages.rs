//! The frames and events: of each its schema and an example.

use order_core::{Reason, Version};
use serde_json::{Value, json};

use crate::http::schema;

/// What clients send over the socket.
pub(super) const FROM_CLIENT: &[&str] = &[
    "orderId",
    "subscribeOrder",
    "subscribeUser",
    "unsubscribeOrder",
    "unsubscribeUser",
    "ping",
    "authenticate",
];

/// What the server sends over the socket.
pub(super) const TO_CLIENT: &[&str] = &[
    "orderStatus",
    "orderChange",
    "orderSubscribed",
    "userSubscribed",
    "orderUnsubscribed",
    "userUnsubscribed",
    "pong",
    "authenticated",
    "error",
];

/// What the event stream of an order holds.
pub(super) const FROM_STREAM: &[&str] = &["orderEvent", "end"];

/// The largest `id` of a command: the largest integer that every JSON reader keeps exact
/// (RFC 8259 §6).
const ID_MAX: u64 = (1 << 53) - 1;

const ORDER: &str = "01980d0e-6c3c-7f3e-9a43-6c1f0a52a0d4";
const AT: &str = "2026-11-23T09:30:00.012345Z";

/// Every message, by its name.
pub(super) fn all() -> Value {
    let mut messages = from_client();
    for more in [to_client(), from_stream()] {
        if let (Some(messages), Value::Object(more)) = (messages.as_object_mut(), more) {
            messages.extend(more);
        }
    }
    messages
}

/// The parts that several messages have.
pub(super) fn schemas() -> Value {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    json!({
        "CommandId": {
            "description": "Chosen by the client; comes back in the answer.",
            "type": "integer",
            "minimum": 0,
            "maximum": ID_MAX,
        },
        "OrderId": {"type": "string", "format": "uuid"},
        "UserId": schema::user_id().build(),
        "Status": schema::status(),
        "Version": {
            "description": "The position in the history of the order, from 1 on.",
            "type": "integer",
            "minimum": 1,
            "maximum": Version::MAX,
        },
        "Event": object(
            &["order_id", "status", "version", "at"],
            &json!({
                "order_id": reference("OrderId"),
                "status": reference("Status"),
                "version": reference("Version"),
                "at": {"type": "string", "format": "date-time"},
                "cause": reference("Cause"),
            }),
        ),
        "Cause": object(
            &["code", "message"],
            &json!({"code": {"type": "string"}, "message": {"type": "string"}}),
        ),
        "FieldError": object(
            &["pointer", "detail"],
            &json!({
                "pointer": {
                    "description": "A JSON Pointer (RFC 6901); empty for the whole frame.",
                    "type": "string",
                },
                "detail": {"type": "string"},
            }),
        ),
        "Reason": {"type": "string", "enum": reasons},
    })
}

fn from_client() -> Value {
    json!({
        "orderId": {
            "title": "An order id and nothing else",
            "summary": "Follows the order; the short form, bare or as a JSON string",
            "contentType": "text/plain",
            "payload": reference("OrderId"),
            "examples": [{"payload": ORDER}],
        },
        "subscribeOrder": frame(
            "Follows the order, from the version after `since` if that is given",
            "subscribe",
            &object(&["order"], &json!({
                "order": reference("OrderId"),
                "since": {
                    "description": "The last version the client has seen.",
                    "type": "integer",
                    "minimum": 0,
                    "maximum": Version::MAX,
                },
            })),
            &json!({"order": ORDER, "since": 1}),
        ),
        "subscribeUser": frame(
            "Follows all orders of a user, those to come included",
            "subscribe",
            &object(&["user"], &json!({"user": reference("UserId")})),
            &json!({"user": "user-1"}),
        ),
        "unsubscribeOrder": frame(
            "Stops following an order",
            "unsubscribe",
            &object(&["order"], &json!({"order": reference("OrderId")})),
            &json!({"order": ORDER}),
        ),
        "unsubscribeUser": frame(
            "Stops following the orders of a user",
            "unsubscribe",
            &object(&["user"], &json!({"user": reference("UserId")})),
            &json!({"user": "user-1"}),
        ),
        "ping": frame(
            "Asks for a sign of life, for browsers, which cannot send a ping of the protocol",
            "ping",
            &json!({"oneOf": [{"const": true}, {"type": "object", "maxProperties": 0}]}),
            &json!(true),
        ),
        "authenticate": frame(
            "Shows a ticket of `POST /stream-tickets`; before the first subscription only",
            "authenticate",
            &object(&["ticket"], &json!({"ticket": {"type": "string"}})),
            &json!({"ticket": "A".repeat(43)}),
        ),
    })
}

fn to_client() -> Value {
    let change = json!({"order_id": ORDER, "status": "PROCESSED", "version": 2, "at": AT});
    json!({
        "orderStatus": {
            "title": "A change, short",
            "summary": "To those who follow an order by the short form",
            "payload": object(&["order_id", "status"], &json!({
                "order_id": reference("OrderId"),
                "status": reference("Status"),
            })),
            "examples": [{"payload": {"order_id": ORDER, "status": "PROCESSED"}}],
        },
        "orderChange": {
            "title": "A change",
            "summary": "To those who follow an order or a user by JSON",
            "payload": reference("Event"),
            "examples": [{"payload": change.clone()}],
        },
        "orderSubscribed": frame(
            "With `recovered` all that was missed is in `events`, else the client starts over \
             from `snapshot`",
            "subscribed",
            &object(&["order", "version", "recovered", "events"], &json!({
                "order": reference("OrderId"),
                "version": reference("Version"),
                "recovered": {"type": "boolean"},
                "events": {"type": "array", "items": reference("Event")},
                "snapshot": reference("Event"),
            })),
            &json!({"order": ORDER, "version": 2, "recovered": true, "events": [change]}),
        ),
        "userSubscribed": frame(
            "Where the newest orders of the user stand",
            "subscribed",
            &object(&["user", "orders"], &json!({
                "user": reference("UserId"),
                "orders": {"type": "array", "items": reference("Event")},
            })),
            &json!({"user": "user-1", "orders": [change]}),
        ),
        "orderUnsubscribed": frame(
            "No more comes, whether something did or not",
            "unsubscribed",
            &object(&["order"], &json!({"order": reference("OrderId")})),
            &json!({"order": ORDER}),
        ),
        "userUnsubscribed": frame(
            "No more comes, whether something did or not",
            "unsubscribed",
            &object(&["user"], &json!({"user": reference("UserId")})),
            &json!({"user": "user-1"}),
        ),
        "pong": frame("Here", "pong", &json!({"const": true}), &json!(true)),
        "authenticated": frame(
            "From now on the orders of this user may be followed, and no others",
            "authenticated",
            &object(&["user"], &json!({"user": reference("UserId")})),
            &json!({"user": "user-1"}),
        ),
        "error": error(),
    })
}

fn error() -> Value {
    frame(
        "What went wrong; `code` is that of a page under /problems",
        "error",
        &object(
            &["code", "message"],
            &json!({
                "code": reference("Reason"),
                "message": {"type": "string"},
                "order_id": reference("OrderId"),
                "errors": {"type": "array", "items": reference("FieldError")},
            }),
        ),
        &json!({"code": "ORDER_NOT_FOUND", "message": format!("order {ORDER} does not exist"),
                "order_id": ORDER}),
    )
}

fn from_stream() -> Value {
    let example = json!({"order_id": ORDER, "status": "PROCESSED", "version": 2, "at": AT});
    json!({
        "orderEvent": {
            "name": "order.status",
            "title": "A version of the order",
            "summary": "`event: order.status`; its `id` is the version",
            "payload": reference("Event"),
            "examples": [{"payload": example}],
        },
        "end": {
            "name": "end",
            "title": "The order is final",
            "summary": "`event: end`, with the data of the last event; nothing more comes",
            "payload": reference("Event"),
            "examples": [{"payload": example}],
        },
    })
}

/// A frame that asks for something, or answers with the `id` of what it answers.
fn frame(summary: &str, action: &str, schema: &Value, example: &Value) -> Value {
    json!({
        "summary": summary,
        "payload": object(&[action], &json!({"id": reference("CommandId"), action: schema})),
        "examples": [{"payload": {"id": 1, action: example}}],
    })
}

/// The schema of an object that has these properties and no others.
fn object(required: &[&str], properties: &Value) -> Value {
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}
