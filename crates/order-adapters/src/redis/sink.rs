//! Events for systems outside, in a stream.

use async_trait::async_trait;
use order_core::{BrokerError, EventSink, OrderEvent};

use super::{RedisStreamUrl, connect::SharedConnection};
use crate::event_message::cloud_event;

/// Appends every event to a stream, as a CloudEvent in the field `event`.
pub struct RedisEventSink {
    connection: SharedConnection,
    key: String,
    maxlen: Option<u64>,
}

impl RedisEventSink {
    /// A sink that connects when it is first used.
    pub fn new(url: &RedisStreamUrl) -> Self {
        Self {
            connection: SharedConnection::new(url.server.clone()),
            key: url.key.clone(),
            maxlen: url.maxlen,
        }
    }
}

#[async_trait]
impl EventSink for RedisEventSink {
    async fn publish(&self, events: &[OrderEvent]) -> Result<(), BrokerError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut commands = redis::pipe();
        // All or none: a server short of memory could otherwise refuse an event and take the
        // next one of the same order.
        commands.atomic();
        for event in events {
            let command = commands.cmd("XADD").arg(&self.key);
            if let Some(maxlen) = self.maxlen {
                command.arg("MAXLEN").arg("~").arg(maxlen);
            }
            command
                .arg("*")
                .arg("event")
                .arg(cloud_event(event))
                .ignore();
        }
        self.connection.run(&commands).await
    }
}
