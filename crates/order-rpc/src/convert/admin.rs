//! Requests of operators, and their answers.

use order_core::{
    DeadLetterFilter, DeadLetterGroup, Error, Redrive, RedriveEnd, RedriveProgress, UserId,
    Violations,
};

use super::{
    check::given,
    order::time_to_proto,
    request::{check_time, order_id_from_proto, text_of},
};
use crate::proto;

/// Writes groups of dead letters.
pub(crate) fn dead_letters_to_proto(
    groups: Vec<DeadLetterGroup>,
) -> proto::ListDeadLettersResponse {
    let groups = groups
        .into_iter()
        .map(|group| proto::list_dead_letters_response::Group {
            code: group.code,
            count: group.count,
            example_order_id: group.example.to_string(),
        });
    proto::ListDeadLettersResponse {
        groups: groups.collect(),
    }
}

/// Reads groups of dead letters.
///
/// # Errors
/// [`Error::Internal`] if one has no valid id.
pub(crate) fn dead_letters_from_proto(
    answer: proto::ListDeadLettersResponse,
) -> Result<Vec<DeadLetterGroup>, Error> {
    let groups = answer.groups.into_iter().map(|group| {
        Ok(DeadLetterGroup {
            example: order_id_from_proto(&group.example_order_id).map_err(Error::internal)?,
            code: group.code,
            count: group.count,
        })
    });
    groups.collect()
}

/// Reads a request for a redrive, the limits of which are checked by the service.
///
/// # Errors
/// [`Error::InvalidArgument`] for `user_id`, `created_after` and `created_before`.
pub(crate) fn redrive_from_proto(request: proto::RedriveRequest) -> Result<Redrive, Error> {
    let or = |value, default| if value == 0 { default } else { value };
    let mut violations = Violations::default();
    let user_id = violations.check_given(given(&request.user_id), UserId::parse)?;
    let created_after = check_time("created_after", request.created_after, &mut violations);
    let created_before = check_time("created_before", request.created_before, &mut violations);
    violations.finish(Some(Redrive {
        filter: DeadLetterFilter {
            code: Some(request.code).filter(|code| !code.is_empty()),
            user_id,
            created_after,
            created_before,
        },
        limit: or(request.limit, Redrive::LIMIT_DEFAULT),
        rate: or(request.rate, Redrive::RATE_DEFAULT),
        failed_percent_max: request
            .failed_percent_max
            .unwrap_or(Redrive::FAILED_PERCENT_DEFAULT),
        is_dry_run: request.dry_run,
    }))
}

/// Writes a request for a redrive.
pub(crate) fn redrive_to_proto(request: &Redrive) -> proto::RedriveRequest {
    let filter = &request.filter;
    proto::RedriveRequest {
        code: text_of(filter.code.as_deref()),
        user_id: text_of(filter.user_id.as_ref().map(UserId::as_str)),
        created_after: filter.created_after.map(time_to_proto),
        created_before: filter.created_before.map(time_to_proto),
        limit: request.limit,
        rate: request.rate,
        failed_percent_max: Some(request.failed_percent_max),
        dry_run: request.is_dry_run,
    }
}

/// Writes the progress of a redrive.
pub(crate) fn progress_to_proto(progress: RedriveProgress) -> proto::RedriveResponse {
    let end = match progress.end {
        None => proto::RedriveEnd::Unspecified,
        Some(RedriveEnd::Done) => proto::RedriveEnd::Done,
        Some(RedriveEnd::TooManyFailures) => proto::RedriveEnd::TooManyFailures,
    };
    proto::RedriveResponse {
        matched: progress.matched,
        redriven: progress.redriven,
        skipped: progress.skipped,
        processed: progress.processed,
        failed: progress.failed,
        end: end.into(),
    }
}

/// Reads the progress of a redrive. An end that a newer service knows is an end as well.
pub(crate) fn progress_from_proto(answer: proto::RedriveResponse) -> RedriveProgress {
    let end = match answer.end() {
        proto::RedriveEnd::Unspecified if answer.end == 0 => None,
        proto::RedriveEnd::TooManyFailures => Some(RedriveEnd::TooManyFailures),
        proto::RedriveEnd::Unspecified | proto::RedriveEnd::Done => Some(RedriveEnd::Done),
    };
    RedriveProgress {
        matched: answer.matched,
        redriven: answer.redriven,
        skipped: answer.skipped,
        processed: answer.processed,
        failed: answer.failed,
        end,
    }
}
