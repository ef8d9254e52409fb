//! The statements of remote workers, each run in a task of its own.
//!
//! # Invariants
//! A job is handed out only after its order is durably PROCESSING. What was claimed and is
//! not handed out is given back or, if even that fails, due when its lease runs out. Events
//! are published only after their commit.

use std::{iter, sync::Arc, time::Duration};

use order_core::{
    Completed, Completion, Error, EventBus, Extended, Job, JobQueue, JobReport, JobToken,
    LeaseJobs, LeasedJob, OrderEvent, Outcome, RetryPolicy, Start, Started, TraceParent, Verdict,
    group_commit::BATCH_LEN_MAX,
};
use tokio::sync::{Notify, oneshot};

use super::rounds::{Handed, Rounds, attempt_in_round};
use crate::{
    AttemptLabels, EndStats, RemoteWorkersStats,
    abandoned::Abandoned,
    ends::Finished,
    start::start_jobs,
    verdict::{apply_start, attempt_of, exhausted_verdict, verdict},
};

/// Leased jobs on their way to the caller.
pub(super) struct Handover {
    pub(super) jobs: Vec<LeasedJob>,
    /// Told when the caller has them. Dropped untold, the jobs are given back.
    pub(super) taken: oneshot::Sender<()>,
}

/// What the tasks work with.
pub(super) struct Desk {
    pub(super) queue: Arc<dyn JobQueue>,
    pub(super) bus: Arc<dyn EventBus>,
    pub(super) retry: RetryPolicy,
    pub(super) stats: RemoteWorkersStats,
    pub(super) ends: EndStats,
    pub(super) rounds: Rounds,
    pub(super) abandoned: Abandoned,
    /// Somebody knows of due jobs.
    pub(super) due: Notify,
}

impl Desk {
    /// Leases jobs and hands them over; takes them back if nobody is there any more.
    pub(super) async fn lease(
        &self,
        request: LeaseJobs,
        answer: oneshot::Sender<Result<Handover, Error>>,
    ) {
        let jobs = match self.claim_and_start(request).await {
            Ok(jobs) => jobs,
            Err(error) => {
                // A caller that hung up gave up its answer, nothing else.
                let _ = answer.send(Err(error));
                return;
            }
        };
        let tokens: Vec<_> = jobs.iter().map(LeasedJob::token).collect();
        let (taken, was_taken) = oneshot::channel();
        let _ = answer.send(Ok(Handover { jobs, taken }));
        if was_taken.await.is_err() {
            self.give_back(&tokens).await;
        }
    }

    /// Claims jobs, or one abandoned job alone: a worker that dies with it has no other.
    async fn claim_and_start(&self, request: LeaseJobs) -> Result<Vec<LeasedJob>, Error> {
        if let Some(mut turn) = self.abandoned.try_turn()
            && let Some(job) = self
                .abandoned
                .claim(&mut turn, &*self.queue, request.lease)
                .await?
        {
            drop(turn);
            if self.retry.is_exhausted(job.attempt_in_round()) {
                self.bury(&[job]).await;
            } else {
                return self.start(vec![job], true).await;
            }
        }
        let jobs = self.queue.claim(request.limit, request.lease).await?;
        if jobs.len() >= request.limit {
            // More is likely due, and whoever waits for it got no word of its own.
            self.due.notify_one();
        }
        let (exhausted, jobs): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .partition(|job| self.retry.is_exhausted(job.attempt_in_round()));
        self.bury(&exhausted).await;
        self.start(jobs, false).await
    }

    async fn bury(&self, exhausted: &[Job]) {
        let results = exhausted
            .iter()
            .map(|job| unbegun(job, exhausted_verdict()));
        self.settle(results.collect()).await;
    }

    /// Starts jobs and returns those whose orders are PROCESSING now. Unless the attempts count
    /// from now on, a worker may die before it has begun all it holds. Fails only if the store
    /// is away for all of them, so that the caller backs off.
    async fn start(&self, jobs: Vec<Job>, counts: bool) -> Result<Vec<LeasedJob>, Error> {
        let starts = jobs.iter().map(|job| Start {
            token: job.token(),
            moves_order: true,
            counts,
            trace_parent: job.trace_parent.clone(),
        });
        let starts: Vec<_> = starts.collect();
        let mut answers = Vec::with_capacity(jobs.len());
        for batch in starts.chunks(BATCH_LEN_MAX) {
            answers.extend(start_jobs(&*self.queue, &*self.bus, batch).await);
        }
        let mut leased = Vec::with_capacity(jobs.len());
        let mut returned = Vec::new();
        let mut outage = None;
        let mut refused = Vec::new();
        for (mut job, answer) in jobs
            .into_iter()
            .zip(answers.into_iter().chain(unanswered()))
        {
            match answer {
                Ok(Started::Applied(event)) => {
                    apply_start(&mut job, event);
                    leased.push(job);
                }
                Ok(Started::Stale) => {
                    self.stats.fenced.inc();
                }
                // Nothing failed that would count against the order.
                Err(error @ (Error::StoreUnavailable { .. } | Error::RequestInProgress { .. })) => {
                    returned.push(job.token());
                    outage = Some(error);
                }
                // A row the store cannot move is retried like a failed attempt, so that it
                // ends as a failed order and not in a circle.
                Err(error) => refused.push(self.failed_start(&job, &error)),
            }
        }
        self.give_back(&returned).await;
        self.settle(refused).await;
        if let Some(error) = outage.filter(|_| leased.is_empty()) {
            return Err(error);
        }
        let handed = leased.iter().map(|job| (job.order.id, Handed::now(job)));
        self.rounds.remember(handed);
        let hand_out = |job: Job| LeasedJob {
            attempt: attempt_of(&job, &self.retry),
            order: job.order,
        };
        Ok(leased.into_iter().map(hand_out).collect())
    }

    fn failed_start(&self, job: &Job, error: &Error) -> Finished {
        let outcome = Outcome::Retry {
            error: error.chain(),
            after: None,
        };
        let verdict = verdict(outcome, job.attempt_in_round(), &self.retry);
        unbegun(job, verdict)
    }

    /// Gives back jobs that were claimed and are in nobody's hands.
    async fn give_back(&self, tokens: &[JobToken]) {
        if tokens.is_empty() {
            return;
        }
        if let Err(error) = self.release(tokens).await {
            tracing::warn!(
                error = error.chain(),
                jobs = tokens.len(),
                "releasing jobs failed; they are due when their leases run out"
            );
        }
    }

    /// Makes jobs due at once; returns how many were still held by these tokens.
    pub(super) async fn release(&self, tokens: &[JobToken]) -> Result<usize, Error> {
        let n_released = self.queue.release(tokens).await?;
        self.stats.released.inc_by(n_released as u64);
        self.rounds.forget(tokens.iter().copied());
        if n_released > 0 {
            self.due.notify_one();
        }
        Ok(n_released)
    }

    /// Moves the end of leases; returns the tokens that are not current any more.
    pub(super) async fn extend(
        &self,
        tokens: &[JobToken],
        lease: Duration,
    ) -> Result<Vec<JobToken>, Error> {
        let answers = self.queue.extend(tokens, lease).await?;
        let lost = tokens.iter().zip(answers);
        let lost = lost.filter(|(_, answer)| *answer == Extended::Stale);
        let lost: Vec<JobToken> = lost.map(|(token, _)| *token).collect();
        self.rounds.forget(lost.iter().copied());
        Ok(lost)
    }

    /// Commits what came of jobs, in the order of `reports`. The call that reports them is at
    /// `trace_parent`.
    pub(super) async fn report(
        &self,
        trace_parent: Option<TraceParent>,
        reports: Vec<JobReport>,
    ) -> Vec<Result<Completed, Error>> {
        let results = reports.into_iter().map(|JobReport { token, outcome }| {
            let handed = self.rounds.find(token);
            let attempt_in_round = attempt_in_round(handed, token, &self.retry);
            let completion = Completion {
                took: handed.map(|handed| handed.at.elapsed()),
                token,
                verdict: verdict(outcome, attempt_in_round, &self.retry),
                trace_parent: trace_parent.clone(),
            };
            Finished {
                completion,
                created_at: handed.map(|handed| handed.created_at),
            }
        });
        self.settle(results.collect()).await
    }

    async fn settle(&self, results: Vec<Finished>) -> Vec<Result<Completed, Error>> {
        let mut answers = Vec::with_capacity(results.len());
        for batch in results.chunks(BATCH_LEN_MAX) {
            let completions = batch.iter().map(|result| result.completion.clone());
            let completions: Vec<_> = completions.collect();
            let settled = self.queue.complete(&completions).await;
            debug_assert_eq!(settled.len(), batch.len(), "a queue answers each");
            self.account(batch, &settled);
            let settled = settled.into_iter().chain(unanswered());
            answers.extend(settled.take(batch.len()));
        }
        answers
    }

    /// Counts and logs what was committed, and tells the watchers.
    fn account(&self, results: &[Finished], answers: &[Result<Completed, Error>]) {
        let mut events = Vec::new();
        let mut done = Vec::new();
        for (result, answer) in results.iter().zip(answers) {
            let Completion {
                token,
                verdict,
                trace_parent,
                ..
            } = &result.completion;
            match answer {
                Ok(Completed::Applied(event)) => {
                    events.extend(event.clone().map(|event| OrderEvent {
                        trace_parent: trace_parent.clone(),
                        ..event
                    }));
                    let labels = AttemptLabels::of(verdict);
                    self.stats.completed.get_or_create(&labels).inc();
                    self.ends.count(result, event.as_ref());
                    if let Verdict::Failed(cause) = verdict {
                        tracing::warn!(
                            order.id = %token.order_id,
                            job.attempt = token.attempt,
                            failure.code = cause.code,
                            "order failed"
                        );
                    }
                }
                Ok(Completed::Stale) => {
                    tracing::info!(
                        order.id = %token.order_id,
                        job.attempt = token.attempt,
                        "stale result was dropped"
                    );
                    self.stats.fenced.inc();
                }
                Err(error) => {
                    tracing::warn!(
                        order.id = %token.order_id,
                        job.attempt = token.attempt,
                        error = error.chain(),
                        "result was not committed"
                    );
                    continue;
                }
            }
            done.push(*token);
        }
        self.rounds.forget(done);
        if !events.is_empty() {
            self.bus.publish(&events);
        }
    }
}

/// The result of a job on which no work has begun.
fn unbegun(job: &Job, verdict: Verdict) -> Finished {
    Finished {
        completion: Completion {
            took: None,
            token: job.token(),
            verdict,
            trace_parent: job.trace_parent.clone(),
        },
        created_at: Some(job.order.created_at),
    }
}

/// Stands in for answers a queue owes, without an end.
fn unanswered<T>() -> impl Iterator<Item = Result<T, Error>> {
    iter::repeat_with(|| Err(Error::internal("the queue did not answer for this job")))
}
