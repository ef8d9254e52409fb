//! What workers outside ask for and report.

use std::time::Duration;

use order_core::{
    Cause, Error, JobReport, JobToken, LeaseJobs, LeasedJob, Outcome, Violations,
    intake::{check_len, within},
};

use super::{
    check::check_code,
    order::{order_to_proto, sampled_to_proto},
    request::order_id_from_proto,
};
use crate::proto;

/// The most tokens or reports of one call.
pub(crate) const REPORTS_MAX: usize = 1000;

/// The lease of a worker that names none.
const LEASE_DEFAULT: Duration = Duration::from_secs(30);

/// The longest delay a worker may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// The code of a cause that has none.
const CODE_DEFAULT: &str = "PROCESSING_FAILED";

/// Reads a wish for work.
///
/// # Errors
/// [`Error::InvalidArgument`] for `limit`, `lease` and `wait`.
pub(crate) fn lease_from_proto(request: &proto::LeaseRequest) -> Result<LeaseJobs, Error> {
    let mut violations = Violations::default();
    let lease = check_duration("lease", request.lease, &mut violations);
    let wait = check_duration("wait", request.wait, &mut violations);
    let jobs = LeaseJobs {
        limit: usize::try_from(request.limit.max(1)).unwrap_or(usize::MAX),
        lease: lease.unwrap_or(LEASE_DEFAULT),
        wait: wait.unwrap_or_default(),
    };
    violations.check(jobs.check())?;
    violations.finish(Some(jobs))
}

/// Reads the jobs to keep and for how long.
///
/// # Errors
/// [`Error::InvalidArgument`] for `lease`, and as [`tokens_from_proto`].
pub(crate) fn heartbeat_from_proto(
    request: &proto::HeartbeatRequest,
) -> Result<(Vec<JobToken>, Duration), Error> {
    let mut violations = Violations::default();
    let lease = check_duration("lease", request.lease, &mut violations).unwrap_or(LEASE_DEFAULT);
    // The lease of a heartbeat has the limits of any other.
    let limits = LeaseJobs {
        limit: 1,
        lease,
        wait: Duration::ZERO,
    };
    violations.check(limits.check())?;
    let tokens = violations.check(tokens_from_proto(&request.tokens))?;
    violations.finish(tokens.map(|tokens| (tokens, lease)))
}

/// Reads the tokens of a call.
///
/// # Errors
/// [`Error::InvalidArgument`] for `tokens`: none, or more than [`REPORTS_MAX`]; and for
/// `tokens/N/order_id` and `tokens/N/attempt`.
pub(crate) fn tokens_from_proto(tokens: &[proto::JobToken]) -> Result<Vec<JobToken>, Error> {
    check_len("tokens", tokens.len(), REPORTS_MAX)?;
    let mut violations = Violations::default();
    let mut read = Vec::with_capacity(tokens.len());
    for (n, token) in tokens.iter().enumerate() {
        read.extend(violations.check(within("tokens", n, token_from_proto(token)))?);
    }
    violations.finish(Some(read))
}

/// Reads reports of attempts that failed. What went wrong is often the text of somebody
/// else's error, so the message is cut to its limits and never refused.
///
/// # Errors
/// [`Error::InvalidArgument`] for `failures`: none, or more than [`REPORTS_MAX`]; and for
/// `failures/N/` with `token`, `token/order_id`, `token/attempt`, `cause/code` and
/// `retry_after`.
pub(crate) fn failures_from_proto(request: &proto::FailRequest) -> Result<Vec<JobReport>, Error> {
    check_len("failures", request.failures.len(), REPORTS_MAX)?;
    let mut violations = Violations::default();
    let mut reports = Vec::with_capacity(request.failures.len());
    for (n, failure) in request.failures.iter().enumerate() {
        let report = within("failures", n, failure_from_proto(failure));
        reports.extend(violations.check(report)?);
    }
    violations.finish(Some(reports))
}

/// Writes a leased job.
pub(crate) fn job_to_proto(job: LeasedJob) -> proto::lease_response::Job {
    proto::lease_response::Job {
        token: Some(token_to_proto(job.token())),
        is_last_attempt: job.attempt.is_last,
        traceparent: sampled_to_proto(job.attempt.trace_parent.as_ref()),
        order: Some(order_to_proto(job.order)),
    }
}

/// Writes a token.
pub(crate) fn token_to_proto(token: JobToken) -> proto::JobToken {
    proto::JobToken {
        order_id: token.order_id.to_string(),
        attempt: token.attempt,
    }
}

fn token_from_proto(token: &proto::JobToken) -> Result<JobToken, Error> {
    let mut violations = Violations::default();
    let order_id = violations.check(order_id_from_proto(&token.order_id))?;
    if token.attempt == 0 {
        violations.push("attempt", "must be at least 1");
    }
    violations.finish(order_id.map(|order_id| JobToken {
        order_id,
        attempt: token.attempt,
    }))
}

fn failure_from_proto(failure: &proto::fail_request::Failure) -> Result<JobReport, Error> {
    let mut violations = Violations::default();
    let token = if let Some(token) = &failure.token {
        let token = token_from_proto(token);
        violations.check(token.map_err(|e| e.with_fields(|field| format!("token/{field}"))))?
    } else {
        violations.push("token", "must be given");
        None
    };
    let cause = cause_of_failure(failure.cause.as_ref(), &mut violations);
    let after = check_duration("retry_after", failure.retry_after, &mut violations);
    if after.is_some_and(|after| after > RETRY_AFTER_MAX) {
        violations.push("retry_after", "must be at most 24 h");
    }
    let outcome = if failure.permanent {
        Outcome::Fail(cause)
    } else {
        let error = match cause.message.as_str() {
            "" => cause.code,
            message => format!("{}: {message}", cause.code),
        };
        Outcome::Retry { error, after }
    };
    violations.finish(token.map(|token| JobReport { token, outcome }))
}

fn cause_of_failure(cause: Option<&proto::Cause>, violations: &mut Violations) -> Cause {
    let (code, message) = match cause {
        Some(cause) => (cause.code.as_str(), cause.message.as_str()),
        None => ("", ""),
    };
    if code.is_empty() {
        return Cause::new(CODE_DEFAULT, message);
    }
    let kept = Cause::new(code, message);
    check_code(&kept, code, violations);
    kept
}

/// `None` for a time that is absent, and for one that is refused.
fn check_duration(
    field: &str,
    duration: Option<prost_types::Duration>,
    violations: &mut Violations,
) -> Option<Duration> {
    let duration = duration?;
    let seconds = u64::try_from(duration.seconds).ok();
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < NANOS_PER_SECOND);
    let read = seconds
        .zip(nanos)
        .map(|(seconds, nanos)| Duration::new(seconds, nanos));
    if read.is_none() {
        violations.push(field, "must be a time that is not negative");
    }
    read
}
