//! A failover behind one name: the demoted server keeps its connections.

use std::net::SocketAddr;

use order_adapters::redis::{RedisEventConfig, RedisEventSink, RedisEventTransport};
use order_core::{EventSink, EventTransport, HintQueue, OrderId};
use order_testkit::server::forward::Forwarder;
use uuid::Uuid;

use super::*;
use crate::events::{Recorder, event, order};

/// Two servers and the name that leads to the first of them.
struct Pair {
    old: RedisServer,
    new: RedisServer,
    name: Forwarder,
}

impl Pair {
    async fn start() -> Backend<Self> {
        let (old, new) = match (own_server(&[]).await, own_server(&[]).await) {
            (Backend::Available(old), Backend::Available(new)) => (old, new),
            (Backend::Unavailable(reason), _) | (_, Backend::Unavailable(reason)) => {
                return Backend::Unavailable(reason);
            }
        };
        let name = Forwarder::start(address(&old)).await.unwrap();
        Backend::Available(Self { old, new, name })
    }

    fn url(&self) -> String {
        format!("redis://{}", self.name.address())
    }

    /// Demotes the old server to a replica of the new one, to which the name leads now.
    async fn fail_over(&self) {
        let new = address(&self.new);
        self.name.retarget(new);
        let command = format!("REPLICAOF {} {}", new.ip(), new.port());
        Raw::connect(&self.old.url())
            .await
            .run::<()>(&command)
            .await;
    }
}

fn address(server: &RedisServer) -> SocketAddr {
    server.url().split_off("redis://".len()).parse().unwrap()
}

#[tokio::test]
async fn hints_go_to_the_new_primary() {
    let pair = available!(Pair::start());
    let queue = queue(&pair.url());
    let hint = |n| [OrderId::from_uuid(Uuid::from_u128(n))];
    let mut consumer = queue.consumer();
    queue.send(&hint(1)).await.unwrap();
    assert_eq!(consumer.receive(5).await.unwrap(), hint(1));

    pair.fail_over().await;

    queue.send(&hint(2)).await.unwrap();
    let mut received = Vec::new();
    wait_until("the hint arrives", async || {
        received = consumer.receive(5).await.unwrap_or_default();
        !received.is_empty()
    })
    .await;
    assert_eq!(received, hint(2));
}

#[tokio::test]
async fn consumer_that_waits_moves_to_the_new_primary() {
    let pair = available!(Pair::start());
    let mut consumer = queue(&pair.url()).consumer();
    let waiting = async {
        loop {
            if let Ok(hints) = consumer.receive(5).await {
                return hints;
            }
        }
    };
    let hint = [OrderId::from_uuid(Uuid::from_u128(1))];
    let raw = Raw::connect(&pair.old.url()).await;
    let failing_over = async {
        wait_until("the consumer waits", async || {
            raw.n_blocked_clients().await == 1
        })
        .await;
        pair.fail_over().await;
        queue(&pair.new.url()).send(&hint).await.unwrap();
    };

    let received = tokio::time::timeout(DEADLINE, async { tokio::join!(waiting, failing_over).0 });

    assert_eq!(received.await.expect("in time"), hint);
}

#[tokio::test]
async fn sink_appends_to_the_new_primary() {
    let pair = available!(Pair::start());
    let url = format!("{}/events", pair.url()).parse().unwrap();
    let sink = RedisEventSink::new(&url);
    sink.publish(&[event(1, "a", 1)]).await.unwrap();

    pair.fail_over().await;

    sink.publish(&[event(1, "a", 2)]).await.unwrap();
    let raw = Raw::connect(&pair.new.url()).await;
    assert_eq!(raw.run::<usize>("XLEN events").await, 1);
}

/// A replica takes subscriptions and PUBLISH, so no error tells of the failover.
#[tokio::test]
async fn events_go_through_the_new_primary() {
    let pair = available!(Pair::start());
    let config = RedisEventConfig {
        ping_interval: Duration::from_millis(20),
    };
    let transport = RedisEventTransport::new(&parse(&pair.url()), config.clone());
    let direct = RedisEventTransport::new(&parse(&pair.new.url()), config);
    let (moving, staying) = (Recorder::new(&[order(1)]), Recorder::new(&[order(1)]));
    let listening = async {
        loop {
            let _lost = transport.listen(moving.clone()).await;
        }
    };
    let test = async {
        moving.wait_for_resyncs(1).await;
        staying.wait_for_resyncs(1).await;
        let before = event(1, "a", 1);
        transport
            .publish(std::slice::from_ref(&before))
            .await
            .unwrap();
        moving.wait_for_event(&before).await;

        pair.fail_over().await;

        let after = event(1, "a", 2);
        transport
            .publish(std::slice::from_ref(&after))
            .await
            .unwrap();
        staying.wait_for_event(&after).await;
        moving.wait_for_resyncs(2).await;
        let later = event(1, "a", 3);
        direct.publish(std::slice::from_ref(&later)).await.unwrap();
        moving.wait_for_event(&later).await;
    };
    tokio::select! {
        () = test => {}
        () = listening => {}
        _ = direct.listen(staying.clone()) => panic!("the new primary was lost"),
    }
}

/// The server forgets its clients' rights, or is about to serve again: a new connection may
/// be let in.
#[tokio::test]
async fn connection_that_lost_its_rights_is_made_anew() {
    let server = available!(own_server(&[]));
    let raw = Raw::connect(&server.url()).await;
    raw.run::<()>("ACL SETUSER guest on >secret ~* &* +@all")
        .await;
    let url = server.url().replace("redis://", "redis://guest:secret@");
    let queue = queue(&url);
    let hint = [OrderId::from_uuid(Uuid::nil())];
    queue.send(&hint).await.unwrap();
    raw.run::<()>("ACL DELUSER guest").await;
    queue.send(&hint).await.unwrap_err();

    raw.run::<()>("ACL SETUSER guest on >secret ~* &* +@all")
        .await;

    queue.send(&hint).await.unwrap();
}
