//! What an attempt means for its job, for workers inside and outside this process alike.
//!
//! Pure but for the jitter of a delay. Knows no queue and no lease.

use std::time::Duration;

use order_core::{Attempt, Cause, Job, OrderEvent, Outcome, RetryPolicy, Verdict};

/// The code of the cause of an order whose attempts ran out.
const ATTEMPTS_EXHAUSTED: &str = "ATTEMPTS_EXHAUSTED";

/// The longest delay a processor can ask for. A misread `Retry-After` must not put an order
/// off for ever.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// The attempt that a claimed job stands for, as a processor sees it.
pub(crate) fn attempt_of(job: &Job, retry: &RetryPolicy) -> Attempt {
    Attempt {
        number: job.attempt,
        is_last: retry.delay_after(job.attempt_in_round(), 0.0).is_none(),
        trace_parent: job.trace_parent.clone(),
    }
}

/// Moves the order of a job as its start has done; `None` if it was there already.
pub(crate) fn apply_start(job: &mut Job, event: Option<OrderEvent>) {
    if let Some(event) = event {
        job.order.status = event.status;
        job.order.version = event.version;
        job.order.updated_at = event.at;
    }
}

/// What to do with a job whose attempt ended in `outcome`.
pub(crate) fn verdict(outcome: Outcome, attempt_in_round: u32, retry: &RetryPolicy) -> Verdict {
    match outcome {
        Outcome::Done => Verdict::Processed,
        // The texts may be somebody else's: `Cause::new` bounds and cleans them.
        Outcome::Fail(cause) => Verdict::Failed(Cause::new(cause.code, cause.message)),
        Outcome::Retry { error, after } => {
            let cause = Cause::new(ATTEMPTS_EXHAUSTED, error);
            let after = after.unwrap_or_default().min(RETRY_AFTER_MAX);
            match retry.delay_after(attempt_in_round, rand::random()) {
                None => Verdict::Failed(cause),
                Some(delay) => Verdict::Retry {
                    delay: delay.max(after),
                    error: cause.message,
                    is_counted: true,
                },
            }
        }
        Outcome::Postpone { error, after } => Verdict::Retry {
            delay: after.min(RETRY_AFTER_MAX),
            // Cleaned and bounded as the error of a retry.
            error: Cause::new(ATTEMPTS_EXHAUSTED, error).message,
            is_counted: false,
        },
    }
}

/// A claim beyond the last attempt means that the last one got no further than to be
/// claimed: it took its process down, lost its lease, or was reported to a process that
/// could not tell that it was the last.
pub(crate) fn exhausted_verdict() -> Verdict {
    Verdict::Failed(Cause::new(
        ATTEMPTS_EXHAUSTED,
        "every attempt failed or ended without a result; the processor may be crashing its process",
    ))
}
