//! The record of an order as one JSON document, which each database makes of its rows, so that all
//! of it comes from one statement and shows one point in time.

use jiff::{Timestamp, fmt::serde::timestamp::microsecond};
use order_core::{
    AttemptOutcome, AttemptRecord, BoxError, Cause, JobRecord, JobState, Order, OrderEvent,
    OrderRecord, OrderStatus, Origin, ProcessId, TraceParent, Version,
};
use serde::Deserialize;

/// Everything but the order itself. A list without entries may be null.
#[derive(Deserialize)]
struct Document {
    trace_parent: Option<String>,
    request_id: Option<String>,
    gateway: Option<String>,
    events: Option<Vec<Event>>,
    attempts: Option<Vec<Attempted>>,
    job: Option<Job>,
    unpublished: Option<Vec<Version>>,
}

/// An event after version 1, which is the order itself.
#[derive(Deserialize)]
struct Event {
    version: Version,
    status: i64,
    #[serde(with = "microsecond::required")]
    at: Timestamp,
    code: Option<String>,
    message: Option<String>,
}

/// An attempt that has ended.
#[derive(Deserialize)]
struct Attempted {
    attempt: u32,
    worker: Option<String>,
    #[serde(with = "microsecond::optional")]
    begun_at: Option<Timestamp>,
    #[serde(with = "microsecond::required")]
    ended_at: Timestamp,
    outcome: u8,
    error: Option<String>,
    #[serde(with = "microsecond::optional")]
    next_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Job {
    attempt: u32,
    attempts_before: u32,
    #[serde(with = "microsecond::optional")]
    due_at: Option<Timestamp>,
    is_held: u8,
    holder: Option<i64>,
    last_error: Option<String>,
}

/// Reads the record of `order` as it was at `now`.
pub(crate) fn read(order: Order, now: Timestamp, document: &str) -> Result<OrderRecord, BoxError> {
    let document: Document = serde_json::from_str(document)?;
    let later = document.events.unwrap_or_default();
    let mut events = vec![order.as_created().last_event()];
    for event in later {
        events.push(read_event(&order, event)?);
    }
    let n_older = events.len().saturating_sub(OrderRecord::LEN_MAX as usize);
    events.drain(..n_older);
    let attempts = document.attempts.unwrap_or_default().into_iter();
    let trace = document.trace_parent.as_deref();
    Ok(OrderRecord {
        origin: Origin {
            request_id: document.request_id,
            gateway: document.gateway,
            trace_id: trace
                .and_then(TraceParent::parse)
                .map(|trace| trace.trace_id().to_owned()),
        },
        events,
        attempts: attempts.map(read_attempt).collect::<Result<_, _>>()?,
        job: document.job.map(|job| read_job(job, now)),
        unpublished: document.unpublished,
        pushes: Vec::new(),
        silent_processes: 0,
        order,
    })
}

fn read_event(order: &Order, event: Event) -> Result<OrderEvent, BoxError> {
    let Event {
        version,
        status,
        at,
        code,
        message,
    } = event;
    Ok(OrderEvent {
        order_id: order.id,
        user_id: order.user_id.clone(),
        version,
        status: OrderStatus::from_code(status)
            .ok_or_else(|| format!("{status} is not the code of a status"))?,
        at,
        cause: code.map(|code| Cause {
            code,
            message: message.unwrap_or_default(),
        }),
        trace_parent: None,
    })
}

fn read_attempt(ended: Attempted) -> Result<AttemptRecord, BoxError> {
    Ok(AttemptRecord {
        attempt: ended.attempt,
        worker: ended.worker,
        begun_at: ended.begun_at,
        ended_at: ended.ended_at,
        outcome: match ended.outcome {
            1 => AttemptOutcome::Retried,
            2 => AttemptOutcome::Lost,
            3 => AttemptOutcome::Processed,
            4 => AttemptOutcome::Failed,
            code => return Err(format!("{code} is not the code of an outcome").into()),
        },
        error: ended.error,
        next_at: ended.next_at,
    })
}

fn read_job(job: Job, now: Timestamp) -> JobRecord {
    JobRecord {
        attempt: job.attempt,
        attempts_before: job.attempts_before,
        state: JobState::at(now, job.due_at, job.is_held != 0),
        holder: job.holder.map(|id| ProcessId::from_u64(id.cast_unsigned())),
        last_error: job.last_error,
    }
}
