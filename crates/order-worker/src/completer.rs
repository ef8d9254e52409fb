//! Commits the results of attempts, in batches, and tells the watchers.
//!
//! Workers hand a result over and take the next job; they never wait for a commit. What is
//! not committed yet is bounded, so a store that is away stops the workers in the end.
//!
//! # Invariants
//! An event is published only after its commit. A result leaves the table of leases when
//! its fate is known or its lease has run out, unless the pool is stopping: then it stays,
//! and the drain gives the job back.

use std::{future::pending, sync::Arc};

use futures_util::FutureExt as _;
use order_core::{
    Clock, Completed, Completion, Deadline, Error, JobToken, OrderEvent, TraceParent, Verdict,
    group_commit::{FLUSH_TIME_MAX, GroupCommit, GroupCommitConfig, GroupCommitStats, Lanes},
    span::SharedSpan,
    supervisor::{Beat, Task},
};
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    time::sleep,
};

use crate::{backoff::Backoff, ends::Finished, shared::Shared};

/// Takes results from workers.
pub(crate) struct Completer {
    commits: GroupCommit<Finished, ()>,
    ledger: Arc<Ledger>,
}

impl Completer {
    /// Builds a completer and its lanes; `config.queue_len_max` bounds the results that
    /// are not committed yet.
    pub(crate) fn new(
        config: GroupCommitConfig,
        clock: &Arc<dyn Clock>,
        shared: &Arc<Shared>,
    ) -> (Self, Lanes) {
        // One that does not fit waits for the end of its lease.
        let (aside, set_aside) = mpsc::channel(config.queue_len_max);
        let set_aside = Arc::new(Mutex::new(set_aside));
        let ledger = Arc::new(Ledger {
            shared: Arc::clone(shared),
            free: Semaphore::new(config.queue_len_max),
            aside,
        });
        let flushing = Arc::clone(&ledger);
        // A result is tried again until its lease runs out.
        let time_max = shared.leases.duration() + FLUSH_TIME_MAX;
        let (commits, lanes) = GroupCommit::new(config, clock, move |completions| {
            let ledger = Arc::clone(&flushing);
            async move { ledger.commit(completions).await }.boxed()
        });
        let waiting = Arc::clone(&ledger);
        let lanes = lanes.into_iter();
        let mut lanes: Lanes = lanes
            .map(|lane| lane.with_step_time_max(time_max))
            .collect();
        lanes.push(Task::new("locked results", time_max, move |beat| {
            Arc::clone(&waiting).commit_aside(Arc::clone(&set_aside), beat)
        }));
        (Self { commits, ledger }, lanes)
    }

    /// Hands a result over. Waits only while too many are not committed yet, and gives up
    /// when the pool stops.
    pub(crate) async fn submit(&self, finished: Finished) {
        let Ledger { shared, free, .. } = &*self.ledger;
        let place = tokio::select! {
            biased;
            place = free.acquire() => place,
            () = shared.stops.running.cancelled() => return,
        };
        if !shared.leases.begin_completing(finished.completion.token) {
            shared.stats.fenced.inc();
            return;
        }
        if let Ok(place) = place {
            // The lane that commits the result gives the place back.
            place.forget();
        }
        let order_id = finished.completion.token.order_id;
        // Submitting queues the result when it is first polled; the rest of the future
        // only waits for an answer nobody needs.
        let refused = self.commits.submit(finished, Deadline::NONE);
        if let Some(Err(error)) = refused.now_or_never() {
            tracing::warn!(order.id = %order_id, error = error.chain(), "result was not queued");
            free.add_permits(1);
        }
    }

    /// Counters of the commits of results.
    pub(crate) fn stats(&self) -> &GroupCommitStats {
        self.commits.stats()
    }

    /// Takes no more results; the lanes end when all are committed or given up.
    pub(crate) fn close(&self) {
        self.commits.close();
    }
}

/// Results that a commit left open.
#[derive(Default)]
struct Unsettled {
    /// The store did not answer for them.
    again: Vec<Finished>,
    /// Another transaction has locked their orders.
    locked: Vec<Finished>,
}

/// Results whose fate is not known yet. If their task ends without it, their jobs are given
/// back: whatever was committed, giving back changes nothing of it.
struct Open<'a> {
    shared: &'a Shared,
    results: Vec<Finished>,
}

impl<'a> Open<'a> {
    const fn new(shared: &'a Shared, results: Vec<Finished>) -> Self {
        Self { shared, results }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        for result in &self.results {
            self.shared.leases.give_back(result.completion.token);
        }
    }
}

/// Places for results under way; they are free again when this is dropped.
struct Places<'a> {
    free: &'a Semaphore,
    n_taken: usize,
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        self.free.add_permits(self.n_taken);
    }
}

/// What the lanes of a completer write with.
struct Ledger {
    shared: Arc<Shared>,
    /// Places for results that are not committed yet.
    free: Semaphore,
    /// Results that could not be committed while others could.
    aside: mpsc::Sender<Finished>,
}

impl Ledger {
    /// Commits a batch. While the store is away it is tried again, each result for as long
    /// as its lease lasts.
    async fn commit(&self, results: Vec<Finished>) -> Vec<Result<(), Error>> {
        let n_results = results.len();
        // Given back however this ends, a panic included.
        let _places = Places {
            free: &self.free,
            n_taken: n_results,
        };
        let mut open = Open::new(&self.shared, results);
        let mut backoff = Backoff::default();
        loop {
            let unsettled = self.commit_once(&open.results).await;
            self.set_aside(unsettled.locked);
            open.results = unsettled.again;
            if open.results.is_empty() || self.shared.stops.running.is_cancelled() {
                break;
            }
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                () = self.shared.stops.running.cancelled() => break,
            }
            self.drop_expired(&mut open.results);
            if open.results.is_empty() {
                break;
            }
        }
        std::iter::repeat_with(|| Ok(())).take(n_results).collect()
    }

    /// Lets results wait apart whose orders another transaction has locked: nothing else should
    /// wait for that.
    fn set_aside(&self, locked: Vec<Finished>) {
        for result in locked {
            let token = result.completion.token;
            if self.aside.try_send(result).is_err() {
                self.shared.leases.give_back(token);
            }
        }
    }

    /// Commits what was set aside, each result by itself and for as long as its lease lasts,
    /// until no more jobs are taken. What is left then is given back by the drain.
    async fn commit_aside(
        self: Arc<Self>,
        set_aside: Arc<Mutex<mpsc::Receiver<Finished>>>,
        beat: Beat,
    ) {
        let mut set_aside = set_aside.lock().await;
        let mut open = Open::new(&self.shared, Vec::new());
        let mut backoff = Backoff::default();
        let taking = &self.shared.stops.taking;
        loop {
            let pause = async {
                if open.results.is_empty() {
                    pending::<()>().await;
                }
                sleep(backoff.next_delay()).await;
            };
            tokio::select! {
                biased;
                () = taking.cancelled() => return,
                Some(result) = set_aside.recv(), if open.results.len() < set_aside.max_capacity() => {
                    open.results.push(result);
                    backoff.reset();
                    continue;
                }
                () = pause => {}
            }
            self.drop_expired(&mut open.results);
            for result in open.results.clone() {
                beat.busy();
                let token = result.completion.token;
                let Unsettled { again, locked } = self.commit_once(&[result]).await;
                if again.is_empty() && locked.is_empty() {
                    open.results.retain(|open| open.completion.token != token);
                }
            }
            beat.idle();
        }
    }

    /// Commits once and returns what is to be tried again.
    async fn commit_once(&self, results: &[Finished]) -> Unsettled {
        let completions = results.iter().map(|result| result.completion.clone());
        let completions: Vec<_> = completions.collect();
        let traces = completions.iter();
        let traces = traces.map(|completion| completion.trace_parent.as_ref());
        let committing = SharedSpan::begin("commit results", traces);
        let answers = self.shared.queue.complete(&completions).await;
        drop(committing);
        debug_assert_eq!(answers.len(), completions.len(), "a queue answers each");
        let missing = || Err(Error::internal("the queue did not answer for this result"));
        let answers = answers.into_iter().chain(std::iter::repeat_with(missing));
        let mut events = Vec::new();
        let mut settled = Vec::new();
        let mut unsettled = Unsettled::default();
        for (result, answer) in results.iter().zip(answers) {
            let completion = &result.completion;
            match answer {
                Ok(Completed::Applied(event)) => {
                    self.count(completion);
                    self.shared.stats.ends.count(result, event.as_ref());
                    events.extend(event.map(|event| OrderEvent {
                        trace_parent: completion.trace_parent.clone(),
                        ..event
                    }));
                }
                Ok(Completed::Stale) => self.fence(completion),
                Err(error @ Error::StoreUnavailable { .. }) => {
                    if unsettled.again.is_empty() {
                        tracing::warn!(error = error.chain(), "committing results failed");
                    }
                    unsettled.again.push(result.clone());
                    continue;
                }
                Err(Error::RequestInProgress { .. }) => {
                    unsettled.locked.push(result.clone());
                    continue;
                }
                Err(error) => self.drop_failed(completion, &error),
            }
            settled.push(completion.token);
        }
        self.shared.leases.forget(&settled);
        if !events.is_empty() {
            self.shared.bus.publish(&events);
        }
        unsettled
    }

    fn count(&self, completion: &Completion) {
        let stats = &self.shared.stats;
        let counter = match &completion.verdict {
            Verdict::Processed => &stats.processed,
            Verdict::Retry { .. } => &stats.retried,
            Verdict::Failed(cause) => {
                let JobToken { order_id, attempt } = completion.token;
                tracing::warn!(
                    order.id = %order_id,
                    job.attempt = attempt,
                    trace.id = trace_id(completion),
                    failure.code = cause.code,
                    "order failed"
                );
                &stats.failed
            }
        };
        counter.inc();
    }

    fn fence(&self, completion: &Completion) {
        tracing::info!(
            order.id = %completion.token.order_id,
            job.attempt = completion.token.attempt,
            trace.id = trace_id(completion),
            "stale result was dropped"
        );
        self.shared.stats.fenced.inc();
    }

    fn drop_failed(&self, completion: &Completion, error: &Error) {
        tracing::error!(
            order.id = %completion.token.order_id,
            job.attempt = completion.token.attempt,
            trace.id = trace_id(completion),
            error = error.chain(),
            "result was refused; the job is due when its lease runs out"
        );
        self.shared.stats.dropped.inc();
    }

    fn drop_expired(&self, open: &mut Vec<Finished>) {
        let mut expired = Vec::new();
        open.retain(|result| {
            let token = result.completion.token;
            let is_held = self.shared.leases.is_held(token);
            if !is_held {
                expired.push(token);
            }
            is_held
        });
        if !expired.is_empty() {
            self.shared.stats.dropped.inc_by(expired.len() as u64);
            for token in expired {
                tracing::warn!(
                    order.id = %token.order_id,
                    job.attempt = token.attempt,
                    "lease ran out before the result could be committed"
                );
                self.shared.leases.give_back(token);
            }
        }
    }
}

fn trace_id(completion: &Completion) -> Option<&str> {
    let trace = completion.trace_parent.as_ref();
    trace.map(TraceParent::trace_id)
}
