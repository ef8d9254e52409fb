//! Hints within one process.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use order_core::{BrokerError, HintCapabilities, HintConsumer, HintQueue, OrderId};
use tokio::sync::Notify;

/// A [`HintQueue`] in memory, whose consumers are all in this process. When it is full it
/// forgets the oldest hints: the newest are those that the store would give out last.
#[derive(Clone)]
pub struct MemoryHintQueue(Arc<Shared>);

struct Shared {
    capacity: usize,
    hints: Mutex<VecDeque<OrderId>>,
    arrived: Notify,
}

impl MemoryHintQueue {
    /// An empty queue that holds `capacity` hints.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Shared {
            capacity,
            hints: Mutex::default(),
            arrived: Notify::new(),
        }))
    }

    /// Forgets all hints, as a broker does that lost its memory.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, VecDeque<OrderId>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, limit: usize) -> Vec<OrderId> {
        let mut hints = self.lock();
        let n = limit.min(hints.len());
        let taken = hints.drain(..n).collect();
        if !hints.is_empty() {
            // The one notice of a batch went to this consumer.
            self.arrived.notify_one();
        }
        taken
    }
}

#[async_trait]
impl HintQueue for MemoryHintQueue {
    fn capabilities(&self) -> HintCapabilities {
        HintCapabilities {
            is_shared: false,
            redelivers: false,
        }
    }

    async fn send(&self, order_ids: &[OrderId]) -> Result<(), BrokerError> {
        let mut hints = self.0.lock();
        hints.extend(order_ids);
        let excess = hints.len().saturating_sub(self.0.capacity);
        hints.drain(..excess);
        drop(hints);
        self.0.arrived.notify_one();
        Ok(())
    }

    fn consumer(&self) -> Box<dyn HintConsumer> {
        Box::new(MemoryHintConsumer(Arc::clone(&self.0)))
    }

    fn n_foreign(&self) -> u64 {
        0
    }
}

struct MemoryHintConsumer(Arc<Shared>);

#[async_trait]
impl HintConsumer for MemoryHintConsumer {
    async fn receive(&mut self, limit: usize) -> Result<Vec<OrderId>, BrokerError> {
        loop {
            let taken = self.0.take(limit);
            if !taken.is_empty() {
                return Ok(taken);
            }
            self.0.arrived.notified().await;
        }
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&mut self) {}
}
