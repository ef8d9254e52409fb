//! Events that wait to be published.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{Error, EventOutbox, OrderEvent, OrderId, OrderRecord, OutboxEntry, Version};
use uuid::Uuid;

use super::{MemoryStore, later};

#[derive(Default)]
pub(super) struct Outbox {
    is_enabled: bool,
    last_position: i64,
    entries: BTreeMap<i64, OrderEvent>,
    /// Who may publish, and until when.
    relay: Option<(Uuid, Timestamp)>,
}

impl Outbox {
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.entries.values().next().map(|event| event.at)
    }

    /// The versions of an order whose events wait.
    pub(super) fn unpublished(&self, order_id: OrderId) -> Option<Vec<Version>> {
        let events = self.entries.values();
        let own = events.filter(|event| event.order_id == order_id);
        (self.is_enabled && self.len() < OrderRecord::OUTBOX_READ_MAX)
            .then(|| own.map(|event| event.version).collect())
    }

    /// Takes an event that is being committed.
    pub(super) fn keep(&mut self, event: OrderEvent) {
        if self.is_enabled {
            self.last_position += 1;
            self.entries.insert(self.last_position, event);
        }
    }
}

#[async_trait]
impl EventOutbox for MemoryStore {
    async fn enable(&self) -> Result<(), Error> {
        let (mut tables, _) = self.lock();
        tables.outbox.is_enabled = true;
        Ok(())
    }

    async fn disable(&self) -> Result<(), Error> {
        let (mut tables, _) = self.lock();
        tables.outbox.is_enabled = false;
        tables.outbox.entries.clear();
        Ok(())
    }

    async fn acquire(&self, relay: Uuid, lease: Duration) -> Result<bool, Error> {
        let (mut tables, now) = self.lock();
        let held = &mut tables.outbox.relay;
        let is_free = held.is_none_or(|(holder, end)| holder == relay || end <= now);
        if is_free {
            *held = Some((relay, later(now, lease)));
        }
        Ok(is_free)
    }

    async fn release(&self, relay: Uuid) -> Result<(), Error> {
        let (mut tables, _) = self.lock();
        tables.outbox.relay.take_if(|(holder, _)| *holder == relay);
        Ok(())
    }

    async fn read(&self, limit: usize) -> Result<Vec<OutboxEntry>, Error> {
        let (tables, _) = self.lock();
        let entries = tables.outbox.entries.iter().take(limit);
        Ok(entries
            .map(|(position, event)| OutboxEntry {
                position: *position,
                event: Some(event.clone()),
            })
            .collect())
    }

    async fn remove(&self, positions: &[i64]) -> Result<(), Error> {
        let (mut tables, _) = self.lock();
        for position in positions {
            tables.outbox.entries.remove(position);
        }
        Ok(())
    }
}
