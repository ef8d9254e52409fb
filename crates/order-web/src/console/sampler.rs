//! Reads the state of the system for all pages of this process: however many are open, the database
//! is read once each interval.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use order_core::{
    AdminApi, CallContext, Clock, ClusterState, Deadline, Error, IdGen, RequestId,
    overview::Overview, supervisor::Beat,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::http::operation;

/// The time between two readings while a page is open.
const INTERVAL: Duration = Duration::from_secs(2);

/// The same while none is.
const INTERVAL_UNSEEN: Duration = Duration::from_secs(10);

/// How long a reading may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a page waits for a reading before it shows the one before.
const PATIENCE: Duration = Duration::from_secs(1);

/// Rates are those of about this time. Processes report every two seconds and at any moment, so the
/// rates of one interval would jump.
const RATE_WINDOW: SignedDuration = SignedDuration::from_secs(11);

/// For how long readings are kept.
pub(super) const KEPT_FOR: SignedDuration = SignedDuration::from_mins(10);

/// The most readings that are kept, whatever the clock of the database says.
const KEPT_MAX: usize = 320;

/// What was read lately.
#[derive(Clone, Default)]
pub(super) struct Samples {
    /// Oldest first.
    overviews: VecDeque<Arc<Overview>>,
    /// The readings that rates are made of, oldest first.
    states: VecDeque<Arc<ClusterState>>,
    /// When the last one was read.
    read_at: Option<Instant>,
    /// When somebody last tried to.
    tried_at: Option<Instant>,
    /// Why the last try failed.
    failure: Option<String>,
}

impl Samples {
    /// The overviews of the last minutes, oldest first.
    pub(super) fn overviews(&self) -> impl DoubleEndedIterator<Item = &Overview> {
        self.overviews.iter().map(|overview| &**overview)
    }

    /// The last overview and the reading it was made of; `None` before the first.
    pub(super) fn last(&self) -> Option<(&Overview, &ClusterState)> {
        self.overviews
            .back()
            .zip(self.states.back())
            .map(|(overview, state)| (&**overview, &**state))
    }

    /// Why the figures are old, and how old they are; `None` for their age before the first.
    pub(super) fn failure(&self, now: Instant) -> Option<(Option<Duration>, &str)> {
        let failure = self.failure.as_deref()?;
        let age = self.read_at.map(|at| now.saturating_duration_since(at));
        Some((age, failure))
    }

    fn add(&mut self, state: ClusterState, now: Instant) {
        // A clock that was set back begins anew.
        if self.states.back().is_some_and(|last| last.at > state.at) {
            self.states.clear();
            self.overviews.clear();
        }
        let (at, state) = (state.at, Arc::new(state));
        while self
            .states
            .front()
            .is_some_and(|first| at.duration_since(first.at) > RATE_WINDOW && self.states.len() > 1)
        {
            self.states.pop_front();
        }
        let before = self.states.front().unwrap_or(&state);
        let overview = Overview::between(before, &state);
        self.states.push_back(state);
        self.overviews.push_back(Arc::new(overview));
        while self.overviews.len() > KEPT_MAX
            || self
                .overviews
                .front()
                .is_some_and(|first| at.duration_since(first.at) > KEPT_FOR)
        {
            self.overviews.pop_front();
        }
        self.read_at = Some(now);
        self.failure = None;
    }

    /// Logs a failure: at `warn` for the first of an outage, at `debug` after that.
    fn note(&mut self, error: &Error) {
        let chain = error.chain();
        if self.failure.is_none() {
            tracing::warn!(error.chain = chain, "the console cannot read the system");
        } else {
            tracing::debug!(error.chain = chain, "the console cannot read the system");
        }
        self.failure = Some(error.to_string());
    }
}

/// Reads the state of the system.
pub(super) struct Sampler {
    admin: Arc<dyn AdminApi>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    samples: watch::Sender<Arc<Samples>>,
    /// Wakes the task to look how long it may sleep.
    wanted: Notify,
    n_viewers: AtomicUsize,
    /// Raised when something was changed that the next page must show.
    generation: AtomicU64,
}

/// A page that is open. Dropping it closes the page.
pub(super) struct Viewer(Arc<Sampler>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.n_viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sampler {
    pub(super) fn new(
        admin: Arc<dyn AdminApi>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdGen>,
    ) -> Arc<Self> {
        Arc::new(Self {
            admin,
            clock,
            ids,
            samples: watch::Sender::default(),
            wanted: Notify::new(),
            n_viewers: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
        })
    }

    /// Reads until `stop` is cancelled.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken, beat: Beat) {
        let mut last = None;
        loop {
            let (now, generation) = (self.clock.instant(), self.generation());
            let due_at = match last {
                Some((at, seen)) if seen == generation => at + self.interval(),
                _ => now,
            };
            let next = async {
                if due_at > now {
                    beat.idle();
                    tokio::select! {
                        () = self.clock.sleep(due_at.saturating_duration_since(now)) => {}
                        () = self.wanted.notified() => {}
                    }
                    return None;
                }
                beat.busy();
                self.read(generation).await;
                Some((now, generation))
            };
            tokio::select! {
                () = stop.cancelled() => return,
                read = next => last = read.or(last),
            }
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn interval(&self) -> Duration {
        let is_first = self.samples.borrow().states.len() < 2;
        if is_first || self.n_viewers.load(Ordering::Relaxed) > 0 {
            INTERVAL
        } else {
            INTERVAL_UNSEEN
        }
    }

    async fn read(&self, generation: u64) {
        let request_id = RequestId::from_uuid(*self.ids.order_id().as_uuid());
        let deadline = Deadline::at(self.clock.instant() + READ_TIMEOUT);
        let ctx = CallContext::new(request_id, deadline);
        let read = operation::in_time(READ_TIMEOUT, self.admin.cluster(&ctx)).await;
        let now = self.clock.instant();
        self.samples.send_modify(|samples| {
            let samples = Arc::make_mut(samples);
            match read {
                Ok(state) => samples.add(state, now),
                Err(error) => samples.note(&error),
            }
            // What was changed meanwhile is not in this reading.
            samples.tried_at = (generation == self.generation()).then_some(now);
        });
    }

    /// Opens a page.
    pub(super) fn viewer(self: &Arc<Self>) -> Viewer {
        self.n_viewers.fetch_add(1, Ordering::Relaxed);
        self.wanted.notify_one();
        Viewer(Arc::clone(self))
    }

    /// Follows the readings.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Samples>> {
        self.samples.subscribe()
    }

    /// Makes the next page wait for a new reading: something was changed.
    pub(super) fn expire(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.samples
            .send_modify(|samples| Arc::make_mut(samples).tried_at = None);
        self.wanted.notify_one();
    }

    /// The readings, of which the last is no older than [`INTERVAL`], or failed, or is late.
    pub(super) async fn fresh(self: &Arc<Self>) -> Arc<Samples> {
        let _viewer = self.viewer();
        let mut samples = self.subscribe();
        let is_fresh = |samples: &Arc<Samples>| {
            let now = self.clock.instant();
            let is_new = |at| now.saturating_duration_since(at) <= INTERVAL;
            samples.tried_at.is_some_and(is_new)
        };
        // Late or never: the page shows what there is.
        let _ = tokio::time::timeout(PATIENCE, samples.wait_for(is_fresh)).await;
        let samples = samples.borrow();
        Arc::clone(&samples)
    }
}
