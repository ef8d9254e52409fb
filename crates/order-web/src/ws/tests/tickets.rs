//! Sockets that show a ticket: in the URL, or in their first message.

use std::sync::atomic::Ordering;

use http::StatusCode;
use order_core::OrderStatus;
use order_hub::HubConfig;

use super::{Server, limits::check_problem, no_drain, order_id};
use crate::ws::WsConfig;

/// One order of each of two users.
async fn server() -> Server {
    let server = Server::with_defaults().await;
    server.world.commit_of("user-1", 1, OrderStatus::Pending);
    for status in [OrderStatus::Pending, OrderStatus::Processed] {
        server.world.commit_of("user-2", 2, status);
    }
    server
}

fn not_found(id: Option<u64>, n: u128) -> String {
    let id = id.map_or_else(String::new, |id| format!(r#""id":{id},"#));
    let order_id = order_id(n);
    format!(
        r#"{{{id}"error":{{"code":"ORDER_NOT_FOUND","message":"order {order_id} does not exist","order_id":"{order_id}"}}}}"#
    )
}

#[tokio::test]
async fn ticket_opens_the_orders_of_its_user_and_no_others() {
    let server = server().await;
    let in_url = server.request_with("?ticket=ticket-of-user-1-1");
    let (in_url, _) = server.try_connect(in_url).await.expect("a socket");
    let mut in_message = server.connect().await;
    let authenticate = r#"{"id":7,"authenticate":{"ticket":"ticket-of-user-1-2"}}"#;
    let answer = in_message.ask(authenticate).await;
    assert_eq!(answer, r#"{"id":7,"authenticated":{"user":"user-1"}}"#);
    for mut client in [in_url, in_message] {
        for n in [2, 9] {
            let id = order_id(n).to_string();
            assert_eq!(client.ask(id.clone()).await, not_found(None, n));
            for since in ["", r#","since":1"#] {
                let subscribe = format!(r#"{{"id":1,"subscribe":{{"order":"{id}"{since}}}}}"#);
                assert_eq!(client.ask(subscribe).await, not_found(Some(1), n));
            }
        }
        let other = client
            .ask(r#"{"id":2,"subscribe":{"user":"user-2"}}"#)
            .await;
        let denied = r#"{"id":2,"error":{"code":"PERMISSION_DENIED","message":"this is not allowed: following another user"}}"#;
        assert_eq!(other, denied);
        let own = client
            .ask(r#"{"id":3,"subscribe":{"user":"user-1"}}"#)
            .await;
        assert!(own.starts_with(r#"{"id":3,"subscribed""#), "{own}");
        client.send_order(1).await;
        client.check_silent().await;
    }
    server.world.publish_of("user-2", 2, OrderStatus::Failed);
    assert_eq!(server.world.hub.stats().delivered.get(), 0);
    server.shut_down().await;
}

#[tokio::test]
async fn ticket_in_the_url_is_good_for_one_socket() {
    let server = server().await;
    for (query, is_good) in [
        ("?ticket=ticket-of-user-1-1", true),
        ("?ticket=ticket-of-user-1-1", false),
        ("?ticket=forged", false),
        ("?ticket=", false),
    ] {
        match server.try_connect(server.request_with(query)).await {
            Ok(_) => assert!(is_good, "{query}"),
            Err(response) => {
                assert!(!is_good, "{query}");
                check_problem(&response, StatusCode::UNAUTHORIZED, "TICKET_INVALID");
                let challenge = http::header::WWW_AUTHENTICATE;
                assert!(response.headers().contains_key(challenge));
            }
        }
    }
    server.shut_down().await;
}

#[tokio::test]
async fn query_that_is_not_one_ticket_is_refused_and_not_repeated() {
    let server = server().await;
    for query in [
        "?tickets=ticket-of-user-1-1",
        "?ticket-of-user-1-1",
        "?ticket=ticket-of-user-1-1&user=user-1",
        "?ticket=ticket-of-user-1-1&ticket=ticket-of-user-1-1",
        "?ticket=ticket-of-user-1-1%FF",
    ] {
        let refused = server.try_connect(server.request_with(query)).await.err();
        let refused = refused.expect(query);
        check_problem(&refused, StatusCode::BAD_REQUEST, "INVALID_ARGUMENT");
        let body = refused.body().clone().unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&body).contains("user-1"),
            "{query}"
        );
    }
    // None of them has cost the ticket.
    let request = server.request_with("?ticket=ticket-of-user-1-1");
    assert!(server.try_connect(request).await.is_ok());
    server.shut_down().await;
}

#[tokio::test]
async fn refused_handshake_leaves_the_ticket_as_it_is() {
    let server = server().await;
    let query = "?ticket=ticket-of-user-1-1";
    let mut foreign = server.request_with(query);
    let origin = http::HeaderValue::from_static("https://evil.example");
    foreign.headers_mut().insert(http::header::ORIGIN, origin);
    let refused = server.try_connect(foreign).await.err().expect("foreign");
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(server.try_connect(server.request_with(query)).await.is_ok());
    server.shut_down().await;
}

#[tokio::test]
async fn bad_ticket_in_a_message_closes_with_4501() {
    let server = server().await;
    let mut client = server.connect().await;
    let answer = client
        .ask(r#"{"id":1,"authenticate":{"ticket":"forged"}}"#)
        .await;
    let refused = r#"{"id":1,"error":{"code":"TICKET_INVALID","message":"the ticket is not valid, or no longer"}}"#;
    assert_eq!(answer, refused);
    let (code, reason) = client.close_frame().await;
    assert_eq!((code, reason.as_str()), (4501, "the ticket is not valid"));
    server.shut_down().await;
}

#[tokio::test]
async fn ticket_comes_once_and_before_the_first_subscription() {
    let server = server().await;
    let authenticate = r#"{"authenticate":{"ticket":"ticket-of-user-1-1"}}"#;
    let subscribed_bare = order_id(2).to_string();
    let subscribed = format!(r#"{{"subscribe":{{"order":"{}"}}}}"#, order_id(9));
    let user = r#"{"subscribe":{"user":"user-1"}}"#.to_owned();
    for first in [subscribed_bare, subscribed, user] {
        let mut client = server.connect().await;
        client.ask(first).await;
        let late = client.ask(authenticate).await;
        assert!(late.contains(r#""code":"PERMISSION_DENIED""#), "{late}");
        client.check_silent().await;
    }
    // A ping and an unsubscription are no subscriptions.
    let mut client = server.connect().await;
    client.check_silent().await;
    client.ask(r#"{"unsubscribe":{"user":"user-1"}}"#).await;
    let answer = client.ask(authenticate).await;
    assert!(answer.contains("authenticated"), "{answer}");
    let again = client.ask(authenticate.replace("1-1", "1-2")).await;
    assert!(again.contains(r#""code":"PERMISSION_DENIED""#), "{again}");
    client.check_silent().await;
    server.shut_down().await;
}

#[tokio::test]
async fn ticket_whose_fate_is_unknown_may_be_shown_again() {
    let server = server().await;
    let mut client = server.connect().await;
    server.world.office.is_down.store(true, Ordering::Relaxed);
    let authenticate = r#"{"authenticate":{"ticket":"ticket-of-user-1-1"}}"#;
    let answer = client.ask(authenticate).await;
    assert!(answer.contains(r#""code":"STORE_UNAVAILABLE""#), "{answer}");
    server.world.office.is_down.store(false, Ordering::Relaxed);
    let answer = client.ask(authenticate).await;
    assert!(answer.contains("authenticated"), "{answer}");
    server.shut_down().await;
}

#[tokio::test]
async fn sockets_of_one_user_are_limited() {
    let config = WsConfig {
        connections_per_user_max: 1,
        ..no_drain()
    };
    let server = Server::start(config, HubConfig::default()).await;
    let query = |n| format!("?ticket=ticket-of-user-1-{n}");
    let first = server.try_connect(server.request_with(&query(1))).await;
    let _first = first.expect("a socket");
    let refused = server.try_connect(server.request_with(&query(2))).await;
    let refused = refused.err().expect("one too many");
    check_problem(&refused, StatusCode::TOO_MANY_REQUESTS, "LIMIT_EXCEEDED");
    let mut client = server.connect().await;
    let authenticate = r#"{"authenticate":{"ticket":"ticket-of-user-1-3"}}"#;
    let answer = client.ask(authenticate).await;
    assert!(answer.contains(r#""code":"LIMIT_EXCEEDED""#), "{answer}");
    assert_eq!(client.close_frame().await.0, 4011);
    server.shut_down().await;
}
