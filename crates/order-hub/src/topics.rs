//! Which sessions watch which order.
//!
//! The map is cut into shards so that publishing, subscribing and the reconcile pass meet
//! at a lock only when they mean the same part of it. A topic exists as long as somebody
//! watches its order.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Arc, Mutex},
};

use order_core::{OrderEvent, OrderId, OrderStatus, Version};

use crate::{
    SharedEvent, lock,
    mailbox::{Mailbox, Offered},
};

/// Number of shards: a power of two well above the number of cores.
const SHARDS: u8 = 64;

type Shard = Mutex<HashMap<OrderId, Topic>>;

#[derive(Debug)]
pub(crate) struct Topics {
    shards: [Shard; SHARDS as usize],
    /// Keyed at random: ids come from clients, who must not choose the shard.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Topic {
    watchers: Vec<Arc<Mailbox>>,
    /// The newest state that was offered to every watcher; `None` until the first one, and
    /// again when a watcher joins, so that the reconcile pass checks each at least once.
    offered: Option<(Version, OrderStatus)>,
}

/// What became of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// Sessions that get the event.
    pub(crate) queued: u64,
    /// Sessions among them that skip an older one.
    pub(crate) conflated: u64,
}

/// How thoroughly a reconcile pass looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Orders that will move by themselves.
    Unsettled,
    /// Also FAILED orders, which move only if somebody redrives them.
    Redrivable,
}

impl Topics {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            hasher: RandomState::new(),
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the remainder is below the number of shards"
    )]
    fn shard(&self, order_id: OrderId) -> &Shard {
        let [byte, ..] = self.hasher.hash_one(order_id).to_le_bytes();
        &self.shards[usize::from(byte % SHARDS)]
    }

    /// Has `mailbox` offered every event of the order from now on.
    pub(crate) fn join(&self, order_id: OrderId, mailbox: &Arc<Mailbox>) {
        let mut shard = lock(self.shard(order_id));
        let topic = shard.entry(order_id).or_default();
        if topic.watchers.is_empty() {
            // Most orders have one watcher; the default growth would begin with four.
            topic.watchers.reserve_exact(1);
        }
        topic.watchers.push(Arc::clone(mailbox));
        topic.offered = None;
    }

    /// Undoes [`Topics::join`].
    pub(crate) fn leave(&self, order_id: OrderId, mailbox: &Arc<Mailbox>) {
        let mut shard = lock(self.shard(order_id));
        let Some(topic) = shard.get_mut(&order_id) else {
            return;
        };
        if let Some(idx) = topic
            .watchers
            .iter()
            .position(|watcher| Arc::ptr_eq(watcher, mailbox))
        {
            topic.watchers.swap_remove(idx);
        }
        if topic.watchers.is_empty() {
            shard.remove(&order_id);
        }
    }

    /// Offers an event to everyone who watches its order. Takes time in proportion to
    /// their number, and none of them can hold it up.
    pub(crate) fn deliver(&self, event: &OrderEvent) -> Delivered {
        let mut delivered = Delivered::default();
        let mut shard = lock(self.shard(event.order_id));
        let Some(topic) = shard.get_mut(&event.order_id) else {
            return delivered;
        };
        let event = Arc::new(SharedEvent::new(event.clone()));
        for watcher in &topic.watchers {
            match watcher.offer(&event) {
                Offered::Queued => delivered.queued += 1,
                Offered::Conflated => {
                    delivered.queued += 1;
                    delivered.conflated += 1;
                }
                Offered::NotNewer => {}
            }
        }
        if topic
            .offered
            .is_none_or(|(version, _)| version < event.version())
        {
            topic.offered = Some((event.version(), event.event().status));
        }
        delivered
    }

    /// The watched orders of each shard whose watchers may be owed something. One shard is
    /// locked at a time.
    pub(crate) fn unsettled(&self, depth: Depth) -> impl Iterator<Item = Vec<OrderId>> {
        self.shards.iter().map(move |shard| {
            lock(shard)
                .iter()
                .filter(|(_, topic)| topic.is_unsettled(depth))
                .map(|(order_id, _)| *order_id)
                .collect()
        })
    }

    /// How many orders are watched.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

impl Topic {
    fn is_unsettled(&self, depth: Depth) -> bool {
        match self.offered {
            None | Some((_, OrderStatus::Pending | OrderStatus::Processing)) => true,
            Some((_, OrderStatus::Failed)) => depth == Depth::Redrivable,
            Some((_, OrderStatus::Processed | OrderStatus::Cancelled)) => false,
        }
    }
}
