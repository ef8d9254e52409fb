//! gRPC health (`grpc.health.v1`): follows the readiness of the API.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use order_core::{CallContext, Clock, Deadline, OrderApi, RequestId};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthApi, HealthServer},
    server::{HealthReporter, health_reporter},
};

use crate::{ADMIN_SERVICE_NAME, SERVICE_NAME, WORKER_SERVICE_NAME, status::unknown_request_id};

/// How long one look at the API may take. Slower is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The name of the process as a whole.
const OVERALL: &str = "";

/// What the health service says.
pub(super) struct Health {
    reporter: HealthReporter,
    /// Whose health is told.
    names: Vec<&'static str>,
    clock: Arc<dyn Clock>,
}

impl Health {
    /// Starts as whatever the first check finds; `NOT_SERVING` until then. The service for
    /// workers has a health if it is there.
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        has_workers: bool,
    ) -> (Self, HealthServer<impl HealthApi>) {
        let (reporter, service) = health_reporter();
        let mut names = vec![OVERALL, SERVICE_NAME, ADMIN_SERVICE_NAME];
        if has_workers {
            names.push(WORKER_SERVICE_NAME);
        }
        let health = Self {
            reporter,
            names,
            clock,
        };
        (health, service)
    }

    /// Follows the readiness of `api`, and says `NOT_SERVING` from `leaving` on; never returns.
    pub(super) async fn follow(
        &self,
        api: Arc<dyn OrderApi>,
        every: Duration,
        leaving: CancellationToken,
    ) -> Infallible {
        leaving
            .run_until_cancelled(self.follow_api(&*api, every))
            .await;
        self.report(ServingStatus::NotServing).await;
        pending().await
    }

    async fn follow_api(&self, api: &dyn OrderApi, every: Duration) -> Infallible {
        self.report(ServingStatus::NotServing).await;
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_ready = None;
        loop {
            ticks.tick().await;
            let is_ready = self.check(api, was_ready != Some(false)).await;
            if was_ready != Some(is_ready) {
                was_ready = Some(is_ready);
                let status = if is_ready {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                };
                self.report(status).await;
                tracing::info!(health.is_serving = is_ready, "health changed");
            }
        }
    }

    /// Says `NOT_SERVING`, then ends the streams of those who watch, which would keep their
    /// connections open for ever.
    pub(super) async fn stop(self) {
        self.report(ServingStatus::NotServing).await;
        let mut reporter = self.reporter;
        for name in self.names {
            reporter.clear_service_status(name).await;
        }
    }

    async fn check(&self, api: &dyn OrderApi, is_news: bool) -> bool {
        let request_id = RequestId::parse("health").unwrap_or_else(unknown_request_id);
        let deadline = Deadline::at(self.clock.instant() + CHECK_TIMEOUT);
        let ctx = CallContext::new(request_id, deadline);
        let problem = match tokio::time::timeout(CHECK_TIMEOUT, api.check_ready(&ctx)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.chain(),
            Err(_) => "the check timed out".to_owned(),
        };
        if is_news {
            tracing::warn!(error = problem, "the order api is not ready");
        }
        false
    }

    async fn report(&self, status: ServingStatus) {
        for name in &self.names {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
