//! Web pages of other origins (CORS).

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use order_web::http::HttpConfig;
use tower::ServiceExt as _;

use crate::support::{KNOWN, app, request, with};

async fn headers(request: Request<Body>) -> (StatusCode, HeaderMap) {
    let config = HttpConfig {
        allowed_origins: vec!["https://shop.example/".parse().expect("an origin")],
        ..HttpConfig::default()
    };
    let response = app(config).oneshot(request).await.expect("an answer");
    (response.status(), response.headers().clone())
}

fn preflight(origin: &'static str) -> Request<Body> {
    let asked = "content-type,idempotency-key,x-request-id";
    let request = request("OPTIONS", "/orders", "");
    let request = with(request, "access-control-request-method", "POST");
    with(
        with(request, "access-control-request-headers", asked),
        "origin",
        origin,
    )
}

#[tokio::test]
async fn page_of_a_listed_origin_may_send_and_read() {
    let (status, headers) = self::headers(preflight("https://shop.example")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        headers["access-control-allow-origin"],
        "https://shop.example"
    );
    for (header, values) in [
        ("access-control-allow-methods", vec!["GET", "POST"]),
        (
            "access-control-allow-headers",
            vec!["content-type", "idempotency-key", "if-match"],
        ),
    ] {
        let allowed = headers[header].to_str().expect("text");
        let is_there = |value: &&str| allowed.split(',').any(|allowed| allowed == *value);
        assert!(values.iter().all(is_there), "{header}: {allowed}");
    }

    let read = request("GET", &format!("/orders/{KNOWN}"), "");
    let (status, headers) = self::headers(with(read, "origin", "https://shop.example")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        headers["access-control-allow-origin"],
        "https://shop.example"
    );
    let exposed = headers["access-control-expose-headers"].to_str();
    assert!(exposed.expect("text").contains("etag"), "{headers:?}");
}

#[tokio::test]
async fn page_of_another_origin_may_not() {
    for origin in ["https://evil.example", "http://shop.example", "null"] {
        let read = request("GET", &format!("/orders/{KNOWN}"), "");
        for request in [preflight(origin), with(read, "origin", origin)] {
            let (_, headers) = headers(request).await;
            let allowed = headers.get("access-control-allow-origin");
            assert_eq!(allowed, None, "{origin}");
        }
    }
}

#[tokio::test]
async fn without_a_list_there_is_no_leave() {
    let read = request("GET", &format!("/orders/{KNOWN}"), "");
    let request = with(read, "origin", "https://shop.example");
    let response = app(HttpConfig::default()).oneshot(request).await;
    let response = response.expect("an answer");
    assert_eq!(response.headers().get("access-control-allow-origin"), None);
}
