//! Everything that is known about an order, which the service sends and the client reads.

use order_core::{
    AttemptOutcome, AttemptRecord, Error, JobRecord, JobState, OrderRecord, Origin, ProcessId,
    Push, PushRecord,
};

use super::{
    check::given,
    order::{
        event_from_proto, event_to_proto, invalid_answer, optional_time_of_answer,
        order_from_proto, order_to_proto, time_of_answer, time_to_proto,
    },
    request::text_of,
};
use crate::proto::{self, get_order_record_response as parts};

/// Writes the record of an order.
pub(crate) fn record_to_proto(record: OrderRecord) -> proto::GetOrderRecordResponse {
    let OrderRecord {
        order,
        origin,
        events,
        attempts,
        job,
        unpublished,
        pushes,
        silent_processes: _,
    } = record;
    proto::GetOrderRecordResponse {
        order: Some(order_to_proto(order)),
        origin: Some(parts::Origin {
            request_id: origin.request_id.unwrap_or_default(),
            gateway: origin.gateway.unwrap_or_default(),
            trace_id: origin.trace_id.unwrap_or_default(),
        }),
        events: events.into_iter().map(event_to_proto).collect(),
        attempts: attempts.into_iter().map(attempt_to_proto).collect(),
        job: job.map(job_record_to_proto),
        unpublished: unpublished.map(|versions| parts::Unpublished { versions }),
        ..pushes_to_proto(pushes)
    }
}

/// Writes pushes, and nothing else of a record.
pub(crate) fn pushes_to_proto(pushes: Vec<PushRecord>) -> proto::GetOrderRecordResponse {
    let push = |PushRecord { process, push }| parts::Push {
        process,
        version: push.version,
        at: Some(time_to_proto(push.at)),
        clients: push.clients,
        gateways: push.gateways,
    };
    proto::GetOrderRecordResponse {
        pushes: pushes.into_iter().map(push).collect(),
        ..proto::GetOrderRecordResponse::default()
    }
}

/// Reads pushes.
///
/// # Errors
/// [`Error::Internal`] if a time is missing or not valid.
pub(crate) fn pushes_from_proto(pushes: Vec<parts::Push>) -> Result<Vec<PushRecord>, Error> {
    each(pushes, |push| {
        Ok(PushRecord {
            push: Push {
                version: push.version,
                at: time_of_answer(push.at)?,
                clients: push.clients,
                gateways: push.gateways,
            },
            process: push.process,
        })
    })
}

/// Reads the record of an order.
///
/// # Errors
/// [`Error::Internal`] if it breaks the contract.
pub(crate) fn record_from_proto(
    answer: proto::GetOrderRecordResponse,
) -> Result<OrderRecord, Error> {
    let origin = answer.origin.unwrap_or_default();
    Ok(OrderRecord {
        order: order_from_proto(answer.order)?,
        origin: Origin {
            request_id: owned(origin.request_id),
            gateway: owned(origin.gateway),
            trace_id: owned(origin.trace_id),
        },
        events: each(answer.events, event_from_proto)?,
        attempts: each(answer.attempts, attempt_from_proto)?,
        job: answer.job.map(job_record_from_proto).transpose()?,
        unpublished: answer.unpublished.map(|events| events.versions),
        pushes: pushes_from_proto(answer.pushes)?,
        silent_processes: 0,
    })
}

fn attempt_to_proto(attempt: AttemptRecord) -> parts::Attempt {
    let outcome = match attempt.outcome {
        AttemptOutcome::Processed => proto::AttemptOutcome::Processed,
        AttemptOutcome::Failed => proto::AttemptOutcome::Failed,
        AttemptOutcome::Retried => proto::AttemptOutcome::Retried,
        AttemptOutcome::Lost => proto::AttemptOutcome::Lost,
    };
    parts::Attempt {
        attempt: attempt.attempt,
        worker: attempt.worker.unwrap_or_default(),
        begun_at: attempt.begun_at.map(time_to_proto),
        ended_at: Some(time_to_proto(attempt.ended_at)),
        outcome: outcome.into(),
        error: attempt.error.unwrap_or_default(),
        next_at: attempt.next_at.map(time_to_proto),
    }
}

fn attempt_from_proto(attempt: parts::Attempt) -> Result<AttemptRecord, Error> {
    let outcome = match attempt.outcome() {
        proto::AttemptOutcome::Unspecified => return Err(invalid_answer("the end of an attempt")),
        proto::AttemptOutcome::Processed => AttemptOutcome::Processed,
        proto::AttemptOutcome::Failed => AttemptOutcome::Failed,
        proto::AttemptOutcome::Retried => AttemptOutcome::Retried,
        proto::AttemptOutcome::Lost => AttemptOutcome::Lost,
    };
    Ok(AttemptRecord {
        attempt: attempt.attempt,
        worker: owned(attempt.worker),
        begun_at: optional_time_of_answer(attempt.begun_at)?,
        ended_at: time_of_answer(attempt.ended_at)?,
        outcome,
        error: owned(attempt.error),
        next_at: optional_time_of_answer(attempt.next_at)?,
    })
}

fn job_record_to_proto(job: JobRecord) -> parts::Job {
    let (state, at) = match job.state {
        JobState::Due(at) => (proto::JobState::Due, Some(at)),
        JobState::Scheduled(at) => (proto::JobState::Scheduled, Some(at)),
        JobState::Leased(at) => (proto::JobState::Leased, Some(at)),
        JobState::Dead => (proto::JobState::Dead, None),
    };
    let holder = job.holder.map(|holder| holder.to_string());
    parts::Job {
        attempt: job.attempt,
        attempts_before: job.attempts_before,
        state: state.into(),
        at: at.map(time_to_proto),
        holder: text_of(holder.as_deref()),
        last_error: job.last_error.unwrap_or_default(),
    }
}

fn job_record_from_proto(job: parts::Job) -> Result<JobRecord, Error> {
    let at = || time_of_answer(job.at);
    Ok(JobRecord {
        attempt: job.attempt,
        attempts_before: job.attempts_before,
        state: match job.state() {
            proto::JobState::Unspecified => return Err(invalid_answer("the state of a job")),
            proto::JobState::Due => JobState::Due(at()?),
            proto::JobState::Scheduled => JobState::Scheduled(at()?),
            proto::JobState::Leased => JobState::Leased(at()?),
            proto::JobState::Dead => JobState::Dead,
        },
        holder: given(&job.holder)
            .map(str::parse::<ProcessId>)
            .transpose()
            .map_err(|_| invalid_answer("the id of a process"))?,
        last_error: owned(job.last_error),
    })
}

fn owned(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Reads each element of a list.
pub(super) fn each<T, R>(
    list: Vec<T>,
    read: impl Fn(T) -> Result<R, Error>,
) -> Result<Vec<R>, Error> {
    list.into_iter().map(read).collect()
}
