//! Every way to be refused, with the exact problem document.

use std::{convert::Infallible, fmt::Write as _};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::Request;

use crate::support::{JSON, KNOWN, post, render, request, send, with};
use crate::{batches, document::Document};

type Case = (&'static str, Request<Body>);

fn create(amount: &str) -> Request<Body> {
    post(format!(r#"{{"user_id":"u","amount":{amount}}}"#))
}

fn metadata(metadata: &str) -> Request<Body> {
    post(format!(
        r#"{{"user_id":"u","amount":1,"metadata":{metadata}}}"#
    ))
}

fn create_for(user: &str) -> Request<Body> {
    post(format!(r#"{{"user_id":"{user}","amount":1}}"#))
}

fn keyed(request: Request<Body>, key: &'static str) -> Request<Body> {
    with(request, "idempotency-key", key)
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
        ("amount has 16 digits", create("10000000000000.01")),
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

fn optional_fields() -> Vec<Case> {
    vec![
        (
            "external id is empty",
            post(r#"{"user_id":"u","amount":1,"external_id":""}"#),
        ),
        (
            "external id is null",
            post(r#"{"user_id":"u","amount":1,"external_id":null}"#),
        ),
        (
            "external id has 129 characters",
            post(format!(
                r#"{{"user_id":"u","amount":1,"external_id":"{}"}}"#,
                "x".repeat(129)
            )),
        ),
        ("metadata is null", metadata("null")),
        ("metadata is a list", metadata("[]")),
        (
            "metadata of other things than text",
            metadata(r#"{"a/b~":1,"b":null,"c":{"d":[]},"e":"ok"}"#),
        ),
        ("metadata given twice", metadata(r#"{"a":"1","a":"2"}"#)),
        (
            "metadata with bad names and values",
            metadata(&format!(
                r#"{{"":"1","{}":"2","bell":"\u0007","long":"{}"}}"#,
                "n".repeat(41),
                "v".repeat(501)
            )),
        ),
        (
            "metadata with 51 entries",
            metadata(&format!(
                "{{{}}}",
                (0..51)
                    .map(|n| format!("\"{n}\":\"\""))
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
            "wrong method on retry",
            request("GET", &format!("{unknown}/retry"), ""),
        ),
        (
            "wrong method on the history",
            request("POST", &format!("{unknown}/events"), ""),
        ),
        (
            "history of an unknown id",
            request("GET", &format!("{unknown}/events"), ""),
        ),
        (
            "wrong method on tickets",
            request("GET", "/stream-tickets", ""),
        ),
    ]
}

fn ticket(body: &'static str) -> Request<Body> {
    with(
        request("POST", "/stream-tickets", body),
        "content-type",
        JSON,
    )
}

fn retry() -> Request<Body> {
    request("POST", &format!("/orders/{KNOWN}/retry"), "")
}

fn retries() -> Vec<Case> {
    let unknown = "/orders/00000000-0000-7000-8000-000000000000";
    vec![
        (
            "retry of an unknown id",
            request("POST", &format!("{unknown}/retry"), ""),
        ),
        ("retry with a key", keyed(retry(), "k")),
        (
            "retry with fields",
            with(
                request("POST", &format!("/orders/{KNOWN}/retry"), r#"{"now":true}"#),
                "content-type",
                JSON,
            ),
        ),
        (
            "retry with null",
            with(
                request("POST", &format!("/orders/{KNOWN}/retry"), "null"),
                "content-type",
                JSON,
            ),
        ),
    ]
}

fn tickets() -> Vec<Case> {
    vec![
        ("ticket for nobody", ticket("{}")),
        (
            "ticket with a key",
            keyed(ticket(r#"{"user_id":"u"}"#), "k"),
        ),
        ("ticket for an empty user", ticket(r#"{"user_id":""}"#)),
        (
            "ticket with too much",
            ticket(r#"{"user_id":"u","orders":[]}"#),
        ),
    ]
}

fn headers() -> Vec<Case> {
    let get = || request("GET", &format!("/orders/{KNOWN}"), "");
    let cancel = || request("POST", &format!("/orders/{KNOWN}/cancel"), "");
    let events = || request("GET", &format!("/orders/{KNOWN}/events"), "");
    let mut twice = keyed(create("1"), "a");
    twice
        .headers_mut()
        .append("idempotency-key", http::HeaderValue::from_static("a"));
    vec![
        ("key given twice", twice),
        ("key is empty", keyed(create("1"), "")),
        ("key has a space", keyed(create("1"), "a b")),
        ("key is an open string", keyed(create("1"), "\"a")),
        ("key is an empty string", keyed(cancel(), "\"\"")),
        ("If-Match without quotes", with(cancel(), "if-match", "1")),
        ("If-Match is empty", with(retry(), "if-match", "")),
        (
            "If-None-Match without end",
            with(get(), "if-none-match", "\"1"),
        ),
        (
            "cancel of another version",
            with(cancel(), "if-match", "\"2\", W/\"1\""),
        ),
        (
            "retry of another version",
            with(retry(), "if-match", "\"2\""),
        ),
        ("get of another version", with(get(), "if-match", "\"2\"")),
        (
            "history for someone who wants neither",
            with(events(), "accept", "text/html"),
        ),
        (
            "stream from no number",
            with(stream(events()), "last-event-id", "two"),
        ),
        (
            "stream from an empty place",
            with(stream(events()), "last-event-id", ""),
        ),
        (
            "stream from the future",
            with(stream(events()), "last-event-id", "4"),
        ),
        (
            "stream from beyond all versions",
            with(stream(events()), "last-event-id", "4294967296"),
        ),
    ]
}

fn stream(request: Request<Body>) -> Request<Body> {
    with(request, "accept", "text/event-stream")
}

fn lists() -> Vec<Case> {
    let list = |query: &str| request("GET", &format!("/orders?{query}"), "");
    let events = |query: &str| request("GET", &format!("/orders/{KNOWN}/events?{query}"), "");
    vec![
        (
            "wrong parameters",
            list("page_size=many&status=DONE&user_id=&user_id=u&limit=5"),
        ),
        ("negative size", list("page_size=-1")),
        ("not UTF-8", list("user_id=%FF&external_id=a%C3&%FF=1")),
        ("size below i64", list("page_size=-99999999999999999999")),
        ("forged token", list("page_token=forged")),
        ("empty external id", list("external_id=")),
        (
            "times that are none",
            list("created_after=yesterday&created_before=2026-02-30T00:00:00Z"),
        ),
        (
            "offset that is not encoded",
            list("created_after=2026-11-23T11:30:00+02:00"),
        ),
        (
            "events with wrong parameters",
            events("after=-1&page_size=x&limit=1"),
        ),
        ("events after no number", events("after=")),
        ("events after the future", events("after=4")),
        ("events after all versions", events("after=4294967296")),
        (
            "stream from the future by query",
            stream(events("last_event_id=4")),
        ),
    ]
}

fn failures() -> Vec<Case> {
    let not_ready = |why| with(request("GET", "/readyz", ""), "x-request-id", why);
    vec![
        ("id taken", create_for("exists")),
        ("external id taken", create_for("taken")),
        ("key reused", keyed(create_for("reused"), "k")),
        ("twin in progress", keyed(create_for("twin"), "k")),
        ("not authenticated", create_for("ticket")),
        ("not permitted", create_for("forbidden")),
        ("not retryable", with(retry(), "x-request-id", "retry")),
        (
            "part of a trace",
            with(
                create_for("exists"),
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
        ),
        (
            "part of no valid trace",
            with(create_for("exists"), "traceparent", "00-4bf9-00f0-01"),
        ),
        ("not cancellable", cancel("cancel")),
        ("transition refused", cancel("refused")),
        ("concurrent change", cancel("conflict")),
        ("limit exceeded", create_for("limit")),
        ("overloaded", create_for("overloaded")),
        ("store down", create_for("store")),
        ("service down", create_for("service")),
        ("store down, with a key", keyed(create_for("store"), "k")),
        ("shutting down", create_for("stopping")),
        ("deadline passed inside", create_for("deadline")),
        ("no answer in time", create_for("hang")),
        (
            "no answer in time, with a key",
            keyed(create_for("hang"), "k"),
        ),
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

/// Failures of the fake that no operation of REST has.
const BEYOND_THE_SYSTEM: &[&str] = &[
    "not authenticated",
    "not permitted",
    "transition refused",
    "limit exceeded",
];

/// Time is paused, so that timeouts come at once and nothing else takes any.
#[tokio::test(start_paused = true)]
async fn every_refusal_is_a_problem_document() {
    let document = Document::read().await;
    for (group, cases) in [
        ("problems_of_bodies", bodies()),
        ("problems_of_fields", fields()),
        ("problems_of_optional_fields", optional_fields()),
        ("problems_of_batches", batches::refused()),
        ("problems_of_routes", routes()),
        ("problems_of_retries", retries()),
        ("problems_of_tickets", tickets()),
        ("problems_of_headers", headers()),
        ("problems_of_lists", lists()),
        ("problems_of_the_system", failures()),
    ] {
        let mut text = String::new();
        for (name, request) in cases {
            let is_head = request.method() == http::Method::HEAD;
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let mut response = send(request).await;
            // The fake also fails in ways in which the system behind does not.
            if !BEYOND_THE_SYSTEM.contains(&name) {
                response = document.assert_has(&method, &path, response).await;
            }
            let kind = response.headers()["content-type"].clone();
            assert_eq!(kind, "application/problem+json", "{name}");
            let answer = render(response).await;
            assert!(!answer.contains("a secret"), "{name} leaks its source");
            assert_eq!(answer.contains("\"code\""), !is_head, "{name}");
            write!(text, "== {name}\n{answer}\n").expect("a string takes everything");
        }
        insta::assert_snapshot!(group, text);
    }
    document.assert_seen(&["Problem", "FieldError"]);
}
