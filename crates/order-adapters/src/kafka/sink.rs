//! Events for systems outside, as CloudEvents in the structured mode of the Kafka protocol
//! binding 1.0. The key is the order.

use std::collections::HashMap;

use async_trait::async_trait;
use order_core::{BrokerError, EventSink, OrderEvent, OrderId};

use super::{
    client::Cluster,
    producer::{Placement, Producer, Record},
};
use crate::{
    event_message::{CLOUD_EVENT_MEDIA_TYPE, cloud_event},
    kafka_url::{KafkaUrl, KafkaUrlError},
};

/// A topic that gets every event, those of one order in one partition and in order.
///
/// A later event of an order is sent only when the brokers have the earlier ones. So
/// whatever is lost on the way, repeated or given up, no event is there before those that
/// precede it.
pub struct KafkaEventSink {
    producer: Producer,
}

impl KafkaEventSink {
    /// A sink in this cluster; the URL must name the topic. Connects when it is first used.
    pub fn new(url: &KafkaUrl) -> Result<Self, KafkaUrlError> {
        let topic = url.topic().ok_or_else(|| KafkaUrlError {
            rule: "events need a topic, as in kafka://host:9092/topic".to_owned(),
        })?;
        Ok(Self {
            producer: Producer::new(Cluster::new(url, topic)),
        })
    }
}

#[async_trait]
impl EventSink for KafkaEventSink {
    async fn publish(&self, events: &[OrderEvent]) -> Result<(), BrokerError> {
        for wave in waves(events) {
            let records: Vec<Record> = wave.into_iter().map(record).collect();
            self.producer.send(&records, Placement::ByKey).await?;
        }
        Ok(())
    }
}

fn record(event: &OrderEvent) -> Record {
    Record {
        key: event.order_id.to_string(),
        payload: cloud_event(event),
        media_type: Some(CLOUD_EVENT_MEDIA_TYPE),
    }
}

/// Splits a batch into as few parts as possible that have at most one event of each order,
/// the earlier one in an earlier part. A batch has few versions of an order.
fn waves(events: &[OrderEvent]) -> Vec<Vec<&OrderEvent>> {
    let mut waves: Vec<Vec<&OrderEvent>> = Vec::new();
    let mut n_before: HashMap<OrderId, usize> = HashMap::new();
    for event in events {
        let n_before = n_before.entry(event.order_id).or_default();
        match waves.get_mut(*n_before) {
            Some(wave) => wave.push(event),
            None => waves.push(vec![event]),
        }
        *n_before += 1;
    }
    waves
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jiff::Timestamp;
    use order_core::{OrderStatus, UserId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    proptest! {
        #[test]
        fn waves_hold_back_later_events_of_an_order(orders in prop::collection::vec(0_u128..5, 0..30)) {
            let events: Vec<_> = (1..)
                .zip(orders)
                .map(|(version, order)| OrderEvent {
                    order_id: OrderId::from_uuid(Uuid::from_u128(order)),
                    user_id: UserId::parse("a user").expect("a user"),
                    version,
                    status: OrderStatus::Pending,
                    at: Timestamp::UNIX_EPOCH,
                    cause: None, trace_parent: None, })
                .collect();

            let waves = waves(&events);

            for wave in &waves {
                let orders: HashSet<_> = wave.iter().map(|event| event.order_id).collect();
                prop_assert_eq!(orders.len(), wave.len());
            }
            let of = |order_id| move |event: &&OrderEvent| event.order_id == order_id;
            for event in &events {
                let before: Vec<_> = events.iter().filter(of(event.order_id)).collect();
                let after: Vec<_> = waves.iter().flatten().copied().filter(of(event.order_id)).collect();
                prop_assert_eq!(&before, &after);
                prop_assert!(waves.len() >= before.len());
            }
            let n_of_busiest = events
                .iter()
                .map(|event| events.iter().filter(of(event.order_id)).count())
                .max();
            prop_assert_eq!(waves.len(), n_of_busiest.unwrap_or(0));
        }
    }
}
