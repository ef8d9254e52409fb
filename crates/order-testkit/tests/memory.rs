//! The in-memory store and hint queue against the contracts of its ports.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use order_core::{
    AdminStore, EventOutbox, HintCapabilities, HintQueue, JobQueue, OrderId, OrderStore,
};
use order_testkit::{
    clock::SimClock,
    conformance::{LEASE, Subject, hints::HintSubject, identity, lease::check_lease_protocol},
    memory::{MemoryHintQueue, MemoryStore},
};
use uuid::Uuid;

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

    fn admin(&self) -> Arc<dyn AdminStore> {
        Arc::clone(&self.store) as _
    }

    async fn age_processes(&self, age: Duration) {
        self.clock.advance(age);
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
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock) as _, identity()));
    Some(Memory { clock, store })
}

order_testkit::store_conformance!(memory);

#[test]
fn lease_protocol_follows_its_model() {
    check_lease_protocol(512, memory);
}

mod hints {
    use std::future::{Ready, ready};

    use super::*;

    struct Hints(MemoryHintQueue);

    #[async_trait]
    impl HintSubject for Hints {
        async fn queue(&self) -> Arc<dyn HintQueue> {
            Arc::new(self.0.clone())
        }

        fn capabilities(&self) -> HintCapabilities {
            HintCapabilities {
                is_shared: false,
                redelivers: false,
            }
        }

        async fn wipe(&self) {
            self.0.clear();
        }

        async fn send_foreign(&self) -> bool {
            false
        }
    }

    fn hints() -> Ready<Option<Hints>> {
        ready(Some(Hints(MemoryHintQueue::new(5000))))
    }

    order_testkit::hint_conformance!(hints);

    #[tokio::test]
    async fn full_queue_forgets_the_oldest() {
        let queue = MemoryHintQueue::new(2);
        let hints = [1, 2, 3].map(|n| OrderId::from_uuid(Uuid::from_u128(n)));
        queue.send(&hints).await.expect("is sent");

        let received = queue.consumer().receive(5).await.expect("are received");

        assert_eq!(received, hints[1..]);
    }
}
