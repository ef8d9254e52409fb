//! The REST API: every answer byte by byte, and what takes time or a socket.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod amounts;
mod answers;
mod batches;
mod compression;
mod conditions;
mod document;
mod events;
mod inputs;
mod lengths;
mod limits;
mod live;
mod log_level;
mod origins;
mod prefer;
mod problems;
#[path = "../documents/schema.rs"]
mod schema;
mod support;

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Request, StatusCode};
use order_web::{
    admin::{self, Readiness},
    http::HttpConfig,
};
use proptest::prelude::*;
use tower::ServiceExt as _;

use self::support::{KNOWN, app, deps, post, request, send};

#[tokio::test]
async fn admin_says_not_ready_while_draining_and_stays_alive() {
    let readiness = Readiness::new(deps());
    let admin = admin::router(
        readiness.clone(),
        &Arc::default(),
        Arc::new(log_level::FakeFilter::default()),
    );
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

const FIELDS: [&str; 6] = [
    "user_id",
    "amount",
    "currency",
    "external_id",
    "metadata",
    "é",
];

/// JSON-like text: mostly what a client could mean.
fn body_text() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        "\\{(\"[^\"]{0,45}\":(\"[^\"]{0,9}\"|1|\\{\\}),?){0,3}\\}",
        "-?[0-9]{1,20}(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
        "\"[^\"]{0,140}\"",
        "[\\[{]{0,40}",
    ];
    let name = prop::sample::select(&FIELDS[..]);
    prop::collection::vec((name, value), 0..5).prop_map(|fields| {
        let fields: Vec<String> = fields
            .into_iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    })
}

/// Headers that the API reads.
const HEADERS: [&str; 10] = [
    "accept",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "last-event-id",
    "prefer",
    "traceparent",
    "tracestate",
    "x-request-id",
];

fn status_of(request: Request<Body>) -> StatusCode {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(send(request))
        .status()
}

proptest! {
    #[test]
    fn any_bytes_are_answered_without_a_server_error(body in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(!status_of(post(body)).is_server_error());
    }

    #[test]
    fn any_object_is_answered_without_a_server_error(body in body_text()) {
        prop_assert!(!status_of(post(body)).is_server_error());
    }

    #[test]
    fn any_query_is_answered_without_a_server_error(query in "[a-zA-Z_%&=0-9+:.-]{0,60}") {
        for path in ["/orders".to_owned(), format!("/orders/{KNOWN}/events")] {
            let request = request("GET", &format!("{path}?{query}"), "");
            prop_assert!(!status_of(request).is_server_error());
        }
    }

    #[test]
    fn any_header_is_answered_without_a_server_error(
        name in prop::sample::select(&HEADERS[..]),
        value in "[\\t -~\u{80}-\u{ff}]{0,40}|[WAIT=wait0-9,;*\"/ ]{0,20}",
    ) {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
        for (method, path) in [("GET", ""), ("GET", "/events"), ("POST", "/cancel")] {
            let mut request = request(method, &format!("/orders/{KNOWN}{path}"), "");
            request.headers_mut().insert(name, value.clone());
            // The known order has failed, so nobody waits.
            prop_assert!(!status_of(request).is_server_error());
        }
    }
}
