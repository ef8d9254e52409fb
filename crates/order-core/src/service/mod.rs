//! The use cases, over ports.

mod backlog;
mod change;
mod create;
mod readiness;
mod redrive;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::redrive::Admin;
use self::{change::Wanted, readiness::Readiness};
use crate::{
    CallContext, CancelOrder, Cause, Change, Clock, Command, Committed, CreateOrder, Created,
    Error, EventBus, EventPage, IdGen, JobDispatch, ListEvents, ListOrders, NewOrder, NewTicket,
    Order, OrderApi, OrderEvent, OrderEventStream, OrderId, OrderPage, OrderStore, OrderWatch,
    PageTokenKey, Receipt, RetryOrder, Room, StreamTicket, TICKET_LIFETIME, TicketGrant,
    TicketOffice, TicketSecret, UpdateStatus, WatchOrder,
    group_commit::{GroupCommit, GroupCommitConfig, GroupCommitStats, Lanes},
    metrics::Counter,
    supervisor::Supervisor,
};

/// Few enough that a client is not kept waiting while the system is idle, and few enough
/// that a loaded one writes large batches.
const OVERLAP_BELOW: usize = 8;

/// What an [`OrderService`] stands on.
pub struct OrderServiceDeps {
    /// Where orders live.
    pub store: Arc<dyn OrderStore>,
    /// The way to the local workers.
    pub dispatch: Arc<dyn JobDispatch>,
    /// Who is told about changes.
    pub bus: Arc<dyn EventBus>,
    /// Who lets callers follow orders.
    pub watch: Arc<dyn OrderWatch>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids for orders that come without one, and secrets for tickets.
    pub ids: Arc<dyn IdGen>,
    /// Seals page tokens.
    pub page_token_key: PageTokenKey,
    /// Knows whether the tasks of the process run.
    pub supervisor: Arc<Supervisor>,
    /// The name of this process in the records of orders.
    pub process_name: Option<Arc<str>>,
}

/// How an [`OrderService`] writes.
#[derive(Clone, Copy, Debug)]
pub struct OrderServiceConfig {
    /// Lanes and queue of the group commit for new orders.
    pub creates: GroupCommitConfig,
    /// The same for new orders with an idempotency key. They are written apart, so that
    /// orders without a key do not pay for them.
    pub keyed_creates: GroupCommitConfig,
    /// Lanes and queue of the group commit for changes asked for by clients.
    pub changes: GroupCommitConfig,
    /// How long an idempotency key is kept at least.
    pub key_retention: Duration,
}

impl Default for OrderServiceConfig {
    fn default() -> Self {
        let creates = GroupCommitConfig {
            lanes: 2,
            // Three quarters of it hold all that a gateway has under way.
            queue_len_max: 8192,
            overlap_below: OVERLAP_BELOW,
        };
        Self {
            creates,
            keyed_creates: creates,
            changes: GroupCommitConfig {
                lanes: 1,
                queue_len_max: 1024,
                ..creates
            },
            key_retention: Duration::from_hours(24),
        }
    }
}

/// The order system in process. Transports adapt to it and add nothing.
pub struct OrderService {
    store: Arc<dyn OrderStore>,
    watch: Arc<dyn OrderWatch>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    page_token_key: PageTokenKey,
    key_retention: Duration,
    process_name: Option<Arc<str>>,
    created: Counter,
    creates: GroupCommit<NewOrder, Created>,
    keyed_creates: GroupCommit<NewOrder, Created>,
    changes: GroupCommit<Change, Committed>,
    readiness: Readiness,
    supervisor: Arc<Supervisor>,
}

impl OrderService {
    /// Builds the service and the lanes that write for it; the caller has the lanes run.
    pub fn new(config: OrderServiceConfig, deps: OrderServiceDeps) -> (Self, Lanes) {
        let OrderServiceDeps {
            store,
            dispatch,
            bus,
            watch,
            clock,
            ids,
            page_token_key,
            supervisor,
            process_name,
        } = deps;
        let creator = create::Creator {
            store: Arc::clone(&store),
            dispatch: Arc::clone(&dispatch),
            bus: Arc::clone(&bus),
            created: Counter::default(),
        };
        let (creates, mut lanes) = creator.group_commit(config.creates, &clock);
        let (keyed_creates, keyed_lanes) = creator.group_commit(config.keyed_creates, &clock);
        lanes.extend(keyed_lanes);
        let changing = Arc::clone(&store);
        let (changes, change_lanes) = GroupCommit::new(config.changes, &clock, move |changes| {
            Box::pin(change::commit_batch(
                Arc::clone(&changing),
                Arc::clone(&dispatch),
                Arc::clone(&bus),
                changes,
            ))
        });
        lanes.extend(change_lanes);
        (
            Self {
                store,
                watch,
                clock,
                ids,
                page_token_key,
                key_retention: config.key_retention,
                process_name,
                created: creator.created,
                creates,
                keyed_creates,
                changes,
                readiness: Readiness::default(),
                supervisor,
            },
            lanes,
        )
    }

    /// Refuses new writes; the lanes end when what waits is committed.
    pub fn close(&self) {
        self.creates.close();
        self.keyed_creates.close();
        self.changes.close();
    }

    /// Counts new orders.
    pub fn created(&self) -> &Counter {
        &self.created
    }

    /// Counters of the group commits, by operation.
    pub fn commits(&self) -> [(&'static str, GroupCommitStats); 3] {
        [
            ("create", self.creates.stats().clone()),
            ("create_keyed", self.keyed_creates.stats().clone()),
            ("change", self.changes.stats().clone()),
        ]
    }

    fn refuse_expired(&self, ctx: &CallContext) -> Result<(), Error> {
        if ctx.deadline.is_expired(self.clock.instant()) {
            return Err(Error::DeadlineExceeded);
        }
        Ok(())
    }

    async fn find(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        self.store
            .find(ctx, order_id)
            .await?
            .ok_or(Error::OrderNotFound { order_id })
    }
}

#[async_trait]
impl OrderApi for OrderService {
    async fn create_order(
        &self,
        ctx: &CallContext,
        request: CreateOrder,
    ) -> Result<Receipt, Error> {
        self.refuse_expired(ctx)?;
        self.create(ctx, request).await
    }

    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        self.refuse_expired(ctx)?;
        Ok(self.create_all(ctx, requests).await)
    }

    async fn get_order(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        self.refuse_expired(ctx)?;
        self.find(ctx, order_id).await
    }

    async fn list_orders(
        &self,
        ctx: &CallContext,
        request: ListOrders,
    ) -> Result<OrderPage, Error> {
        self.refuse_expired(ctx)?;
        let query = request.to_query(&self.page_token_key)?;
        let orders = self.store.list(ctx, &query).await?;
        Ok(request.to_page(orders, &self.page_token_key))
    }

    async fn cancel_order(
        &self,
        ctx: &CallContext,
        request: CancelOrder,
    ) -> Result<Receipt, Error> {
        self.refuse_expired(ctx)?;
        if let Some(reason) = &request.reason {
            Cause::check_message("reason", reason)?;
        }
        self.change(ctx, Wanted::cancel(request)).await
    }

    async fn retry_order(&self, ctx: &CallContext, request: RetryOrder) -> Result<Order, Error> {
        self.refuse_expired(ctx)?;
        let RetryOrder { order_id, if_match } = request;
        let wanted = Wanted::new(order_id, Command::Retry, if_match);
        Ok(self.change(ctx, wanted).await?.order)
    }

    async fn update_status(
        &self,
        ctx: &CallContext,
        request: UpdateStatus,
    ) -> Result<Order, Error> {
        self.refuse_expired(ctx)?;
        let command = Command::MoveTo {
            status: request.status,
            cause: request.cause,
        };
        let wanted = Wanted::new(request.order_id, command, request.if_match);
        Ok(self.change(ctx, wanted).await?.order)
    }

    async fn list_events(
        &self,
        ctx: &CallContext,
        request: ListEvents,
    ) -> Result<EventPage, Error> {
        self.refuse_expired(ctx)?;
        // The order comes first: events that are committed in between are then beyond its
        // version, never missing below it.
        let order = self.find(ctx, request.order_id).await?;
        let page_size = usize::from(request.page_size.get());
        let mut events = self
            .store
            .events(ctx, request.order_id, request.after, page_size + 1)
            .await?;
        let len = Room::beside(order.encoded_len_max())
            .n_fitting(events.iter().map(OrderEvent::encoded_len_max))
            .min(page_size);
        let has_more = events.len() > len;
        events.truncate(len);
        Ok(EventPage {
            events,
            order,
            has_more,
        })
    }

    async fn create_ticket(
        &self,
        ctx: &CallContext,
        grant: TicketGrant,
    ) -> Result<StreamTicket, Error> {
        self.refuse_expired(ctx)?;
        let secret = TicketSecret::from_bytes(self.ids.secret());
        let ticket = NewTicket {
            digest: secret.digest(),
            grant,
            lifetime: TICKET_LIFETIME,
        };
        let expires_at = self.store.put_ticket(&ticket).await?;
        Ok(StreamTicket {
            secret,
            grant: ticket.grant,
            expires_at,
        })
    }

    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        self.refuse_expired(ctx)?;
        self.watch.watch(ctx, orders).await
    }

    async fn check_ready(&self, ctx: &CallContext) -> Result<(), Error> {
        self.supervisor.check()?;
        self.readiness.check(&*self.store, &*self.clock, ctx).await
    }
}

#[async_trait]
impl TicketOffice for OrderService {
    async fn redeem_ticket(&self, ctx: &CallContext, text: &str) -> Result<TicketGrant, Error> {
        self.refuse_expired(ctx)?;
        let secret = TicketSecret::parse(text).ok_or(Error::TicketInvalid)?;
        self.store
            .take_ticket(&secret.digest())
            .await?
            .ok_or(Error::TicketInvalid)
    }
}
