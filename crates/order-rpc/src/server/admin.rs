//! The service for operators over an [`AdminApi`].

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};
use order_core::AdminApi;
use order_edge::slots::Slots;
use tonic::{Request, Response, Status};

use super::{
    call::{answer, answer_if, context},
    handler::{OrderRpc, slot},
    watch::WatchStream,
};
use crate::{
    convert,
    proto::{self, admin_service_server::AdminService, order_service_server::OrderService as _},
};

/// Redrives at the same time: each keeps a page of orders in memory, and the database busy.
const REDRIVES_MAX: usize = 4;

/// The handlers.
#[derive(Clone)]
pub(super) struct AdminRpc {
    orders: OrderRpc,
    admin: Arc<dyn AdminApi>,
    redrives: Slots,
}

impl AdminRpc {
    pub(super) fn new(orders: OrderRpc, admin: Arc<dyn AdminApi>) -> Self {
        Self {
            orders,
            admin,
            redrives: Slots::new(REDRIVES_MAX, REDRIVES_MAX),
        }
    }
}

#[tonic::async_trait]
impl AdminService for AdminRpc {
    async fn update_status(
        &self,
        request: Request<proto::UpdateStatusRequest>,
    ) -> Result<Response<proto::UpdateStatusResponse>, Status> {
        self.orders.update_status(request).await
    }

    async fn list_dead_letters(
        &self,
        request: Request<proto::ListDeadLettersRequest>,
    ) -> Result<Response<proto::ListDeadLettersResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let groups = self.admin.dead_letters(&ctx).await?;
            Ok(convert::dead_letters_to_proto(groups))
        })
        .await
    }

    type RedriveStream = WatchStream<proto::RedriveResponse>;

    async fn redrive(
        &self,
        request: Request<proto::RedriveRequest>,
    ) -> Result<Response<Self::RedriveStream>, Status> {
        let ctx = context(&request);
        let end = self.orders.end_of(&request);
        let redriven = answer_if(false, &ctx, async {
            let slot = slot(&self.redrives, 1, &request)?;
            let request = convert::redrive_from_proto(request.into_inner())?;
            let steps = self.admin.redrive(&ctx, request).await?;
            let steps = steps.map_ok(convert::progress_to_proto).boxed();
            Ok(WatchStream::new(steps, ctx.request_id.clone(), end, slot))
        });
        let mut redriven = redriven.await?;
        redriven.disable_compression();
        Ok(redriven)
    }
}
