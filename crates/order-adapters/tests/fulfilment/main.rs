//! The HTTP processor against a real server: what it sends, and what it makes of answers.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests panic like the tests themselves"
)]

mod endpoint;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use order_adapters::fulfilment::{FulfilmentConfig, HttpProcessor};
use order_core::{
    Attempt, Cause, Clock as _, ExternalId, IdGen as _, Metadata, Money, Order, OrderStatus,
    Outcome, Processor as _, TraceParent, UserId,
};
use order_testkit::clock::{SeededIds, SimClock};
use serde_json::json;
use sha2::Sha256;

use self::endpoint::{Answer, Endpoint, Request};

const KEY: [u8; 24] = [7; 24];
const OTHER_KEY: [u8; 64] = [9; 64];

const FIRST: Attempt = Attempt {
    number: 1,
    is_last: false,
    trace_parent: None,
};

fn secret(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

fn config(url: &str) -> FulfilmentConfig {
    FulfilmentConfig {
        url: url.parse().unwrap(),
        secrets: secret(&KEY).parse().unwrap(),
        timeout: Duration::from_mins(1),
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
    }
}

fn url_of(address: SocketAddr) -> String {
    format!("http://{address}/orders?tenant=1")
}

/// A processor for the endpoint, and the clock it lives by.
fn processor(endpoint: &Endpoint) -> (HttpProcessor, Arc<SimClock>) {
    let clock = Arc::new(SimClock::new());
    let config = config(&url_of(endpoint.address()));
    let processor = HttpProcessor::new(config, clock.clone()).unwrap();
    (processor, clock)
}

fn order() -> Order {
    let clock = SimClock::new();
    Order {
        id: SeededIds::new(1).order_id(),
        user_id: UserId::parse("user-1").unwrap(),
        money: Money::parse("99.95", "EUR").unwrap(),
        status: OrderStatus::Processing,
        version: 2,
        metadata: Metadata::NONE,
        external_id: None,
        failure: None,
        created_at: clock.now(),
        updated_at: clock.now(),
    }
}

/// The signature that a receiver computes by the standard.
fn signature(key: &[u8], request: &Request) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(request.header("webhook-id").as_bytes());
    mac.update(b".");
    mac.update(request.header("webhook-timestamp").as_bytes());
    mac.update(b".");
    mac.update(&request.body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn retry(error: &str, after: Option<Duration>) -> Outcome {
    Outcome::Retry {
        error: error.to_owned(),
        after,
    }
}

fn error_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Retry { error, after: None } => error,
        other => panic!("no plain retry: {other:?}"),
    }
}

#[tokio::test]
async fn order_is_posted_and_signed() {
    let endpoint = Endpoint::start(|_| Answer::status(204)).await;
    let (processor, _) = processor(&endpoint);
    let metadata = [("gift".to_owned(), "yes".to_owned())];
    let order = Order {
        metadata: Metadata::new(metadata).unwrap(),
        external_id: Some(ExternalId::parse("basket-7").unwrap()),
        ..order()
    };

    let outcome = processor.process(&order, FIRST).await;

    assert_eq!(outcome, Outcome::Done);
    let [request] = &endpoint.requests()[..] else {
        panic!("not one request");
    };
    assert_eq!(request.line, "POST /orders?tenant=1 HTTP/1.1");
    assert_eq!(request.header("content-type"), "application/json");
    let quoted = format!("\"{}\"", order.id);
    assert_eq!(request.header("idempotency-key"), quoted);
    let id = format!("fulfilment_{}", order.id);
    assert_eq!(request.header("webhook-id"), id);
    assert_eq!(request.header("webhook-timestamp"), "1735689600");
    let signature = signature(&KEY, request);
    assert_eq!(request.header("webhook-signature"), signature);
    let expected = json!({
        "type": "order.fulfilment",
        "timestamp": "2025-01-01T00:00:00.000000Z",
        "data": {
            "order_id": order.id.to_string(),
            "user_id": "user-1",
            "amount": 99.95,
            "currency": "EUR",
            "metadata": {"gift": "yes"},
            "external_id": "basket-7",
            "attempt": 1,
            "created_at": "2025-01-01T00:00:00.000000Z",
        },
    });
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn absent_parts_of_an_order_are_left_out() {
    let endpoint = Endpoint::start(|_| Answer::status(200)).await;
    let (processor, _) = processor(&endpoint);

    processor.process(&order(), FIRST).await;

    let data = &endpoint.requests()[0].json()["data"];
    assert_eq!(data.get("metadata"), None);
    assert_eq!(data.get("external_id"), None);
}

#[tokio::test]
async fn trace_goes_on_at_the_endpoint() {
    let endpoint = Endpoint::start(|_| Answer::status(200)).await;
    let (processor, _) = processor(&endpoint);
    let position = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = TraceParent::parse(position).expect("valid");
    let traced = Attempt {
        trace_parent: Some(trace.with_state(["vendor=1"])),
        ..FIRST
    };

    processor.process(&order(), traced).await;
    processor.process(&order(), FIRST).await;

    let requests = endpoint.requests();
    assert_eq!(requests[0].header("traceparent"), position);
    assert_eq!(requests[0].header("tracestate"), "vendor=1");
    assert!(!requests[1].has_header("traceparent"));
}

#[tokio::test]
async fn retry_has_the_same_key_and_id_and_a_new_timestamp() {
    let endpoint = Endpoint::start(|n| Answer::status([503, 200][n])).await;
    let (processor, clock) = processor(&endpoint);
    let order = order();
    let second = Attempt {
        number: 2,
        is_last: true,
        trace_parent: None,
    };

    processor.process(&order, FIRST).await;
    clock.advance(Duration::from_secs(30));
    let outcome = processor.process(&order, second).await;

    assert_eq!(outcome, Outcome::Done);
    let requests = endpoint.requests();
    for name in ["idempotency-key", "webhook-id"] {
        assert_eq!(requests[0].header(name), requests[1].header(name), "{name}");
    }
    assert_eq!(requests[1].header("webhook-timestamp"), "1735689630");
    assert_eq!(requests[1].json()["data"]["attempt"], 2);
    let signature = signature(&KEY, &requests[1]);
    assert_eq!(requests[1].header("webhook-signature"), signature);
    assert_eq!(endpoint.n_connections(), 1, "the connection is used again");
}

#[tokio::test]
async fn both_secrets_sign_while_one_replaces_the_other() {
    let endpoint = Endpoint::start(|_| Answer::status(200)).await;
    let secrets = format!("{},{}", secret(&KEY), secret(&OTHER_KEY));
    let config = FulfilmentConfig {
        secrets: secrets.parse().unwrap(),
        ..config(&url_of(endpoint.address()))
    };
    let processor = HttpProcessor::new(config, Arc::new(SimClock::new())).unwrap();

    processor.process(&order(), FIRST).await;

    let request = &endpoint.requests()[0];
    let both = [&KEY[..], &OTHER_KEY].map(|key| signature(key, request));
    assert_eq!(request.header("webhook-signature"), both.join(" "));
}

#[tokio::test]
async fn status_decides_what_becomes_of_the_order() {
    let fail = |code: &str, message: &str| Outcome::Fail(Cause::new(code, message));
    let says = |text: &str| retry(&format!("the endpoint answered {text}"), None);
    let rows = [
        (Answer::status(200), Outcome::Done),
        (Answer::status(202), Outcome::Done),
        (Answer::status(299), Outcome::Done),
        (
            Answer::status(302),
            fail(
                "FULFILMENT_REDIRECTED",
                "the endpoint answered 302 Found; redirects are not followed",
            ),
        ),
        (
            Answer::status(304),
            fail(
                "FULFILMENT_REDIRECTED",
                "the endpoint answered 304 Not Modified; redirects are not followed",
            ),
        ),
        (
            Answer::status(400).body("text/plain", "no such item\n"),
            fail("FULFILMENT_REFUSED", "no such item"),
        ),
        (
            Answer::status(404),
            fail("FULFILMENT_REFUSED", "the endpoint answered 404 Not Found"),
        ),
        (
            Answer::status(422).body(
                "application/problem+json; charset=utf-8",
                r#"{"title": "Out of stock", "detail": "no more shoes"}"#,
            ),
            fail("FULFILMENT_REFUSED", "Out of stock: no more shoes"),
        ),
        (Answer::status(408), says("408 Request Timeout")),
        (Answer::status(425), says("425 Too Early")),
        (
            Answer::status(429).header("Retry-After", "7"),
            retry(
                "the endpoint answered 429 Too Many Requests",
                Some(Duration::from_secs(7)),
            ),
        ),
        (
            Answer::status(500).body("text/plain", "oops"),
            says("500 Internal Server Error: oops"),
        ),
        (
            Answer::status(503).header("Retry-After", "Wed, 01 Jan 2025 00:01:00 GMT"),
            retry(
                "the endpoint answered 503 Service Unavailable",
                Some(Duration::from_mins(1)),
            ),
        ),
        (
            Answer::status(410),
            fail("FULFILMENT_GONE", "the endpoint answered 410 Gone"),
        ),
    ];
    let answers: Vec<_> = rows.iter().map(|(answer, _)| answer.clone()).collect();
    let endpoint = Endpoint::start(move |n| answers[n].clone()).await;
    let (processor, _) = processor(&endpoint);
    for (n, (_, expected)) in rows.into_iter().enumerate() {
        let outcome = processor.process(&order(), FIRST).await;
        assert_eq!(outcome, expected, "row {n}");
    }
}

/// How long an order is postponed.
fn pause_of(outcome: Outcome) -> Duration {
    match outcome {
        Outcome::Postpone { error, after } => {
            assert!(error.contains("410"), "{error}");
            after
        }
        other => panic!("was not postponed: {other:?}"),
    }
}

#[tokio::test]
async fn endpoint_that_is_gone_is_probed_at_growing_intervals_and_fails_one_order() {
    let endpoint = Endpoint::start(|_| Answer::status(410)).await;
    let (processor, clock) = processor(&endpoint);
    let first = processor.process(&order(), FIRST).await;
    assert!(matches!(first, Outcome::Fail(_)), "{first:?}");
    let mut n_requests = 1;
    let mut expected = Duration::from_secs(15);
    for _ in 0..10 {
        let pause = pause_of(processor.process(&order(), FIRST).await);
        assert_eq!(pause, expected);
        assert_eq!(endpoint.requests().len(), n_requests);

        clock.advance(pause);

        expected = (expected * 2).min(Duration::from_mins(15));
        let pause = pause_of(processor.process(&order(), FIRST).await);
        assert_eq!(pause, expected);
        n_requests += 1;
        assert_eq!(endpoint.requests().len(), n_requests);
    }
}

#[tokio::test]
async fn endpoint_that_is_back_gets_orders_again() {
    let endpoint = Endpoint::start(|n| Answer::status(if n == 0 { 410 } else { 200 })).await;
    let (processor, clock) = processor(&endpoint);
    processor.process(&order(), FIRST).await;
    let pause = pause_of(processor.process(&order(), FIRST).await);
    clock.advance(pause);

    for n in 1..=3 {
        assert_eq!(processor.process(&order(), FIRST).await, Outcome::Done);
        assert_eq!(endpoint.requests().len(), 1 + n);
    }
}

/// One order at a time is a probe, and a probe that is dropped blocks no later one.
#[tokio::test]
async fn one_order_at_a_time_probes() {
    let endpoint = Endpoint::start(|n| match n {
        0 => Answer::status(410),
        1 => Answer::never(),
        _ => Answer::status(200),
    })
    .await;
    let (processor, clock) = processor(&endpoint);
    processor.process(&order(), FIRST).await;
    clock.advance(Duration::from_secs(15));
    let probed = order();
    let mut probe = Box::pin(processor.process(&probed, FIRST));
    tokio::select! {
        outcome = &mut probe => panic!("the endpoint does not answer: {outcome:?}"),
        () = endpoint.wait_for_requests(2) => {}
    }

    let pause = pause_of(processor.process(&order(), FIRST).await);
    assert_eq!(endpoint.requests().len(), 2);
    drop(probe);
    clock.advance(pause);

    assert_eq!(processor.process(&order(), FIRST).await, Outcome::Done);
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let target = Endpoint::start(|_| Answer::status(200)).await;
    let location = url_of(target.address());
    let endpoint =
        Endpoint::start(move |_| Answer::status(307).header("Location", &location)).await;
    let (processor, _) = processor(&endpoint);

    let outcome = processor.process(&order(), FIRST).await;

    assert!(matches!(outcome, Outcome::Fail(_)), "{outcome:?}");
    assert_eq!(endpoint.requests().len(), 1);
    assert_eq!(target.n_connections(), 0);
}

#[tokio::test]
async fn silent_endpoint_is_left_after_the_timeout() {
    let endpoint = Endpoint::start(|_| Answer::never()).await;
    let config = FulfilmentConfig {
        timeout: FulfilmentConfig::TIMEOUT_MIN,
        ..config(&url_of(endpoint.address()))
    };
    let processor = HttpProcessor::new(config, Arc::new(SimClock::new())).unwrap();

    let error = error_of(processor.process(&order(), FIRST).await);

    assert!(error.contains("timed out"), "{error}");
    assert!(!error.contains("tenant"), "{error}");
    endpoint.wait_until_closed().await;
}

#[tokio::test]
async fn closed_port_is_retried() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = url_of(listener.local_addr().unwrap());
    drop(listener);
    let processor = HttpProcessor::new(config(&url), Arc::new(SimClock::new())).unwrap();

    let error = error_of(processor.process(&order(), FIRST).await);

    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn endless_answer_is_cut() {
    for (status, expected) in [
        (200, Outcome::Done),
        (
            400,
            Outcome::Fail(Cause::new("FULFILMENT_REFUSED", "x".repeat(200))),
        ),
    ] {
        let endpoint = Endpoint::start(move |_| Answer::endless(status)).await;
        let (processor, _) = processor(&endpoint);

        let outcome = processor.process(&order(), FIRST).await;

        assert_eq!(outcome, expected);
        endpoint.wait_until_closed().await;
        // What the sockets buffer is sent without being read.
        let n_sent = endpoint.n_sent();
        assert!(n_sent < 64 * 1024 * 1024, "{n_sent} bytes");
    }
}

#[tokio::test]
async fn answer_that_breaks_off_counts_by_its_status() {
    let endpoint = Endpoint::start(|_| Answer::status(200).broken_off()).await;
    let (processor, _) = processor(&endpoint);

    assert_eq!(processor.process(&order(), FIRST).await, Outcome::Done);
}

#[tokio::test]
async fn private_address_is_refused_unless_it_is_allowed() {
    let endpoint = Endpoint::start(|_| Answer::status(200)).await;
    let port = endpoint.address().port();
    let build = |host: &str, allowed: &str| {
        let allowed_networks = allowed.split_terminator(',');
        let config = FulfilmentConfig {
            allowed_networks: allowed_networks.map(|net| net.parse().unwrap()).collect(),
            ..config(&format!("http://{host}:{port}/"))
        };
        HttpProcessor::new(config, Arc::new(SimClock::new()))
    };

    let literal = build("127.0.0.1", "10.0.0.0/8").err().expect("was allowed");
    assert!(
        literal
            .to_string()
            .starts_with("FULFILMENT_URL must be public: address 127.0.0.1"),
        "{literal}"
    );
    let named = build("localhost", "").unwrap();
    let error = error_of(named.process(&order(), FIRST).await);
    assert!(error.contains("FULFILMENT_ALLOWED_NETWORKS"), "{error}");
    assert_eq!(endpoint.n_connections(), 0);

    let allowed = build("localhost", "127.0.0.0/8,::1").unwrap();
    assert_eq!(allowed.process(&order(), FIRST).await, Outcome::Done);
}

#[test]
fn timeout_has_limits() {
    for timeout in [Duration::from_millis(999), Duration::from_millis(60_001)] {
        let config = FulfilmentConfig {
            timeout,
            ..config("https://shop.example/")
        };
        let error = HttpProcessor::new(config, Arc::new(SimClock::new()))
            .err()
            .expect("was taken");
        assert_eq!(
            error.to_string(),
            "FULFILMENT_TIMEOUT must be between 1s and 60s"
        );
    }
}
