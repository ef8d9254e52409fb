//! Every way to be refused, with the exact problem document.

use std::{convert::Infallible, fmt::Write as _};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::Request;

use crate::support::{JSON, KNOWN, post, render, request, send, with};

type Case = (&'static str, Request<Body>);

fn create(amount: &str) -> Request<Body> {
    post(format!(r#"{{"user_id":"u","amount":{amount}}}"#))
}

fn create_for(user: &str) -> Request<Body> {
    post(format!(r#"{{"user_id":"{user}","amount":1}}"#))
}

fn cancel(reason: &str) -> Request<Body> {
    let body = format!(r#"{{"reason":"{reason}"}}"#);
    let path = format!("/orders/{KNOWN}/cancel");
    with(request("POST", &path, body), "content-type", JSON)
}

/// A body whose length is not announced.
fn streamed(chunk: Bytes, n_chunks: usize) -> Body {
    let chunks = (0..n_chunks).map(move |_| Ok::<_, Infallible>(chunk.clone()));
    Body::from_stream(stream::iter(chunks))
}

fn bodies() -> Vec<Case> {
    let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let cut = stream::iter([Ok(Bytes::from_static(b"{")), Err("reset by peer")]);
    vec![
        ("empty body", post("")),
        ("blank body", post("  \n")),
        ("broken JSON", post("{\"user_id\":\"u\",\n \"amount\":}")),
        ("cut JSON", post(r#"{"user_id":"u""#)),
        ("trailing text", post(r#"{"user_id":"u","amount":1} 2"#)),
        (
            "not UTF-8",
            post(&b"{\"user_id\":\"\xff\",\"amount\":1}"[..]),
        ),
        ("not an object", post("[1]")),
        ("a bare number", post("17")),
        ("null", post("null")),
        (
            "deeply nested",
            post(format!("{}1{}", "[".repeat(5000), "]".repeat(5000))),
        ),
        (
            "deeply nested field",
            create(&format!("{}1{}", "[".repeat(5000), "]".repeat(5000))),
        ),
        ("body of 64 KiB and 1 byte", post(vec![b' '; 64 * 1024 + 1])),
        (
            "body of 64 KiB and 1 byte, length unknown",
            post(streamed(Bytes::from(vec![b' '; 1 + 64 * 1024 / 5]), 5)),
        ),
        ("body that never comes", post(silent)),
        ("body that is cut", post(Body::from_stream(cut))),
        ("no content type", request("POST", "/orders", "{}")),
        (
            "form",
            with(
                request("POST", "/orders", "a=b"),
                "content-type",
                "text/plain",
            ),
        ),
        ("compressed", with(post("{}"), "content-encoding", "gzip")),
        ("wants HTML", with(post("{}"), "accept", "text/html")),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        ("nothing given", post("{}")),
        (
            "everything wrong at once",
            post(r#"{"user_id":7,"amount":true,"currency":null,"admin/~":1}"#),
        ),
        (
            "no amount, wrong currency",
            post(r#"{"user_id":"u","currency":"usd"}"#),
        ),
        (
            "field given twice",
            post(r#"{"user_id":"u","amount":1,"user_id":"v"}"#),
        ),
        (
            "unknown field with a long name",
            post(format!(
                r#"{{"user_id":"u","amount":1,"{}":1}}"#,
                "é".repeat(65)
            )),
        ),
        ("user is null", post(r#"{"user_id":null,"amount":1}"#)),
        ("user is empty", create_for("")),
        ("user has 129 characters", create_for(&"ß".repeat(129))),
        ("user with a control character", create_for("a\\u0007b")),
        ("user is half a surrogate pair", create_for("\\ud800")),
        ("amount is zero", create("0")),
        ("amount is zero with decimals", create("0.00")),
        ("amount is negative", create("-1")),
        ("amount is NaN", create("\"NaN\"")),
        ("amount is a bare NaN", create("NaN")),
        ("amount is a word", create("\"ten\"")),
        ("amount is null", create("null")),
        ("amount is a list", create("[1]")),
        ("amount has three decimals", create("1.001")),
        ("amount is 1e400", create("1e400")),
        ("amount is 2^53 minor units", create("90071992547409.92")),
        ("amount has 100 digits", create(&"9".repeat(100))),
        (
            "yen with decimals",
            post(r#"{"user_id":"u","amount":1.5,"currency":"JPY"}"#),
        ),
        (
            "unknown currency",
            post(r#"{"user_id":"u","amount":1,"currency":"ZZZ"}"#),
        ),
        (
            "many unknown fields",
            post(format!(
                "{{{}}}",
                (0..100)
                    .map(|n| format!("\"f{n}\":0"))
                    .collect::<Vec<_>>()
                    .join(",")
            )),
        ),
    ]
}

fn routes() -> Vec<Case> {
    let unknown = "/orders/00000000-0000-7000-8000-000000000000";
    vec![
        ("unknown path", request("GET", "/nowhere", "")),
        ("root", request("GET", "/", "")),
        (
            "wrong method on the collection",
            request("DELETE", "/orders", ""),
        ),
        ("wrong method on an order", request("PUT", unknown, "")),
        (
            "wrong method on cancel",
            request("GET", &format!("{unknown}/cancel"), ""),
        ),
        ("wrong method on a probe", request("POST", "/livez", "")),
        ("unknown id", request("GET", unknown, "")),
        ("malformed id", request("GET", "/orders/1", "")),
        ("id that is not UTF-8", request("GET", "/orders/%FF", "")),
        ("HEAD of an unknown id", request("HEAD", unknown, "")),
        (
            "cancel of a malformed id",
            request("POST", "/orders/1/cancel", ""),
        ),
        (
            "cancel with a wrong reason",
            with(
                request(
                    "POST",
                    &format!("/orders/{KNOWN}/cancel"),
                    r#"{"reason":1,"x":2}"#,
                ),
                "content-type",
                JSON,
            ),
        ),
        (
            "cancel with a body that is not JSON",
            request("POST", &format!("/orders/{KNOWN}/cancel"), "because"),
        ),
        (
            "list with wrong parameters",
            request(
                "GET",
                "/orders?page_size=many&status=DONE&user_id=&user_id=u&limit=5",
                "",
            ),
        ),
        (
            "list with a negative size",
            request("GET", "/orders?page_size=-1", ""),
        ),
        (
            "list with a size below i64",
            request("GET", "/orders?page_size=-99999999999999999999", ""),
        ),
    ]
}

fn failures() -> Vec<Case> {
    let not_ready = |why| with(request("GET", "/readyz", ""), "x-request-id", why);
    vec![
        ("id taken", create_for("exists")),
        ("not cancellable", cancel("cancel")),
        ("transition refused", cancel("refused")),
        ("concurrent change", cancel("conflict")),
        ("limit exceeded", create_for("limit")),
        ("overloaded", create_for("overloaded")),
        ("store down", create_for("store")),
        ("service down", create_for("service")),
        ("shutting down", create_for("stopping")),
        ("deadline passed inside", create_for("deadline")),
        ("no answer in time", create_for("hang")),
        (
            "no answer in time to a safe method",
            request("GET", "/orders?user_id=hang", ""),
        ),
        ("panic", create_for("panic")),
        ("defect", create_for("internal")),
        ("not ready: store down", not_ready("store")),
        ("not ready: no answer", not_ready("hang")),
        ("not ready: defect", not_ready("internal")),
    ]
}

/// Time is paused, so that timeouts come at once and nothing else takes any.
#[tokio::test(start_paused = true)]
async fn every_refusal_is_a_problem_document() {
    for (group, cases) in [
        ("problems_of_bodies", bodies()),
        ("problems_of_fields", fields()),
        ("problems_of_routes", routes()),
        ("problems_of_the_system", failures()),
    ] {
        let mut text = String::new();
        for (name, request) in cases {
            let is_head = request.method() == http::Method::HEAD;
            let response = send(request).await;
            let kind = response.headers()["content-type"].clone();
            assert_eq!(kind, "application/problem+json", "{name}");
            let answer = render(response).await;
            assert!(!answer.contains("a secret"), "{name} leaks its source");
            assert_eq!(answer.contains("\"code\""), !is_head, "{name}");
            write!(text, "== {name}\n{answer}\n").expect("a string takes everything");
        }
        insta::assert_snapshot!(group, text);
    }
}
