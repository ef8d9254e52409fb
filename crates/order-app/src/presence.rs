//! Reports the process to the database, or to the service in front of it, and does what the answer
//! says.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use order_core::{
    AdminApi, CallContext, Clock, Deadline, Directive, Error, IdGen, Identity, ProcessReport,
    RequestId,
    metrics::{Counter, Registry},
    supervisor::{Beat, Task},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::figures;

/// How long one report may take.
const REPORT_TIME_MAX: Duration = Duration::from_secs(5);

/// More than one step of the task takes.
const STEP_TIME_MAX: Duration = Duration::from_mins(1);

/// The presence of this process among the others.
pub(crate) struct Presence {
    pub(crate) identity: Identity,
    pub(crate) started_at: Timestamp,
    pub(crate) registry: Arc<Registry>,
    pub(crate) failures: Counter,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGen>,
}

impl Presence {
    /// The task that reports to `admin`, and has `apply` follow the answers, until `stop`.
    pub(crate) fn task(
        self,
        admin: Arc<dyn AdminApi>,
        apply: impl Fn(Directive) + Send + Sync + 'static,
        stop: CancellationToken,
    ) -> Task {
        let shared = Arc::new((self, admin, apply, Mutex::new(None)));
        Task::new("presence", STEP_TIME_MAX, move |beat| {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move {
                let (presence, admin, apply, last) = &*shared;
                let running = presence.run(&**admin, apply, last, &beat);
                stop.run_until_cancelled(running).await;
            }
        })
    }

    /// Reports again and again. While reports fail, the process stays as it was told `last`; one
    /// that was never told anything works.
    async fn run(
        &self,
        admin: &dyn AdminApi,
        apply: &(impl Fn(Directive) + Sync),
        last: &Mutex<Option<Directive>>,
        beat: &Beat,
    ) {
        let mut is_failing = false;
        loop {
            beat.busy();
            let reported = timeout(REPORT_TIME_MAX, self.report(admin)).await;
            beat.idle();
            match reported.unwrap_or(Err(Error::DeadlineExceeded)) {
                Ok(directive) => {
                    is_failing = false;
                    apply(directive);
                    let before = lock(last).replace(directive).unwrap_or_default();
                    let is_paused = directive.is_paused;
                    if is_paused != before.is_paused {
                        tracing::info!(is_paused, "an operator paused or resumed processing");
                    }
                }
                Err(error) => {
                    self.failures.inc();
                    if !is_failing {
                        tracing::warn!(error = error.chain(), "reporting this process failed");
                    }
                    is_failing = true;
                    // Without an answer the process is not paused.
                    let told = *lock(last);
                    if told.is_none() {
                        let directive = Directive::default();
                        *lock(last) = Some(directive);
                        apply(directive);
                    }
                }
            }
            // Processes that were started together do not report together.
            let jitter = 0.75 + 0.5 * rand::random::<f64>();
            self.clock
                .sleep(ProcessReport::INTERVAL.mul_f64(jitter))
                .await;
        }
    }

    async fn report(&self, admin: &dyn AdminApi) -> Result<Directive, Error> {
        let request_id = RequestId::from_uuid(*self.ids.order_id().as_uuid());
        let deadline = Deadline::at(self.clock.instant() + REPORT_TIME_MAX);
        let now = self.clock.now().duration_since(Timestamp::UNIX_EPOCH);
        let report = ProcessReport {
            identity: self.identity.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            figures: figures::read(&self.registry, now.as_secs_f64()),
        };
        let ctx = CallContext::new(request_id, deadline);
        admin.report(&ctx, report).await
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds the lock can panic.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
