//! The in-memory store against the contracts of its ports.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use order_adapters::memory::MemoryStore;
use order_core::{EventOutbox, JobQueue, OrderStore};
use order_testkit::{
    clock::SimClock,
    conformance::{LEASE, Subject, lease::check_lease_protocol},
};

struct Memory {
    clock: Arc<SimClock>,
    store: Arc<MemoryStore>,
}

#[async_trait]
impl Subject for Memory {
    fn store(&self) -> Arc<dyn OrderStore> {
        Arc::clone(&self.store) as _
    }

    fn queue(&self) -> Arc<dyn JobQueue> {
        Arc::clone(&self.store) as _
    }

    fn outbox(&self) -> Arc<dyn EventOutbox> {
        Arc::clone(&self.store) as _
    }

    async fn expire_leases(&self) {
        self.clock.advance(2 * LEASE);
    }

    async fn tick(&self) {
        self.clock.advance(Duration::from_micros(1));
    }
}

async fn memory() -> Option<Memory> {
    let clock = Arc::new(SimClock::new());
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock) as _));
    Some(Memory { clock, store })
}

order_testkit::store_conformance!(memory);

#[test]
fn lease_protocol_follows_its_model() {
    check_lease_protocol(512, memory);
}
