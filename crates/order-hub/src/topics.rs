//! Which sessions watch which order and which user.
//!
//! The map of orders is cut into shards so that publishing, subscribing and the reconcile
//! pass meet at a lock only when they mean the same part of it. A topic exists as long as
//! somebody watches its order. Few watch whole users, so these share one lock, and a batch
//! of events takes it once, or not at all while there are none.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Arc, Mutex},
};

use order_core::{OrderEvent, OrderId, OrderStatus, UserId, Version};

use crate::{
    SharedEvent, lock,
    mailbox::{Mailbox, Offered},
    users::{Users, Watched},
};

/// Number of shards: a power of two well above the number of cores.
const SHARDS: u8 = 64;

type Shard = Mutex<HashMap<OrderId, Topic>>;

#[derive(Debug)]
pub(crate) struct Topics {
    shards: [Shard; SHARDS as usize],
    /// Keyed at random: ids come from clients, who must not choose the shard.
    hasher: RandomState,
    users: Users,
}

#[derive(Debug, Default)]
struct Topic {
    watchers: Vec<Arc<Mailbox>>,
    /// The newest state that was offered to every watcher; `None` until the first one, and
    /// again when a watcher joins, so that the reconcile pass checks each at least once.
    offered: Option<(Version, OrderStatus)>,
}

/// What became of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// Sessions that get an event, counted for each event.
    pub(crate) queued: u64,
    /// Sessions among them whose mailbox drops an older one.
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
            users: Users::default(),
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

    /// Offers events to everyone who watches their orders or users. Takes time in proportion
    /// to their number, and none of them can hold it up.
    pub(crate) fn deliver(&self, events: &[OrderEvent]) -> Delivered {
        let users = self.users.watched();
        let mut delivered = Delivered::default();
        for event in events {
            self.deliver_one(event, users.as_ref(), &mut delivered);
        }
        delivered
    }

    fn deliver_one(
        &self,
        event: &OrderEvent,
        users: Option<&Watched<'_>>,
        delivered: &mut Delivered,
    ) {
        let user_watchers = users.map_or(&[][..], |users| users.watchers_of(&event.user_id));
        let mut shard = lock(self.shard(event.order_id));
        let topic = shard.get_mut(&event.order_id);
        if topic.is_none() && user_watchers.is_empty() {
            return;
        }
        let offer = Arc::new(SharedEvent::new(event.clone()));
        if let Some(topic) = topic {
            topic.note(event);
            delivered.offer(&topic.watchers, &offer);
        }
        // A session that watches both takes no second one of the same event.
        delivered.offer(user_watchers, &offer);
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

    /// Has `mailbox` offered every event of the orders of the user from now on.
    pub(crate) fn join_user(&self, user_id: &UserId, mailbox: &Arc<Mailbox>) {
        self.users.join(user_id, mailbox);
    }

    /// Undoes [`Topics::join_user`].
    pub(crate) fn leave_user(&self, user_id: &UserId, mailbox: &Arc<Mailbox>) {
        self.users.leave(user_id, mailbox);
    }

    /// The watched users whose turn it is, at most `len_max`; all of them have theirs in
    /// turn.
    pub(crate) fn next_users(&self, len_max: usize) -> Vec<UserId> {
        self.users.next(len_max)
    }

    /// How many users are watched.
    pub(crate) fn n_users(&self) -> usize {
        self.users.len()
    }
}

impl Delivered {
    fn offer(&mut self, watchers: &[Arc<Mailbox>], event: &Arc<SharedEvent>) {
        for watcher in watchers {
            match watcher.offer(event) {
                Offered::Queued => self.queued += 1,
                Offered::Conflated => {
                    self.queued += 1;
                    self.conflated += 1;
                }
                Offered::NotNewer | Offered::Overflowed => {}
            }
        }
    }
}

impl Topic {
    fn note(&mut self, event: &OrderEvent) {
        let is_newer = |(version, _)| version < event.version;
        if self.offered.is_none_or(is_newer) {
            self.offered = Some((event.version, event.status));
        }
    }

    fn is_unsettled(&self, depth: Depth) -> bool {
        match self.offered {
            None | Some((_, OrderStatus::Pending | OrderStatus::Processing)) => true,
            Some((_, OrderStatus::Failed)) => depth == Depth::Redrivable,
            Some((_, OrderStatus::Processed | OrderStatus::Cancelled)) => false,
        }
    }
}
