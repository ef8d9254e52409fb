//! Following a user over a socket.

use order_core::OrderStatus;

use super::{Server, order_id};

const SUBSCRIBE: &str = r#"{"id":1,"subscribe":{"user":"user-1"}}"#;

#[tokio::test]
async fn user_gets_a_snapshot_and_then_every_change() {
    let server = Server::with_defaults().await;
    let world = &server.world;
    world.commit(1, OrderStatus::Pending);
    world.commit_of("user-2", 2, OrderStatus::Pending);
    world.commit(3, OrderStatus::Pending);
    world.commit(3, OrderStatus::Processed);
    let mut client = server.connect().await;
    let entry = |n, status, version| {
        let id = order_id(n);
        format!(
            r#"{{"order_id":"{id}","status":"{status}","version":{version},"at":"1970-01-01T00:00:0{version}.000000Z"}}"#
        )
    };
    let (third, first) = (entry(3, "PROCESSED", 2), entry(1, "PENDING", 1));
    let expected =
        format!(r#"{{"id":1,"subscribed":{{"user":"user-1","orders":[{third},{first}]}}}}"#);
    assert_eq!(client.ask(SUBSCRIBE).await, expected);

    world.publish(4, OrderStatus::Pending);
    assert_eq!(client.text().await, entry(4, "PENDING", 1));
    world.publish_of("user-2", 2, OrderStatus::Processed);
    world.publish(1, OrderStatus::Processed);
    assert_eq!(client.text().await, entry(1, "PROCESSED", 2));
    client.check_silent().await;

    let unsubscribe = SUBSCRIBE.replace("subscribe", "unsubscribe");
    let answer = client.ask(unsubscribe).await;
    assert_eq!(answer, r#"{"id":1,"unsubscribed":{"user":"user-1"}}"#);
    world.publish(4, OrderStatus::Processed);
    client.check_silent().await;
    assert_eq!(world.hub.n_users(), 0);
    server.shut_down().await;
}

#[tokio::test]
async fn short_form_takes_nothing_from_the_long_form_of_the_user() {
    let server = Server::with_defaults().await;
    let world = &server.world;
    world.commit(1, OrderStatus::Pending);
    let mut client = server.connect().await;
    client.ask(SUBSCRIBE).await;
    client.send_order(1).await;
    client.check_silent().await;
    world.publish(1, OrderStatus::Processing);
    let id = order_id(1);
    let [short, long] = client.both_forms().await;
    assert_eq!(
        short,
        format!(r#"{{"order_id":"{id}","status":"PROCESSING"}}"#)
    );
    assert!(
        long.contains(r#""status":"PROCESSING","version":2,"#),
        "{long}"
    );
    client.check_silent().await;

    let unsubscribe = format!(r#"{{"unsubscribe":{{"order":"{id}"}}}}"#);
    client.ask(unsubscribe).await;
    world.publish(1, OrderStatus::Processed);
    assert!(client.text().await.contains(r#""version":3"#));
    client.check_silent().await;
    server.shut_down().await;
}

#[tokio::test]
async fn client_that_leaves_too_many_orders_waiting_is_closed_with_4008() {
    let server = Server::with_defaults().await;
    let world = &server.world;
    let mut client = server.connect().await;
    client.ask(SUBSCRIBE).await;
    // Without an await in between the socket cannot take one of them.
    for n in 1..=1_001 {
        world.publish(n, OrderStatus::Pending);
    }
    assert_eq!(client.close_frame().await.0, 4008);
    server.shut_down().await;
}
