//! What operators do with many orders at once: dead letters, grouped and given a new round of
//! attempts.
#![allow(unused_variables)]

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Timestamp;

use crate::{
    CallContext, ClusterState, Directive, Error, Order, OrderId, OrderRecord, ProcessId,
    ProcessReport, PushRecord, UserId, Violations,
};

/// FAILED orders with the same code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterGroup {
    /// The code of the cause.
    pub code: String,
    /// How many orders.
    pub count: u32,
    /// The newest of them.
    pub example: OrderId,
}

impl DeadLetterGroup {
    /// The most dead letters that are counted: the newest ones.
    pub const COUNT_MAX: u32 = 100_000;
    /// The most groups: the largest ones.
    pub const LEN_MAX: u32 = 50;
}

/// Selects FAILED orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only with this code of the cause.
    pub code: Option<String>,
    /// Only of this user.
    pub user_id: Option<UserId>,
    /// Only created after this time.
    pub created_after: Option<Timestamp>,
    /// Only created before this time.
    pub created_before: Option<Timestamp>,
}

impl DeadLetterFilter {
    /// Whether the filter selects an order, apart from the fields that lists have.
    pub(crate) fn has_code_of(&self, order: &Order) -> bool {
        let failure = order.failure.as_ref().map(|cause| &*cause.code);
        self.code.is_none() || failure == self.code.as_deref()
    }
}

/// A request to give FAILED orders a new round of attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// Which orders.
    pub filter: DeadLetterFilter,
    /// How many at most, the newest first.
    pub limit: u32,
    /// How many a second.
    pub rate: u32,
    /// Ends the redrive when more than this share of the orders that have ended have failed again.
    pub failed_percent_max: u32,
    /// Only count.
    pub is_dry_run: bool,
}

impl Redrive {
    /// The usual limit.
    pub const LIMIT_DEFAULT: u32 = 1_000;
    /// The largest limit.
    pub const LIMIT_MAX: u32 = 1_000_000;
    /// The usual rate.
    pub const RATE_DEFAULT: u32 = 100;
    /// The highest rate.
    pub const RATE_MAX: u32 = 1_000;
    /// The usual share of failures.
    pub const FAILED_PERCENT_DEFAULT: u32 = 50;

    /// Checks the limits; the error names the fields `limit`, `rate` and `failed_percent_max`.
    pub fn check(&self) -> Result<(), Error> {
        let mut violations = Violations::default();
        if !(1..=Self::LIMIT_MAX).contains(&self.limit) {
            violations.push("limit", "must be 1 to 1000000");
        }
        if !(1..=Self::RATE_MAX).contains(&self.rate) {
            violations.push("rate", "must be 1 to 1000");
        }
        if self.failed_percent_max > 100 {
            violations.push("failed_percent_max", "must be 0 to 100");
        }
        violations.finish(Some(()))
    }
}

/// How far a redrive is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedriveProgress {
    /// Orders that the filter selects, as far as they were read.
    pub matched: u32,
    /// Orders among them that have a new round of attempts.
    pub redriven: u32,
    /// Orders among them that another caller has moved meanwhile.
    pub skipped: u32,
    /// Redriven orders that have ended well.
    pub processed: u32,
    /// Redriven orders that are FAILED again.
    pub failed: u32,
    /// Why the redrive is over; `None` while it goes on.
    pub end: Option<RedriveEnd>,
}

/// Why a redrive is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedriveEnd {
    /// All orders, or as many as the limit allows, have ended or were counted.
    Done,
    /// Too many have failed again. Those redriven so far go on.
    TooManyFailures,
}

/// The progress of a redrive, until it is over. Dropping the stream ends the redrive: what was
/// redriven goes on, and nothing else is.
pub type RedriveStream = BoxStream<'static, Result<RedriveProgress, Error>>;

/// The system, as its operators see it.
///
/// # Cancel safety
/// As for [`OrderApi`](crate::OrderApi).
#[async_trait]
pub trait AdminApi: Send + Sync + 'static {
    /// Counts FAILED orders by the code of their cause, the largest groups first.
    async fn dead_letters(&self, ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error>;

    /// Gives FAILED orders a new round of attempts, at a limited rate, and follows them until they
    /// have ended. Of several redrives at the same time, one redrives an order and the others skip
    /// it.
    async fn redrive(&self, ctx: &CallContext, request: Redrive) -> Result<RedriveStream, Error>;

    /// Reads everything that is known about an order.
    async fn record(&self, ctx: &CallContext, order_id: OrderId) -> Result<OrderRecord, Error>;

    /// Returns the newest pushes of an order by this process, without a look at the order.
    fn pushes(&self, order_id: OrderId) -> Vec<PushRecord> {
        Vec::new()
    }

    /// Reads the processes that have reported lately, and the work that waits.
    async fn cluster(&self, ctx: &CallContext) -> Result<ClusterState, Error>;

    /// Stores the report of a process. Repeating it is harmless.
    async fn report(&self, ctx: &CallContext, report: ProcessReport) -> Result<Directive, Error>;

    /// Pauses or resumes processing: of one process until it ends, or of all processes, those that
    /// start later included. They follow within a few seconds. Repeating it is harmless.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for `process_id` if no such process reports.
    async fn set_paused(
        &self,
        ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<(), Error>;
}

/// Records of orders, processes and pauses in the database. [`AdminApi`] describes the methods.
///
/// # Cancel safety
/// Futures may be dropped at any point.
#[async_trait]
pub trait AdminStore: Send + Sync + 'static {
    /// Reads everything that is known about an order, in one round trip; `None` if it does not
    /// exist.
    async fn record(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
    ) -> Result<Option<OrderRecord>, Error>;

    /// Reads the processes, in one round trip. The backlog is left empty.
    async fn cluster(&self, ctx: &CallContext) -> Result<ClusterState, Error>;

    /// Stores the report of a process in one round trip, and removes those of processes that
    /// have not reported for an hour.
    async fn report(&self, ctx: &CallContext, report: &ProcessReport) -> Result<Directive, Error>;

    /// Pauses or resumes one or all processes. Returns whether there is such a process.
    async fn set_paused(
        &self,
        ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<bool, Error>;
}
