//! Orders of watched users that were shown unfinished, until they are settled.
//!
//! A bus may lose their events, and a read of the newest orders of their users finds only some
//! of them. The reconcile pass asks about each of them, however old it is.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use order_core::{OrderEvent, OrderId, OrderStatus, UserId, Version};

/// How many orders of one user are followed. Beyond this the oldest are dropped.
pub(crate) const PER_USER_MAX: usize = 10_000;

/// How many orders are followed in total, about 10 MB. Beyond this each new one takes the
/// place of the oldest of a user who has many.
pub(crate) const TOTAL_MAX: usize = 200_000;

/// How many users are compared to find one who has many.
const CANDIDATES: usize = 8;

/// How thoroughly a reconcile pass looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    /// Orders that will move by themselves.
    Unsettled,
    /// Also FAILED orders, which move only if an operator redrives them.
    Redrivable,
}

impl Depth {
    /// How deep a pass must be to ask about an order in this status; `None` if none does.
    pub(crate) const fn of(status: OrderStatus) -> Option<Self> {
        match status {
            OrderStatus::Pending | OrderStatus::Processing => Some(Self::Unsettled),
            OrderStatus::Failed => Some(Self::Redrivable),
            OrderStatus::Processed | OrderStatus::Cancelled => None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// Sorted, so that passes can go round. A user without an order is not in it.
    users: BTreeMap<UserId, Shown>,
    n_orders: usize,
    /// The user whose order of a depth was asked about last.
    last_asked: BTreeMap<Depth, UserId>,
    /// The last user who was compared.
    last_candidate: Option<UserId>,
    has_dropped: bool,
}

/// The orders of one user.
#[derive(Debug, Default)]
struct Shown {
    orders: BTreeMap<OrderId, Standing>,
    /// The order of a depth that was asked about last.
    last_asked: BTreeMap<Depth, OrderId>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    /// The newest version that every session which follows the user was offered; 0 if there
    /// is none yet.
    offered: Version,
    depth: Depth,
}

impl Shown {
    /// The orders of a depth, beginning after the one that was asked about last.
    fn in_turn(&self, depth: Depth) -> impl Iterator<Item = OrderId> {
        let after = after(self.last_asked.get(&depth));
        let rest = self.orders.range((after, Bound::Unbounded));
        rest.chain(&self.orders)
            .take(self.orders.len())
            .filter(move |(_, standing)| standing.depth == depth)
            .map(|(order_id, _)| *order_id)
    }
}

impl Unsettled {
    /// How many orders are followed.
    pub(crate) const fn len(&self) -> usize {
        self.n_orders
    }

    /// The newest version of an order that every session was offered, if it is followed.
    pub(crate) fn offered(&self, event: &OrderEvent) -> Option<Version> {
        let orders = &self.users.get(&event.user_id)?.orders;
        orders.get(&event.order_id).map(|standing| standing.offered)
    }

    /// Records that every session of the user was offered `event`. An order is followed from
    /// the first event on that a session takes (`is_shown`).
    pub(crate) fn note_offered(&mut self, event: &OrderEvent, is_shown: bool) {
        let before = self.offered(event);
        if before.is_some_and(|before| event.version <= before) || before.is_none() && !is_shown {
            return;
        }
        match Depth::of(event.status) {
            Some(depth) => {
                let offered = event.version;
                self.insert(event, Standing { offered, depth });
            }
            None => self.remove(event),
        }
    }

    /// Records that a session had no room for `event`: the order is asked about again.
    pub(crate) fn note_missed(&mut self, event: &OrderEvent) {
        let standing = Standing {
            offered: self.offered(event).unwrap_or_default(),
            depth: Depth::Unsettled,
        };
        self.insert(event, standing);
    }

    /// Records the answer to one session. Other sessions may be behind it, so an order that is
    /// followed already stays as it is.
    pub(crate) fn note_shown(&mut self, orders: &[OrderEvent]) {
        for event in orders {
            if self.offered(event).is_none() {
                self.note_offered(event, true);
            }
        }
    }

    /// Forgets the orders of a user.
    pub(crate) fn forget(&mut self, user_id: &UserId) {
        if let Some(shown) = self.users.remove(user_id) {
            self.n_orders -= shown.orders.len();
        }
    }

    /// The orders of a depth to ask about next, at most `len_max` and none twice. The users take turns
    /// order by order, so a user with few orders does not wait for one with many.
    pub(crate) fn next(&mut self, depth: Depth, len_max: usize) -> Vec<OrderId> {
        let after = after(self.last_asked.get(&depth));
        let rest = self.users.range((after, Bound::Unbounded));
        let in_turn = rest.chain(&self.users).take(self.users.len());
        let mut queues: Vec<_> = in_turn
            .map(|(user_id, shown)| (user_id, shown.in_turn(depth)))
            .collect();
        let mut asked = Vec::new();
        while asked.len() < len_max && !queues.is_empty() {
            queues.retain_mut(|(user_id, orders)| {
                if asked.len() >= len_max {
                    return true;
                }
                let order_id = orders.next();
                asked.extend(order_id.map(|order_id| (*user_id, order_id)));
                order_id.is_some()
            });
        }
        drop(queues);
        let order_ids = asked.iter().map(|(_, order_id)| *order_id).collect();
        let last_of_each: HashMap<UserId, OrderId> = asked
            .iter()
            .map(|(user_id, order_id)| ((*user_id).clone(), *order_id))
            .collect();
        if let Some((user_id, _)) = asked.last() {
            self.last_asked.insert(depth, (*user_id).clone());
        }
        for (user_id, order_id) in last_of_each {
            if let Some(shown) = self.users.get_mut(&user_id) {
                shown.last_asked.insert(depth, order_id);
            }
        }
        order_ids
    }

    fn insert(&mut self, event: &OrderEvent, standing: Standing) {
        let shown = self.users.entry(event.user_id.clone()).or_default();
        if shown.orders.insert(event.order_id, standing).is_some() {
            return;
        }
        self.n_orders += 1;
        if shown.orders.len() > PER_USER_MAX {
            self.drop_oldest(&event.user_id);
        } else if self.n_orders > TOTAL_MAX
            && let Some(user_id) = self.pick_user_with_many()
        {
            self.drop_oldest(&user_id);
        }
    }

    fn remove(&mut self, event: &OrderEvent) {
        let Some(shown) = self.users.get_mut(&event.user_id) else {
            return;
        };
        self.n_orders -= usize::from(shown.orders.remove(&event.order_id).is_some());
        if shown.orders.is_empty() {
            self.users.remove(&event.user_id);
        }
    }

    /// A user with many orders, found without comparing all.
    fn pick_user_with_many(&mut self) -> Option<UserId> {
        let after = after(self.last_candidate.as_ref());
        let rest = self.users.range((after, Bound::Unbounded));
        let candidates: Vec<_> = rest
            .chain(&self.users)
            .take(CANDIDATES)
            .map(|(user_id, shown)| (shown.orders.len(), user_id))
            .collect();
        let (_, most) = candidates.iter().max()?;
        let most = (*most).clone();
        self.last_candidate = candidates.last().map(|(_, user_id)| (*user_id).clone());
        Some(most)
    }

    fn drop_oldest(&mut self, user_id: &UserId) {
        let Some(shown) = self.users.get_mut(user_id) else {
            return;
        };
        self.n_orders -= usize::from(shown.orders.pop_first().is_some());
        if shown.orders.is_empty() {
            self.users.remove(user_id);
        }
        if !std::mem::replace(&mut self.has_dropped, true) {
            tracing::warn!(
                per_user_max = PER_USER_MAX,
                total_max = TOTAL_MAX,
                "too many unfinished orders of watched users: the oldest are no longer reconciled"
            );
        }
    }
}

fn after<T>(last: Option<&T>) -> Bound<&T> {
    last.map_or(Bound::Unbounded, Bound::Excluded)
}
