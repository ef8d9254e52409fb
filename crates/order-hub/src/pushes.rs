//! The newest pushes of a hub, for the records of orders.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use order_core::{Clock, OrderEvent, OrderId, OrderRecord, Push};

use crate::lock;

/// How many pushes are kept: the newest.
pub(crate) const PUSHES_MAX: usize = 4_096;

/// The newest pushes.
pub(crate) struct Pushes {
    clock: Arc<dyn Clock>,
    /// Oldest first.
    kept: Mutex<VecDeque<(OrderId, Push)>>,
}

impl Pushes {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            kept: Mutex::default(),
        }
    }

    /// Keeps the push of an event, unless no watcher got it. `gateways` is a part of `watchers`.
    pub(crate) fn note(&self, event: &OrderEvent, watchers: u64, gateways: u64) {
        if watchers == 0 {
            return;
        }
        let n = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let push = Push {
            version: event.version,
            at: self.clock.now(),
            clients: n(watchers.saturating_sub(gateways)),
            gateways: n(gateways),
        };
        let mut kept = lock(&self.kept);
        if kept.len() >= PUSHES_MAX {
            kept.pop_front();
        }
        kept.push_back((event.order_id, push));
    }

    /// The newest pushes of an order, oldest first.
    pub(crate) fn of(&self, order_id: OrderId) -> Vec<Push> {
        let kept = lock(&self.kept);
        let newest = kept.iter().rev().filter(|(id, _)| *id == order_id);
        let newest = newest.take(OrderRecord::LEN_MAX as usize);
        let mut pushes: Vec<_> = newest.map(|(_, push)| *push).collect();
        pushes.reverse();
        pushes
    }
}
