//! Events for systems outside, as one of them would read them.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use order_adapters::kafka::KafkaEventSink;
use order_core::{EventSink, OrderEvent, OrderStatus, UserId, Version};
use rdkafka::{
    ClientConfig, Message as _,
    consumer::{Consumer as _, StreamConsumer},
    message::Headers as _,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::*;

/// How long the next record may take. Only a failing test waits this long.
const DEADLINE: Duration = Duration::from_mins(1);

fn event(order_id: OrderId, version: Version) -> OrderEvent {
    OrderEvent {
        order_id,
        user_id: UserId::parse("a user").expect("a user"),
        version,
        status: OrderStatus::Processing,
        at: Timestamp::UNIX_EPOCH,
        cause: None,
        trace_parent: None,
    }
}

/// What a consumer of another system sees of a record.
struct Seen {
    partition: i32,
    order_id: OrderId,
    version: Version,
}

/// Reads the topic from its beginning until all of these have come.
async fn read(url: &KafkaUrl, mut missing: BTreeSet<(OrderId, Version)>) -> Vec<Seen> {
    let topic = url.topic().expect("a topic");
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", url.brokers())
        .set("group.id", format!("{topic}-reader"))
        .set("auto.offset.reset", "earliest")
        .create()
        .expect("a client");
    consumer.subscribe(&[topic]).expect("a subscription");
    let mut records = Vec::new();
    while !missing.is_empty() {
        let message = timeout(DEADLINE, consumer.recv()).await;
        let message = message.expect("in time").expect("a record");
        let header = message.headers().expect("headers").get(0);
        assert_eq!(header.key, "content-type");
        assert_eq!(
            header.value,
            Some(b"application/cloudevents+json".as_slice())
        );
        let event: serde_json::Value =
            serde_json::from_slice(message.payload().expect("a payload")).expect("json");
        let key = std::str::from_utf8(message.key().expect("a key")).expect("text");
        assert_eq!(event["subject"], key);
        let seen = Seen {
            partition: message.partition(),
            order_id: key.parse().expect("an id"),
            version: serde_json::from_value(event["data"]["version"].clone()).expect("a version"),
        };
        missing.remove(&(seen.order_id, seen.version));
        records.push(seen);
    }
    records
}

/// Each order has one partition, and in it no version comes before the one below it.
fn assert_in_order(records: &[Seen]) {
    let mut last: BTreeMap<OrderId, (i32, Version)> = BTreeMap::new();
    for record in records {
        let (partition, last) = last.entry(record.order_id).or_insert((record.partition, 0));
        assert_eq!(*partition, record.partition);
        assert!(
            record.version <= *last + 1,
            "{} came after {last}",
            record.version
        );
        *last = record.version.max(*last);
    }
}

#[tokio::test]
async fn events_of_one_order_are_in_one_partition_in_order() {
    let kafka = match shared().await {
        Backend::Available(kafka) => kafka,
        Backend::Unavailable(reason) => skip!("Kafka: {reason}"),
    };
    let url = url(&private_url(&kafka));
    let sink = KafkaEventSink::new(&url).expect("a topic");
    let orders = new_hints(50);
    let events: Vec<_> = (1..=3)
        .flat_map(|version| orders.iter().map(move |&order_id| event(order_id, version)))
        .collect();

    sink.publish(&[]).await.expect("nothing is published");
    sink.publish(&events).await.expect("is published");

    let published = events.iter().map(|event| (event.order_id, event.version));
    let records = read(&url, published.collect()).await;
    assert_eq!(records.len(), events.len());
    assert_in_order(&records);
    let partitions: BTreeSet<_> = records.iter().map(|record| record.partition).collect();
    assert!(partitions.len() > 1, "all orders are in one partition");
}

#[tokio::test]
async fn events_stay_in_order_while_the_broker_dies() {
    if let Err(reason) = libs() {
        skip!("Kafka: {reason:#}");
    }
    let mut server = KafkaServer::start().await.expect("a server");
    let url = url(&format!("{}/events", server.url()));
    let sink = KafkaEventSink::new(&url).expect("a topic");
    let orders = new_hints(50);
    let (n_published, mut progress) = watch::channel(0);
    let is_back = Cell::new(false);

    let publish = async {
        let mut published = BTreeSet::new();
        for batch in 0.. {
            let versions = 3 * batch + 1..=3 * batch + 3;
            let events: Vec<_> = versions
                .flat_map(|version| orders.iter().map(move |&order_id| event(order_id, version)))
                .collect();
            let deadline = Instant::now() + DEADLINE;
            while let Err(error) = sink.publish(&events).await {
                assert!(Instant::now() < deadline, "{}", error.chain());
            }
            published.extend(events.iter().map(|event| (event.order_id, event.version)));
            n_published.send_modify(|n| *n += 1);
            if is_back.get() {
                break;
            }
        }
        published
    };
    let crash = async {
        progress.wait_for(|&n| n >= 5).await.expect("progress");
        server.kill().await.expect("is killed");
        server.restart().await.expect("is restarted");
        is_back.set(true);
    };
    let (published, ()) = tokio::join!(publish, crash);

    assert_in_order(&read(&url, published).await);
}

#[test]
fn sink_needs_a_topic() {
    let error = KafkaEventSink::new(&url("kafka://me:hunter2@host")).err();
    let error = error.expect("an error").to_string();
    assert!(
        error.contains("topic") && !error.contains("hunter2"),
        "{error}"
    );
}
