//! The stream of hints.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use order_core::{HintCapabilities, HintConsumer, HintQueue, OrderId};
use order_testkit::conformance::hints::HintSubject;
use redis::Value;
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;

use super::*;

struct Subject {
    url: String,
    key: String,
    raw: Raw,
}

#[async_trait]
impl HintSubject for Subject {
    async fn queue(&self) -> Arc<dyn HintQueue> {
        Arc::new(queue(&self.url))
    }

    fn capabilities(&self) -> HintCapabilities {
        HintCapabilities {
            is_shared: true,
            redelivers: true,
        }
    }

    async fn wipe(&self) {
        self.raw.run::<()>(&format!("DEL {}", self.key)).await;
    }

    async fn send_foreign(&self) -> bool {
        for entry in ["id 4711", "colour blue"] {
            let command = format!("XADD {} * {entry}", self.key);
            self.raw.run::<()>(&command).await;
        }
        true
    }
}

async fn subject() -> Option<Subject> {
    let Backend::Available((url, prefix)) = private().await else {
        eprintln!("skipped: there is no Redis");
        return None;
    };
    let (key, raw) = (format!("{prefix}:jobs"), Raw::connect(&url).await);
    Some(Subject { url, key, raw })
}

order_testkit::hint_conformance!(subject);

fn hints(n: u128) -> Vec<OrderId> {
    (1..=n)
        .map(|n| OrderId::from_uuid(Uuid::from_u128(n)))
        .collect()
}

async fn receive(consumer: &mut dyn HintConsumer) -> Vec<OrderId> {
    let received = timeout(DEADLINE, consumer.receive(512)).await;
    received.expect("in time").expect("hints arrive")
}

#[tokio::test]
async fn stream_is_emptied_by_acknowledgement() {
    let (url, prefix) = available!(private());
    let (raw, queue) = (Raw::connect(&url).await, queue(&url));
    let mut consumer = queue.consumer();
    let key = format!("{prefix}:jobs");
    queue.send(&hints(100)).await.unwrap();

    assert_eq!(receive(&mut *consumer).await, hints(100));
    assert_eq!(raw.run::<usize>(&format!("XLEN {key}")).await, 100);
    consumer.acknowledge().await.unwrap();

    assert_eq!(raw.run::<usize>(&format!("XLEN {key}")).await, 0);
    let pending: Vec<Value> = raw.run(&format!("XPENDING {key} workers - + 10")).await;
    assert!(pending.is_empty(), "{pending:?}");
}

#[tokio::test]
async fn stream_is_trimmed() {
    let (url, prefix) = available!(private());
    let (raw, queue) = (Raw::connect(&url).await, queue(&url));
    let batch = hints(10_000);
    for _ in 0..11 {
        queue.send(&batch).await.unwrap();
    }
    let key = format!("{prefix}:jobs");
    let len: usize = raw.run(&format!("XLEN {key}")).await;
    // Whole pieces are cut off, of 100 entries by default.
    assert!((100_000..100_200).contains(&len), "{len}");
    raw.run::<()>(&format!("DEL {key}")).await;
}

#[tokio::test]
async fn wiped_server_costs_no_error() {
    let server = available!(own_server(&[]));
    let (raw, queue) = (Raw::connect(&server.url()).await, queue(&server.url()));
    let mut consumer = queue.consumer();
    // Once while the consumer waits, and once while it is busy.
    for is_waiting in [true, false] {
        let mut waiting = JoinSet::new();
        if is_waiting {
            waiting.spawn(async move {
                let received = receive(&mut *consumer).await;
                (consumer, received)
            });
            wait_until("the consumer waits", async || {
                raw.n_blocked_clients().await == 1
            })
            .await;
        } else {
            waiting.spawn(async move {
                let received = receive(&mut *consumer).await;
                (consumer, received)
            });
        }
        server.flush_all().await.unwrap();
        queue.send(&hints(1)).await.unwrap();

        let (back, received) = waiting.join_next().await.unwrap().unwrap();
        consumer = back;
        assert_eq!(received, hints(1));
        consumer.acknowledge().await.unwrap();
    }
}

#[tokio::test]
async fn consumer_goes_on_after_a_restart() {
    let mut server = available!(own_server(&[]));
    let (raw, queue) = (Raw::connect(&server.url()).await, queue(&server.url()));
    queue.send(&hints(1)).await.unwrap();
    let mut consumer = queue.consumer();
    receive(&mut *consumer).await;
    consumer.acknowledge().await.unwrap();

    let mut waiting = JoinSet::new();
    waiting.spawn(async move {
        let error = consumer.receive(1).await.unwrap_err();
        (consumer, error)
    });
    wait_until("the consumer waits", async || {
        raw.n_blocked_clients().await == 1
    })
    .await;
    server.kill().await.unwrap();
    let (mut consumer, error) = waiting.join_next().await.unwrap().unwrap();
    assert!(errors::is_unreachable(&error), "{}", error.chain());
    assert!(queue.send(&hints(1)).await.is_err());
    server.restart().await.unwrap();

    queue.send(&hints(2)).await.unwrap();
    assert_eq!(receive(&mut *consumer).await, hints(2));
    // A restart between two calls costs no error.
    server.restart().await.unwrap();
    queue.send(&hints(3)).await.unwrap();
}

#[tokio::test]
async fn dropped_receive_waits_no_longer() {
    let server = available!(own_server(&[]));
    let (raw, queue) = (Raw::connect(&server.url()).await, queue(&server.url()));
    let mut consumer = queue.consumer();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { consumer.receive(1).await });
    wait_until("the consumer waits", async || {
        raw.n_blocked_clients().await == 1
    })
    .await;

    waiting.shutdown().await;

    wait_until("nobody waits", async || raw.n_blocked_clients().await == 0).await;
}

/// The consumers Redis knows, with how many entries each has pending.
async fn consumers(raw: &Raw, prefix: &str) -> Vec<u64> {
    let command = format!("XINFO CONSUMERS {prefix}:jobs workers");
    let consumers: Vec<BTreeMap<String, Value>> = raw.run(&command).await;
    consumers
        .into_iter()
        .map(|mut consumer| redis::from_redis_value(consumer.remove("pending").unwrap()).unwrap())
        .collect()
}

#[tokio::test]
async fn closed_consumer_is_removed_unless_it_leaves_hints() {
    let (url, prefix) = available!(private());
    let (raw, queue) = (Raw::connect(&url).await, queue(&url));
    let mut consumer = queue.consumer();
    queue.send(&hints(3)).await.unwrap();
    receive(&mut *consumer).await;
    consumer.close().await;
    assert_eq!(consumers(&raw, &prefix).await, [3]);

    let mut other = queue.consumer();
    assert_eq!(receive(&mut *other).await, hints(3));
    other.acknowledge().await.unwrap();
    other.close().await;
    assert_eq!(consumers(&raw, &prefix).await, [0]);
}

#[tokio::test]
async fn consumer_that_is_gone_is_removed() {
    let (url, prefix) = available!(private());
    let raw = Raw::connect(&url).await;
    let config = RedisHintConfig {
        redeliver_after: DEADLINE,
        claim_interval: Duration::from_millis(20),
        forget_after: Duration::from_millis(200),
    };
    let queue = RedisHintQueue::new(&parse(&url), config);
    for idle_or_busy in 0..2 {
        let mut consumer = queue.consumer();
        queue.send(&hints(1)).await.unwrap();
        receive(&mut *consumer).await;
        if idle_or_busy == 0 {
            consumer.acknowledge().await.unwrap();
        }
    }
    assert_eq!(consumers(&raw, &prefix).await.len(), 2);

    let mut waiting = JoinSet::new();
    let mut consumer = queue.consumer();
    waiting.spawn(async move { consumer.receive(1).await });

    // What is left is the one that waits and the one whose hint is not taken over yet.
    wait_until("one is removed", async || {
        let mut pending = consumers(&raw, &prefix).await;
        pending.sort_unstable();
        pending == [0, 1] && waiting.len() == 1
    })
    .await;
}
