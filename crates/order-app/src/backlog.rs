//! Reads how much work waits in the database, now and then, for the metrics.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use order_core::{Backlog, Clock, OrderStore, metrics::Counter, supervisor::Beat};
use tokio_util::sync::CancellationToken;

/// The time between two reads, varied by 25 % either way so that processes do not meet at the
/// database.
const INTERVAL: Duration = Duration::from_secs(10);

/// A slow read is followed by a pause of this many times its length: the reads of a process never
/// keep a connection busy for more than 2 % of the time.
const REST: u32 = 50;

/// The figures count for this many intervals. A process that cannot read them any longer has none,
/// which an alert can see, instead of old ones.
const INTERVALS_MAX: u32 = 3;

/// The last figures that were read.
pub(crate) struct BacklogView {
    clock: Arc<dyn Clock>,
    last: Mutex<Option<(Backlog, Instant)>>,
    failures: Counter,
}

impl BacklogView {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            last: Mutex::default(),
            failures: Counter::default(),
        })
    }

    /// The figures, unless they are too old.
    pub(crate) fn now(&self) -> Option<Backlog> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.instant();
        last.and_then(|(backlog, valid_until)| (now < valid_until).then_some(backlog))
    }

    /// Reads that failed.
    pub(crate) fn failures(&self) -> &Counter {
        &self.failures
    }

    /// Reads the figures again and again, until `stop`.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn run(
        self: Arc<Self>,
        store: Arc<dyn OrderStore>,
        stop: CancellationToken,
        beat: Beat,
    ) {
        let forever = async {
            let mut is_failing = false;
            loop {
                beat.busy();
                let begun_at = self.clock.instant();
                let read = store.backlog().await;
                let now = self.clock.instant();
                beat.idle();
                let took = now.saturating_duration_since(begun_at);
                let jitter = 0.75 + 0.5 * rand::random::<f64>();
                let pause = INTERVAL.mul_f64(jitter).max(took * REST);
                match read {
                    Ok(backlog) => {
                        is_failing = false;
                        let last = (backlog, now + pause.max(INTERVAL) * INTERVALS_MAX);
                        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
                    }
                    Err(error) => {
                        self.failures.inc();
                        if !is_failing {
                            tracing::warn!(error = error.chain(), "counting waiting jobs failed");
                        }
                        is_failing = true;
                    }
                }
                self.clock.sleep(pause).await;
            }
        };
        stop.run_until_cancelled(forever).await;
    }
}
