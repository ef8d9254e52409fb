//! The REST API without a socket: every answer, byte by byte.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod problems;
mod support;

use std::fmt::Write as _;

use axum::body::Body;
use http::{Request, StatusCode};
use order_gateway::{
    admin::{self, Readiness},
    http::HttpConfig,
};
use proptest::prelude::*;
use tower::ServiceExt as _;

use self::support::{JSON, KNOWN, app, deps, post, render, request, send, with};

#[tokio::test]
async fn answers_are_those_of_the_contract() {
    let by_id = format!("/orders/{KNOWN}");
    let cancel = format!("/orders/{KNOWN}/cancel");
    let cases: Vec<(&str, Request<Body>)> = vec![
        ("create", post(r#"{"user_id":"user-1","amount":100}"#)),
        (
            "create, exact decimals",
            post(r#"{"amount": "0.10", "user_id": "Zoë \u263a", "currency": "EUR"}"#),
        ),
        (
            "create, largest amount",
            post(r#"{"user_id":"u","amount":90071992547409.91}"#),
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
        ("cancel", request("POST", &cancel, "")),
        (
            "cancel, with a reason",
            with(
                request("POST", &cancel, r#"{"reason":"changed my mind"}"#),
                "content-type",
                JSON,
            ),
        ),
        ("livez", request("GET", "/livez", "")),
        ("readyz", request("GET", "/readyz", "")),
    ];
    let mut text = String::new();
    for (name, request) in cases {
        let line = format!("{} {}", request.method(), request.uri());
        let answer = render(send(request).await).await;
        writeln!(text, "== {name}\n{line}\n{answer}").expect("a string takes everything");
    }
    insta::assert_snapshot!("answers", text);
}

#[tokio::test]
async fn admin_says_not_ready_while_draining_and_stays_alive() {
    let readiness = Readiness::new(deps());
    let admin = admin::router(readiness.clone());
    let status = async |path| {
        let answered = admin.clone().oneshot(request("GET", path, "")).await;
        answered.expect("infallible").status()
    };
    assert_eq!(status("/readyz").await, StatusCode::OK);
    readiness.drain();
    assert_eq!(status("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status("/livez").await, StatusCode::OK);
    assert_eq!(status("/orders").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn request_beyond_the_limit_is_shed_and_probes_are_not() {
    let app = app(HttpConfig {
        in_flight_max: 1,
        ..HttpConfig::default()
    });
    let hang = || post(r#"{"user_id":"hang","amount":1}"#);
    let mut first = Box::pin(app.clone().oneshot(hang()));
    assert!(futures_util::poll!(&mut first).is_pending());
    let shed = app.clone().oneshot(hang()).await.expect("infallible");
    assert_eq!(shed.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(shed.headers()["retry-after"], "1");
    let probe = app.clone().oneshot(request("GET", "/readyz", "")).await;
    assert_eq!(probe.expect("infallible").status(), StatusCode::OK);
    drop(first);
    let next = app.oneshot(post(r#"{"user_id":"u","amount":1}"#)).await;
    assert_eq!(next.expect("infallible").status(), StatusCode::CREATED);
}

/// JSON-like text: mostly what a client could mean.
fn body_text() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        "-?[0-9]{1,20}(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
        "\"[^\"]{0,140}\"",
        "[\\[{]{0,40}",
    ];
    let name = prop_oneof![Just("user_id"), Just("amount"), Just("currency"), Just("é")];
    prop::collection::vec((name, value), 0..5).prop_map(|fields| {
        let fields: Vec<String> = fields
            .into_iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    })
}

fn status_of(body: impl Into<Body>) -> StatusCode {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(send(post(body)))
        .status()
}

proptest! {
    #[test]
    fn any_bytes_are_answered_without_a_server_error(body in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(!status_of(body).is_server_error());
    }

    #[test]
    fn any_object_is_answered_without_a_server_error(body in body_text()) {
        prop_assert!(!status_of(body).is_server_error());
    }

    #[test]
    fn any_query_is_answered_without_a_server_error(query in "[a-z_%&=0-9+]{0,60}") {
        let path = format!("/orders?{query}");
        let answered = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(send(request("GET", &path, "")));
        prop_assert!(!answered.status().is_server_error());
    }
}
