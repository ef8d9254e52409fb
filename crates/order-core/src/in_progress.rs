//! Waiting for another request with the same key, or for the same order, that is in progress.
//!
//! Only a request that is alone waits. A batch is answered at once, so that one key or order
//! that is locked does not hold up the requests that share the batch.

use std::time::Duration;

use crate::{CallContext, Clock, Error};

/// How long a request waits for another one.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The bounds of the pause before the next try; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Tries a request again while its answer is [`Error::RequestInProgress`]: for 2 s, and not
/// beyond the deadline of the call.
///
/// # Cancel safety
/// That of the tries.
pub async fn wait_while_in_progress<T, F>(
    clock: &dyn Clock,
    ctx: &CallContext,
    mut request: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let give_up_at = clock.instant() + WAIT_MAX;
    let mut pause = PAUSE_MIN;
    loop {
        let answer = request().await;
        let now = clock.instant();
        let time_left = ctx.deadline.remaining(now).unwrap_or(WAIT_MAX);
        let is_in_progress = matches!(answer, Err(Error::RequestInProgress { .. }));
        if !is_in_progress || now >= give_up_at || time_left <= pause {
            return answer;
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
