//! Everything that is known about one order, as a timeline.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use order_core::{
    AttemptOutcome, AttemptRecord, JobRecord, JobState, OrderEvent, OrderId, OrderRecord,
    PushRecord, Version,
};
use order_web::json::{EventBody, OrderBody};
use serde::Serialize;

use super::{
    client::Client,
    failure::Failure,
    output::{Output, OutputFormat},
};

/// Arguments of `trace`.
#[derive(Clone, Copy, Debug, Args)]
pub struct TraceArgs {
    /// The id of the order.
    pub order_id: OrderId,
}

/// Commands about one order.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum OrderCommand {
    /// Show everything that is known about an order, as a timeline.
    Trace(TraceArgs),
}

/// Prints the record of an order.
pub(super) async fn trace(
    client: &Client,
    args: TraceArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let context = client.context();
    let record = client.admin.record(&context, args.order_id).await?;
    if output.format() == OutputFormat::Json {
        return Ok(output.json(&RecordJson::from(&record))?);
    }
    output.order(&record.order)?;
    output.blank()?;
    for Entry { at, what, text } in timeline(&record) {
        output.text(format_args!("{at:.3}  {what:<12}  {text}"))?;
    }
    Ok(())
}

/// Something that happened, or is to happen.
struct Entry {
    at: Timestamp,
    what: String,
    text: String,
}

impl Entry {
    fn new(at: Timestamp, what: impl Into<String>, text: String) -> Self {
        let what = what.into();
        Self { at, what, text }
    }
}

/// What happened, by time, and then what is to happen. The sort is stable: of things at the same
/// time, a cause comes before its effect.
fn timeline(record: &OrderRecord) -> Vec<Entry> {
    let mut entries = vec![request(record)];
    for attempt in &record.attempts {
        entries.extend(begin(attempt));
        entries.push(end(attempt));
    }
    entries.extend(record.events.iter().map(committed));
    entries.extend(record.pushes.iter().map(pushed));
    entries.sort_by_key(|entry| entry.at);
    entries.extend(silence(record));
    entries.extend(publication(record));
    entries.extend(record.job.as_ref().map(|job| job_entry(record, job)));
    entries
}

fn request(record: &OrderRecord) -> Entry {
    let origin = &record.origin;
    let facts = [
        ("", &origin.request_id),
        ("taken by ", &origin.gateway),
        ("trace ", &origin.trace_id),
    ];
    let known = facts
        .iter()
        .filter_map(|(name, fact)| fact.as_ref().map(|fact| format!("{name}{fact}")));
    let known: Vec<_> = known.collect();
    let text = if known.is_empty() {
        "not recorded".to_owned()
    } else {
        known.join(", ")
    };
    Entry::new(record.order.created_at, "request", text)
}

fn committed(event: &OrderEvent) -> Entry {
    let cause = event.cause.as_ref();
    let cause = cause.map(|cause| format!(": {}: {}", cause.code, cause.message));
    let (version, status) = (event.version, event.status);
    let text = format!("{status}{}", cause.unwrap_or_default());
    Entry::new(event.at, format!("version {version}"), text)
}

fn pushed(record: &PushRecord) -> Entry {
    let push = record.push;
    let text = format!(
        "version {} by {}, clients: {}, gateways: {}",
        push.version, record.process, push.clients, push.gateways
    );
    Entry::new(push.at, "push", text)
}

fn silence(record: &OrderRecord) -> Option<Entry> {
    let n_silent = record.silent_processes;
    let text = format!("services that did not answer: {n_silent}");
    (n_silent > 0).then(|| Entry::new(record.order.updated_at, "push", text))
}

fn begin(attempt: &AttemptRecord) -> Option<Entry> {
    let worker = attempt.worker.as_ref();
    let worker = worker.map(|worker| format!(" by {worker}"));
    let text = format!("began{}", worker.unwrap_or_default());
    Some(Entry::new(attempt.begun_at?, name(attempt), text))
}

fn end(attempt: &AttemptRecord) -> Entry {
    let took = attempt
        .begun_at
        .map(|begun_at| attempt.ended_at.duration_since(begun_at).as_millis());
    let worker = attempt.worker.as_ref().filter(|_| took.is_none());
    let parts = [
        Some(outcome(attempt.outcome).to_owned()),
        took.map(|took| format!(" after {took} ms")),
        worker.map(|worker| format!(" by {worker}")),
        attempt.error.as_ref().map(|error| format!(": {error}")),
        attempt
            .next_at
            .map(|next| format!("; the next attempt is due at {next:.3}")),
    ];
    let text = parts.into_iter().flatten().collect();
    Entry::new(attempt.ended_at, name(attempt), text)
}

fn name(attempt: &AttemptRecord) -> String {
    format!("attempt {}", attempt.attempt)
}

const fn outcome(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Processed => "succeeded",
        AttemptOutcome::Failed => "failed for good",
        AttemptOutcome::Retried => "failed",
        AttemptOutcome::Lost => "was lost with its lease",
    }
}

fn publication(record: &OrderRecord) -> Option<Entry> {
    let unpublished = record.unpublished.as_ref()?;
    let at = record.order.updated_at;
    let text = if unpublished.is_empty() {
        "all events are published".to_owned()
    } else {
        let versions: Vec<_> = unpublished.iter().map(Version::to_string).collect();
        format!("versions {} wait to be published", versions.join(", "))
    };
    Some(Entry::new(at, "publication", text))
}

fn job_entry(record: &OrderRecord, job: &JobRecord) -> Entry {
    let (at, state) = match job.state {
        JobState::Due(at) => (at, "waits for a worker since then".to_owned()),
        JobState::Scheduled(at) => (at, "waits for its retry until then".to_owned()),
        JobState::Leased(at) => {
            let holder = job.holder.map(|holder| format!(" by process {holder}"));
            let text = format!("is held{} until then", holder.unwrap_or_default());
            (at, text)
        }
        JobState::Dead => (record.order.updated_at, "waits for a redrive".to_owned()),
    };
    let attempts = job.attempt.saturating_sub(job.attempts_before);
    let error = job.last_error.as_ref();
    let error = error.map(|error| format!(", last error: {error}"));
    let error = error.unwrap_or_default();
    let text = format!("{state}, attempts in this round: {attempts}{error}");
    Entry::new(at, "job", text)
}

/// The record of an order as JSON.
#[derive(Serialize)]
struct RecordJson<'a> {
    order: OrderBody<'a>,
    request: RequestJson<'a>,
    events: Vec<EventBody<'a>>,
    attempts: Vec<AttemptJson<'a>>,
    job: Option<JobJson<'a>>,
    unpublished: Option<&'a [Version]>,
    pushes: Vec<PushJson<'a>>,
    silent_processes: u32,
}

#[derive(Serialize)]
struct PushJson<'a> {
    process: &'a str,
    version: Version,
    at: Timestamp,
    clients: u32,
    gateways: u32,
}

#[derive(Serialize)]
struct RequestJson<'a> {
    request_id: Option<&'a str>,
    gateway: Option<&'a str>,
    trace_id: Option<&'a str>,
}

#[derive(Serialize)]
struct AttemptJson<'a> {
    attempt: u32,
    worker: Option<&'a str>,
    begun_at: Option<Timestamp>,
    ended_at: Timestamp,
    outcome: &'static str,
    error: Option<&'a str>,
    next_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct JobJson<'a> {
    attempt: u32,
    attempts_before: u32,
    state: &'static str,
    at: Option<Timestamp>,
    holder: Option<String>,
    last_error: Option<&'a str>,
}

impl<'a> From<&'a OrderRecord> for RecordJson<'a> {
    fn from(record: &'a OrderRecord) -> Self {
        let origin = &record.origin;
        Self {
            order: (&record.order).into(),
            request: RequestJson {
                request_id: origin.request_id.as_deref(),
                gateway: origin.gateway.as_deref(),
                trace_id: origin.trace_id.as_deref(),
            },
            events: record.events.iter().map(EventBody::from).collect(),
            attempts: record.attempts.iter().map(AttemptJson::from).collect(),
            job: record.job.as_ref().map(JobJson::from),
            unpublished: record.unpublished.as_deref(),
            pushes: record.pushes.iter().map(PushJson::from).collect(),
            silent_processes: record.silent_processes,
        }
    }
}

impl<'a> From<&'a PushRecord> for PushJson<'a> {
    fn from(PushRecord { process, push }: &'a PushRecord) -> Self {
        Self {
            process,
            version: push.version,
            at: push.at,
            clients: push.clients,
            gateways: push.gateways,
        }
    }
}

impl<'a> From<&'a AttemptRecord> for AttemptJson<'a> {
    fn from(attempt: &'a AttemptRecord) -> Self {
        Self {
            attempt: attempt.attempt,
            worker: attempt.worker.as_deref(),
            begun_at: attempt.begun_at,
            ended_at: attempt.ended_at,
            outcome: match attempt.outcome {
                AttemptOutcome::Processed => "PROCESSED",
                AttemptOutcome::Failed => "FAILED",
                AttemptOutcome::Retried => "RETRIED",
                AttemptOutcome::Lost => "LOST",
            },
            error: attempt.error.as_deref(),
            next_at: attempt.next_at,
        }
    }
}

impl<'a> From<&'a JobRecord> for JobJson<'a> {
    fn from(job: &'a JobRecord) -> Self {
        let (state, at) = match job.state {
            JobState::Due(at) => ("DUE", Some(at)),
            JobState::Scheduled(at) => ("SCHEDULED", Some(at)),
            JobState::Leased(at) => ("LEASED", Some(at)),
            JobState::Dead => ("DEAD", None),
        };
        Self {
            attempt: job.attempt,
            attempts_before: job.attempts_before,
            state,
            at,
            holder: job.holder.map(|holder| holder.to_string()),
            last_error: job.last_error.as_deref(),
        }
    }
}
