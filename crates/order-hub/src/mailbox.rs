//! What waits for one session: at most one event per order and form, the newest.
//!
//! A mailbox belongs to one session and has one reader. It allocates nothing before the
//! first subscription, so an idle session costs little more than its locks. A session follows
//! one order or, for another process, 100,000: an offer, and each event taken, costs the same
//! in both.
//!
//! The bare and the full form of an order are two subscriptions that know nothing of each
//! other. Users are followed in full form: an order that the session follows in full form both
//! by itself and by its user waits once, as the order that is followed by itself. An answer to
//! a subscription starts the orders it names over, in its form: what they were before is no
//! longer handed out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use order_core::{Error, OrderEvent, OrderId, UserId, Version};
use tokio::sync::Notify;

use crate::{
    Form, SharedEvent,
    gap::Gap,
    lock,
    offer::{Delivery, Offer, Offered, Source},
    user_feed::{FEED_LEN_MAX, UserFeed},
};

/// The reader of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watcher {
    /// A client: a socket, or a stream of events.
    Client,
    /// A gateway, for its own clients.
    Gateway,
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) watcher: Watcher,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// The entries with an event since the reader last came, each once. One whose event
    /// follows a gap stays until the gap is filled.
    queued: Vec<Key>,
    /// One for each user the session follows.
    feeds: Vec<UserFeed>,
    /// Whether an open entry or feed has an event; the reader has been woken then.
    is_ready: bool,
    /// Whether more orders of a user waited than there is room for.
    has_overflowed: bool,
}

/// Identifies an entry.
type Key = (OrderId, Form);

#[derive(Debug, Default)]
struct Entry {
    /// Whether a subscription has succeeded.
    is_established: bool,
    /// The newest version the reader has seen in this form.
    seen: Version,
    /// While the state is being read from the store, events are kept back: the answer to
    /// the subscription comes first.
    is_opening: bool,
    pending: Option<Arc<SharedEvent>>,
    /// Whether its key is in the queue.
    is_queued: bool,
}

impl Entry {
    /// Takes note that the reader has `version`. `true` if something newer waits.
    fn advance(&mut self, version: Version) -> bool {
        self.seen = self.seen.max(version);
        let seen = self.seen;
        self.pending.take_if(|event| event.version() <= seen);
        self.pending.is_some()
    }

    fn offer(&mut self, event: &Arc<SharedEvent>) -> Offered {
        let pending = self.pending.as_ref().map(|pending| pending.version());
        if event.version() <= pending.unwrap_or_default().max(self.seen) {
            return Offered::NotNewer;
        }
        match self.pending.replace(Arc::clone(event)) {
            Some(_) => Offered::Conflated,
            None => Offered::Queued,
        }
    }

    /// The version the reader has seen, if events may be handed out.
    fn cursor(&mut self) -> Option<&mut Version> {
        (self.is_established && !self.is_opening).then_some(&mut self.seen)
    }

    /// Hands out what waits unless it follows a gap, which is then returned.
    fn take(&mut self, form: Form, deliveries: &mut Vec<Delivery>) -> Option<Gap> {
        let seen = *self.cursor()?;
        let pending = self.pending.as_ref()?;
        if form == Form::Full
            && let Some(gap) = Gap::before(pending, seen)
        {
            return Some(gap);
        }
        if let Some(event) = self.pending.take() {
            self.seen = event.version();
            deliveries.push(Delivery { form, event });
        }
        None
    }
}

impl State {
    fn find(&mut self, order_id: OrderId, form: Form) -> Option<&mut Entry> {
        self.entries.get_mut(&(order_id, form))
    }

    /// Has the reader look at an entry.
    fn queue(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !std::mem::replace(&mut entry.is_queued, true)
        {
            self.queued.push(key);
        }
    }

    /// Hands out what waits in the queue, and returns one of the gaps that are in the way.
    fn take_queued(&mut self, deliveries: &mut Vec<Delivery>) -> Option<Gap> {
        let mut first_gap = None;
        let entries = &mut self.entries;
        self.queued.retain(|key| {
            let Some(entry) = entries.get_mut(key) else {
                return false;
            };
            let gap = entry.take(key.1, deliveries);
            entry.is_queued = gap.is_some();
            first_gap = first_gap.take().or(gap);
            entry.is_queued
        });
        // A burst is not to be paid for in memory afterwards.
        if self.queued.is_empty() {
            self.queued = Vec::new();
        }
        first_gap
    }

    fn find_feed(&mut self, user_id: &UserId) -> Option<&mut UserFeed> {
        self.feeds.iter_mut().find(|feed| feed.user_id == *user_id)
    }

    fn check_room(&self, len_max: usize) -> Result<(), Error> {
        if self.entries.len() + self.feeds.len() < len_max {
            return Ok(());
        }
        Err(Error::LimitExceeded {
            what: "subscriptions per connection".to_owned(),
            limit: len_max as u64,
        })
    }

    /// Forgets an order in one form, or leaves it to the feed of its user. `false` if it was
    /// not followed in that form.
    fn remove(&mut self, order_id: OrderId, form: Form) -> bool {
        let Some(entry) = self.entries.remove(&(order_id, form)) else {
            return false;
        };
        if entry.is_queued {
            self.queued.retain(|key| *key != (order_id, form));
        }
        if form == Form::Bare {
            return true;
        }
        // Whose order it is nobody has said, so every feed remembers it.
        for feed in &mut self.feeds {
            feed.remember(order_id, entry.seen);
        }
        if let Some(event) = entry.pending
            && let Some(feed) = self.find_feed(&event.event().user_id)
        {
            let offer = Offer {
                event: &event,
                known: None,
                source: Source::Bus,
            };
            if feed.offer(offer) == Offered::Overflowed {
                self.overflow();
            }
        }
        true
    }

    /// Offers an event to every subscription it is for. The worst is returned.
    fn offer(&mut self, offer: Offer<'_>) -> Offered {
        let OrderEvent {
            order_id, user_id, ..
        } = offer.event.event();
        let mut bare = Offered::NotNewer;
        if let Some(entry) = self.find(*order_id, Form::Bare) {
            bare = entry.offer(offer.event);
            self.queue((*order_id, Form::Bare));
        }
        let full = if let Some(entry) = self.find(*order_id, Form::Full) {
            let offered = entry.offer(offer.event);
            self.queue((*order_id, Form::Full));
            offered
        } else if let Some(feed) = self.find_feed(user_id) {
            feed.offer(offer)
        } else {
            Offered::NotNewer
        };
        bare.max(full)
    }

    /// What the feed of its user knows of an order and has waiting, for a subscription in
    /// the same form.
    fn hand_over(
        &mut self,
        order_id: OrderId,
        form: Form,
    ) -> Option<(Version, Option<Arc<SharedEvent>>)> {
        if form == Form::Bare {
            return None;
        }
        let mut feeds = self.feeds.iter_mut();
        feeds.find_map(|feed| feed.hand_over(order_id))
    }

    fn overflow(&mut self) {
        self.has_overflowed = true;
        for feed in &mut self.feeds {
            feed.clear();
        }
    }
}

impl Mailbox {
    pub(crate) fn new(watcher: Watcher) -> Self {
        Self {
            watcher,
            state: Mutex::default(),
            wake: Notify::default(),
        }
    }

    /// Begins a subscription: from now on events of the order are kept. `true` if the
    /// order is new to this mailbox in this form.
    pub(crate) fn open(
        &self,
        order_id: OrderId,
        form: Form,
        len_max: usize,
    ) -> Result<bool, Error> {
        let mut state = lock(&self.state);
        if let Some(entry) = state.find(order_id, form) {
            entry.is_opening = true;
            return Ok(false);
        }
        state.check_room(len_max)?;
        let (seen, pending) = state.hand_over(order_id, form).unwrap_or_default();
        let entry = Entry {
            seen,
            is_opening: true,
            pending,
            ..Entry::default()
        };
        state.entries.insert((order_id, form), entry);
        Ok(true)
    }

    /// Ends the opening of a subscription whose answer reaches up to `version`; what is
    /// newer is forwarded from here on.
    pub(crate) fn establish(&self, order_id: OrderId, form: Form, version: Version) {
        let mut state = lock(&self.state);
        let Some(entry) = state.find(order_id, form) else {
            return;
        };
        entry.is_established = true;
        entry.is_opening = false;
        // What came in while the answer was read is part of the answer.
        if entry.advance(version) {
            state.queue((order_id, form));
            self.make_ready(&mut state);
        }
    }

    /// Gives up the opening of a subscription. `true` if it is forgotten, `false` if an
    /// earlier one of the same order in the same form goes on.
    pub(crate) fn abandon(&self, order_id: OrderId, form: Form) -> bool {
        let mut state = lock(&self.state);
        // Whatever goes on may have been kept back.
        self.make_ready(&mut state);
        match state.find(order_id, form) {
            Some(entry) if entry.is_established => {
                entry.is_opening = false;
                state.queue((order_id, form));
                false
            }
            _ => state.remove(order_id, form),
        }
    }

    /// Ends a subscription. `false` if there was none.
    pub(crate) fn remove(&self, order_id: OrderId, form: Form) -> bool {
        let mut state = lock(&self.state);
        self.make_ready(&mut state);
        state.remove(order_id, form)
    }

    /// Does for a user what [`Mailbox::open`] does for an order.
    pub(crate) fn open_user(&self, user_id: &UserId, len_max: usize) -> Result<bool, Error> {
        let mut state = lock(&self.state);
        if let Some(feed) = state.find_feed(user_id) {
            feed.open();
            return Ok(false);
        }
        state.check_room(len_max)?;
        state.feeds.push(UserFeed::new(user_id.clone()));
        Ok(true)
    }

    /// Does for a user what [`Mailbox::establish`] does for an order. `snapshot` is the
    /// answer, newest id first.
    pub(crate) fn establish_user(&self, user_id: &UserId, snapshot: &[OrderEvent]) {
        let mut state = lock(&self.state);
        for event in snapshot {
            if let Some(entry) = state.find(event.order_id, Form::Full) {
                entry.advance(event.version);
            }
        }
        if let Some(feed) = state.find_feed(user_id) {
            feed.establish(snapshot);
            if feed.is_waiting() {
                self.make_ready(&mut state);
            }
        }
    }

    /// Does for a user what [`Mailbox::abandon`] does for an order.
    pub(crate) fn abandon_user(&self, user_id: &UserId) -> bool {
        let mut state = lock(&self.state);
        match state.find_feed(user_id) {
            Some(feed) if feed.is_established() => {
                feed.end_opening();
                self.make_ready(&mut state);
                false
            }
            _ => {
                state.feeds.retain(|feed| feed.user_id != *user_id);
                true
            }
        }
    }

    /// Ends the subscription of a user. `false` if there was none.
    pub(crate) fn remove_user(&self, user_id: &UserId) -> bool {
        let mut state = lock(&self.state);
        let n_before = state.feeds.len();
        state.feeds.retain(|feed| feed.user_id != *user_id);
        state.feeds.len() < n_before
    }

    /// Ends all subscriptions and returns the orders and users of each.
    pub(crate) fn clear(&self) -> (Vec<OrderId>, Vec<UserId>) {
        let mut state = lock(&self.state);
        let entries = std::mem::take(&mut state.entries);
        let feeds = std::mem::take(&mut state.feeds);
        (
            entries.into_keys().map(|(order_id, _)| order_id).collect(),
            feeds.into_iter().map(|feed| feed.user_id).collect(),
        )
    }

    /// Offers an event. Never blocks beyond the lock.
    pub(crate) fn offer(&self, offer: Offer<'_>) -> Offered {
        let mut state = lock(&self.state);
        if state.has_overflowed {
            return Offered::NotNewer;
        }
        let offered = state.offer(offer);
        if offered == Offered::Overflowed {
            state.overflow();
        }
        if offered != Offered::NotNewer {
            self.make_ready(&mut state);
        }
        offered
    }

    /// Wakes the reader unless it has been woken and has not come yet.
    fn make_ready(&self, state: &mut State) {
        if !std::mem::replace(&mut state.is_ready, true) {
            self.wake.notify_one();
        }
    }

    /// Appends everything that waits to `deliveries`, but for what follows a gap: that
    /// stays, and one of the gaps is returned.
    fn take(&self, deliveries: &mut Vec<Delivery>) -> Result<Option<Gap>, Error> {
        let mut state = lock(&self.state);
        if state.has_overflowed {
            return Err(Error::LimitExceeded {
                what: "orders of a user that wait for the reader".to_owned(),
                limit: FEED_LEN_MAX as u64,
            });
        }
        let mut gap = None;
        if std::mem::replace(&mut state.is_ready, false) {
            gap = state.take_queued(deliveries);
            for feed in &mut state.feeds {
                feed.take(deliveries, &mut gap);
            }
        }
        Ok(gap)
    }

    /// Waits until something can be taken, and takes it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn taken(&self, deliveries: &mut Vec<Delivery>) -> Result<Option<Gap>, Error> {
        let n_before = deliveries.len();
        loop {
            let gap = self.take(deliveries)?;
            if gap.is_some() || deliveries.len() > n_before {
                return Ok(gap);
            }
            self.wake.notified().await;
        }
    }

    /// Appends what was missing to `deliveries` and returns how much that was: nothing if
    /// another answer has brought the reader further meanwhile. What waits behind the gap
    /// can be taken next.
    pub(crate) fn fill(
        &self,
        gap: &Gap,
        events: &[Arc<SharedEvent>],
        deliveries: &mut Vec<Delivery>,
    ) -> usize {
        let mut state = lock(&self.state);
        // This gap was in the way of others, and of what waits behind it.
        state.is_ready = true;
        let seen = if let Some(entry) = state.find(gap.order_id, Form::Full) {
            entry.cursor()
        } else {
            state
                .find_feed(&gap.user_id)
                .and_then(|feed| feed.cursor(gap.order_id))
        };
        let Some(seen) = seen.filter(|seen| **seen == gap.after) else {
            return 0;
        };
        if let Some(last) = events.last() {
            *seen = last.version();
        }
        deliveries.extend(events.iter().map(|event| Delivery {
            form: Form::Full,
            event: Arc::clone(event),
        }));
        events.len()
    }
}
