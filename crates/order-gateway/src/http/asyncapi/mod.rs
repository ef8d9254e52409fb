//! The AsyncAPI 3.0 document: the WebSocket endpoint and the event stream of an order.
//!
//! Limits, close codes, statuses and reasons come from the code that obeys them. The shapes
//! of the frames are written down in `messages`; a test holds them against frames of a real
//! socket.

mod messages;

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::ws::{
    WsConfig,
    close::{self, Close},
};

/// Makes the document.
pub(super) fn document() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Order system: streams",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Following orders as they change, over a WebSocket or as \
                server-sent events. The position is the version of the order everywhere: \
                who has seen version 3 asks for what came after 3.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": servers(),
        "channels": {"socket": socket(), "orderEvents": order_events()},
        "operations": operations(),
        "components": {"messages": messages::all(), "schemas": messages::schemas()},
    })
}

fn servers() -> Value {
    json!({
        "websocket": {
            "host": "localhost:8081",
            "protocol": "ws",
            "description": "WS_ADDR of order-system and order-service.",
        },
        "http": {
            "host": "localhost:8080",
            "protocol": "http",
            "description": "HTTP_ADDR of order-system and api-gateway.",
        },
    })
}

fn socket() -> Value {
    let limits = WsConfig::default();
    let mut close_codes = String::new();
    for (close, advice) in CLOSE_CODES {
        // Writing to a string does not fail.
        let _ = writeln!(
            close_codes,
            "| {} | {} | {advice} |",
            close.code, close.reason
        );
    }
    let description = format!(
        "Text frames only, at most {len_max} bytes each and {rate} per second. The subprotocol \
         `orders.v1` may be named. The server pings every {ping} s and closes a socket that \
         answers nothing for {pong} s. What was not understood is answered with an error; the \
         socket stays open.\n\nA ticket of `POST /stream-tickets` restricts the socket to the \
         orders of its user; it is shown in the query, or by `authenticate` before the first \
         subscription.\n\nA web page of another origin, a client beyond the limits and a request \
         that is no handshake get a problem document instead of a socket.\n\n\
         | close code | reason | what to do |\n|---|---|---|\n{close_codes}",
        len_max = limits.message_len_max,
        rate = limits.messages_per_second_max,
        ping = limits.ping_interval.as_secs(),
        pong = limits.pong_timeout.as_secs(),
    );
    json!({
        "address": "/ws",
        "servers": [{"$ref": "#/servers/websocket"}],
        "description": description,
        "messages": references(
            messages::FROM_CLIENT.iter().chain(messages::TO_CLIENT).copied(),
        ),
        "bindings": {"ws": {
            "method": "GET",
            "query": {"type": "object", "properties": {"ticket": {"type": "string"}}},
            "bindingVersion": "0.1.0",
        }},
    })
}

/// Every code with which the server closes a socket, and what a client does then.
const CLOSE_CODES: [(Close, &str); 11] = [
    (close::PROTOCOL_ERROR, "correct the client"),
    (close::UNSUPPORTED_DATA, "send text"),
    (close::INVALID_TEXT, "send UTF-8"),
    (close::FLOODING, "connect again and send slower"),
    (close::MESSAGE_TOO_BIG, "send less at a time"),
    (
        close::RESTARTING,
        "connect again after `retry_after_ms` in the reason",
    ),
    (close::SLOW_READER, "connect again, and read"),
    (close::PONG_TIMEOUT, "connect again"),
    (
        close::HISTORY_UNAVAILABLE,
        "connect again, and resume with `since`",
    ),
    (
        close::TOO_MANY_CONNECTIONS,
        "close another connection, then connect again",
    ),
    (
        close::TICKET_INVALID,
        "connect again only with a new ticket",
    ),
];

fn order_events() -> Value {
    json!({
        "address": "/orders/{order_id}/events",
        "servers": [{"$ref": "#/servers/http"}],
        "description": "Server-sent events, for `Accept: text/event-stream`. Each has the \
            version as its `id`, so that `EventSource` resumes by itself with \
            `Last-Event-ID`; `retry` is 2000 ms, and a comment comes every 15 s. Once \
            the order is settled (PROCESSED, FAILED or CANCELLED) `end` comes, and a client \
            that connects again behind it gets 204, which tells `EventSource` to stop.",
        "parameters": {"order_id": {"description": "The order."}},
        "messages": references(messages::FROM_STREAM.iter().copied()),
    })
}

fn operations() -> Value {
    json!({
        "followOrder": receive(
            "Follow an order, in the short form",
            &["orderId"],
            &["orderStatus", "error"],
        ),
        "subscribe": receive(
            "Follow an order or all orders of a user",
            &["subscribeOrder", "subscribeUser"],
            &["orderSubscribed", "userSubscribed", "error"],
        ),
        "unsubscribe": receive(
            "Stop following",
            &["unsubscribeOrder", "unsubscribeUser"],
            &["orderUnsubscribed", "userUnsubscribed", "error"],
        ),
        "ping": receive("Ask for a sign of life", &["ping"], &["pong", "error"]),
        "authenticate": receive("Show a ticket", &["authenticate"], &["authenticated", "error"]),
        "pushChange": {
            "action": "send",
            "summary": "Tell of a change, in each form in which the order or its user is followed",
            "channel": {"$ref": "#/channels/socket"},
            "messages": channel_messages("socket", &["orderStatus", "orderChange"]),
        },
        "streamEvents": {
            "action": "send",
            "summary": "Tell of each version of an order, from the one after the position",
            "channel": {"$ref": "#/channels/orderEvents"},
            "messages": channel_messages("orderEvents", messages::FROM_STREAM),
            "bindings": {"http": {"method": "GET", "bindingVersion": "0.3.0"}},
        },
    })
}

/// Something that clients send over the socket.
fn receive(summary: &str, commands: &[&str], answers: &[&str]) -> Value {
    json!({
        "action": "receive",
        "summary": summary,
        "channel": {"$ref": "#/channels/socket"},
        "messages": channel_messages("socket", commands),
        "reply": {
            "channel": {"$ref": "#/channels/socket"},
            "messages": channel_messages("socket", answers),
        },
    })
}

/// An operation names messages of its channel, not of the components.
fn channel_messages(channel: &str, names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| json!({"$ref": format!("#/channels/{channel}/messages/{name}")}))
        .collect()
}

/// Messages by name, each as a reference to the components.
fn references<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    names
        .map(|name| {
            let target = format!("#/components/messages/{name}");
            (name.to_owned(), json!({"$ref": target}))
        })
        .collect::<Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_is_described() {
        let source = include_str!("../../ws/close.rs");
        let declared = source.matches("\npub const ").count();
        assert_eq!(CLOSE_CODES.len(), declared);
        let document = document();
        let text = document["channels"]["socket"]["description"]
            .as_str()
            .expect("text");
        for (close, _) in CLOSE_CODES {
            assert!(
                text.contains(&format!("| {} |", close.code)),
                "{}",
                close.code
            );
        }
    }
}
