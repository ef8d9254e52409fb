//! What waits for one session: at most one event per subscription, the newest.
//!
//! A mailbox belongs to one session and has one reader. It allocates nothing before the
//! first subscription, so an idle session costs little more than its locks.

use std::sync::{Arc, Mutex};

use order_core::{Error, OrderId, Version};
use tokio::sync::Notify;

use crate::{Form, SharedEvent, lock};

/// One event for one session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The form the session asked for when it subscribed.
    pub form: Form,
    /// The event, shared with the other sessions that get it.
    pub event: Arc<SharedEvent>,
}

/// What became of an event that was offered to a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It waits for the reader.
    Queued,
    /// It waits for the reader in place of an older one, which is skipped.
    Conflated,
    /// The reader has this version or a newer one.
    NotNewer,
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Few per session, so a linear search beats a map in time and memory.
    entries: Vec<Entry>,
    /// Whether an open entry has an event; the reader has been woken then.
    is_ready: bool,
}

#[derive(Debug)]
struct Entry {
    order_id: OrderId,
    /// The form asked for by the last subscription that succeeded, if one has.
    form: Option<Form>,
    /// The newest version the reader has seen.
    seen: Version,
    /// While the state is being read from the store, events are kept back: the answer to
    /// the subscription comes first.
    is_opening: bool,
    pending: Option<Arc<SharedEvent>>,
}

impl State {
    fn find(&mut self, order_id: OrderId) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| entry.order_id == order_id)
    }
}

impl Mailbox {
    /// Begins a subscription: from now on events of the order are kept. `true` if the
    /// order is new to this mailbox.
    pub(crate) fn open(&self, order_id: OrderId, len_max: usize) -> Result<bool, Error> {
        let mut state = lock(&self.state);
        if let Some(entry) = state.find(order_id) {
            entry.is_opening = true;
            return Ok(false);
        }
        if state.entries.len() >= len_max {
            return Err(Error::LimitExceeded {
                what: "subscriptions per connection".to_owned(),
                limit: len_max as u64,
            });
        }
        if state.entries.is_empty() {
            // Most sessions watch one order; the default growth would begin with four.
            state.entries.reserve_exact(1);
        }
        state.entries.push(Entry {
            order_id,
            form: None,
            seen: 0,
            is_opening: true,
            pending: None,
        });
        Ok(true)
    }

    /// Ends the opening of a subscription whose answer reaches up to `version`; what is
    /// newer is forwarded in `form` from here on.
    pub(crate) fn establish(&self, order_id: OrderId, form: Form, version: Version) {
        let mut state = lock(&self.state);
        let Some(entry) = state.find(order_id) else {
            return;
        };
        entry.seen = entry.seen.max(version);
        entry.form = Some(form);
        self.end_opening(&mut state, order_id);
    }

    /// Gives up the opening of a subscription. `true` if the order is forgotten, `false` if
    /// an earlier subscription of it goes on.
    pub(crate) fn abandon(&self, order_id: OrderId) -> bool {
        let mut state = lock(&self.state);
        if state
            .find(order_id)
            .is_some_and(|entry| entry.form.is_some())
        {
            self.end_opening(&mut state, order_id);
            return false;
        }
        state.entries.retain(|entry| entry.order_id != order_id);
        true
    }

    fn end_opening(&self, state: &mut State, order_id: OrderId) {
        let Some(entry) = state.find(order_id) else {
            return;
        };
        entry.is_opening = false;
        let seen = entry.seen;
        // What came in while the answer was read is part of the answer.
        entry.pending.take_if(|event| event.version() <= seen);
        if entry.pending.is_some() {
            self.make_ready(state);
        }
    }

    /// Ends a subscription. `false` if there was none.
    pub(crate) fn remove(&self, order_id: OrderId) -> bool {
        let mut state = lock(&self.state);
        let n_before = state.entries.len();
        state.entries.retain(|entry| entry.order_id != order_id);
        state.entries.len() < n_before
    }

    /// Ends all subscriptions and returns their orders.
    pub(crate) fn clear(&self) -> Vec<OrderId> {
        std::mem::take(&mut lock(&self.state).entries)
            .into_iter()
            .map(|entry| entry.order_id)
            .collect()
    }

    /// Offers an event. Never blocks beyond the lock.
    pub(crate) fn offer(&self, event: &Arc<SharedEvent>) -> Offered {
        let mut state = lock(&self.state);
        let Some(entry) = state.find(event.event().order_id) else {
            return Offered::NotNewer;
        };
        let newest = entry
            .pending
            .as_ref()
            .map_or(entry.seen, |pending| pending.version().max(entry.seen));
        if event.version() <= newest {
            return Offered::NotNewer;
        }
        let skipped = entry.pending.replace(Arc::clone(event));
        self.make_ready(&mut state);
        if skipped.is_some() {
            Offered::Conflated
        } else {
            Offered::Queued
        }
    }

    /// Wakes the reader unless it has been woken and has not come yet.
    fn make_ready(&self, state: &mut State) {
        if !std::mem::replace(&mut state.is_ready, true) {
            self.wake.notify_one();
        }
    }

    /// Appends everything that waits to `deliveries`.
    pub(crate) fn take(&self, deliveries: &mut Vec<Delivery>) {
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.is_ready, false) {
            return;
        }
        for entry in state.entries.iter_mut().filter(|entry| !entry.is_opening) {
            if let Some(form) = entry.form
                && let Some(event) = entry.pending.take()
            {
                entry.seen = event.version();
                deliveries.push(Delivery { form, event });
            }
        }
    }

    /// Waits until something may be there to take.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}
