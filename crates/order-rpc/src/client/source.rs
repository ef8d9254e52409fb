//! What a hub in a gateway reads: the answers of the service to ordinary calls.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use order_core::{
    CallContext, Deadline, Error, ListEvents, ListOrders, Order, OrderApi, OrderEvent, OrderId,
    OrderReads, OrderState, PageSize, RequestId, UserId, Version,
};
use tokio::time::sleep;

use super::{RemoteOrderApi, retry::is_retryable};

/// How long a read waits for a service that restarts. The reader holds a client's stream open
/// meanwhile, and cuts it after 5 s.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between two attempts of a read that waits.
const PAUSE: Duration = Duration::from_millis(200);

/// Calls under way at the same time for one list of orders.
const CALLS_MAX: usize = 16;

impl RemoteOrderApi {
    /// Repeats a read while the service cannot be reached, for a while.
    async fn patiently<'a, T>(
        &self,
        read: impl Fn() -> BoxFuture<'a, Result<T, Error>>,
    ) -> Result<T, Error> {
        let clock = self.remote.clock();
        let end = clock.instant() + PATIENCE;
        loop {
            match read().await {
                Err(error) if is_retryable(&error) && clock.instant() < end => sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }
}

#[async_trait]
impl OrderReads for RemoteOrderApi {
    async fn find(&self, ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error> {
        match self.patiently(|| self.get_order(ctx, order_id)).await {
            Ok(order) => Ok(Some(order)),
            Err(Error::OrderNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn events(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error> {
        let list = ListEvents {
            order_id,
            after,
            page_size: page_size(limit)?,
        };
        match self.patiently(|| self.list_events(ctx, list)).await {
            Ok(page) => Ok(page.events),
            Err(Error::OrderNotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error> {
        let ctx = &context();
        let reads = order_ids.iter().map(|order_id| self.find(ctx, *order_id));
        let reads: Vec<_> = reads.collect();
        let orders = stream::iter(reads).buffer_unordered(CALLS_MAX);
        let orders: Vec<_> = orders.try_collect().await?;
        Ok(orders.iter().flatten().map(state).collect())
    }

    async fn recent_states(
        &self,
        user_ids: &[UserId],
        limit_per_user: usize,
    ) -> Result<Vec<OrderState>, Error> {
        let (ctx, page_size) = (&context(), page_size(limit_per_user)?);
        let mut states = Vec::new();
        for user_id in user_ids {
            let list = ListOrders {
                user_id: Some(user_id.clone()),
                page_size,
                ..ListOrders::default()
            };
            let page = self.patiently(|| self.list_orders(ctx, list.clone()));
            states.extend(page.await?.orders.iter().map(state));
        }
        Ok(states)
    }
}

fn page_size(limit: usize) -> Result<PageSize, Error> {
    PageSize::new(i64::try_from(limit).unwrap_or(i64::MAX))
}

/// For reads that no caller asked for.
fn context() -> CallContext {
    CallContext::new(random_request_id(), Deadline::NONE)
}

/// Names a call of the process itself in logs.
pub(super) fn random_request_id() -> RequestId {
    RequestId::from_uuid(uuid::Builder::from_random_bytes(rand::random()).into_uuid())
}

fn state(order: &Order) -> OrderState {
    let OrderEvent {
        order_id,
        user_id,
        version,
        status,
        at,
        cause,
        trace_parent: _,
    } = order.last_event();
    OrderState {
        order_id,
        user_id,
        version,
        status,
        updated_at: at,
        cause,
    }
}
