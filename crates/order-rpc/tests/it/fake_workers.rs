//! A scripted [`WorkerApi`].

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use order_core::{
    Attempt, CallContext, Completed, Error, JobReport, JobToken, LeaseJobs, LeasedJob, Metadata,
    Order, WorkerApi,
};
use tokio::sync::{oneshot, watch};

use crate::support::{id, order, soon};

/// A token that is current.
pub(crate) const CURRENT: u32 = 1;
/// A token that is stale for ever.
pub(crate) const STALE: u32 = 2;
/// A token whose report cannot be stored.
pub(crate) const FAILING: u32 = 3;
/// A token whose call panics.
pub(crate) const PANICKING: u32 = 4;

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Lease(LeaseJobs),
    Heartbeat(Vec<JobToken>, Duration),
    Report(Vec<JobReport>),
    Release(Vec<JobToken>),
}

/// Hands out what it has, and tells tokens apart by their attempt.
#[derive(Default)]
pub(crate) struct FakeWorkers {
    jobs: Mutex<Vec<LeasedJob>>,
    /// What the next lease waits for, with the claim under way.
    pub(crate) claim: Mutex<Option<oneshot::Receiver<()>>>,
    calls: watch::Sender<Vec<Call>>,
}

impl FakeWorkers {
    /// With `n` jobs that are due, each with `metadata`.
    pub(crate) fn with_jobs(n: u32, metadata: &Metadata) -> Arc<Self> {
        let job = |n: u32| LeasedJob {
            order: Order {
                metadata: metadata.clone(),
                ..order(id(n.into()))
            },
            attempt: Attempt {
                number: n + 1,
                is_last: n % 2 == 1,
                trace_parent: None,
            },
        };
        let fake = Self::default();
        fake.jobs
            .lock()
            .expect("not poisoned")
            .extend((0..n).map(job));
        Arc::new(fake)
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    pub(crate) async fn wait_for_calls(&self, n: usize) {
        let mut calls = self.calls.subscribe();
        soon(calls.wait_for(|calls| calls.len() >= n))
            .await
            .expect("the api lives");
    }

    fn record(&self, call: Call) {
        self.calls.send_modify(|calls| calls.push(call));
    }
}

#[async_trait]
impl WorkerApi for FakeWorkers {
    async fn lease(&self, _: &CallContext, request: LeaseJobs) -> Result<Vec<LeasedJob>, Error> {
        self.record(Call::Lease(request));
        let claim = self.claim.lock().expect("not poisoned").take();
        if let Some(claim) = claim {
            let _ = claim.await;
        }
        let jobs: Vec<LeasedJob> = {
            let mut jobs = self.jobs.lock().expect("not poisoned");
            let n = jobs.len().min(request.limit);
            jobs.drain(..n).collect()
        };
        if jobs.is_empty() {
            tokio::time::sleep(request.wait).await;
        }
        Ok(jobs)
    }

    async fn heartbeat(
        &self,
        _: &CallContext,
        tokens: Vec<JobToken>,
        lease: Duration,
    ) -> Result<Vec<JobToken>, Error> {
        self.record(Call::Heartbeat(tokens.clone(), lease));
        let is_lost = |token: &JobToken| token.attempt == STALE;
        Ok(tokens.into_iter().filter(is_lost).collect())
    }

    async fn report(
        &self,
        _: &CallContext,
        reports: Vec<JobReport>,
    ) -> Result<Vec<Result<Completed, Error>>, Error> {
        self.record(Call::Report(reports.clone()));
        let answer = |report: JobReport| match report.token.attempt {
            STALE => Ok(Completed::Stale),
            FAILING => Err(Error::store_unavailable("secret")),
            PANICKING => panic!("a bug in the api"),
            _ => Ok(Completed::Applied(None)),
        };
        Ok(reports.into_iter().map(answer).collect())
    }

    async fn release(&self, _: &CallContext, tokens: Vec<JobToken>) -> Result<usize, Error> {
        self.record(Call::Release(tokens.clone()));
        Ok(tokens.iter().filter(|t| t.attempt != STALE).count())
    }
}
