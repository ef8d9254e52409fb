//! A system with one order that moves when the test says so, and counts who asks for what.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use order_core::{
    CallContext, CancelOrder, Cause, CreateOrder, Deadline, Error, EventPage, ListEvents,
    ListOrders, Order, OrderApi, OrderEvent, OrderEventStream, OrderId, OrderPage, OrderStatus,
    Receipt, RetryOrder, StreamTicket, TicketGrant, UpdateStatus, WatchOrder,
};
use tokio::{sync::watch, time::timeout};

use crate::support::{PATIENCE, order};

/// What happened so far, or why watches are cut.
type History = Result<Vec<OrderEvent>, ()>;

pub(crate) struct LiveApi {
    pub(crate) order_id: OrderId,
    history: watch::Sender<History>,
    /// How often the order was read.
    pub(crate) n_reads: AtomicUsize,
    /// How many watches were begun.
    pub(crate) n_watches: AtomicUsize,
}

impl LiveApi {
    /// A system whose order is PENDING.
    pub(crate) fn new() -> Arc<Self> {
        let api = Self {
            order_id: "00000000-0000-7000-8000-00000000beef"
                .parse()
                .expect("an id"),
            history: watch::Sender::new(Ok(Vec::new())),
            n_reads: AtomicUsize::new(0),
            n_watches: AtomicUsize::new(0),
        };
        api.move_to(OrderStatus::Pending);
        Arc::new(api)
    }

    /// Moves the order and tells those who watch.
    pub(crate) fn move_to(&self, status: OrderStatus) {
        self.history.send_modify(|history| {
            let events = history.as_mut().expect("the watches are not cut");
            let version = u32::try_from(events.len()).expect("few events") + 1;
            events.push(OrderEvent {
                order_id: self.order_id,
                user_id: order(self.order_id, "user-1").user_id,
                version,
                status,
                at: Timestamp::from_second(i64::from(version)).expect("a time"),
                cause: (status == OrderStatus::Failed).then(|| Cause::new("NO", "it failed")),
                trace_parent: None,
            });
        });
    }

    /// Cuts every watch.
    pub(crate) fn cut(&self) {
        self.history.send_modify(|history| *history = Err(()));
    }

    /// How many watch the order now.
    pub(crate) fn n_watching(&self) -> usize {
        self.history.receiver_count()
    }

    /// Waits until as many watch the order.
    pub(crate) async fn until_watching(&self, n: usize) {
        let watching = async {
            while self.n_watching() != n {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, watching)
            .await
            .expect("the watches come and go");
    }

    fn current(&self) -> Order {
        let history = self.history.borrow();
        let events = history.as_ref().expect("the watches are not cut");
        let last = events.last().expect("it was created");
        Order {
            status: last.status,
            version: last.version,
            failure: last.cause.clone(),
            updated_at: last.at,
            ..order(self.order_id, "user-1")
        }
    }
}

#[async_trait]
impl OrderApi for LiveApi {
    /// Answers as to a repeated request: the order as it was created.
    async fn create_order(&self, _: &CallContext, _: CreateOrder) -> Result<Receipt, Error> {
        Ok(Receipt {
            order: self.current().as_created(),
            is_replayed: true,
        })
    }

    async fn create_orders(
        &self,
        _: &CallContext,
        _: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        unreachable!("no route creates many orders")
    }

    async fn get_order(&self, ctx: &CallContext, _: OrderId) -> Result<Order, Error> {
        let now = tokio::time::Instant::now().into_std();
        if ctx.deadline.is_expired(now) {
            return Err(Error::DeadlineExceeded);
        }
        self.n_reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.current())
    }

    async fn list_orders(&self, _: &CallContext, _: ListOrders) -> Result<OrderPage, Error> {
        unreachable!("no test lists these orders")
    }

    async fn cancel_order(&self, _: &CallContext, _: CancelOrder) -> Result<Receipt, Error> {
        unreachable!("no test cancels this order")
    }

    async fn retry_order(&self, _: &CallContext, _: RetryOrder) -> Result<Order, Error> {
        self.move_to(OrderStatus::Pending);
        Ok(self.current())
    }

    async fn update_status(&self, _: &CallContext, _: UpdateStatus) -> Result<Order, Error> {
        unreachable!("no route sets a status")
    }

    async fn list_events(&self, _: &CallContext, _: ListEvents) -> Result<EventPage, Error> {
        unreachable!("no test lists these events")
    }

    async fn create_ticket(&self, _: &CallContext, _: TicketGrant) -> Result<StreamTicket, Error> {
        unreachable!("no test asks for a ticket here")
    }

    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        assert_eq!(ctx.deadline, Deadline::NONE, "a watch has no deadline");
        self.n_watches.fetch_add(1, Ordering::Relaxed);
        let since = orders.first().and_then(|order| order.since);
        let seen = usize::try_from(since.expect("a position")).expect("small");
        let events = stream::unfold(
            (self.history.subscribe(), Some(seen)),
            |(mut history, seen)| async move {
                let seen = seen?;
                let moved = |history: &History| history.as_ref().is_ok_and(|h| h.len() <= seen);
                let next = history
                    .wait_for(|history| !moved(history))
                    .await
                    .ok()?
                    .clone();
                Some(match next {
                    Ok(events) => (Ok(events[seen].clone()), (history, Some(seen + 1))),
                    Err(()) => (Err(Error::shutting_down()), (history, None)),
                })
            },
        );
        Ok(events.boxed())
    }

    async fn check_ready(&self, _: &CallContext) -> Result<(), Error> {
        Ok(())
    }
}
