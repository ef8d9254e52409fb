//! The stream of events for systems outside.

use order_adapters::{event_message::cloud_event, redis::RedisEventSink};
use order_core::{BrokerError, EventSink};

use super::*;
use crate::events::event;

/// A sink with a stream of its own, and the key of that.
async fn sink(parameters: &str) -> Backend<(RedisEventSink, String, Raw)> {
    let (url, key) = match private().await {
        Backend::Available((url, prefix)) => (url, format!("{prefix}:events")),
        Backend::Unavailable(reason) => return Backend::Unavailable(reason),
    };
    let raw = Raw::connect(&url).await;
    let url = format!("{}/{key}{parameters}", raw.url).parse().unwrap();
    Backend::Available((RedisEventSink::new(&url), key, raw))
}

#[tokio::test]
async fn events_are_appended_in_order() {
    let (sink, key, raw) = available!(sink(""));
    let events = [event(1, "a", 1), event(1, "a", 2), event(2, "b", 1)];
    sink.publish(&events[..2]).await.unwrap();
    sink.publish(&[]).await.unwrap();
    sink.publish(&events[2..]).await.unwrap();

    let entries: Vec<(String, Vec<String>)> = raw.run(&format!("XRANGE {key} - +")).await;
    let fields: Vec<_> = entries.into_iter().map(|(_, fields)| fields).collect();
    let expected = events.map(|event| vec!["event".to_owned(), cloud_event(&event)]);
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn stream_keeps_about_as_many_events_as_it_is_told() {
    let (sink, key, raw) = available!(sink("?maxlen=100"));
    let events: Vec<_> = (1..=1000).map(|n| event(1, "a", n)).collect();
    sink.publish(&events).await.unwrap();
    let len: usize = raw.run(&format!("XLEN {key}")).await;
    assert!((100..300).contains(&len), "{len}");
}

#[tokio::test]
async fn refused_event_fails_the_batch() {
    let (sink, key, raw) = available!(sink(""));
    raw.run::<()>(&format!("SET {key} x")).await;
    let error = sink.publish(&[event(1, "a", 1)]).await.unwrap_err();
    let is_failed = matches!(error, BrokerError::Failed { .. });
    assert!(is_failed, "{}", error.chain());
}
