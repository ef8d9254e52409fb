//! An order store of histories, with a hook where the world may change in between.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use order_core::{
    CallContext, Cause, Clock, Deadline, Error, Metadata, Money, Order, OrderEvent, OrderId,
    OrderReads, OrderState, OrderStatus, RequestId, UserId, Version, WatchOrder,
    supervisor::Supervisor,
};
use uuid::Uuid;

use crate::lock;

/// When a hook of [`FakeStore`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    BeforeRead,
    AfterRead,
    BeforeHistory,
    AfterHistory,
}

/// The clock of the runtime.
struct RuntimeClock;

#[async_trait]
impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn instant(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(RuntimeClock)
}

/// Runs the tasks of a hub.
pub(super) fn supervisor() -> Arc<Supervisor> {
    Supervisor::new(&clock())
}

type Hook = Box<dyn FnMut(Moment) + Send>;

#[derive(Default)]
pub(super) struct FakeStore {
    histories: Mutex<HashMap<OrderId, Vec<OrderEvent>>>,
    hook: Mutex<Option<Hook>>,
    pub(super) is_down: AtomicBool,
    /// `states` fails for every batch that holds this order.
    pub(super) unreadable: Mutex<Option<OrderId>>,
    /// Sizes of the batches asked for by `states`.
    pub(super) batches: Mutex<Vec<usize>>,
    /// The users asked for by `recent_states`, and how many orders of each.
    pub(super) user_batches: Mutex<Vec<(Vec<UserId>, usize)>>,
    /// How many calls of `find` are to hang for ever.
    pub(super) n_hanging: AtomicUsize,
    /// Whether calls of `events` are to hang for ever.
    pub(super) is_history_hanging: AtomicBool,
    /// How many events the calls of `events` asked for.
    pub(super) history_limits: Mutex<Vec<usize>>,
}

impl FakeStore {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn set_hook(&self, hook: impl FnMut(Moment) + Send + 'static) {
        *lock(&self.hook) = Some(Box::new(hook));
    }

    /// Appends a version to the order's history and returns its event.
    pub(super) fn commit(&self, order_id: OrderId, status: OrderStatus) -> OrderEvent {
        self.commit_of("user-1", order_id, status)
    }

    /// Does the same for an order of the named user.
    pub(super) fn commit_of(
        &self,
        user_id: &str,
        order_id: OrderId,
        status: OrderStatus,
    ) -> OrderEvent {
        let mut histories = lock(&self.histories);
        let history = histories.entry(order_id).or_default();
        let version = history.last().map_or(1, |last| last.version + 1);
        let event = OrderEvent {
            user_id: user(user_id),
            ..event(order_id, version, status)
        };
        history.push(event.clone());
        event
    }

    /// Says why the last change of an order was made.
    pub(super) fn give_cause(&self, order_id: OrderId, cause: &Cause) {
        let mut histories = lock(&self.histories);
        let last = histories.get_mut(&order_id).and_then(|h| h.last_mut());
        last.expect("the order exists").cause = Some(cause.clone());
    }

    /// Forgets the oldest versions, as retention would.
    pub(super) fn prune(&self, order_id: OrderId, before: Version) {
        if let Some(history) = lock(&self.histories).get_mut(&order_id) {
            history.retain(|event| event.version >= before);
        }
    }

    fn run_hook(&self, moment: Moment) {
        if let Some(hook) = &mut *lock(&self.hook) {
            hook(moment);
        }
    }

    fn check_up(&self) -> Result<(), Error> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(Error::store_unavailable("down"));
        }
        Ok(())
    }
}

#[async_trait]
impl OrderReads for FakeStore {
    async fn find(&self, _ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error> {
        let countdown = self
            .n_hanging
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if countdown.is_ok() {
            std::future::pending::<()>().await;
        }
        self.check_up()?;
        self.run_hook(Moment::BeforeRead);
        let last = lock(&self.histories)
            .get(&order_id)
            .and_then(|history| history.last().cloned());
        self.run_hook(Moment::AfterRead);
        Ok(last.map(order_at))
    }

    async fn events(
        &self,
        _ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error> {
        if self.is_history_hanging.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.check_up()?;
        lock(&self.history_limits).push(limit);
        self.run_hook(Moment::BeforeHistory);
        let events = lock(&self.histories)
            .get(&order_id)
            .into_iter()
            .flatten()
            .filter(|event| event.version > after)
            .take(limit)
            .cloned()
            .collect();
        self.run_hook(Moment::AfterHistory);
        Ok(events)
    }

    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error> {
        lock(&self.batches).push(order_ids.len());
        self.check_up()?;
        if lock(&self.unreadable).is_some_and(|order_id| order_ids.contains(&order_id)) {
            return Err(Error::store_unavailable("unreadable"));
        }
        let histories = lock(&self.histories);
        let last = |order_id| histories.get(order_id).and_then(|history| history.last());
        Ok(order_ids.iter().filter_map(last).map(state_at).collect())
    }

    async fn recent_states(
        &self,
        user_ids: &[UserId],
        limit_per_user: usize,
    ) -> Result<Vec<OrderState>, Error> {
        lock(&self.user_batches).push((user_ids.to_vec(), limit_per_user));
        self.check_up()?;
        self.run_hook(Moment::BeforeRead);
        let mut states = Vec::new();
        for user_id in user_ids {
            let histories = lock(&self.histories);
            let mut newest: Vec<_> = histories
                .values()
                .filter_map(|history| history.last())
                .filter(|event| event.user_id == *user_id)
                .map(state_at)
                .collect();
            newest.sort_by_key(|state| std::cmp::Reverse(state.order_id));
            states.extend(newest.into_iter().take(limit_per_user));
        }
        self.run_hook(Moment::AfterRead);
        Ok(states)
    }
}

fn state_at(event: &OrderEvent) -> OrderState {
    OrderState {
        order_id: event.order_id,
        user_id: event.user_id.clone(),
        version: event.version,
        status: event.status,
        updated_at: event.at,
        cause: event.cause.clone(),
    }
}

fn order_at(event: OrderEvent) -> Order {
    Order {
        id: event.order_id,
        user_id: event.user_id,
        money: Money::parse("100", "USD").expect("valid"),
        status: event.status,
        version: event.version,
        metadata: Metadata::NONE,
        external_id: None,
        failure: event.cause.filter(|_| event.status == OrderStatus::Failed),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: event.at,
    }
}

pub(super) fn event(order_id: OrderId, version: Version, status: OrderStatus) -> OrderEvent {
    OrderEvent {
        order_id,
        user_id: user("user-1"),
        version,
        status,
        at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(version)),
        cause: None,
        trace_parent: None,
    }
}

pub(super) fn user(text: &str) -> UserId {
    UserId::parse(text).expect("valid")
}

pub(super) fn order_id(n: u128) -> OrderId {
    OrderId::from_uuid(Uuid::from_u128(n))
}

pub(super) fn watch(order_id: OrderId, since: Option<Version>) -> WatchOrder {
    WatchOrder { order_id, since }
}

pub(super) fn ctx() -> CallContext {
    CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE)
}

/// Longer than any test may take; the clock of the tests is paused.
pub(super) const SOON: Duration = Duration::from_mins(10);
