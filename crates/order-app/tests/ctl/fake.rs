//! A service that keeps orders in memory and fails when it is told to.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use order_core::{
    CallContext, CancelOrder, Cause, CreateOrder, Error, EventPage, IdGen as _, ListEvents,
    ListOrders, Order, OrderApi, OrderEvent, OrderEventStream, OrderId, OrderPage, OrderStatus,
    Receipt, RetryOrder, StreamTicket, TicketGrant, UpdateStatus, Version, WatchOrder,
};
use order_testkit::clock::SeededIds;

/// What one call of `watch_orders` answers: a stream of these, or a failure at once.
pub(crate) type Stream = Result<Vec<Result<OrderEvent, Error>>, Error>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) orders: BTreeMap<OrderId, Order>,
    keys: HashMap<String, OrderId>,
    /// How many orders each call of `create_orders` had.
    pub(crate) batches: Vec<usize>,
    /// How many more orders are taken before the service goes away; `None`: all.
    pub(crate) creates_left: Option<usize>,
    /// How many calls of `create_orders` fail, taken and unanswered.
    pub(crate) lost_answers: usize,
    /// What the next calls of `watch_orders` answer; after the last, nothing ever comes.
    pub(crate) streams: VecDeque<Stream>,
    /// What `watch_orders` was asked for, call by call.
    pub(crate) watched: Vec<Vec<Option<Version>>>,
    /// What `list_orders` was asked for, call by call.
    pub(crate) listed: Vec<ListOrders>,
}

pub(crate) struct FakeApi {
    state: Mutex<State>,
    ids: SeededIds,
}

pub(crate) fn shutting_down() -> Error {
    Error::ShuttingDown {
        retry_after: std::time::Duration::from_secs(1),
    }
}

/// The first event of an order, moved on to `version` and `status`.
pub(crate) fn event(order_id: OrderId, version: Version, status: OrderStatus) -> OrderEvent {
    OrderEvent {
        order_id,
        user_id: order_core::UserId::parse("user-1").expect("valid"),
        version,
        status,
        at: time(),
        cause: (status == OrderStatus::Failed).then(|| Cause::new("DECLINED", "no funds")),
        trace_parent: None,
    }
}

pub(crate) fn time() -> Timestamp {
    "2026-01-02T03:04:05.678901Z".parse().expect("valid")
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            ids: SeededIds::new(2),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes an order behind the back of the client.
    pub(crate) fn change(&self, order_id: OrderId, change: impl FnOnce(&mut Order)) {
        let mut state = self.state();
        change(state.orders.get_mut(&order_id).expect("there"));
    }

    fn create(&self, state: &mut State, request: CreateOrder) -> Result<Receipt, Error> {
        let key = request.idempotency_key.as_ref();
        let key = key.map(|key| format!("{} {}", request.user_id, key.as_str()));
        if let Some(order_id) = key.as_ref().and_then(|key| state.keys.get(key)) {
            let order = state.orders.get(order_id).expect("there");
            return Ok(Receipt {
                order: order.as_created(),
                is_replayed: true,
            });
        }
        if request.user_id.as_str() == "blocked" {
            return Err(Error::PermissionDenied {
                what: "the user is blocked".to_owned(),
            });
        }
        if request.user_id.as_str() == "refused" {
            return Err(Error::invalid("requests/3/user_id", "is not welcome"));
        }
        if state.creates_left == Some(0) {
            return Err(shutting_down());
        }
        state.creates_left = state.creates_left.map(|left| left - 1);
        let id = request.order_id.unwrap_or_else(|| self.ids.order_id());
        let order = Order {
            id,
            user_id: request.user_id,
            money: request.money,
            status: OrderStatus::Pending,
            version: 1,
            metadata: request.metadata,
            external_id: request.external_id,
            failure: None,
            created_at: time(),
            updated_at: time(),
        };
        state.keys.extend(key.map(|key| (key, id)));
        state.orders.insert(id, order.clone());
        Ok(Receipt::first(order))
    }

    fn find(&self, order_id: OrderId) -> Result<Order, Error> {
        let order = self.state().orders.get(&order_id).cloned();
        order.ok_or(Error::OrderNotFound { order_id })
    }
}

#[async_trait]
impl OrderApi for FakeApi {
    async fn create_order(&self, _: &CallContext, request: CreateOrder) -> Result<Receipt, Error> {
        self.create(&mut self.state(), request)
    }

    async fn create_orders(
        &self,
        _: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let mut state = self.state();
        state.batches.push(requests.len());
        if state.creates_left == Some(0) {
            return Err(shutting_down());
        }
        let create = |request| self.create(&mut state, request);
        let answers = requests.into_iter().map(create).collect();
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            return Err(Error::DeadlineExceeded);
        }
        Ok(answers)
    }

    async fn get_order(&self, _: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        self.find(order_id)
    }

    async fn list_orders(&self, _: &CallContext, request: ListOrders) -> Result<OrderPage, Error> {
        let mut state = self.state();
        let before: Option<OrderId> = request.page_token.as_deref().map(|token| {
            let parsed = token.parse();
            parsed.expect("a token of this service")
        });
        let page_size = usize::from(request.page_size.get());
        let mut orders: Vec<Order> = state
            .orders
            .values()
            .rev()
            .filter(|order| before.is_none_or(|before| order.id < before))
            .take(page_size + 1)
            .cloned()
            .collect();
        let has_more = orders.len() > page_size;
        orders.truncate(page_size);
        state.listed.push(request);
        Ok(OrderPage {
            next_page_token: orders.last().filter(|_| has_more).map(|o| o.id.to_string()),
            orders,
        })
    }

    async fn cancel_order(&self, _: &CallContext, request: CancelOrder) -> Result<Receipt, Error> {
        let order = self.find(request.order_id)?;
        if request
            .if_match
            .is_some_and(|if_match| !if_match.is_met(order.version))
        {
            return Err(Error::EtagMismatch {
                order_id: order.id,
                current: order.version,
            });
        }
        self.change(order.id, |order| {
            order.status = OrderStatus::Cancelled;
            order.version += 1;
        });
        self.find(request.order_id).map(Receipt::first)
    }

    async fn retry_order(&self, _: &CallContext, request: RetryOrder) -> Result<Order, Error> {
        let order = self.find(request.order_id)?;
        Err(Error::OrderNotRetryable {
            order_id: order.id,
            current: order.status,
            allowed: order.status.allowed(),
        })
    }

    async fn update_status(&self, _: &CallContext, _: UpdateStatus) -> Result<Order, Error> {
        Err(Error::internal("orderctl does not ask for this"))
    }

    async fn list_events(&self, _: &CallContext, request: ListEvents) -> Result<EventPage, Error> {
        let order = self.find(request.order_id)?;
        // One event per page, so that a client has to go on.
        let version = request.after + 1;
        let status = if version == order.version {
            order.status
        } else {
            OrderStatus::Pending
        };
        let events = (version <= order.version).then(|| event(order.id, version, status));
        Ok(EventPage {
            events: events.into_iter().collect(),
            has_more: version < order.version,
            order,
        })
    }

    async fn create_ticket(&self, _: &CallContext, _: TicketGrant) -> Result<StreamTicket, Error> {
        Err(Error::internal("orderctl does not ask for this"))
    }

    async fn watch_orders(
        &self,
        _: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        let mut state = self.state();
        let since = orders.iter().map(|order| order.since).collect();
        state.watched.push(since);
        match state.streams.pop_front() {
            Some(Ok(items)) => Ok(stream::iter(items).boxed()),
            Some(Err(error)) => Err(error),
            None => Ok(stream::pending().boxed()),
        }
    }

    async fn check_ready(&self, _: &CallContext) -> Result<(), Error> {
        Ok(())
    }
}
