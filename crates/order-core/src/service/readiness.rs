//! Whether the store is ready: asked by any number of probes, answered by one look a second.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::{CallContext, Clock, Error, OrderStore};

/// How long an answer counts.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// The last answer. Probes that arrive while the store is being asked wait for its answer.
#[derive(Default)]
pub(super) struct Readiness(Mutex<Option<(Instant, Result<(), Error>)>>);

impl Readiness {
    /// Whether `store` was ready at most a second ago.
    ///
    /// # Cancel safety
    /// Safe to cancel: the next caller asks the store.
    pub(super) async fn check(
        &self,
        store: &dyn OrderStore,
        clock: &dyn Clock,
        ctx: &CallContext,
    ) -> Result<(), Error> {
        let mut last = self.0.lock().await;
        if let Some((at, result)) = &*last
            && clock.instant() < *at + ANSWER_AGE_MAX
        {
            return result.clone();
        }
        let result = store.check(ctx).await;
        *last = Some((clock.instant(), result.clone()));
        result
    }
}
