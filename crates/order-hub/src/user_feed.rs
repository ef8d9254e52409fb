//! What one session remembers of the orders of one user it follows.
//!
//! Orders come and go without being asked for, so the memory is bounded here and not by
//! subscriptions: versions of the [`FEED_LEN_MAX`] newest orders are remembered, and at most
//! as many orders wait for the reader. An order that is not remembered, because it was not
//! in the snapshot or newer ones took its place, continues after the version that all sessions
//! of the user were offered, which is known while it is unfinished. Otherwise it begins with
//! the next event from a bus, even if the reader had that one before.

use std::{collections::BTreeMap, sync::Arc};

use order_core::{OrderEvent, OrderId, UserId, Version};

use crate::{
    Form, SharedEvent,
    gap::Gap,
    offer::{Delivery, Offer, Offered, Source},
};

/// How many orders of one user a session remembers, and how many of them may wait.
pub(crate) const FEED_LEN_MAX: usize = 1_000;

/// How many orders may wait before the reconcile pass adds no more. The remaining room is for
/// events from a bus, which end the session if there is none.
const HEALED_LEN_MAX: usize = FEED_LEN_MAX / 2;

/// How many orders the answer to the subscription of a user holds.
pub(crate) const SNAPSHOT_LEN_MAX: usize = 100;

#[derive(Debug)]
pub(crate) struct UserFeed {
    pub(crate) user_id: UserId,
    /// Whether a subscription has succeeded.
    is_established: bool,
    /// While the snapshot is being read, events are kept back: it comes first.
    is_opening: bool,
    /// Orders that are not remembered are new if their id is above this one: every version
    /// of them is owed. `None`: all are.
    floor: Option<OrderId>,
    /// The newest version the reader has seen of each order that is remembered.
    seen: BTreeMap<OrderId, Version>,
    /// The newest event of each order that waits; all of them are remembered. Orders that
    /// the session also follows by themselves wait there.
    pending: BTreeMap<OrderId, Arc<SharedEvent>>,
}

impl UserFeed {
    pub(crate) const fn new(user_id: UserId) -> Self {
        Self {
            user_id,
            is_established: false,
            is_opening: true,
            floor: None,
            seen: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    /// Begins to read the snapshot, for the first time or again.
    pub(crate) const fn open(&mut self) {
        self.is_opening = true;
    }

    /// Whether a subscription has succeeded.
    pub(crate) const fn is_established(&self) -> bool {
        self.is_established
    }

    /// Gives up the opening of another subscription of the same user.
    pub(crate) const fn end_opening(&mut self) {
        self.is_opening = false;
    }

    /// Whether an order waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Ends the opening: the reader now has `snapshot`, newest id first.
    pub(crate) fn establish(&mut self, snapshot: &[OrderEvent]) {
        let is_first = !self.is_established;
        if is_first {
            let is_complete = snapshot.len() < SNAPSHOT_LEN_MAX;
            let oldest = snapshot.last().map(|event| event.order_id);
            self.floor = oldest.filter(|_| !is_complete);
            // What came in meanwhile begins anywhere, unless it is new.
            for (order_id, seen) in &mut self.seen {
                if Some(*order_id) > self.floor {
                    *seen = 0;
                }
            }
        }
        for event in snapshot {
            let seen = self.seen.entry(event.order_id).or_default();
            *seen = if is_first {
                event.version
            } else {
                event.version.max(*seen)
            };
        }
        let seen = &self.seen;
        self.pending.retain(|order_id, event| {
            seen.get(order_id)
                .is_none_or(|seen| event.version() > *seen)
        });
        while self.seen.len() > FEED_LEN_MAX && self.forget_oldest() {}
        self.is_established = true;
        self.is_opening = false;
    }

    pub(crate) fn offer(&mut self, offer: Offer<'_>) -> Offered {
        let event = offer.event;
        let order_id = event.event().order_id;
        let pending = self.pending.get(&order_id).map(|pending| pending.version());
        let seen = self.seen.get(&order_id).copied();
        let begin = seen.unwrap_or_else(|| self.begin(offer));
        if event.version() <= pending.unwrap_or_default().max(begin) {
            return Offered::NotNewer;
        }
        if pending.is_none()
            && offer.source == Source::Store
            && self.pending.len() >= HEALED_LEN_MAX
        {
            return Offered::NoRoom;
        }
        if seen.is_none() {
            if self.seen.len() >= FEED_LEN_MAX && !self.forget_oldest() {
                return Offered::Overflowed;
            }
            self.seen.insert(order_id, begin);
        }
        match self.pending.insert(order_id, Arc::clone(event)) {
            Some(_) => Offered::Conflated,
            None => Offered::Queued,
        }
    }

    /// The version after which an order begins that is not remembered.
    fn begin(&self, offer: Offer<'_>) -> Version {
        if self.is_established && Some(offer.event.event().order_id) > self.floor {
            return 0;
        }
        match offer.known {
            Some(known) => known,
            // An order that was never shown has not changed because a pass has read it.
            None if self.is_established && offer.source == Source::Store => offer.event.version(),
            None => offer.event.version().saturating_sub(1),
        }
    }

    /// Hands out what waits, but for what follows a gap: that stays, and one of the gaps is
    /// noted.
    pub(crate) fn take(&mut self, deliveries: &mut Vec<Delivery>, gap: &mut Option<Gap>) {
        if !self.is_established || self.is_opening {
            return;
        }
        let seen = &mut self.seen;
        self.pending.retain(|order_id, event| {
            let seen = seen.entry(*order_id).or_default();
            let found = Gap::before(event, *seen);
            let is_kept = found.is_some();
            if let Some(found) = found {
                gap.get_or_insert(found);
            } else {
                *seen = event.version();
                deliveries.push(Delivery {
                    form: Form::Full,
                    event: Arc::clone(event),
                });
            }
            is_kept
        });
    }

    /// The version of an order that the reader has seen, if events of it may be handed out.
    pub(crate) fn cursor(&mut self, order_id: OrderId) -> Option<&mut Version> {
        if !self.is_established || self.is_opening {
            return None;
        }
        self.seen.get_mut(&order_id)
    }

    /// The version the reader has seen of an order, as far as it is remembered, and what
    /// waits of it, which is somebody else's from now on.
    pub(crate) fn hand_over(
        &mut self,
        order_id: OrderId,
    ) -> Option<(Version, Option<Arc<SharedEvent>>)> {
        let seen = *self.seen.get(&order_id)?;
        Some((seen, self.pending.remove(&order_id)))
    }

    /// Remembers that the reader has seen a version of an order.
    pub(crate) fn remember(&mut self, order_id: OrderId, version: Version) {
        if !self.seen.contains_key(&order_id)
            && self.seen.len() >= FEED_LEN_MAX
            && !self.forget_oldest()
        {
            return;
        }
        let seen = self.seen.entry(order_id).or_default();
        *seen = version.max(*seen);
    }

    /// Gives up everything it remembers.
    pub(crate) fn clear(&mut self) {
        self.seen.clear();
        self.pending.clear();
    }

    /// Makes room for an order. `false` if all that are remembered wait.
    fn forget_oldest(&mut self) -> bool {
        let is_idle = |order_id: &&OrderId| !self.pending.contains_key(order_id);
        let Some(oldest) = self.seen.keys().find(is_idle).copied() else {
            return false;
        };
        self.seen.remove(&oldest);
        self.floor = self.floor.max(Some(oldest));
        true
    }
}
