//! What is said over a socket, to the byte, over real connections.

use std::sync::atomic::Ordering;

use order_core::{Cause, OrderStatus};
use order_hub::HubConfig;

use serde_json::Value;

use super::{Server, no_drain, order_id};

#[tokio::test]
async fn bare_id_of_a_pending_order_gets_only_its_changes() {
    let server = Server::with_defaults().await;
    server.world.commit(1, OrderStatus::Pending);
    let mut client = server.connect().await;
    client.send_order(1).await;
    client.check_silent().await;
    server.world.publish(1, OrderStatus::Processing);
    let id = order_id(1);
    let expected = format!(r#"{{"order_id":"{id}","status":"PROCESSING"}}"#);
    assert_eq!(client.text().await, expected);
    server.world.publish(1, OrderStatus::Processed);
    let expected = format!(r#"{{"order_id":"{id}","status":"PROCESSED"}}"#);
    assert_eq!(client.text().await, expected);
    client.check_silent().await;
    server.shut_down().await;
}

#[tokio::test]
async fn bare_id_of_an_order_that_moved_gets_its_status_at_once() {
    let server = Server::with_defaults().await;
    server.world.commit(1, OrderStatus::Pending);
    server.world.commit(1, OrderStatus::Processed);
    let mut client = server.connect().await;
    let id = order_id(1);
    let expected = format!(r#"{{"order_id":"{id}","status":"PROCESSED"}}"#);
    assert_eq!(client.ask(id.to_string()).await, expected);
    assert_eq!(client.ask(format!("\"{id}\"")).await, expected);
    server.shut_down().await;
}

#[tokio::test]
async fn order_followed_in_both_forms_is_pushed_in_both() {
    let server = Server::with_defaults().await;
    server.world.commit(1, OrderStatus::Pending);
    let mut client = server.connect().await;
    let id = order_id(1);
    client.send_order(1).await;
    let subscribe = format!(r#"{{"id":1,"subscribe":{{"order":"{id}"}}}}"#);
    client.ask(subscribe).await;
    for (status, version) in [(OrderStatus::Processing, 2), (OrderStatus::Processed, 3)] {
        server.world.publish(1, status);
        let [short, long] = client.both_forms().await;
        assert_eq!(
            short,
            format!(r#"{{"order_id":"{id}","status":"{status}"}}"#)
        );
        assert!(long.contains(&format!(r#""version":{version},"#)), "{long}");
        assert_eq!(
            client.ask(id.to_string()).await,
            short,
            "the short form again"
        );
    }
    client.check_silent().await;
    server.shut_down().await;
}

#[tokio::test]
async fn bare_id_of_an_order_that_is_pending_again_gets_its_status_at_once() {
    let server = Server::with_defaults().await;
    for status in [
        OrderStatus::Pending,
        OrderStatus::Failed,
        OrderStatus::Pending,
    ] {
        server.world.commit(1, status);
    }
    let mut client = server.connect().await;
    let id = order_id(1);
    let expected = format!(r#"{{"order_id":"{id}","status":"PENDING"}}"#);
    assert_eq!(client.ask(id.to_string()).await, expected);
    server.shut_down().await;
}

#[tokio::test]
async fn unsubscribed_order_is_not_pushed() {
    let server = Server::with_defaults().await;
    server.world.commit(1, OrderStatus::Pending);
    let mut client = server.connect().await;
    client.send_order(1).await;
    let unsubscribe = format!(r#"{{"id":1,"unsubscribe":{{"order":"{}"}}}}"#, order_id(1));
    let answer = client.ask(unsubscribe.clone()).await;
    assert_eq!(client.ask(unsubscribe).await, answer, "again");
    server.world.publish(1, OrderStatus::Processed);
    client.check_silent().await;
    assert_eq!(server.world.hub.n_orders(), 0);
    server.shut_down().await;
}

#[tokio::test]
async fn every_frame_has_its_shape() {
    let hub_config = HubConfig {
        subscriptions_per_session_max: 4,
        ..HubConfig::default()
    };
    let server = Server::start(no_drain(), hub_config).await;
    for n in 1..=3 {
        server.world.commit(n, OrderStatus::Pending);
    }
    server.world.commit(2, OrderStatus::Processing);
    server.world.commit(2, OrderStatus::Failed);
    let mut client = server.connect().await;
    let mut lines = Vec::new();
    for question in [
        "hello",
        r#"{"id":1,"authenticate":{"ticket":7}}"#,
        r#"{"id":2,"authenticate":{"ticket":"ticket-of-user-1-1"}}"#,
        r#"{"id":3,"authenticate":{"ticket":"ticket-of-user-1-2"}}"#,
        "ID9",
        "{\"id\":",
        r#"{"id":4,"ping":true}"#,
        r#"{"id":5,"subscribe":{"order":"ID1"}}"#,
        r#"{"id":6,"subscribe":{"order":"ID2","since":1}}"#,
        r#"{"id":7,"subscribe":{"order":"ID2","since":3}}"#,
        r#"{"id":8,"subscribe":{"order":"ID2","since":4}}"#,
        r#"{"id":9,"subscribe":{"user":"user-1"}}"#,
        r#"{"id":10,"subscribe":{"user":"user-2"}}"#,
        r#"{"id":11,"subscribe":{"order":"ID9"}}"#,
        r#"{"id":12,"subscribe":{"order":7}}"#,
        r#"{"id":13,"subscribe":{"user":"user-1","since":1}}"#,
        r#"{"id":14,"jump":1,"ping":true}"#,
        "ID2",
        r#"{"id":15,"subscribe":{"order":"ID3"}}"#,
        r#"{"id":16,"unsubscribe":{"order":"ID2"}}"#,
        r#"{"id":17,"unsubscribe":{"user":"user-1"}}"#,
        r#"{"id":18,"subscribe":{"orders":[{"order":"ID2","since":2}]}}"#,
    ] {
        let question = (1..=9).fold(question.to_owned(), |question, n| {
            question.replace(&format!("ID{n}"), &order_id(n).to_string())
        });
        let answer = client.ask(question.clone()).await;
        lines.push(format!("> {question}\n< {answer}"));
    }
    server.world.publish(1, OrderStatus::Processed);
    lines.push(format!("< {}", client.text().await));
    insta::assert_snapshot!(lines.join("\n"));
    server.shut_down().await;
}

#[tokio::test]
async fn every_version_is_pushed_in_full_form_whatever_the_bus_brings() {
    let server = Server::with_defaults().await;
    server.world.commit(1, OrderStatus::Pending);
    let mut client = server.connect().await;
    let subscribe = format!(r#"{{"subscribe":{{"order":"{}"}}}}"#, order_id(1));
    client.ask(subscribe).await;
    for _ in 0..3 {
        server.world.commit(1, OrderStatus::Failed);
    }
    server.world.publish(1, OrderStatus::Pending);
    for version in 2..=5 {
        let push = client.text().await;
        assert!(push.contains(&format!(r#""version":{version},"#)), "{push}");
        let cause = r#""cause":{"code":"OUT_OF_STOCK","message":"none left"}"#;
        assert_eq!(push.contains(cause), version < 5, "{push}");
    }
    client.check_silent().await;
    server.shut_down().await;
}

#[tokio::test]
async fn history_that_cannot_be_read_closes_with_4010() {
    let server = Server::with_defaults().await;
    server.world.commit(1, OrderStatus::Pending);
    let mut client = server.connect().await;
    let subscribe = format!(r#"{{"subscribe":{{"order":"{}"}}}}"#, order_id(1));
    client.ask(subscribe).await;
    server.world.store.is_down.store(true, Ordering::Relaxed);
    server.world.commit(1, OrderStatus::Failed);
    server.world.publish(1, OrderStatus::Pending);
    assert_eq!(client.close_frame().await.0, 4010);
    server.shut_down().await;
}

#[tokio::test]
async fn store_that_is_down_leaves_the_socket_open() {
    let server = Server::with_defaults().await;
    server.world.commit(1, OrderStatus::Pending);
    server.world.commit(1, OrderStatus::Processed);
    server.world.store.is_down.store(true, Ordering::Relaxed);
    let mut client = server.connect().await;
    let answer = client.ask(order_id(1).to_string()).await;
    assert!(answer.contains(r#""code":"STORE_UNAVAILABLE""#), "{answer}");
    server.world.store.is_down.store(false, Ordering::Relaxed);
    let answer = client.ask(order_id(1).to_string()).await;
    assert!(answer.contains("PROCESSED"), "{answer}");
    server.shut_down().await;
}

#[tokio::test]
async fn longest_answers_fit_the_write_buffer() {
    let server = Server::with_defaults().await;
    let message = "\u{1F4E6}".repeat(Cause::MESSAGE_CHARS_MAX);
    let cause = Cause::new("X".repeat(Cause::CODE_LEN_MAX), message);
    for n in 1..=100 {
        for _ in 0..=if n == 1 { 300 } else { 0 } {
            server.world.commit_because(n, OrderStatus::Failed, &cause);
        }
    }
    let mut client = server.connect().await;
    let subscribe = format!(r#"{{"subscribe":{{"order":"{}","since":1}}}}"#, order_id(1));
    let answer = client.ask(subscribe).await;
    assert_eq!(answer.matches(r#""version":"#).count(), 1 + 300);
    assert!(answer.contains(r#""recovered":true"#));
    assert_eq!(answer.matches(&cause.message).count(), 300);
    let answer = client.ask(r#"{"subscribe":{"user":"user-1"}}"#).await;
    assert_eq!(answer.matches(&cause.message).count(), 100);
    server.shut_down().await;
}

#[tokio::test]
async fn one_event_reaches_all_who_watch_and_nobody_else() {
    let server = Server::with_defaults().await;
    for n in 1..=2 {
        server.world.commit(n, OrderStatus::Pending);
    }
    let mut watching = Vec::new();
    for n in [1, 1, 2] {
        let mut client = server.connect().await;
        client.send_order(n).await;
        client.check_silent().await;
        watching.push(client);
    }
    server.world.publish(1, OrderStatus::Processed);
    for client in &mut watching[..2] {
        assert!(client.text().await.contains("PROCESSED"));
    }
    watching[2].check_silent().await;
    server.shut_down().await;
}

/// Every single one of a list is answered, in order, and those that exist are followed.
#[tokio::test]
async fn list_of_orders_is_answered_order_by_order() {
    let server = Server::start(no_drain(), HubConfig::default()).await;
    let n_orders = HubConfig::default().subscriptions_per_session_max as u128;
    for n in 1..=n_orders {
        server.world.commit(n, OrderStatus::Pending);
        server.world.commit(n, OrderStatus::Processing);
    }
    server.world.commit(1, OrderStatus::Failed);
    let mut client = server.connect().await;
    let one = |n, since: &str| format!(r#"{{"order":"{}"{since}}}"#, order_id(n));
    // The first missed two versions, the second one, the third none, and so on from the start.
    let since = [r#","since":1"#, r#","since":1"#, r#","since":2"#];
    let mut orders: Vec<_> = (1..).zip(since).map(|(n, since)| one(n, since)).collect();
    orders.extend((4..=n_orders).map(|n| one(n, "")));
    // One does not exist, one is too many.
    orders[3] = one(1_000, "");
    orders.push(one(4, ""));
    orders.push(one(1_001, ""));
    let list = format!(
        r#"{{"id":7,"subscribe":{{"orders":[{}]}}}}"#,
        orders.join(",")
    );
    client.send(list).await;

    for (n, events) in [(1, 2), (2, 1), (3, 0)] {
        let answer: Value = serde_json::from_str(&client.text().await).expect("JSON");
        let subscribed = &answer["subscribed"];
        assert_eq!(
            (&answer["id"], &subscribed["recovered"]),
            (&7.into(), &true.into())
        );
        assert_eq!(subscribed["order"], order_id(n).to_string());
        assert_eq!(subscribed["events"].as_array().map(Vec::len), Some(events));
    }
    let unknown = client.text().await;
    assert!(
        unknown.contains("ORDER_NOT_FOUND") && unknown.contains(r#""id":7"#),
        "{unknown}"
    );
    for n in 5..=n_orders {
        let answer = client.text().await;
        assert!(answer.contains(&order_id(n).to_string()), "{answer}");
        assert!(answer.contains(r#""recovered":false"#), "{answer}");
    }
    // The place was taken while the order that does not exist was read.
    for _ in 0..2 {
        let answer = client.text().await;
        assert!(answer.contains("LIMIT_EXCEEDED"), "{answer}");
    }
    for n in [2, n_orders] {
        server.world.publish(n, OrderStatus::Processed);
        let pushed = client.text().await;
        assert!(
            pushed.contains(&order_id(n).to_string()) && pushed.contains("PROCESSED"),
            "{pushed}"
        );
    }
    client.check_silent().await;
    server.shut_down().await;
}
