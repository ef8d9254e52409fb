//! Which sessions watch which user, and which orders of the user they were shown.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use order_core::{OrderEvent, OrderId, UserId};

use crate::{
    changes::Changes,
    lock,
    mailbox::Mailbox,
    unsettled::{Depth, Unsettled},
};

#[derive(Debug)]
pub(crate) struct Users {
    state: Mutex<State>,
    /// How many users are watched. A publisher that reads 0 has committed its events before
    /// a session that joins next reads the store, so that session misses nothing.
    n_watched: AtomicUsize,
}

#[derive(Debug)]
struct State {
    /// Sorted, so that the reconcile pass can go round.
    users: BTreeMap<UserId, Audience>,
    /// The user whose turn was last.
    last: Option<UserId>,
    unsettled: Unsettled,
    changes: Changes<UserId>,
}

/// Who watches a user, and which orders of the user may be new to them.
#[derive(Debug, Default)]
struct Audience {
    watchers: Vec<Arc<Mailbox>>,
    /// `None` until the first session has its answer.
    looked: Option<Looked>,
}

/// How far the looks at the newest orders of a user have come.
#[derive(Clone, Copy, Debug)]
struct Looked {
    /// The newest order of the last look; `None` if there was none.
    newest: Option<OrderId>,
    /// The newest one of the look before. All above it may be new: an order that was being
    /// committed during the last look may have an id below `newest`.
    floor: Option<OrderId>,
}

/// All watched users, held still.
pub(crate) struct Watched<'a>(MutexGuard<'a, State>);

impl Watched<'_> {
    pub(crate) fn watchers_of(&self, user_id: &UserId) -> &[Arc<Mailbox>] {
        let audience = self.0.users.get(user_id);
        audience.map_or(&[], |audience| &audience.watchers)
    }

    pub(crate) fn unsettled(&mut self) -> &mut Unsettled {
        &mut self.0.unsettled
    }
}

impl Users {
    pub(crate) fn new(tracks_changes: bool) -> Self {
        Self {
            state: Mutex::new(State {
                users: BTreeMap::new(),
                last: None,
                unsettled: Unsettled::default(),
                changes: Changes::new(tracks_changes),
            }),
            n_watched: AtomicUsize::new(0),
        }
    }

    /// The watched users, or `None` if there are none.
    pub(crate) fn watched(&self) -> Option<Watched<'_>> {
        (self.len() > 0).then(|| Watched(lock(&self.state)))
    }

    pub(crate) fn len(&self) -> usize {
        self.n_watched.load(Ordering::SeqCst)
    }

    /// `true` if nobody watched the user before.
    pub(crate) fn join(&self, user_id: &UserId, mailbox: &Arc<Mailbox>) -> bool {
        let mut state = lock(&self.state);
        let audience = state.users.entry(user_id.clone()).or_default();
        let is_first = audience.watchers.is_empty();
        audience.watchers.push(Arc::clone(mailbox));
        if is_first {
            state.changes.note(user_id.clone(), true);
        }
        self.count(&state);
        is_first
    }

    /// `true` if nobody watches the user any more.
    pub(crate) fn leave(&self, user_id: &UserId, mailbox: &Arc<Mailbox>) -> bool {
        let mut state = lock(&self.state);
        let Some(Audience { watchers, .. }) = state.users.get_mut(user_id) else {
            return false;
        };
        watchers.retain(|watcher| !Arc::ptr_eq(watcher, mailbox));
        let was_last = watchers.is_empty();
        if was_last {
            state.users.remove(user_id);
            state.unsettled.forget(user_id);
            state.changes.note(user_id.clone(), false);
        }
        self.count(&state);
        was_last
    }

    /// All watched users; their changes up to here are forgotten.
    pub(crate) fn all_and_forget_changes(&self) -> Vec<UserId> {
        let mut state = lock(&self.state);
        state.changes.take();
        state.users.keys().cloned().collect()
    }

    pub(crate) fn take_changes(&self) -> HashMap<UserId, bool> {
        lock(&self.state).changes.take()
    }

    fn count(&self, state: &State) {
        self.n_watched.store(state.users.len(), Ordering::SeqCst);
    }

    /// The next users in turn, at most `len_max` and none twice.
    pub(crate) fn next(&self, len_max: usize) -> Vec<UserId> {
        let mut state = lock(&self.state);
        let after = match &state.last {
            Some(last) => Bound::Excluded(last),
            None => Bound::Unbounded,
        };
        let rest = state.users.range((after, Bound::Unbounded));
        let next: Vec<_> = rest
            .chain(&state.users)
            .map(|(user_id, _)| user_id.clone())
            .take(len_max.min(state.users.len()))
            .collect();
        state.last = next.last().cloned();
        next
    }

    /// Records the answer to a session that watches the user.
    pub(crate) fn note_shown(&self, user_id: &UserId, orders: &[OrderEvent]) {
        let mut state = lock(&self.state);
        let State {
            users, unsettled, ..
        } = &mut *state;
        let Some(audience) = users.get_mut(user_id) else {
            return;
        };
        // Two answers may differ: looks continue from the one that reached less far.
        let newest = orders.first().map(|event| event.order_id);
        audience.looked = Some(match audience.looked {
            Some(looked) => Looked {
                newest: looked.newest.min(newest),
                floor: looked.floor.min(newest),
            },
            None => Looked {
                newest,
                floor: newest,
            },
        });
        unsettled.note_shown(orders);
    }

    /// Records a look at the newest orders of a user, newest first, and keeps those that a
    /// session may miss: the first `n_always`, new ones, and those that have moved since they
    /// were shown.
    pub(crate) fn note_look(
        &self,
        user_id: &UserId,
        orders: &mut Vec<OrderEvent>,
        n_always: usize,
    ) {
        let mut state = lock(&self.state);
        let State {
            users, unsettled, ..
        } = &mut *state;
        let looked = users.get_mut(user_id).and_then(|user| user.looked.as_mut());
        let Some(looked) = looked else {
            return orders.clear();
        };
        let floor = std::mem::replace(&mut looked.floor, looked.newest);
        let newest = orders.first().map(|event| event.order_id);
        looked.newest = looked.newest.max(newest);
        let mut n_before = 0..;
        orders.retain(|event| {
            let offered = unsettled.offered(event);
            n_before.next() < Some(n_always)
                || Some(event.order_id) > floor
                || offered.is_some_and(|version| version < event.version)
        });
    }

    /// Whether older orders than the oldest one of a look may be new.
    pub(crate) fn is_above_floor(&self, oldest: &OrderEvent) -> bool {
        let state = lock(&self.state);
        let looked = state
            .users
            .get(&oldest.user_id)
            .and_then(|user| user.looked);
        looked.is_some_and(|looked| Some(oldest.order_id) > looked.floor)
    }

    /// The orders of all users to ask about next, at most `len_max`.
    pub(crate) fn next_unsettled(&self, depth: Depth, len_max: usize) -> Vec<OrderId> {
        lock(&self.state).unsettled.next(depth, len_max)
    }

    /// How many orders of all users are followed until they are settled.
    pub(crate) fn n_unsettled(&self) -> usize {
        lock(&self.state).unsettled.len()
    }
}
