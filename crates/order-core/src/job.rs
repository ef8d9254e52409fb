//! The work that an order still needs, and the lease protocol around it.

use std::time::Duration;

use crate::{Cause, Order, OrderEvent, OrderId, TraceParent};

/// The right to finish one attempt of one job: the fencing token.
///
/// `attempt` is raised by every claim and never reset, so each claim has its own token, and a
/// write with an older token has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobToken {
    /// The order, which is also the key of its job.
    pub order_id: OrderId,
    /// The claim this token stands for.
    pub attempt: u32,
}

/// A claimed job: an order with the right to finish it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The order as it was at the claim.
    pub order: Order,
    /// Which claim of the job this is, over its whole life. Starts at 1.
    pub attempt: u32,
    /// Earlier claims that do not count as attempts of this round: those of rounds before a
    /// redrive, and those under which the work never began.
    pub attempts_before: u32,
    /// Where the request that made the order is in a sampled trace.
    pub trace_parent: Option<TraceParent>,
}

impl Job {
    /// The fencing token.
    pub fn token(&self) -> JobToken {
        JobToken {
            order_id: self.order.id,
            attempt: self.attempt,
        }
    }

    /// Which attempt of the current round this is. Starts at 1.
    pub fn attempt_in_round(&self) -> u32 {
        self.attempt.saturating_sub(self.attempts_before)
    }
}

/// What a worker found out about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The order is done: PROCESSED, and the job is deleted.
    Processed,
    /// The order is given up: FAILED, and the job stays buried for a redrive.
    Failed(Cause),
    /// The job is due again after `delay`; the order does not move.
    Retry {
        /// How long to wait, counted by the database's clock.
        delay: Duration,
        /// What went wrong, kept with the job for operators.
        error: String,
        /// Whether the attempt counts against the limit of the round.
        is_counted: bool,
    },
}

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The right to report it.
    pub token: JobToken,
    /// What to do.
    pub verdict: Verdict,
    /// How long the attempt took; `None` if that is not known.
    pub took: Option<Duration>,
    /// Where the attempt is in a trace.
    pub trace_parent: Option<TraceParent>,
}

/// The answer of a queue to one [`Completion`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completed {
    /// The verdict is durable; `Some` event if the order moved.
    Applied(Option<OrderEvent>),
    /// The token is not the current one: the result was dropped and nothing changed.
    Stale,
}

/// A durable mark that is set before an attempt begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The right to set it.
    pub token: JobToken,
    /// Move the order to PROCESSING, because an effect may leave the process.
    pub moves_order: bool,
    /// Count the attempt even if nothing is ever heard of it again.
    pub counts: bool,
    /// Where the attempt is in a trace.
    pub trace_parent: Option<TraceParent>,
}

/// The answer of a queue to one [`Start`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// The mark is durable; `Some` event if the order moved.
    Applied(Option<OrderEvent>),
    /// The token is not the current one: the work must not begin.
    Stale,
}

/// The answer of a queue to one extension of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// The lease ends later now.
    Applied,
    /// The token is current, but another transaction has locked the job: the lease ends when
    /// it did before.
    Locked,
    /// The token is not the current one: the work must stop.
    Stale,
}

/// When a failed attempt is repeated: exponential backoff with full jitter
/// (M. Brooker, "Exponential Backoff and Jitter").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts of one round, at least 1.
    pub attempts_max: u32,
    /// The upper bound of the first delay.
    pub delay_base: Duration,
    /// The upper bound of every delay.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            delay_base: Duration::from_millis(500),
            delay_max: Duration::from_mins(5),
        }
    }
}

impl RetryPolicy {
    /// Whether an attempt of a round is beyond the last allowed one.
    pub const fn is_exhausted(&self, attempt_in_round: u32) -> bool {
        attempt_in_round > self.attempts_max
    }

    /// The delay after the failure of `attempt_in_round`, or `None` if it was the last one.
    ///
    /// `random` is uniform in 0.0 to 1.0; the delay is uniform in 0 to
    /// `min(delay_max, delay_base × 2^(attempt − 1))`.
    pub fn delay_after(&self, attempt_in_round: u32, random: f64) -> Option<Duration> {
        if attempt_in_round >= self.attempts_max {
            return None;
        }
        let factor = 2_u32.saturating_pow(attempt_in_round.saturating_sub(1).min(31));
        let ceiling = self.delay_base.saturating_mul(factor).min(self.delay_max);
        Some(ceiling.mul_f64(random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn last_attempt_is_not_retried() {
        let policy = RetryPolicy {
            attempts_max: 3,
            ..RetryPolicy::default()
        };
        assert!(policy.delay_after(2, 0.5).is_some());
        assert_eq!(policy.delay_after(3, 0.5), None);
        assert!(!policy.is_exhausted(3));
        assert!(policy.is_exhausted(4));
    }

    proptest! {
        #[test]
        fn delay_stays_below_its_ceiling(attempt in 1_u32..100, random in 0.0_f64..=1.0) {
            let policy = RetryPolicy { attempts_max: 1_000, ..RetryPolicy::default() };
            let delay = policy.delay_after(attempt, random).expect("not the last");
            prop_assert!(delay <= policy.delay_max);
            let ceiling = policy.delay_after(attempt, 1.0).expect("not the last");
            prop_assert!(delay <= ceiling);
        }
    }
}
