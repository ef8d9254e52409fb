//! What a worker outside this process calls: the lease protocol over the network.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Attempt, CallContext, Completed, Error, JobToken, Order, Outcome};

/// A wish for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseJobs {
    /// How many jobs at most, 1 to [`LeaseJobs::LIMIT_MAX`].
    pub limit: usize,
    /// How long the worker may be silent before its jobs are given to another.
    pub lease: Duration,
    /// How long to wait for a job if none is due, at most [`LeaseJobs::WAIT_MAX`] and
    /// never beyond the deadline of the call.
    pub wait: Duration,
}

impl LeaseJobs {
    /// The most jobs of one call.
    pub const LIMIT_MAX: usize = 1_000;
    /// The shortest lease.
    pub const LEASE_MIN: Duration = Duration::from_secs(1);
    /// The longest lease.
    pub const LEASE_MAX: Duration = Duration::from_hours(1);
    /// The longest wait for a job.
    pub const WAIT_MAX: Duration = Duration::from_secs(30);

    /// Checks the limits; the error names the fields `limit`, `lease` and `wait`.
    pub fn check(&self) -> Result<(), Error> {
        let mut violations = Vec::new();
        let mut require = |is_met: bool, field: &str, rule: &str| {
            if !is_met {
                violations.push(crate::Violation::new(field, rule));
            }
        };
        let is_limit = (1..=Self::LIMIT_MAX).contains(&self.limit);
        require(is_limit, "limit", "must be 1 to 1000");
        let is_lease = (Self::LEASE_MIN..=Self::LEASE_MAX).contains(&self.lease);
        require(is_lease, "lease", "must be 1 s to 1 h");
        require(self.wait <= Self::WAIT_MAX, "wait", "must be at most 30 s");
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Error::InvalidArgument { violations })
        }
    }
}

/// A job in the hands of a worker. Its order is durably PROCESSING.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedJob {
    /// The order, as it stands now.
    pub order: Order,
    /// Which try it is; its number is the fencing token.
    pub attempt: Attempt,
}

impl LeasedJob {
    /// What every report about this job must name.
    pub fn token(&self) -> JobToken {
        JobToken {
            order_id: self.order.id,
            attempt: self.attempt.number,
        }
    }
}

/// What a worker has to say about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReport {
    /// Which job and which claim of it.
    pub token: JobToken,
    /// What came of it. The retry policy of the system decides when a
    /// [`Retry`](Outcome::Retry) comes, and whether there is one.
    pub outcome: Outcome,
}

/// The lease protocol for workers outside this process: the same leases, fencing and
/// retries as for the workers inside.
///
/// # Cancel safety
/// Dropping a future gives up the answer, never half of the work. Jobs whose
/// [`lease`](WorkerApi::lease) was dropped are due again when their leases run out.
#[async_trait]
pub trait WorkerApi: Send + Sync + 'static {
    /// Leases due jobs and moves their orders to PROCESSING before it hands them out. An
    /// order that has no attempt left becomes FAILED instead. An empty answer means that
    /// nothing was due.
    async fn lease(&self, ctx: &CallContext, request: LeaseJobs) -> Result<Vec<LeasedJob>, Error>;

    /// Moves the end of leases to `lease` from now. Returns the tokens that are no longer
    /// current: the work on them must stop.
    async fn heartbeat(
        &self,
        ctx: &CallContext,
        tokens: Vec<JobToken>,
        lease: Duration,
    ) -> Result<Vec<JobToken>, Error>;

    /// Commits what came of jobs, each a compare-and-set on its token: the answers are in
    /// the order of the reports. A report that is repeated is answered as the first was.
    async fn report(
        &self,
        ctx: &CallContext,
        reports: Vec<JobReport>,
    ) -> Result<Vec<Result<Completed, Error>>, Error>;

    /// Gives jobs back unfinished: they are due at once, and no attempt is burnt. Returns
    /// how many were given back; tokens that are not current are ignored.
    async fn release(&self, ctx: &CallContext, tokens: Vec<JobToken>) -> Result<usize, Error>;
}
