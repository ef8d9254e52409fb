//! Answers in gzip.

use std::io::Read as _;

use axum::body::Body;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{
    Response,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, HeaderName, VARY},
};
use http_body_util::BodyExt as _;
use order_web::http::HttpConfig;
use tower::ServiceExt as _;

use crate::support::{KNOWN, app, request};

async fn get(path: &str, headers: &[(HeaderName, &str)]) -> Response<Body> {
    let mut request = request("GET", path, "");
    for (name, value) in headers {
        let value = value.parse().expect("a value");
        request.headers_mut().insert(name, value);
    }
    let response = app(HttpConfig::default()).oneshot(request).await;
    response.expect("infallible")
}

async fn read(response: Response<Body>) -> Bytes {
    let body = response.into_body().collect().await;
    body.expect("a body").to_bytes()
}

fn header(response: &Response<Body>, name: HeaderName) -> Option<&str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().expect("text"))
}

#[tokio::test]
async fn long_json_is_compressed_for_clients_that_ask() {
    let plain = get("/openapi.json", &[]).await;
    let packed = get("/openapi.json", &[(ACCEPT_ENCODING, "gzip, br")]).await;

    assert_eq!(header(&plain, CONTENT_ENCODING), None);
    assert_eq!(header(&packed, CONTENT_ENCODING), Some("gzip"));
    for response in [&plain, &packed] {
        let varies = header(response, VARY).expect("it varies");
        assert!(varies.contains("accept-encoding"), "{varies}");
    }
    assert_eq!(header(&plain, ETAG), header(&packed, ETAG));
    let (plain, packed) = (read(plain).await, read(packed).await);
    assert!(packed.len() < plain.len() / 2);
    let mut text = Vec::new();
    GzDecoder::new(&packed[..])
        .read_to_end(&mut text)
        .expect("gzip");
    assert_eq!(text, plain[..]);
}

#[tokio::test]
async fn short_answers_events_and_unwilling_clients_get_no_gzip() {
    let order = format!("/orders/{KNOWN}");
    let events = format!("/orders/{KNOWN}/events");
    for (path, accept, encoding) in [
        (order.as_str(), "*/*", "gzip"),
        (events.as_str(), "text/event-stream", "gzip"),
        ("/openapi.json", "*/*", "gzip;q=0"),
        ("/openapi.json", "*/*", "br"),
    ] {
        let headers = [(ACCEPT, accept), (ACCEPT_ENCODING, encoding)];
        let response = get(path, &headers).await;
        assert!(response.status().is_success(), "{path}");
        assert_eq!(header(&response, CONTENT_ENCODING), None, "{path}");
    }
}
