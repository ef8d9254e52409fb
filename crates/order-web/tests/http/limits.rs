//! Requests that would keep out others.

use std::sync::Arc;

use axum::{Router, body::Body};
use futures_util::{StreamExt as _, poll, stream};
use http::{Request, Response, StatusCode};
use order_edge::Connection;
use order_web::http::HttpConfig;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::support::{KNOWN, app, post, request};

fn limited(in_flight_max: usize, in_flight_per_address_max: usize) -> Router {
    app(HttpConfig {
        in_flight_max,
        in_flight_per_address_max,
        ..HttpConfig::default()
    })
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.expect("infallible")
}

pub(crate) fn from(address: &str, mut request: Request<Body>) -> Request<Body> {
    let connection = Connection {
        peer: address.parse().expect("an address"),
        draining: CancellationToken::new(),
    };
    request.extensions_mut().insert(Arc::new(connection));
    request
}

pub(crate) const ORDER: &str = r#"{"user_id":"u","amount":1}"#;

#[tokio::test]
async fn bodies_that_do_not_come_keep_out_nobody() {
    let app = limited(2, 2);
    let unfinished = || Body::from_stream(stream::pending::<Result<&str, std::io::Error>>());
    let mut waiting: Vec<_> = (0..5)
        .map(|_| Box::pin(send(&app, post(unfinished()))))
        .collect();
    for request in &mut waiting {
        assert!(poll!(request).is_pending());
    }

    // Its body is not there at once either.
    let late = stream::once(async {
        tokio::task::yield_now().await;
        Ok::<_, std::io::Error>(ORDER)
    });
    let created = send(&app, post(Body::from_stream(late))).await;
    assert_eq!(created.status(), StatusCode::CREATED);
    let read = send(&app, request("GET", &format!("/orders/{KNOWN}"), "")).await;
    assert_eq!(read.status(), StatusCode::OK);

    let displaced = waiting.swap_remove(0).await;
    assert_eq!(displaced.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn one_address_does_not_take_all_places() {
    let app = limited(10, 1);
    let slow = || from("10.0.0.1:1", post(r#"{"user_id":"hang","amount":1}"#));
    let mut first = Box::pin(send(&app, slow()));
    assert!(poll!(&mut first).is_pending());

    assert_eq!(
        send(&app, slow()).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let other = send(&app, from("10.0.0.2:1", post(ORDER))).await;
    assert_eq!(other.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn answer_keeps_its_place_until_it_is_gone() {
    let app = limited(1, 1);
    let list = || request("GET", "/orders", "");
    let unread = send(&app, list()).await;
    assert_eq!(unread.status(), StatusCode::OK);

    assert_eq!(
        send(&app, list()).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );

    let chunks = unread.into_body().into_data_stream();
    assert!(chunks.count().await > 0);
    assert_eq!(send(&app, list()).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn bodies_of_one_address_displace_no_other() {
    let app = limited(4, 2);
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let body = stream::once(async {
        finished.await.expect("the test sends");
        Ok::<_, std::io::Error>(ORDER)
    });
    let mut slow = Box::pin(send(
        &app,
        from("10.0.0.2:1", post(Body::from_stream(body))),
    ));
    assert!(poll!(&mut slow).is_pending());
    let unfinished = || Body::from_stream(stream::pending::<Result<&str, std::io::Error>>());
    let mut flood: Vec<_> = (0..10)
        .map(|_| Box::pin(send(&app, from("10.0.0.1:1", post(unfinished())))))
        .collect();
    for request in &mut flood {
        assert!(poll!(request).is_pending());
    }

    finish.send(()).expect("the body waits");

    assert_eq!(slow.await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn writes_leave_slots_to_reads() {
    let app = limited(8, 8);
    let hang = || post(r#"{"user_id":"hang","amount":1}"#);
    let mut writes: Vec<_> = (0..7).map(|_| Box::pin(send(&app, hang()))).collect();
    for request in &mut writes {
        assert!(poll!(request).is_pending());
    }
    assert_eq!(
        send(&app, hang()).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let read = send(&app, request("GET", &format!("/orders/{KNOWN}"), "")).await;
    assert_eq!(read.status(), StatusCode::OK);
}
