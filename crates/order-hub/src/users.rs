//! Which sessions watch which user.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use order_core::UserId;

use crate::{changes::Changes, lock, mailbox::Mailbox};

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
    watchers: BTreeMap<UserId, Vec<Arc<Mailbox>>>,
    /// The user whose turn was last.
    last: Option<UserId>,
    changes: Changes<UserId>,
}

/// All watched users, held still.
pub(crate) struct Watched<'a>(MutexGuard<'a, State>);

impl Watched<'_> {
    pub(crate) fn watchers_of(&self, user_id: &UserId) -> &[Arc<Mailbox>] {
        self.0.watchers.get(user_id).map_or(&[], Vec::as_slice)
    }
}

impl Users {
    pub(crate) fn new(tracks_changes: bool) -> Self {
        Self {
            state: Mutex::new(State {
                watchers: BTreeMap::new(),
                last: None,
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
        let watchers = state.watchers.entry(user_id.clone()).or_default();
        let is_first = watchers.is_empty();
        watchers.push(Arc::clone(mailbox));
        if is_first {
            state.changes.note(user_id.clone(), true);
        }
        self.count(&state);
        is_first
    }

    /// `true` if nobody watches the user any more.
    pub(crate) fn leave(&self, user_id: &UserId, mailbox: &Arc<Mailbox>) -> bool {
        let mut state = lock(&self.state);
        let Some(watchers) = state.watchers.get_mut(user_id) else {
            return false;
        };
        watchers.retain(|watcher| !Arc::ptr_eq(watcher, mailbox));
        let was_last = watchers.is_empty();
        if was_last {
            state.watchers.remove(user_id);
            state.changes.note(user_id.clone(), false);
        }
        self.count(&state);
        was_last
    }

    /// All watched users; their changes up to here are forgotten.
    pub(crate) fn all_and_forget_changes(&self) -> Vec<UserId> {
        let mut state = lock(&self.state);
        state.changes.take();
        state.watchers.keys().cloned().collect()
    }

    pub(crate) fn take_changes(&self) -> HashMap<UserId, bool> {
        lock(&self.state).changes.take()
    }

    fn count(&self, state: &State) {
        self.n_watched.store(state.watchers.len(), Ordering::SeqCst);
    }

    /// The next users in turn, at most `len_max` and none twice.
    pub(crate) fn next(&self, len_max: usize) -> Vec<UserId> {
        let mut state = lock(&self.state);
        let after = match &state.last {
            Some(last) => Bound::Excluded(last),
            None => Bound::Unbounded,
        };
        let rest = state.watchers.range((after, Bound::Unbounded));
        let next: Vec<_> = rest
            .chain(&state.watchers)
            .map(|(user_id, _)| user_id.clone())
            .take(len_max.min(state.watchers.len()))
            .collect();
        state.last = next.last().cloned();
        next
    }
}
