//! Following an order on behalf of a client: until it is settled (`Prefer: wait`), or for
//! as long as the client listens (the event stream, in `sse`).
//!
//! Nobody polls: both read from one watch of the system behind. A watch has no deadline,
//! but the wish for one has; each kind has a limit of its own, and all end at the stop.

use std::time::Duration;

use axum::response::Response;
use futures_util::StreamExt as _;
use http::request::Parts;
use order_core::{
    CallContext, Deadline, Error, Order, OrderEventStream, OrderId, Version, WatchOrder,
};
use order_edge::{
    client_address,
    slots::{Full, Slot},
};

use super::{
    Gateway,
    dto::header_value,
    prefer::{self, PREFERENCE_APPLIED},
};

/// An order after the wait that the client may have asked for.
pub(super) struct Waited {
    pub(super) order: Order,
    /// The wait that was granted, in seconds.
    granted: Option<u64>,
}

impl Waited {
    /// Tells the client that its wish was honoured.
    pub(super) fn announce(&self, response: &mut Response) -> Result<(), Error> {
        if let Some(seconds) = self.granted {
            let applied = header_value(format!("wait={seconds}"))?;
            response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        }
        Ok(())
    }
}

impl Gateway {
    /// Waits until `order` is settled, for as long as the client prefers to wait and as
    /// this server grants. Beyond the limit of those who wait, and when the order cannot be
    /// watched, the answer is the order as it came, at once.
    pub(super) async fn wait_as_preferred(
        &self,
        ctx: &CallContext,
        request: &Parts,
        order: Order,
    ) -> Waited {
        // The wait lives in a box of its own: requests without one are not to carry it.
        match prefer::wait(&request.headers) {
            Some(wished) => {
                let granted = wished.min(self.config.wait_max);
                let slot = self.waiters.try_take(client_address(&request.extensions));
                Box::pin(self.wait(ctx, order, granted, slot)).await
            }
            None => Waited {
                order,
                granted: None,
            },
        }
    }

    async fn wait(
        &self,
        ctx: &CallContext,
        mut order: Order,
        limit: Duration,
        slot: Result<Slot, Full>,
    ) -> Waited {
        let at_once = |order| Waited {
            order,
            granted: None,
        };
        let granted = Some(limit.as_secs());
        if order.status.is_settled() || limit.is_zero() {
            return Waited { order, granted };
        }
        let Ok(_slot) = slot else {
            return at_once(order);
        };
        let followed = tokio::select! {
            followed = self.follow_until_settled(ctx, &mut order) => followed,
            () = tokio::time::sleep(limit) => Ok(()),
            () = self.deps.stop.cancelled() => Ok(()),
        };
        if followed.is_err() {
            return at_once(order);
        }
        if !order.status.is_settled()
            && let Ok(current) = self.read_again(ctx, order.id).await
        {
            order = current;
        }
        Waited { order, granted }
    }

    /// Replaces `order` by what it is once it is settled. Returns early if the watch ends.
    async fn follow_until_settled(
        &self,
        ctx: &CallContext,
        order: &mut Order,
    ) -> Result<(), Error> {
        let mut events = self.watch(ctx, order.id, order.version).await?;
        while let Some(event) = events.next().await {
            if event?.status.is_settled() {
                *order = self.read_again(ctx, order.id).await?;
                // An order that failed may have been redriven since.
                if order.status.is_settled() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Follows an order from `since` on.
    pub(super) async fn watch(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        since: Version,
    ) -> Result<OrderEventStream, Error> {
        let ctx = CallContext {
            deadline: Deadline::NONE,
            ..ctx.clone()
        };
        let order = WatchOrder {
            order_id,
            since: Some(since),
        };
        self.in_time(self.deps.api.watch_orders(&ctx, vec![order]))
            .await
    }

    /// Reads an order for a call whose own deadline may be over.
    async fn read_again(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        let ctx = self.context(ctx.request_id.clone(), ctx.trace_parent.clone());
        self.in_time(self.deps.api.get_order(&ctx, order_id)).await
    }
}
