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

    async fn get_order_record(
        &self,
        request: Request<proto::GetOrderRecordRequest>,
    ) -> Result<Response<proto::GetOrderRecordResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let proto::GetOrderRecordRequest {
                order_id,
                pushes_only,
            } = request.into_inner();
            let order_id = convert::order_id_from_proto(&order_id)?;
            if pushes_only {
                return Ok(convert::pushes_to_proto(self.admin.pushes(order_id)));
            }
            let record = self.admin.record(&ctx, order_id).await?;
            Ok(convert::record_to_proto(record))
        })
        .await
    }

    async fn get_cluster(
        &self,
        request: Request<proto::GetClusterRequest>,
    ) -> Result<Response<proto::GetClusterResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let cluster = self.admin.cluster(&ctx).await?;
            Ok(convert::cluster_to_proto(cluster))
        })
        .await
    }

    async fn report_process(
        &self,
        request: Request<proto::ReportProcessRequest>,
    ) -> Result<Response<proto::ReportProcessResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let report = convert::report_from_proto(request.into_inner())?;
            let directive = self.admin.report(&ctx, report).await?;
            Ok(proto::ReportProcessResponse {
                paused: directive.is_paused,
            })
        })
        .await
    }

    async fn set_paused(
        &self,
        request: Request<proto::SetPausedRequest>,
    ) -> Result<Response<proto::SetPausedResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let proto::SetPausedRequest { process_id, paused } = request.into_inner();
            let process_id = convert::process_id_from_proto(&process_id)?;
            self.admin.set_paused(&ctx, process_id, paused).await?;
            Ok(proto::SetPausedResponse {})
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
