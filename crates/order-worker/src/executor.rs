//! A worker: takes one job at a time from the local queue and makes a verdict of it.
//!
//! # Invariants
//! No work is begun or continued without a lease that has time left. An effect outside the
//! process is begun only after the order is durably PROCESSING. A panic of the processor
//! ends its attempt and nothing else.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll};

use futures_util::FutureExt as _;
use order_core::{
    Clock, Completion, Deadline, Effects, Error, Job, JobToken, Outcome, Processor, RetryPolicy,
    Started, Verdict,
    group_commit::{GroupCommit, GroupCommitConfig, Lanes},
};
use tokio::sync::{Mutex, mpsc};

use crate::{
    WorkerConfig,
    completer::Completer,
    lease::Begin,
    shared::Shared,
    start::start_jobs,
    verdict::{apply_start, attempt_of, exhausted_verdict, verdict},
};

/// What the workers of a pool share.
pub(crate) struct Executor {
    shared: Arc<Shared>,
    jobs: Mutex<mpsc::Receiver<Job>>,
    processor: Arc<dyn Processor>,
    /// `Some` if the processor has effects outside.
    starts: Option<GroupCommit<JobToken, Started>>,
    retry: RetryPolicy,
    completer: Completer,
}

/// How an attempt ended.
enum Ended {
    /// The processor answered.
    With(Outcome),
    /// Somebody else may own the job by now.
    LeaseLost,
    /// The attempt could not begin; nothing has happened.
    NotBegun,
    /// The pool stops; the drain gives the job back.
    Stopped,
}

impl Executor {
    /// Builds the workers' common part, and the lane that starts outside effects.
    pub(crate) fn new(
        config: &WorkerConfig,
        clock: &Arc<dyn Clock>,
        shared: &Arc<Shared>,
        processor: Arc<dyn Processor>,
        completer: Completer,
        jobs: mpsc::Receiver<Job>,
    ) -> (Self, Lanes) {
        let (starts, lanes) = match processor.effects() {
            Effects::None => (None, Lanes::new()),
            Effects::Outside => {
                let (starts, lanes) = start_commit(config, clock, shared);
                (Some(starts), lanes)
            }
        };
        let executor = Self {
            shared: Arc::clone(shared),
            jobs: Mutex::new(jobs),
            processor,
            starts,
            retry: config.retry,
            completer,
        };
        (executor, lanes)
    }

    /// Takes no more starts and results; the lanes end when all are committed.
    pub(crate) fn close(&self) {
        if let Some(starts) = &self.starts {
            starts.close();
        }
        self.completer.close();
    }

    /// Works until no more jobs are to be taken.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let job = tokio::select! {
                biased;
                () = self.shared.stops.taking.cancelled() => return,
                job = self.next_job() => job,
            };
            let Some(job) = job else { return };
            self.run_job(job).await;
        }
    }

    /// One worker at a time waits at the queue; the others wait here. Both waits are safe
    /// to drop.
    async fn next_job(&self) -> Option<Job> {
        self.jobs.lock().await.recv().await
    }

    async fn run_job(&self, mut job: Job) {
        let token = job.token();
        match self.shared.leases.begin(token) {
            Begin::Run => {}
            Begin::Returned => return,
            Begin::Lost => return self.fence(token),
        }
        if self.retry.is_exhausted(job.attempt_in_round()) {
            return self.complete(token, exhausted_verdict()).await;
        }
        match self.attempt(&mut job).await {
            Ended::With(outcome) => {
                let verdict = verdict(outcome, job.attempt_in_round(), &self.retry);
                self.complete(token, verdict).await;
            }
            Ended::LeaseLost => {
                self.shared.leases.forget([&token]);
                self.fence(token);
            }
            Ended::NotBegun => self.shared.leases.give_back(token),
            Ended::Stopped => {}
        }
    }

    async fn complete(&self, token: JobToken, verdict: Verdict) {
        self.completer.submit(Completion { token, verdict }).await;
    }

    fn fence(&self, token: JobToken) {
        tracing::info!(
            order.id = %token.order_id,
            job.attempt = token.attempt,
            "lease was lost; the attempt is dropped"
        );
        self.shared.stats.fenced.increment();
    }

    async fn attempt(&self, job: &mut Job) -> Ended {
        if let Some(starts) = &self.starts
            && let Err(ended) = self.start(starts, job).await
        {
            return ended;
        }
        self.process(job).await
    }

    /// Moves the order to PROCESSING before an effect can leave the process.
    async fn start(
        &self,
        starts: &GroupCommit<JobToken, Started>,
        job: &mut Job,
    ) -> Result<(), Ended> {
        let started = tokio::select! {
            started = starts.submit(job.token(), Deadline::NONE) => started,
            () = self.shared.stops.running.cancelled() => return Err(Ended::Stopped),
        };
        match started {
            Ok(Started::Applied(event)) => {
                apply_start(job, event);
                // The start may have taken long.
                if self.shared.leases.has_time(job.token()) {
                    Ok(())
                } else {
                    Err(Ended::NotBegun)
                }
            }
            Ok(Started::Stale) => Err(Ended::LeaseLost),
            // Nothing failed that would count against the order.
            Err(Error::StoreUnavailable { .. }) => Err(Ended::NotBegun),
            // A row the store cannot move is retried like a failed attempt, so that it ends
            // as a failed order and not in a circle.
            Err(error) => Err(Ended::With(Outcome::Retry {
                error: error.chain(),
                after: None,
            })),
        }
    }

    async fn process(&self, job: &Job) -> Ended {
        let attempt = attempt_of(job, &self.retry);
        // The call itself is inside the future, so that a panic before the first await is
        // caught too. Nothing of the processor's is used after a panic but the processor,
        // which is shared and so has to cope with unwinding anyway.
        let processing = async { self.processor.process(&job.order, attempt).await };
        let mut processing = pin!(AssertUnwindSafe(processing).catch_unwind());
        // A processor that is ready at once pays for no timer and no registration.
        let answer = if let Poll::Ready(answer) = futures_util::poll!(processing.as_mut()) {
            answer
        } else {
            tokio::select! {
                biased;
                answer = processing => answer,
                () = self.shared.leases.lost(job.token()) => return Ended::LeaseLost,
                () = self.shared.stops.running.cancelled() => return Ended::Stopped,
            }
        };
        Ended::With(answer.unwrap_or_else(|panic| self.outcome_of_panic(job, panic.as_ref())))
    }

    fn outcome_of_panic(&self, job: &Job, panic: &(dyn Any + Send)) -> Outcome {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("without a text");
        tracing::error!(
            order.id = %job.order.id,
            job.attempt = job.attempt,
            panic = text,
            "processor panicked"
        );
        self.shared.stats.panics.increment();
        Outcome::Retry {
            error: format!("the processor panicked: {text}"),
            after: None,
        }
    }
}

/// Gathers the starts of workers into batches and tells the watchers. One lane: a worker
/// waits for its start, so there are never more of them than workers.
fn start_commit(
    config: &WorkerConfig,
    clock: &Arc<dyn Clock>,
    shared: &Arc<Shared>,
) -> (GroupCommit<JobToken, Started>, Lanes) {
    let config = GroupCommitConfig {
        lanes: 1,
        queue_len_max: config.workers,
        overlap_below: 1,
    };
    let shared = Arc::clone(shared);
    GroupCommit::new(config, clock, move |tokens| {
        let shared = Arc::clone(&shared);
        async move { start_jobs(&*shared.queue, &*shared.bus, &tokens).await }.boxed()
    })
}
