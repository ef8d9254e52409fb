//! The log level of a process over its admin listener.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use order_core::RequestId;
use order_web::admin::{self, LogFilter, Readiness};
use tower::ServiceExt as _;

use crate::support::deps;

/// A filter that takes anything but `bad`.
#[derive(Default)]
pub(crate) struct FakeFilter(Mutex<String>);

impl LogFilter for FakeFilter {
    fn get(&self) -> String {
        self.0.lock().expect("no panic").clone()
    }

    fn set(&self, filter: &str, _: &RequestId, _: Option<SocketAddr>) -> Result<(), String> {
        if filter == "bad" {
            return Err("must be good".to_owned());
        }
        filter.clone_into(&mut self.0.lock().expect("no panic"));
        Ok(())
    }
}

#[tokio::test]
async fn filter_is_shown_and_set_and_what_is_none_is_refused() {
    let filter = Arc::new(FakeFilter::default());
    let admin = admin::router(
        Readiness::new(deps()),
        &Arc::default(),
        Arc::clone(&filter) as _,
    );
    let send = async |method: &str, body: &[u8]| {
        let request = Request::builder().method(method).uri("/log-level");
        let request = request.body(Body::from(body.to_vec())).expect("a request");
        let answer = admin.clone().oneshot(request).await.expect("infallible");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (
            head.status,
            String::from_utf8(body.to_vec()).expect("UTF-8"),
        )
    };
    let (status, text) = send("PUT", b" info,order_worker=debug\n").await;
    assert_eq!(
        (status, &*text),
        (StatusCode::OK, "info,order_worker=debug\n")
    );
    for (body, status, detail) in [
        (
            &b"bad"[..],
            StatusCode::BAD_REQUEST,
            "the body must be good",
        ),
        (
            b"\xff",
            StatusCode::BAD_REQUEST,
            "the body must be a log filter in UTF-8",
        ),
        (
            &[b'x'; 1025],
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body has more than 1024 bytes",
        ),
    ] {
        let (answered, text) = send("PUT", body).await;
        assert_eq!(answered, status);
        assert!(text.contains(detail), "{text}");
    }
    assert_eq!(
        send("POST", b"info").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(send("GET", b"").await.1, "info,order_worker=debug\n");
}
