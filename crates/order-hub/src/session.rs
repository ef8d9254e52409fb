//! The subscriptions of one reader: what it follows, and what it is answered.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use order_core::{
    CallContext, Error, OrderEvent, OrderId, OrderReads, OrderState, OrderStatus, UserId, Version,
    WatchOrder,
};
use tokio::time::timeout;

use crate::{
    Form, Inbox,
    gap::READ_TIMEOUT,
    hub::Shared,
    mailbox::{Mailbox, Watcher},
    reconcile::BATCH_LEN_MAX,
    user_feed::SNAPSHOT_LEN_MAX,
};

/// The most events that are replayed to a subscriber; one that missed more starts over
/// from the current state.
pub const REPLAY_LEN_MAX: usize = 300;

/// The most events that are replayed for one list of orders: they wait in memory for the reader.
const REPLAYS_LEN_MAX: usize = 1_000;

/// The answer to a subscription: where the order stands, and how the subscriber gets there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The order.
    pub order_id: OrderId,
    /// The version this answer leads to; everything newer follows through the inbox.
    pub version: Version,
    /// How the subscriber catches up.
    pub catch_up: CatchUp,
}

/// How a subscriber catches up with an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Every event after the version the subscriber named, oldest first, at most
    /// [`REPLAY_LEN_MAX`].
    Replay(Vec<OrderEvent>),
    /// The event that led to the current state: the subscriber named no version, or one
    /// that cannot be continued without a gap.
    Snapshot(OrderEvent),
}

impl Subscribed {
    /// The events of the answer, oldest first.
    pub fn into_events(self) -> Vec<OrderEvent> {
        match self.catch_up {
            CatchUp::Replay(events) => events,
            CatchUp::Snapshot(event) => vec![event],
        }
    }
}

/// The answer to the subscription of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribedUser {
    /// The user.
    pub user_id: UserId,
    /// Where the 100 newest orders of the user stand, newest id first, each as the event
    /// that led there. Everything newer follows through the inbox.
    pub orders: Vec<OrderEvent>,
}

/// The subscriptions of one reader. Dropping it ends them all.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    /// The only user whose orders may be followed, if there is such a limit.
    scope: Option<UserId>,
    subscriptions_max: usize,
}

impl Session {
    /// A session that is counted already, until it is dropped.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        subscriptions_max: usize,
        watcher: Watcher,
    ) -> (Self, Inbox) {
        let mailbox = Arc::new(Mailbox::new(watcher));
        let inbox = Inbox::new(Arc::clone(shared), Arc::clone(&mailbox));
        let session = Self {
            shared: Arc::clone(shared),
            mailbox,
            scope: None,
            subscriptions_max,
        };
        (session, inbox)
    }

    /// From now on the session may begin to follow only this user and orders of this user.
    /// What it follows already goes on.
    pub fn restrict_to(&mut self, user_id: UserId) {
        self.scope = Some(user_id);
    }

    /// Follows an order: registers, reads the state from the store, then forwards what is
    /// newer to the inbox in `form`. Events arrive there only after this call has returned.
    ///
    /// Subscribing again in the same form reads again; no version is delivered twice. The two
    /// forms of an order are two subscriptions: each gets what it would get without the other.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] beyond the subscriptions of a session,
    /// [`Error::OrderNotFound`], also for an order that the session may not follow, or what
    /// the store answers. An error leaves the session as it was before.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the session as it was before.
    pub async fn subscribe(
        &mut self,
        ctx: &CallContext,
        order: WatchOrder,
        form: Form,
    ) -> Result<Subscribed, Error> {
        let opening = Opening::begin(self, Subject::Order(order.order_id, form))?;
        let read = read(&*self.shared.store, ctx, order, self.scope.as_ref());
        let subscribed = self.shared.in_turn(read).await?;
        self.mailbox
            .establish(order.order_id, form, subscribed.version);
        opening.complete();
        Ok(subscribed)
    }

    /// Follows many orders, each as [`Session::subscribe`] does: registers all of them first, then
    /// reads where they stand, 1,000 in one statement, and for each that the subscriber missed
    /// more than one version of, its history. The answers are in the order of the input, have its
    /// length and replay at most 1,000 events together: an order beyond that starts over from its
    /// current state.
    ///
    /// # Errors
    /// Each order fails alone, as for [`Session::subscribe`]; [`Error::DeadlineExceeded`] if the
    /// statement of an order takes 5 s.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the session as it was before.
    pub async fn subscribe_many(
        &mut self,
        ctx: &CallContext,
        orders: &[WatchOrder],
        form: Form,
    ) -> Vec<Result<Subscribed, Error>> {
        let begin = |order: &WatchOrder| Opening::begin(self, Subject::Order(order.order_id, form));
        let mut openings: VecDeque<_> = orders.iter().map(begin).collect();
        let mut answers = Vec::with_capacity(orders.len());
        let mut n_left = REPLAYS_LEN_MAX;
        for orders in orders.chunks(BATCH_LEN_MAX) {
            answers.extend(self.read_many(ctx, orders, &mut n_left).await);
        }
        // Nothing waits from here on, so what is newer comes after these answers.
        for answer in &mut answers {
            match (openings.pop_front(), &answer) {
                (Some(Ok(opening)), Ok(subscribed)) => {
                    let Subscribed {
                        order_id, version, ..
                    } = *subscribed;
                    self.mailbox.establish(order_id, form, version);
                    opening.complete();
                }
                (Some(Err(error)), _) => *answer = Err(error),
                _ => {}
            }
        }
        answers
    }

    /// Reads the answers to a batch of subscriptions, which may replay `n_left` events.
    async fn read_many(
        &self,
        ctx: &CallContext,
        orders: &[WatchOrder],
        n_left: &mut usize,
    ) -> Vec<Result<Subscribed, Error>> {
        let store = &*self.shared.store;
        let order_ids: Vec<_> = orders.iter().map(|order| order.order_id).collect();
        let read = timeout(READ_TIMEOUT, self.shared.in_turn(store.states(&order_ids)));
        let states = match read.await.unwrap_or(Err(Error::DeadlineExceeded)) {
            Ok(states) => states,
            Err(error) => {
                let failed = orders.iter().map(|_| Err(error.without_source()));
                return failed.collect();
            }
        };
        let is_allowed =
            |state: &OrderState| self.scope.as_ref().is_none_or(|id| state.user_id == *id);
        let allowed = states.into_iter().filter(is_allowed);
        let last_of: HashMap<_, _> = allowed
            .map(|state| (state.order_id, state.into_event()))
            .collect();
        let mut answers = Vec::with_capacity(orders.len());
        for &WatchOrder { order_id, since } in orders {
            let Some(last) = last_of.get(&order_id) else {
                answers.push(Err(Error::OrderNotFound { order_id }));
                continue;
            };
            let is_affordable = |since: &Version| {
                let n_missed = last.version.saturating_sub(*since);
                usize::try_from(n_missed).is_ok_and(|n_missed| n_missed <= *n_left)
            };
            let read = continued(store, ctx, last, since.filter(is_affordable));
            let answer = self.shared.in_turn(read).await;
            if let Ok(Subscribed {
                catch_up: CatchUp::Replay(events),
                ..
            }) = &answer
            {
                *n_left = n_left.saturating_sub(events.len());
            }
            answers.push(answer);
        }
        answers
    }

    /// Follows all orders of a user, also those that are still to come: registers, reads
    /// where the newest 100 stand, then forwards every event of every order in
    /// [`Form::Full`]. An order that is newer than those in the answer begins with its
    /// version 1; an older one with whatever happens to it next.
    ///
    /// An order that is also followed by itself in the same form is forwarded once. The
    /// versions of the 1000 newest orders are remembered, and of those that are unfinished; an
    /// event of another one that is published late or again is forwarded again.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] for a user that the session may not follow,
    /// [`Error::LimitExceeded`] beyond the subscriptions of a session,
    /// [`Error::DeadlineExceeded`] after 5 s, or what the store answers. An error leaves
    /// the session as it was before.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the session as it was before.
    pub async fn subscribe_user(&mut self, user_id: UserId) -> Result<SubscribedUser, Error> {
        if self.scope.as_ref().is_some_and(|scope| *scope != user_id) {
            return Err(Error::PermissionDenied {
                what: "following another user".to_owned(),
            });
        }
        let opening = Opening::begin(self, Subject::User(user_id.clone()))?;
        let user_ids = [user_id];
        let read = self.shared.store.recent_states(&user_ids, SNAPSHOT_LEN_MAX);
        let states = timeout(READ_TIMEOUT, self.shared.in_turn(read))
            .await
            .map_err(|_| Error::DeadlineExceeded)??;
        let [user_id] = user_ids;
        let orders: Vec<_> = states.into_iter().map(OrderState::into_event).collect();
        self.mailbox.establish_user(&user_id, &orders);
        self.shared.topics.note_shown(&user_id, &orders);
        opening.complete();
        Ok(SubscribedUser { user_id, orders })
    }

    /// Stops following an order by itself, in whatever form; its user may still be followed.
    /// `false` if it was not followed.
    pub fn unsubscribe(&mut self, order_id: OrderId) -> bool {
        let mut was_subscribed = false;
        for form in [Form::Bare, Form::Full] {
            if self.mailbox.remove(order_id, form) {
                self.shared.topics.leave(order_id, &self.mailbox);
                was_subscribed = true;
            }
        }
        was_subscribed
    }

    /// Stops following a user; orders that are followed by themselves go on. `false` if the
    /// user was not followed.
    pub fn unsubscribe_user(&mut self, user_id: &UserId) -> bool {
        let was_subscribed = self.mailbox.remove_user(user_id);
        if was_subscribed {
            self.shared.topics.leave_user(user_id, &self.mailbox);
        }
        was_subscribed
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (order_ids, user_ids) = self.mailbox.clear();
        for order_id in order_ids {
            self.shared.topics.leave(order_id, &self.mailbox);
        }
        for user_id in user_ids {
            self.shared.topics.leave_user(&user_id, &self.mailbox);
        }
        self.shared.leave();
    }
}

/// What a subscription is about.
enum Subject {
    Order(OrderId, Form),
    User(UserId),
}

/// A registration whose answer is still being read. Dropped before it is complete, it
/// takes the registration back.
struct Opening {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    subject: Subject,
    is_complete: bool,
}

impl Opening {
    fn begin(session: &Session, subject: Subject) -> Result<Self, Error> {
        let Session {
            shared, mailbox, ..
        } = session;
        let len_max = session.subscriptions_max;
        // The mailbox comes first: an event that is offered to a mailbox without an entry
        // is dropped, and from `join` on none may be.
        match &subject {
            // A mailbox joins once for each form, and leaves as often.
            Subject::Order(order_id, form) => {
                if mailbox.open(*order_id, *form, len_max)? {
                    shared.topics.join(*order_id, mailbox);
                }
            }
            Subject::User(user_id) => {
                if mailbox.open_user(user_id, len_max)? {
                    shared.topics.join_user(user_id, mailbox);
                }
            }
        }
        Ok(Self {
            shared: Arc::clone(shared),
            mailbox: Arc::clone(mailbox),
            subject,
            is_complete: false,
        })
    }

    fn complete(mut self) {
        self.is_complete = true;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        match &self.subject {
            Subject::Order(order_id, form) => {
                if self.mailbox.abandon(*order_id, *form) {
                    self.shared.topics.leave(*order_id, &self.mailbox);
                }
            }
            Subject::User(user_id) => {
                if self.mailbox.abandon_user(user_id) {
                    self.shared.topics.leave_user(user_id, &self.mailbox);
                }
            }
        }
    }
}

/// Reads where the order stands and what the subscriber missed. An order out of `scope` is
/// answered as one that does not exist.
async fn read(
    store: &dyn OrderReads,
    ctx: &CallContext,
    WatchOrder { order_id, since }: WatchOrder,
    scope: Option<&UserId>,
) -> Result<Subscribed, Error> {
    let order = store
        .find(ctx, order_id)
        .await?
        .filter(|order| scope.is_none_or(|user_id| order.user_id == *user_id))
        .ok_or(Error::OrderNotFound { order_id })?;
    if let Some(since) = since
        && let Some(events) = replay(store, ctx, (order_id, order.version), since).await?
    {
        return Ok(Subscribed {
            order_id,
            version: events.last().map_or(order.version, |last| last.version),
            catch_up: CatchUp::Replay(events),
        });
    }
    let snapshot = match order.status {
        // Why it was cancelled is in its history only.
        OrderStatus::Cancelled => {
            let last = store.events(ctx, order_id, order.version - 1, 1).await?;
            last.into_iter().next()
        }
        _ => None,
    };
    Ok(Subscribed {
        order_id,
        version: order.version,
        catch_up: CatchUp::Snapshot(snapshot.unwrap_or_else(|| order.last_event())),
    })
}

/// The answer to a subscriber that has seen the version `since` of an order whose last event is
/// `last`.
async fn continued(
    store: &dyn OrderReads,
    ctx: &CallContext,
    last: &OrderEvent,
    since: Option<Version>,
) -> Result<Subscribed, Error> {
    let OrderEvent {
        order_id, version, ..
    } = *last;
    let missed = match since {
        Some(since) if since.checked_add(1) == Some(version) => Some(vec![last.clone()]),
        Some(since) => replay(store, ctx, (order_id, version), since).await?,
        None => None,
    };
    Ok(Subscribed {
        order_id,
        version: missed
            .as_ref()
            .and_then(|events| events.last())
            .map_or(version, |last| last.version),
        catch_up: missed.map_or_else(|| CatchUp::Snapshot(last.clone()), CatchUp::Replay),
    })
}

/// Every event after `since`, or `None` if they cannot be given without a gap: `since` is
/// ahead of the order, too far behind, or the history does not reach back to it.
async fn replay(
    store: &dyn OrderReads,
    ctx: &CallContext,
    (order_id, version): (OrderId, Version),
    since: Version,
) -> Result<Option<Vec<OrderEvent>>, Error> {
    let Some(n_missed) = version.checked_sub(since).map(|n| n as usize) else {
        return Ok(None);
    };
    if n_missed == 0 {
        return Ok(Some(Vec::new()));
    }
    if n_missed > REPLAY_LEN_MAX {
        return Ok(None);
    }
    let events = store.events(ctx, order_id, since, REPLAY_LEN_MAX).await?;
    let is_gap_free = events
        .iter()
        .zip(u64::from(since) + 1..)
        .all(|(event, version)| u64::from(event.version) == version);
    Ok((is_gap_free && events.len() >= n_missed).then_some(events))
}
