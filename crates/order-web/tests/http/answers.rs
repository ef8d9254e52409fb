//! Every answer that is no refusal, byte by byte.

use std::fmt::Write as _;

use axum::body::Body;
use http::Request;

use crate::{
    batches,
    document::Document,
    support::{DONE, JSON, KNOWN, post, render, request, send, with},
};

type Case = (&'static str, Request<Body>);

/// Time is paused, so that timeouts come at once and nothing else takes any.
#[tokio::test(start_paused = true)]
async fn answers_are_those_of_the_contract() {
    let document = Document::read().await;
    for (group, cases) in [
        ("answers_to_creates", creates()),
        ("answers_to_batches", batches::answered()),
        ("answers_to_reads", reads()),
        ("answers_to_changes", changes()),
        ("answers_about_history", history()),
    ] {
        let mut text = String::new();
        for (name, request) in cases {
            let line = format!("{} {}", request.method(), request.uri());
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let response = send(request).await;
            let response = document.assert_has(&method, &path, response).await;
            let answer = render(response).await;
            writeln!(text, "== {name}\n{line}\n{answer}").expect("a string takes everything");
        }
        insta::assert_snapshot!(group, text);
    }
    document.assert_seen(&[
        "Order",
        "Cause",
        "OrderPage",
        "BatchResults",
        "BatchResult",
        "EventPage",
        "OrderEvent",
        "StreamTicket",
    ]);
}

fn creates() -> Vec<Case> {
    vec![
        ("create", post(r#"{"user_id":"user-1","amount":100}"#)),
        (
            "create, exact decimals",
            post(r#"{"amount": "0.10", "user_id": "Zoë \u263a", "currency": "EUR"}"#),
        ),
        (
            "create, largest amount",
            post(r#"{"user_id":"u","amount":9999999999999.99}"#),
        ),
        (
            "create, request id of the client",
            with(
                post(r#"{"user_id":"u","amount":1e2}"#),
                "x-request-id",
                "client.1_A-z",
            ),
        ),
        (
            "create, unsafe request id",
            with(post(r#"{"user_id":"u","amount":1}"#), "x-request-id", "a b"),
        ),
        (
            "create, with everything",
            post(
                r#"{"user_id":"u","amount":"1","currency":"JPY","external_id":"Nº 5",
                    "metadata":{"b":"2","a/~":"\u263a"}}"#,
            ),
        ),
        (
            "create, nothing in the metadata",
            post(r#"{"user_id":"u","amount":1,"metadata":{}}"#),
        ),
        (
            "create, repeated by key",
            with(
                post(r#"{"user_id":"u","amount":1}"#),
                "idempotency-key",
                "\"again\"",
            ),
        ),
    ]
}

fn reads() -> Vec<Case> {
    let by_id = format!("/orders/{KNOWN}");
    vec![
        ("get", request("GET", &by_id, "")),
        ("head", request("HEAD", &by_id, "")),
        ("list", request("GET", "/orders", "")),
        (
            "list, filtered",
            request(
                "GET",
                "/orders?status=FAILED&user_id=a%26b+%C3%A9&status=PENDING&status=FAILED&page_size=7&page_token=",
                "",
            ),
        ),
        (
            "list, last page, size beyond i64",
            request(
                "GET",
                "/orders?page_token=x&page_size=99999999999999999999",
                "",
            ),
        ),
        (
            "list, all filters",
            request(
                "GET",
                "/orders?created_before=2026-11-23T11:30:00.1234567%2B02:00&external_id=a%2Fb\
                    &created_after=2026-11-22t00:00:00.1234567z&user_id=u",
                "",
            ),
        ),
        ("livez", request("GET", "/livez", "")),
        ("readyz", request("GET", "/readyz", "")),
    ]
}

fn changes() -> Vec<Case> {
    let cancel = format!("/orders/{KNOWN}/cancel");
    let retry = format!("/orders/{KNOWN}/retry");
    vec![
        ("cancel", request("POST", &cancel, "")),
        (
            "cancel, with a reason",
            with(
                request("POST", &cancel, r#"{"reason":"changed my mind"}"#),
                "content-type",
                JSON,
            ),
        ),
        (
            "cancel, repeated by key",
            with(request("POST", &cancel, ""), "idempotency-key", "again"),
        ),
        ("retry", request("POST", &retry, "")),
        (
            "retry, with a body",
            with(request("POST", &retry, "{}"), "content-type", JSON),
        ),
    ]
}

fn history() -> Vec<Case> {
    let events = format!("/orders/{KNOWN}/events");
    let done = format!("/orders/{DONE}/events");
    let stream = |path: &str| with(request("GET", path, ""), "accept", "text/event-stream");
    vec![
        ("events", request("GET", &events, "")),
        (
            "events, first page",
            request("GET", &format!("{events}?page_size=2"), ""),
        ),
        (
            "events, second page",
            request("GET", &format!("{events}?after=2&page_size=2"), ""),
        ),
        (
            "events, none left",
            request("GET", &format!("{events}?after=3"), ""),
        ),
        ("stream, from the beginning", stream(&done)),
        (
            "stream, resumed by header before query",
            with(
                stream(&format!("{done}?last_event_id=1&after=0")),
                "last-event-id",
                "2",
            ),
        ),
        (
            "stream, resumed by query",
            stream(&format!("{done}?last_event_id=2&after=0")),
        ),
        ("stream, past the end", stream(&format!("{done}?after=3"))),
        (
            "ticket",
            with(
                request("POST", "/stream-tickets", r#"{"user_id":"user-1"}"#),
                "content-type",
                JSON,
            ),
        ),
    ]
}
