//! The use cases, over ports.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    CallContext, CancelOrder, Cause, Change, Clock, Command, Committed, CreateOrder, Created,
    Error, EventBus, IdGen, Job, JobDispatch, ListOrders, NewOrder, Order, OrderApi,
    OrderEventStream, OrderId, OrderPage, OrderStore, OrderWatch, Reservation, UpdateStatus,
    WatchOrder, decide,
    group_commit::{GroupCommit, GroupCommitConfig, GroupCommitStats, Lanes},
};

/// How often a change is decided anew when others keep changing the order.
const DECISIONS_MAX: usize = 5;

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
    /// Ids for orders that come without one.
    pub ids: Arc<dyn IdGen>,
}

/// How an [`OrderService`] writes.
#[derive(Clone, Copy, Debug)]
pub struct OrderServiceConfig {
    /// Lanes and queue of the group commit for new orders.
    pub creates: GroupCommitConfig,
    /// Lanes and queue of the group commit for changes asked for by clients.
    pub changes: GroupCommitConfig,
}

impl Default for OrderServiceConfig {
    fn default() -> Self {
        Self {
            creates: GroupCommitConfig {
                lanes: 2,
                queue_len_max: 4096,
                overlap_below: OVERLAP_BELOW,
            },
            changes: GroupCommitConfig {
                lanes: 1,
                queue_len_max: 1024,
                overlap_below: OVERLAP_BELOW,
            },
        }
    }
}

/// The order system in process. Transports adapt to it and add nothing.
pub struct OrderService {
    store: Arc<dyn OrderStore>,
    watch: Arc<dyn OrderWatch>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    creates: GroupCommit<NewOrder, Created>,
    changes: GroupCommit<Change, Committed>,
}

impl OrderService {
    /// Builds the service and the lanes that write for it; the caller spawns the lanes.
    pub fn new(config: OrderServiceConfig, deps: OrderServiceDeps) -> (Self, Lanes) {
        let OrderServiceDeps {
            store,
            dispatch,
            bus,
            watch,
            clock,
            ids,
        } = deps;
        let creating = Arc::clone(&store);
        let (creates, mut lanes) = GroupCommit::new(config.creates, &clock, move |orders| {
            Box::pin(create_batch(
                Arc::clone(&creating),
                Arc::clone(&dispatch),
                orders,
            ))
        });
        let changing = Arc::clone(&store);
        let (changes, change_lanes) = GroupCommit::new(config.changes, &clock, move |changes| {
            Box::pin(commit_batch(
                Arc::clone(&changing),
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
                creates,
                changes,
            },
            lanes,
        )
    }

    /// Refuses new writes; the lanes end when what waits is committed.
    pub fn close(&self) {
        self.creates.close();
        self.changes.close();
    }

    /// Counters of the group commit for new orders.
    pub fn create_stats(&self) -> &GroupCommitStats {
        self.creates.stats()
    }

    fn refuse_expired(&self, ctx: &CallContext) -> Result<(), Error> {
        if ctx.deadline.is_expired(self.clock.instant()) {
            return Err(Error::DeadlineExceeded);
        }
        Ok(())
    }

    fn new_order(&self, request: CreateOrder) -> NewOrder {
        NewOrder {
            id: request.order_id.unwrap_or_else(|| self.ids.order_id()),
            user_id: request.user_id,
            money: request.money,
            lease: None,
        }
    }

    async fn find(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        self.store
            .find(ctx, order_id)
            .await?
            .ok_or(Error::OrderNotFound { order_id })
    }

    /// Reads, decides, commits; again if somebody else was faster.
    async fn change(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        command: Command,
    ) -> Result<Order, Error> {
        for _ in 0..DECISIONS_MAX {
            let order = self.find(ctx, order_id).await?;
            let Some(change) = decide(&order, command.clone())? else {
                return Ok(order);
            };
            if let Committed::Applied { order, .. } =
                self.changes.submit(change, ctx.deadline).await?
            {
                return Ok(*order);
            }
        }
        Err(Error::VersionConflict { order_id })
    }
}

#[async_trait]
impl OrderApi for OrderService {
    async fn create_order(&self, ctx: &CallContext, request: CreateOrder) -> Result<Order, Error> {
        self.refuse_expired(ctx)?;
        let created = self
            .creates
            .submit(self.new_order(request), ctx.deadline)
            .await?;
        Ok(created.order)
    }

    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Order, Error>>, Error> {
        self.refuse_expired(ctx)?;
        let orders = requests
            .into_iter()
            .map(|request| self.new_order(request))
            .collect();
        let created = self.creates.submit_all(orders, ctx.deadline).await;
        Ok(created
            .into_iter()
            .map(|created| created.map(|created| created.order))
            .collect())
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
        let orders = self.store.list(ctx, &request.to_query()?).await?;
        Ok(request.to_page(orders))
    }

    async fn cancel_order(&self, ctx: &CallContext, request: CancelOrder) -> Result<Order, Error> {
        self.refuse_expired(ctx)?;
        if let Some(reason) = &request.reason {
            Cause::check_message("reason", reason)?;
        }
        self.change(
            ctx,
            request.order_id,
            Command::Cancel {
                reason: request.reason,
            },
        )
        .await
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
        self.change(ctx, request.order_id, command).await
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
        self.store.check(ctx).await
    }
}

/// Commits new orders and hands their jobs to the local workers. It runs in a lane, so a
/// caller that hangs up between the commit and the hand-over loses nothing.
async fn create_batch(
    store: Arc<dyn OrderStore>,
    dispatch: Arc<dyn JobDispatch>,
    mut orders: Vec<NewOrder>,
) -> Vec<Result<Created, Error>> {
    let reservations: Vec<Option<Reservation>> = orders
        .iter_mut()
        .map(|order| {
            let reservation = dispatch.try_reserve();
            order.lease = reservation.as_ref().map(Reservation::lease);
            reservation
        })
        .collect();
    let created = store.create(&orders).await;
    let mut is_due_without_worker = false;
    for (created, reservation) in created.iter().zip(reservations) {
        match (created, reservation) {
            (
                Ok(Created {
                    order,
                    is_new: true,
                }),
                Some(reservation),
            ) => {
                reservation.dispatch(Job {
                    order: order.clone(),
                    attempt: 1,
                    attempts_before: 0,
                });
            }
            (Ok(Created { is_new: true, .. }), None) => is_due_without_worker = true,
            // A retry: the job belongs to whoever inserted it.
            (Ok(Created { is_new: false, .. }) | Err(_), _) => {}
        }
    }
    if is_due_without_worker {
        dispatch.notify_due();
    }
    created
}

/// Commits changes and tells the watchers.
async fn commit_batch(
    store: Arc<dyn OrderStore>,
    bus: Arc<dyn EventBus>,
    changes: Vec<Change>,
) -> Vec<Result<Committed, Error>> {
    let committed = store.commit(&changes).await;
    let events: Vec<_> = committed
        .iter()
        .filter_map(|result| match result {
            Ok(Committed::Applied { event, .. }) => Some(event.clone()),
            Ok(Committed::Stale) | Err(_) => None,
        })
        .collect();
    if !events.is_empty() {
        bus.publish(&events);
    }
    committed
}
