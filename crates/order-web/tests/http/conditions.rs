//! Preconditions: which answer each of them leads to. The known order is at version 3, the
//! one to be cancelled at version 1.

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;

use crate::support::{KNOWN, request, send};

/// Sends a request with the given headers; the answer's status, `ETag` and length.
async fn answer(
    method: &str,
    path: &str,
    headers: &[(&'static str, &'static str)],
) -> (StatusCode, Option<HeaderValue>, usize) {
    let mut request = request(method, &format!("/orders/{KNOWN}{path}"), "");
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    let (parts, body) = send(request).await.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (parts.status, parts.headers.get("etag").cloned(), body.len())
}

#[tokio::test]
async fn reading_obeys_preconditions() {
    const IF_MATCH: &str = "if-match";
    const IF_NONE_MATCH: &str = "if-none-match";
    for (headers, expected) in [
        (&[][..], 200),
        (&[(IF_NONE_MATCH, "\"3\"")][..], 304),
        (&[(IF_NONE_MATCH, "W/\"3\"")], 304),
        (&[(IF_NONE_MATCH, "\"1\", \"3\"")], 304),
        (&[(IF_NONE_MATCH, "\"1\""), (IF_NONE_MATCH, "\"3\"")], 304),
        (&[(IF_NONE_MATCH, "*")], 304),
        (&[(IF_NONE_MATCH, "\"2\"")], 200),
        (&[(IF_NONE_MATCH, "\"03\"")], 200),
        (&[(IF_MATCH, "\"3\"")], 200),
        (&[(IF_MATCH, "*")], 200),
        (&[(IF_MATCH, "W/\"3\"")], 412),
        (&[(IF_MATCH, "\"2\"")], 412),
        (&[(IF_MATCH, "\"3\""), (IF_NONE_MATCH, "\"3\"")], 304),
        // `If-Match` decides first.
        (&[(IF_MATCH, "\"2\""), (IF_NONE_MATCH, "\"3\"")], 412),
        (&[(IF_MATCH, "3")], 400),
        (&[(IF_NONE_MATCH, "3")], 400),
    ] {
        for method in ["GET", "HEAD"] {
            let (status, etag, len) = answer(method, "", headers).await;
            assert_eq!(status.as_u16(), expected, "{method} {headers:?}");
            let etag = etag.as_ref().map(HeaderValue::as_bytes);
            let has_etag = expected != 400;
            assert_eq!(etag, has_etag.then_some(&b"\"3\""[..]), "{headers:?}");
            let is_empty = method == "HEAD" || expected == 304;
            assert_eq!(len == 0, is_empty, "{method} {headers:?}");
        }
    }
}

#[tokio::test]
async fn changes_obey_preconditions() {
    for (path, if_match, expected, etag) in [
        ("/cancel", "\"1\"", 200, "\"2\""),
        ("/cancel", "*", 200, "\"2\""),
        ("/cancel", "\"7\", \"1\"", 200, "\"2\""),
        ("/cancel", "W/\"1\"", 412, "\"1\""),
        ("/cancel", "\"2\"", 412, "\"1\""),
        ("/cancel", "\"none of ours\"", 400, ""),
        ("/cancel", "\"none-of-ours\"", 412, "\"1\""),
        ("/retry", "\"3\"", 200, "\"4\""),
        ("/retry", "\"4\"", 412, "\"3\""),
    ] {
        let (status, found, _) = answer("POST", path, &[("if-match", if_match)]).await;
        assert_eq!(status.as_u16(), expected, "{path} {if_match}");
        let found = found.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        assert_eq!(found, etag.as_bytes(), "{path} {if_match}");
    }
}
