//! The service for workers outside over a [`WorkerApi`]: reads the message, calls, writes
//! the answer. Decides nothing but how long a worker may wait here.

use std::{sync::Arc, time::Duration};

use order_core::{
    CallContext, Clock, Completed, Error, JobReport, JobToken, LeaseJobs, LeasedJob, Outcome, Room,
    WorkerApi,
};
use order_edge::{Connection, batch::log_failures};
use prost::Message as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::call::{answer, context};
use crate::{
    convert,
    proto::{self, report_result, worker_service_server::WorkerService},
    status::to_batch_status,
};

/// More than tag and length of a job take in an answer.
const JOB_FRAME_BYTES: usize = 6;

/// Kept of the time of a call for claiming after the wait and for the way back: jobs whose
/// answer comes too late are lost to everybody until their leases run out.
const WAIT_MARGIN: Duration = Duration::from_millis(500);

/// How long a claim that is under way may take when the connection is to go away. One that
/// still waits for a job is given up after that.
const CLAIM_GRACE: Duration = Duration::from_millis(250);

/// The handlers.
pub(super) struct WorkerRpc {
    workers: Arc<dyn WorkerApi>,
    clock: Arc<dyn Clock>,
}

impl WorkerRpc {
    /// Answers with `workers`.
    pub(super) fn new(workers: Arc<dyn WorkerApi>, clock: Arc<dyn Clock>) -> Self {
        Self { workers, clock }
    }

    /// Leases jobs, and gives those back that do not fit into the answer.
    async fn lease_fitting(
        &self,
        ctx: &CallContext,
        request: LeaseJobs,
        draining: Option<CancellationToken>,
    ) -> Result<proto::LeaseResponse, Error> {
        let leased = self.lease_until(ctx, request, draining).await?;
        let tokens: Vec<JobToken> = leased.iter().map(LeasedJob::token).collect();
        let mut jobs: Vec<_> = leased.into_iter().map(convert::job_to_proto).collect();
        let lens = jobs.iter().map(|job| job.encoded_len() + JOB_FRAME_BYTES);
        let n_fitting = Room::beside(0).n_fitting(lens);
        if let Some((_, excess @ [_, ..])) = tokens.split_at_checked(n_fitting) {
            jobs.truncate(n_fitting);
            // What is not given back is due again when its lease runs out.
            if let Err(error) = self.workers.release(ctx, excess.to_vec()).await {
                tracing::warn!(
                    request.id = ctx.request_id.as_str(),
                    n_jobs = excess.len(),
                    error = error.chain(),
                    "jobs beyond the size of an answer were not given back"
                );
            }
        }
        Ok(proto::LeaseResponse { jobs })
    }

    /// Leases jobs; waits for them no longer than the call has time, and not when the
    /// connection is to go away.
    async fn lease_until(
        &self,
        ctx: &CallContext,
        mut request: LeaseJobs,
        draining: Option<CancellationToken>,
    ) -> Result<Vec<LeasedJob>, Error> {
        if let Some(left) = ctx.deadline.remaining(self.clock.instant()) {
            request.wait = request.wait.min(left.saturating_sub(WAIT_MARGIN));
        }
        let Some(draining) = draining else {
            return self.workers.lease(ctx, request).await;
        };
        let mut lease = self.workers.lease(ctx, request);
        tokio::select! {
            biased;
            leased = &mut lease => leased,
            () = draining.cancelled() => match timeout(CLAIM_GRACE, lease).await {
                Ok(leased) => leased,
                Err(_) => Ok(Vec::new()),
            },
        }
    }

    async fn report(
        &self,
        ctx: &CallContext,
        reports: Vec<JobReport>,
    ) -> Result<Vec<proto::ReportResult>, Error> {
        let answers = self.workers.report(ctx, reports).await?;
        log_failures(ctx, &answers);
        let n_parts = answers.len();
        let results = answers.into_iter().map(|answer| match answer {
            Ok(Completed::Applied(_)) => result_of(report_result::Outcome::Applied),
            Ok(Completed::Stale) => result_of(report_result::Outcome::Stale),
            Err(error) => proto::ReportResult {
                // A report that is repeated is answered as the first was.
                error: Some(to_batch_status(error, &ctx.request_id, n_parts, true)),
                ..result_of(report_result::Outcome::Failed)
            },
        });
        Ok(results.collect())
    }
}

fn result_of(outcome: report_result::Outcome) -> proto::ReportResult {
    proto::ReportResult {
        outcome: outcome.into(),
        error: None,
    }
}

#[tonic::async_trait]
impl WorkerService for WorkerRpc {
    async fn lease(
        &self,
        request: Request<proto::LeaseRequest>,
    ) -> Result<Response<proto::LeaseResponse>, Status> {
        let ctx = context(&request);
        let draining = request
            .extensions()
            .get::<Arc<Connection>>()
            .map(|connection| connection.draining.clone());
        answer(&ctx, async {
            let request = convert::lease_from_proto(request.get_ref())?;
            self.lease_fitting(&ctx, request, draining).await
        })
        .await
    }

    async fn heartbeat(
        &self,
        request: Request<proto::HeartbeatRequest>,
    ) -> Result<Response<proto::HeartbeatResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let (tokens, lease) = convert::heartbeat_from_proto(request.get_ref())?;
            let lost = self.workers.heartbeat(&ctx, tokens, lease).await?;
            Ok(proto::HeartbeatResponse {
                lost: lost.into_iter().map(convert::token_to_proto).collect(),
            })
        })
        .await
    }

    async fn complete(
        &self,
        request: Request<proto::CompleteRequest>,
    ) -> Result<Response<proto::CompleteResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let tokens = convert::tokens_from_proto(&request.get_ref().tokens)?;
            let done = tokens.into_iter().map(|token| JobReport {
                token,
                outcome: Outcome::Done,
            });
            let results = self.report(&ctx, done.collect()).await?;
            Ok(proto::CompleteResponse { results })
        })
        .await
    }

    async fn fail(
        &self,
        request: Request<proto::FailRequest>,
    ) -> Result<Response<proto::FailResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let reports = convert::failures_from_proto(request.get_ref())?;
            let results = self.report(&ctx, reports).await?;
            Ok(proto::FailResponse { results })
        })
        .await
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let tokens = convert::tokens_from_proto(&request.get_ref().tokens)?;
            let released = self.workers.release(&ctx, tokens).await?;
            Ok(proto::ReleaseResponse {
                released: u32::try_from(released).unwrap_or(u32::MAX),
            })
        })
        .await
    }
}
