//! The pushes of an order. Each process knows its own only.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use order_core::{CallContext, Error, OrderId, PushRecord};
use tokio::time::timeout;

use super::{
    RemoteOrderApi,
    endpoint::Endpoint,
    remote::{Attempt, Remote},
    retry::Repeat,
};
use crate::{convert, proto};

/// How long a record waits for the pushes of an address that does not answer.
const TIME_MAX: Duration = Duration::from_secs(1);

impl RemoteOrderApi {
    /// The pushes of the hub of this process, if it is a gateway.
    pub(super) fn own_pushes(&self, order_id: OrderId) -> Vec<PushRecord> {
        let watch = self.watch.get().and_then(Weak::upgrade);
        let pushes = watch.map(|watch| watch.pushes(order_id));
        let process = self.remote.gateway().unwrap_or_default();
        PushRecord::of(process, pushes.unwrap_or_default())
    }

    /// Those and the pushes of the service, oldest first, and how many of its addresses did not answer.
    pub(super) async fn all_pushes(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
    ) -> Result<(Vec<PushRecord>, u32), Error> {
        let (mut pushes, n_silent) = self.remote.pushes(ctx, order_id).await?;
        pushes.extend(self.own_pushes(order_id));
        pushes.sort_by(|a, b| (a.push.at, &a.process).cmp(&(b.push.at, &b.process)));
        // One process may have several of the addresses.
        pushes.dedup();
        Ok((pushes, n_silent))
    }
}

impl Remote {
    /// Asks all addresses of the service side by side. Returns their pushes, and how many of them did
    /// not answer in time.
    pub(super) async fn pushes(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
    ) -> Result<(Vec<PushRecord>, u32), Error> {
        let left = self.time_left(ctx.deadline)?.min(TIME_MAX);
        let addresses = timeout(left, self.endpoints.all()).await;
        let addresses = addresses.unwrap_or_default();
        let asked = addresses.iter().map(|address| async {
            let answer = timeout(left, self.pushes_of(address, ctx, left, order_id)).await;
            answer.ok().flatten()
        });
        let mut pushes = Vec::new();
        let mut n_silent = 0;
        for answer in join_all(asked).await {
            match answer {
                Some(found) => pushes.extend(found),
                None => n_silent += 1,
            }
        }
        Ok((pushes, n_silent))
    }

    async fn pushes_of(
        &self,
        endpoint: &Arc<Endpoint>,
        ctx: &CallContext,
        left: Duration,
        order_id: OrderId,
    ) -> Option<Vec<PushRecord>> {
        let channel = self.endpoints.connected(endpoint).await?;
        let request = (ctx, ctx.trace_parent.as_ref());
        let attempt = Attempt::new(endpoint, channel, request, left, Repeat::Never.into()).ok()?;
        let message = attempt.request(proto::GetOrderRecordRequest {
            order_id: order_id.to_string(),
            pushes_only: true,
        });
        let answer = attempt.admin().get_order_record(message).await;
        // A service that answers with an order does not know of pushes yet.
        let answer = answer.ok()?.into_inner();
        let answer = Some(answer).filter(|answer| answer.order.is_none())?;
        convert::pushes_from_proto(answer.pushes).ok()
    }
}
