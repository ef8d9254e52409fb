//! A worker: takes one job at a time from the local queue and makes a verdict of it.
//!
//! # Invariants
//! No work is begun or continued without a lease that has time left. An effect outside the
//! process is begun only after the order is durably PROCESSING, and an abandoned job only after
//! the attempt is durably marked as begun. A panic of the processor ends its attempt and
//! nothing else.

use std::{
    any::Any, future::pending, panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll,
    time::Duration,
};

use futures_util::FutureExt as _;
use order_core::{
    Clock, Completion, Deadline, Effects, Error, Job, JobToken, Outcome, Processor, RetryPolicy,
    Start, Started, TraceParent, Verdict,
    group_commit::{GroupCommit, GroupCommitConfig, GroupCommitStats, Lanes},
    span::{Span, SpanKind},
};
use tokio::time::{Instant, sleep};

use crate::{
    AttemptLabels, WorkerConfig,
    abandoned::{Abandoned, Turn},
    completer::Completer,
    ends::Finished,
    lease::Begin,
    shared::Shared,
    slots::{Slot, Slots},
    start::start_jobs,
    verdict::{apply_start, attempt_of, exhausted_verdict, verdict},
};

/// What the workers of a pool share.
pub(crate) struct Executor {
    shared: Arc<Shared>,
    slots: Slots,
    abandoned: Abandoned,
    processor: Arc<dyn Processor>,
    /// `Some` if the processor has effects outside.
    starts: Option<GroupCommit<Start, Started>>,
    attempt_timeout: Option<Duration>,
    retry: RetryPolicy,
    completer: Completer,
}

/// What a worker does next.
enum Next {
    /// A job from the local queue.
    Queued(Job, Slot),
    /// Looks for an abandoned job.
    Abandoned(Turn),
}

/// A job that is run. If its worker panics, the lease is left to run out, and the attempt counts.
struct Running<'a> {
    shared: &'a Shared,
    token: JobToken,
}

impl<'a> Running<'a> {
    fn new(shared: &'a Shared, token: JobToken) -> Self {
        shared.stats.busy.inc();
        Self { shared, token }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.stats.busy.dec();
        if std::thread::panicking() {
            self.shared.leases.forget([&self.token]);
        }
    }
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
        slots: Slots,
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
            slots,
            abandoned: Abandoned::new(config.poll_interval),
            processor,
            starts,
            attempt_timeout: config.attempt_timeout,
            retry: config.retry,
            completer,
        };
        (executor, lanes)
    }

    /// Counters of the group commits, by operation.
    pub(crate) fn commits(&self) -> Vec<(&'static str, GroupCommitStats)> {
        let starts = self.starts.as_ref();
        let starts = starts.map(|starts| ("start", starts.stats().clone()));
        let completions = ("complete", self.completer.stats().clone());
        starts.into_iter().chain([completions]).collect()
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
        let taking = &self.shared.stops.taking;
        while !taking.is_cancelled() {
            // Only a worker that has to wait registers for the stop: that costs as much as a job.
            let next = if let Some(next) = self.next().now_or_never() {
                next
            } else {
                tokio::select! {
                    biased;
                    () = taking.cancelled() => return,
                    next = self.next() => next,
                }
            };
            match next {
                Next::Queued(job, slot) => self.run_job(job, slot, false).await,
                Next::Abandoned(turn) => self.run_abandoned(turn).await,
            }
        }
    }

    /// Waits for work. All waits are safe to drop.
    async fn next(&self) -> Next {
        // Before the queue, which may never be empty.
        let Shared { stops, pause, .. } = &*self.shared;
        let is_claiming = !stops.claiming.is_cancelled();
        if is_claiming
            && !pause.is_on()
            && let Some(turn) = self.abandoned.try_turn()
        {
            return Next::Abandoned(turn);
        }
        tokio::select! {
            biased;
            (job, slot) = self.slots.recv() => Next::Queued(job, slot),
            turn = self.turn(), if is_claiming => Next::Abandoned(turn),
        }
    }

    /// Waits for the turn to look for an abandoned job; nobody has it during a pause.
    async fn turn(&self) -> Turn {
        let pause = &self.shared.pause;
        loop {
            pause.over().await;
            let turn = self.abandoned.turn().await;
            if !pause.is_on() {
                return turn;
            }
        }
    }

    async fn run_abandoned(&self, mut turn: Turn) {
        let Shared {
            queue,
            leases,
            stats,
            stops,
            ..
        } = &*self.shared;
        let sent_at = Instant::now();
        let claimed = self
            .abandoned
            .claim(&mut turn, &**queue, leases.duration())
            .await;
        let job = match claimed {
            Ok(Some(job)) => job,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = error.chain(), "claiming an abandoned job failed");
                return;
            }
        };
        stats.claimed_jobs.inc();
        leases.hold([job.token()], sent_at);
        if stops.taking.is_cancelled() {
            leases.give_back(job.token());
        } else {
            self.run_job(job, self.slots.take(), true).await;
        }
    }

    async fn run_job(&self, mut job: Job, mut slot: Slot, is_abandoned: bool) {
        let token = job.token();
        match self.shared.leases.begin(token) {
            Begin::Run => slot.begin(),
            Begin::Returned => return,
            Begin::Lost => return self.fence(&job),
        }
        let mut span = begin_span(&mut job);
        let _running = Running::new(&self.shared, token);
        if self.retry.is_exhausted(job.attempt_in_round()) {
            let verdict = exhausted_verdict();
            return self.complete(&job, (verdict, None), &mut span).await;
        }
        let begun_at = Instant::now();
        let ended = self.attempt(&mut job, is_abandoned).await;
        let duration = begun_at.elapsed();
        let outcome = match ended {
            Ended::With(outcome) => {
                let verdict = verdict(outcome, job.attempt_in_round(), &self.retry);
                let AttemptLabels { outcome } = AttemptLabels::of(&verdict);
                let verdict = (verdict, Some(duration));
                self.complete(&job, verdict, &mut span).await;
                outcome
            }
            Ended::LeaseLost => {
                // Not given back: what stopped the heartbeat may be the work itself, so this
                // attempt counts when the lease runs out.
                self.shared.leases.forget([&token]);
                self.fence(&job);
                "lost"
            }
            Ended::NotBegun => {
                self.shared.leases.give_back(token);
                "not_begun"
            }
            Ended::Stopped => "stopped",
        };
        if matches!(outcome, "lost" | "not_begun" | "stopped") {
            span.record(|span| span.fail(outcome));
        }
        let attempts = &self.shared.stats.attempts;
        let attempts = attempts.get_or_create(&AttemptLabels { outcome });
        attempts.observe(duration, job.trace_parent.as_ref());
    }

    /// Hands over the result of an attempt and how long it took, if it began.
    async fn complete(
        &self,
        job: &Job,
        (verdict, took): (Verdict, Option<Duration>),
        span: &mut Span,
    ) {
        span.record(|span| match &verdict {
            Verdict::Processed => span.set("job.outcome", "processed"),
            Verdict::Retry { .. } => {
                span.set("job.outcome", "retry");
                span.fail("retry");
            }
            Verdict::Failed(cause) => {
                span.set("job.outcome", "failed");
                span.fail(cause.code.clone());
            }
        });
        let completion = Completion {
            took,
            token: job.token(),
            verdict,
            trace_parent: job.trace_parent.clone(),
        };
        let finished = Finished {
            completion,
            created_at: Some(job.order.created_at),
        };
        self.completer.submit(finished).await;
    }

    fn fence(&self, job: &Job) {
        tracing::info!(
            order.id = %job.order.id,
            job.attempt = job.attempt,
            trace.id = trace_id(job),
            "lease was lost; the attempt is dropped"
        );
        self.shared.stats.fenced.inc();
    }

    async fn attempt(&self, job: &mut Job, is_abandoned: bool) -> Ended {
        let is_alone = is_abandoned && attempt_of(job, &self.retry).is_last;
        let _beside = tokio::select! {
            biased;
            beside = self.abandoned.beside(is_alone) => beside,
            () = self.shared.leases.lost(job.token()) => return Ended::NotBegun,
            () = self.shared.stops.running.cancelled() => return Ended::Stopped,
        };
        if let Err(ended) = self.start(job, is_abandoned).await {
            return ended;
        }
        self.process(job).await
    }

    /// Sets the marks without which the work must not begin: the order is PROCESSING before
    /// an effect can leave the process, and the attempt counts if this one may kill it.
    async fn start(&self, job: &mut Job, is_abandoned: bool) -> Result<(), Ended> {
        let start = Start {
            token: job.token(),
            moves_order: self.starts.is_some(),
            counts: true,
            trace_parent: job.trace_parent.clone(),
        };
        let starting = async {
            match &self.starts {
                Some(starts) => starts.submit(start, Deadline::NONE).await,
                None => start_jobs(&*self.shared.queue, &*self.shared.bus, &[start])
                    .await
                    .pop()
                    .unwrap_or_else(|| Err(Error::internal("the queue did not answer"))),
            }
        };
        if self.starts.is_none() && !is_abandoned {
            return Ok(());
        }
        let started = tokio::select! {
            started = starting => started,
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
            Err(Error::StoreUnavailable { .. } | Error::RequestInProgress { .. }) => {
                Err(Ended::NotBegun)
            }
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
                timeout = self.timeout() => {
                    self.shared.stats.timeouts.inc();
                    return Ended::With(outcome_of_timeout(job, timeout));
                }
            }
        };
        Ended::With(answer.unwrap_or_else(|panic| self.outcome_of_panic(job, panic.as_ref())))
    }

    /// Waits until an attempt has taken too long.
    async fn timeout(&self) -> Duration {
        match self.attempt_timeout {
            Some(timeout) => sleep(timeout).await,
            None => pending().await,
        }
        self.attempt_timeout.unwrap_or_default()
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
            trace.id = trace_id(job),
            panic = text,
            "processor panicked"
        );
        self.shared.stats.panics.inc();
        Outcome::Retry {
            error: format!("the processor panicked: {text}"),
            after: None,
        }
    }
}

/// Begins the span of an attempt. What follows of the attempt is a part of it.
fn begin_span(job: &mut Job) -> Span {
    let mut span = Span::begin(
        job.trace_parent.as_ref(),
        "process order",
        SpanKind::Consumer,
    );
    span.record(|span| {
        span.set("order.id", job.order.id.to_string());
        span.set("job.attempt", i64::from(job.attempt));
    });
    job.trace_parent = span.position().cloned();
    span
}

fn trace_id(job: &Job) -> Option<&str> {
    job.trace_parent.as_ref().map(TraceParent::trace_id)
}

fn outcome_of_timeout(job: &Job, timeout: Duration) -> Outcome {
    tracing::warn!(
        order.id = %job.order.id,
        job.attempt = job.attempt,
        trace.id = trace_id(job),
        ?timeout,
        "attempt took too long and was dropped"
    );
    Outcome::Retry {
        error: format!("the attempt took longer than {timeout:?}"),
        after: None,
    }
}

/// Gathers the starts of workers into batches and tells the watchers. One lane: a worker
/// waits for its start, so there are never more of them than workers.
fn start_commit(
    config: &WorkerConfig,
    clock: &Arc<dyn Clock>,
    shared: &Arc<Shared>,
) -> (GroupCommit<Start, Started>, Lanes) {
    let config = GroupCommitConfig {
        lanes: 1,
        queue_len_max: config.workers,
        overlap_below: 1,
    };
    let shared = Arc::clone(shared);
    GroupCommit::new(config, clock, move |starts| {
        let shared = Arc::clone(&shared);
        async move { start_jobs(&*shared.queue, &*shared.bus, &starts).await }.boxed()
    })
}
