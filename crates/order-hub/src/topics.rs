//! Which sessions watch which order and which user.
//!
//! The map of orders is cut into shards so that publishing, subscribing and the reconcile
//! pass meet at a lock only when they mean the same part of it. An order is in it as long as
//! somebody watches it. Few watch whole users, so these share one lock, and a batch
//! of events takes it once, or not at all while there are none.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    ops::AddAssign,
    sync::{Arc, Mutex},
};

use foldhash::fast::RandomState;
use order_core::{OrderEvent, OrderId, OrderStatus, Topic, TopicChange, UserId, Version};
use tokio::sync::Notify;

use crate::{
    SharedEvent,
    changes::Changes,
    lock,
    mailbox::{Mailbox, Watcher},
    offer::{Offer, Offered, Source},
    pushes::Pushes,
    unsettled::Depth,
    users::{Users, Watched},
};

/// Number of shards: a power of two well above the number of cores.
const SHARDS: u8 = 64;

#[derive(Debug)]
struct Shard {
    orders: HashMap<OrderId, Audience, RandomState>,
    changes: Changes<OrderId>,
}

#[derive(Debug)]
pub(crate) struct Topics {
    shards: [Mutex<Shard>; SHARDS as usize],
    /// Keyed at random: ids come from clients, who must not choose the shard.
    hasher: RandomState,
    users: Users,
    /// Told when changes can be taken. `None` if they are not tracked.
    changed: Option<Notify>,
}

/// Who watches an order.
#[derive(Debug, Default)]
struct Audience {
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
    /// Sessions among them that are gateways.
    pub(crate) to_gateways: u64,
    /// Sessions among them whose mailbox drops an older one.
    pub(crate) conflated: u64,
    /// Whether a session has no room for an event, and is to be offered it again.
    has_missed: bool,
}

impl Topics {
    /// `tracks_changes`: whether somebody will ask which topics came and went.
    pub(crate) fn new(tracks_changes: bool) -> Self {
        let shard = |_| Shard {
            orders: HashMap::default(),
            changes: Changes::new(tracks_changes),
        };
        Self {
            shards: std::array::from_fn(|idx| Mutex::new(shard(idx))),
            hasher: RandomState::default(),
            users: Users::new(tracks_changes),
            changed: tracks_changes.then(Notify::new),
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the remainder is below the number of shards"
    )]
    fn shard(&self, order_id: OrderId) -> &Mutex<Shard> {
        let [byte, ..] = self.hasher.hash_one(order_id).to_le_bytes();
        &self.shards[usize::from(byte % SHARDS)]
    }

    /// Has `mailbox` offered every event of the order from now on.
    pub(crate) fn join(&self, order_id: OrderId, mailbox: &Arc<Mailbox>) {
        let mut shard = lock(self.shard(order_id));
        let Shard { orders, changes } = &mut *shard;
        let audience = orders.entry(order_id).or_default();
        let is_first = audience.watchers.is_empty();
        if is_first {
            // Most orders have one watcher; the default growth would begin with four.
            audience.watchers.reserve_exact(1);
            changes.note(order_id, true);
        }
        audience.watchers.push(Arc::clone(mailbox));
        audience.offered = None;
        drop(shard);
        self.tell_change(is_first);
    }

    /// Undoes [`Topics::join`].
    pub(crate) fn leave(&self, order_id: OrderId, mailbox: &Arc<Mailbox>) {
        let mut shard = lock(self.shard(order_id));
        let Some(audience) = shard.orders.get_mut(&order_id) else {
            return;
        };
        if let Some(idx) = audience
            .watchers
            .iter()
            .position(|watcher| Arc::ptr_eq(watcher, mailbox))
        {
            audience.watchers.swap_remove(idx);
        }
        let was_last = audience.watchers.is_empty();
        if was_last {
            shard.orders.remove(&order_id);
            shard.changes.note(order_id, false);
        }
        drop(shard);
        self.tell_change(was_last);
    }

    /// Offers events to everyone who watches their orders or users, and notes how many got them. Takes
    /// time in proportion to their number, and none of them can hold it up.
    pub(crate) fn deliver(
        &self,
        events: &[OrderEvent],
        source: Source,
        pushes: &Pushes,
    ) -> Delivered {
        let mut users = self.users.watched();
        let mut delivered = Delivered::default();
        for event in events {
            let one = self.deliver_one(event, source, users.as_mut());
            pushes.note(event, one.queued, one.to_gateways);
            delivered += one;
        }
        delivered
    }

    fn deliver_one(
        &self,
        event: &OrderEvent,
        source: Source,
        mut users: Option<&mut Watched<'_>>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let is_user_watched = users
            .as_ref()
            .is_some_and(|users| !users.watchers_of(&event.user_id).is_empty());
        let mut shard = lock(self.shard(event.order_id));
        let audience = shard.orders.get_mut(&event.order_id);
        if audience.is_none() && !is_user_watched {
            return delivered;
        }
        let to_share = Arc::new(SharedEvent::new(event.clone()));
        let mut offer = Offer {
            event: &to_share,
            known: None,
            source,
        };
        if is_user_watched && let Some(users) = &mut users {
            offer.known = users.unsettled().offered(event);
            delivered.offer(users.watchers_of(&event.user_id), offer);
            if delivered.has_missed {
                users.unsettled().note_missed(event);
            } else {
                users.unsettled().note_offered(event, delivered.queued > 0);
            }
        }
        // A session that watches both takes no second one of the same event.
        if let Some(audience) = audience {
            audience.note(event);
            delivered.offer(&audience.watchers, offer);
        }
        delivered
    }

    /// The watched orders of each shard whose watchers may be owed something. One shard is
    /// locked at a time.
    pub(crate) fn unsettled(&self, depth: Depth) -> impl Iterator<Item = Vec<OrderId>> {
        self.shards.iter().map(move |shard| {
            lock(shard)
                .orders
                .iter()
                .filter(|(_, audience)| audience.is_unsettled(depth))
                .map(|(order_id, _)| *order_id)
                .collect()
        })
    }

    /// How many orders are watched.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).orders.len())
            .sum()
    }

    /// Has `mailbox` offered every event of the orders of the user from now on.
    pub(crate) fn join_user(&self, user_id: &UserId, mailbox: &Arc<Mailbox>) {
        let is_first = self.users.join(user_id, mailbox);
        self.tell_change(is_first);
    }

    /// Undoes [`Topics::join_user`].
    pub(crate) fn leave_user(&self, user_id: &UserId, mailbox: &Arc<Mailbox>) {
        let was_last = self.users.leave(user_id, mailbox);
        self.tell_change(was_last);
    }

    /// The watched users whose turn it is, at most `len_max`; all of them have theirs in
    /// turn.
    pub(crate) fn next_users(&self, len_max: usize) -> Vec<UserId> {
        self.users.next(len_max)
    }

    /// See [`Users::note_shown`].
    pub(crate) fn note_shown(&self, user_id: &UserId, orders: &[OrderEvent]) {
        self.users.note_shown(user_id, orders);
    }

    /// See [`Users::note_look`].
    pub(crate) fn note_look(
        &self,
        user_id: &UserId,
        orders: &mut Vec<OrderEvent>,
        n_always: usize,
    ) {
        self.users.note_look(user_id, orders, n_always);
    }

    /// See [`Users::is_above_floor`].
    pub(crate) fn is_above_floor(&self, oldest: &OrderEvent) -> bool {
        self.users.is_above_floor(oldest)
    }

    /// The unfinished orders of watched users whose turn it is, at most `len_max`.
    pub(crate) fn next_unsettled(&self, depth: Depth, len_max: usize) -> Vec<OrderId> {
        self.users.next_unsettled(depth, len_max)
    }

    /// How many unfinished orders of watched users are followed.
    pub(crate) fn n_unsettled(&self) -> usize {
        self.users.n_unsettled()
    }

    /// How many users are watched.
    pub(crate) fn n_users(&self) -> usize {
        self.users.len()
    }

    /// Everything that is watched. Changes up to here are forgotten, part by part: one that
    /// comes meanwhile is either in the answer or among the changes.
    pub(crate) fn watched(&self) -> Vec<Topic> {
        let mut watched = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.changes.take();
            watched.extend(shard.orders.keys().copied().map(Topic::Order));
        }
        let users = self.users.all_and_forget_changes();
        watched.extend(users.into_iter().map(Topic::User));
        watched
    }

    /// Waits for changes, for ever if they are not tracked.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    pub(crate) async fn changes(&self) -> Vec<TopicChange> {
        let Some(told) = &self.changed else {
            return std::future::pending().await;
        };
        loop {
            let changes = self.take_changes();
            if !changes.is_empty() {
                return changes;
            }
            told.notified().await;
        }
    }

    fn take_changes(&self) -> Vec<TopicChange> {
        let mut changes = Vec::new();
        let change = |(topic, is_watched)| TopicChange { topic, is_watched };
        for shard in &self.shards {
            let orders = lock(shard).changes.take().into_iter();
            changes.extend(orders.map(|(id, is)| change((Topic::Order(id), is))));
        }
        let users = self.users.take_changes().into_iter();
        changes.extend(users.map(|(id, is)| change((Topic::User(id), is))));
        changes
    }

    fn tell_change(&self, has_changed: bool) {
        if has_changed && let Some(changed) = &self.changed {
            changed.notify_one();
        }
    }
}

impl Delivered {
    fn offer(&mut self, watchers: &[Arc<Mailbox>], offer: Offer<'_>) {
        for watcher in watchers {
            match watcher.offer(offer) {
                Offered::Queued => {}
                Offered::Conflated => self.conflated += 1,
                Offered::NoRoom => {
                    self.has_missed = true;
                    continue;
                }
                Offered::NotNewer | Offered::Overflowed => continue,
            }
            self.queued += 1;
            self.to_gateways += u64::from(watcher.watcher == Watcher::Gateway);
        }
    }
}

impl AddAssign for Delivered {
    fn add_assign(&mut self, other: Self) {
        self.queued += other.queued;
        self.to_gateways += other.to_gateways;
        self.conflated += other.conflated;
        self.has_missed |= other.has_missed;
    }
}

impl Audience {
    fn note(&mut self, event: &OrderEvent) {
        let is_newer = |(version, _)| version < event.version;
        if self.offered.is_none_or(is_newer) {
            self.offered = Some((event.version, event.status));
        }
    }

    fn is_unsettled(&self, depth: Depth) -> bool {
        self.offered
            .is_none_or(|(_, status)| Depth::of(status).is_some_and(|needed| needed <= depth))
    }
}
