//! Where users put their business.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Cause, Order, TraceParent};

/// Which try this is, for a processor that wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Counts every claim over the life of the order, never reset. Pass it along as a
    /// fencing token to systems that can refuse an older one.
    pub number: u32,
    /// Whether no retry follows in this round if this attempt fails.
    pub is_last: bool,
    /// Where the attempt is in a trace. Send it along with calls, so that they are part of it.
    pub trace_parent: Option<TraceParent>,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The order is done.
    Done,
    /// It did not work this time; the retry policy decides when to try again, but not
    /// before `after`.
    Retry {
        /// What went wrong, for operators.
        error: String,
        /// The earliest time of the next attempt, as asked for by the other side.
        after: Option<Duration>,
    },
    /// It cannot be tried now, for a reason that lies outside the order: the job is due again
    /// after a delay, and the attempt does not count. So an order never fails because
    /// something it needs is gone for all of them.
    Postpone {
        /// What is missing, for operators.
        error: String,
        /// The time until the next attempt. At most 24 hours.
        after: Duration,
    },
    /// It will never work: the order is FAILED with this cause, without more attempts.
    Fail(Cause),
}

/// Whether a processor reaches outside the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effects {
    /// Nothing leaves the process: the order goes straight from PENDING to its end.
    None,
    /// Something may leave the process: the order is durably PROCESSING before
    /// [`Processor::process`] is called, so a cancel can no longer cross the effect.
    Outside,
}

/// Processes one order. The place for your business.
///
/// An attempt may run more than once: after a crash, a lost lease or a retry. The order's
/// state changes exactly once, but an effect outside happens at least once, so give the
/// other side a stable key, best the order id.
///
/// A panic is caught and counts as [`Outcome::Retry`].
///
/// # Cancel safety
/// The future is dropped at any await point when the lease is lost or the process stops
/// and the drain time is over. The attempt is then repeated elsewhere.
///
/// # Example
/// ```
/// use async_trait::async_trait;
/// use order_core::{Attempt, Cause, Effects, Order, Outcome, Processor};
///
/// /// Refuses orders above a credit limit.
/// struct CreditCheck {
///     limit_minor_units: i64,
/// }
///
/// #[async_trait]
/// impl Processor for CreditCheck {
///     fn effects(&self) -> Effects {
///         Effects::None
///     }
///
///     async fn process(&self, order: &Order, _attempt: Attempt) -> Outcome {
///         if order.money.minor_units() > self.limit_minor_units {
///             return Outcome::Fail(Cause::new("CREDIT_LIMIT", "the amount is above the limit"));
///         }
///         Outcome::Done
///     }
/// }
/// ```
#[async_trait]
pub trait Processor: Send + Sync + 'static {
    /// Whether an effect may leave the process.
    fn effects(&self) -> Effects;

    /// Processes `order`.
    async fn process(&self, order: &Order, attempt: Attempt) -> Outcome;
}
