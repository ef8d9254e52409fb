//! `POST /orders:batch`: its requests, and what it must not do to others.

use axum::body::Body;
use futures_util::poll;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use order_core::RESPONSE_BYTES_MAX;
use order_web::http::HttpConfig;

use crate::{
    limits::{ORDER, from, send},
    support::{JSON, app, post, post_batch, request, with},
};

type Case = (&'static str, Request<Body>);

/// Batches that are read, and what comes of their orders.
pub(crate) fn answered() -> Vec<Case> {
    let of = |user: &str| format!(r#"{{"user_id":"{user}","amount":1}}"#);
    let keyed = |user: &str| format!(r#"{{"user_id":"{user}","amount":1,"idempotency_key":"k"}}"#);
    vec![
        ("batch of one", post_batch(&[&of("u")])),
        (
            "batch, repeated by key",
            post_batch(&[r#"{"user_id":"u","amount":1,"idempotency_key":"again"}"#]),
        ),
        (
            "batch, each order for itself",
            post_batch(&[
                r#"{"user_id":"u","amount":"1","currency":"JPY","external_id":"Nº 5","metadata":{"a":"b"}}"#,
                r#"{"user_id":"","amount":0,"metadata":{"a/b":1},"x":1}"#,
                r#"{"user_id":"u","amount":1,"idempotency_key":""}"#,
                "17",
                r#"{"\ud800":1}"#,
                &of("taken"),
                &keyed("reused"),
                &keyed("twin"),
                &of("v"),
            ]),
        ),
        (
            "batch, unknown outcomes with and without a key",
            post_batch(&[&of("store"), &keyed("store"), &of("overloaded")]),
        ),
        (
            "batch, no answer in time",
            with(
                post_batch(&[&of("u"), "1", &keyed("u")]),
                "x-request-id",
                "hang",
            ),
        ),
        (
            "batch, the call as a whole fails",
            with(
                post_batch(&[&of("u"), &keyed("u")]),
                "x-request-id",
                "service",
            ),
        ),
        (
            "batch, not waited for",
            with(post_batch(&[&of("u")]), "prefer", "wait=5"),
        ),
    ]
}

/// Batches that are refused as such.
pub(crate) fn refused() -> Vec<Case> {
    let order = r#"{"user_id":"u","amount":1}"#;
    let batch = |body: &'static str| {
        let request = request("POST", "/orders:batch", body);
        with(request, "content-type", JSON)
    };
    vec![
        ("batch of none", post_batch(&[])),
        ("batch of too many", post_batch(&[order; 101])),
        ("batch without orders", batch("{}")),
        ("batch that is a list", batch("[]")),
        (
            "batch with wrong and unknown fields",
            batch(r#"{"orders":{},"user_id":"u"}"#),
        ),
        ("batch that is cut", batch(r#"{"orders":[{]"#)),
        (
            "batch with a key",
            with(post_batch(&[order]), "idempotency-key", "k"),
        ),
        (
            "batch without a type",
            request("POST", "/orders:batch", "{}"),
        ),
        (
            "batch of more than 64 KiB",
            post_batch(&[" ".repeat(64 * 1024).as_str()]),
        ),
        (
            "wrong method on batches",
            request("GET", "/orders:batch", ""),
        ),
    ]
}

#[tokio::test]
async fn batches_of_one_address_keep_out_no_other() {
    let app = app(HttpConfig {
        batches_max: 3,
        in_flight_max: 100,
        in_flight_per_address_max: 60,
        ..HttpConfig::default()
    });
    let slow = || {
        from(
            "10.0.0.1:1",
            post_batch(&[r#"{"user_id":"hang","amount":1}"#]),
        )
    };
    let mut batches: Vec<_> = (0..2).map(|_| Box::pin(send(&app, slow()))).collect();
    for request in &mut batches {
        assert!(poll!(request).is_pending());
    }

    let refused = send(&app, slow()).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    let single = send(&app, from("10.0.0.1:1", post(ORDER))).await;
    assert_eq!(single.status(), StatusCode::CREATED);
    let other = send(&app, from("10.0.0.2:1", post_batch(&[ORDER]))).await;
    assert_eq!(other.status(), StatusCode::OK);
    drop(batches);
    let next = send(&app, from("10.0.0.1:1", post_batch(&[ORDER]))).await;
    assert_eq!(next.status(), StatusCode::OK);
}

/// A batch cannot make its answer many times as long.
#[tokio::test]
async fn answer_to_a_batch_that_is_all_wrong_has_no_more_than_4_mib() {
    let shortest = "{\"\":0,\"a\":0}";
    let fields = (0..40).map(|n| format!("\"{n}\":1"));
    let fields = format!("{{{}}}", fields.collect::<Vec<_>>().join(","));
    let entries = (0..40).map(|n| format!("\"\\u0001{n}\":\"\\u0001\""));
    let entries = entries.collect::<Vec<_>>().join(",");
    let metadata = format!("{{\"metadata\":{{{entries}}}}}");
    let app = app(HttpConfig::default());
    for order in [shortest, "1", &fields, &metadata] {
        let len = (60_000 / (order.len() + 1)).min(100);
        let answer = send(&app, post_batch(&vec![order; len])).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body");
        let n_bytes = body.to_bytes().len();
        assert!(n_bytes <= RESPONSE_BYTES_MAX, "{n_bytes} bytes to {order}");
        assert_eq!(status, StatusCode::OK, "{order}");
    }
}
