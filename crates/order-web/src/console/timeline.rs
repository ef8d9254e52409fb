//! Everything known of an order, in the order in which it happened.

use jiff::Timestamp;
use maud::{Markup, html};
use order_core::{
    AttemptOutcome, AttemptRecord, JobRecord, JobState, OrderEvent, OrderRecord, OrderStatus,
    PushRecord,
};

use super::text::{badge, between, duration, foreign, n_of, time, time_of_day};

/// Something that happened, or is to happen.
struct Entry {
    at: Timestamp,
    kind: Kind,
    title: Markup,
    details: Markup,
}

/// How an entry is marked.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Good,
    Bad,
    Busy,
    /// It has not happened yet, or goes on.
    Open,
}

impl Kind {
    const fn class(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Busy => "busy",
            Self::Open => "open",
        }
    }
}

/// The timeline of an order. `holder` names the process that holds its job.
pub(super) fn render(record: &OrderRecord, holder: Option<&str>, now: Timestamp) -> Markup {
    let entries = entries(record, holder, now);
    let mut before: Option<Timestamp> = None;
    let rows = entries.iter().map(|entry| {
        let gap = before
            .map(|before| between(before, entry.at))
            .filter(|gap| !gap.is_zero());
        let is_other_day = before.is_none_or(|before| date(before) != date(entry.at));
        before = Some(entry.at);
        (entry, gap, is_other_day)
    });
    html! {
        ol.timeline {
            @for (entry, gap, is_other_day) in rows {
                li class=(entry.kind.class()) {
                    p.when {
                        @if is_other_day { (time(entry.at)) } @else { (time_of_day(entry.at)) }
                        @if let Some(gap) = gap { " " span.quiet { "+" (duration(gap)) } }
                    }
                    div.what { p.title { (entry.title) } (entry.details) }
                }
            }
        }
    }
}

fn date(at: Timestamp) -> i64 {
    at.as_second().div_euclid(86_400)
}

fn entries(record: &OrderRecord, holder: Option<&str>, now: Timestamp) -> Vec<Entry> {
    let mut entries = vec![request(record)];
    for attempt in &record.attempts {
        entries.extend(begun(attempt));
        entries.push(ended(attempt));
    }
    for event in &record.events {
        entries.push(committed(event, record));
    }
    entries.extend(record.pushes.iter().map(pushed));
    // A stable sort: of what has the same time, the request comes first, an attempt before what
    // the order became by it, and a push after that.
    entries.sort_by_key(|entry| entry.at);
    entries.extend(record.job.as_ref().map(|job| waiting(job, holder, now)));
    entries
}

fn request(record: &OrderRecord) -> Entry {
    let origin = &record.origin;
    let fact = |name: &str, value: &Option<String>| {
        html! { @if let Some(value) = value { div { dt { (name) } dd { code { (foreign(value)) } } } } }
    };
    let is_known =
        origin.request_id.is_some() || origin.gateway.is_some() || origin.trace_id.is_some();
    Entry {
        at: record.order.created_at,
        kind: Kind::Plain,
        title: html! { "Request" },
        details: html! {
            @if is_known {
                dl.facts {
                    (fact("Request id", &origin.request_id))
                    (fact("Taken by", &origin.gateway))
                    (fact("Trace", &origin.trace_id))
                }
            } @else {
                p.quiet { "Nothing about the request was recorded." }
            }
        },
    }
}

fn committed(event: &OrderEvent, record: &OrderRecord) -> Entry {
    let kind = match event.status {
        OrderStatus::Processed => Kind::Good,
        OrderStatus::Failed => Kind::Bad,
        OrderStatus::Processing => Kind::Busy,
        OrderStatus::Pending | OrderStatus::Cancelled => Kind::Plain,
    };
    let published = record.unpublished.as_ref().map(|unpublished| {
        if unpublished.contains(&event.version) {
            "waits to be published"
        } else {
            "published"
        }
    });
    Entry {
        at: event.at,
        kind,
        title: html! {
            @if event.version == 1 { "Committed as " } @else { "Became " }
            (badge(event.status))
            " " span.quiet { "version " (event.version) @if let Some(published) = published { " · " (published) } }
        },
        details: html! {
            @if let Some(cause) = &event.cause {
                p { code { (foreign(&cause.code)) } " " (foreign(&cause.message)) }
            }
        },
    }
}

fn pushed(record: &PushRecord) -> Entry {
    let push = record.push;
    let of = |number: u32, one, many| (number > 0).then(|| n_of(number, one, many));
    let watchers = [
        of(push.clients, "client", "clients"),
        of(push.gateways, "gateway", "gateways"),
    ];
    let watchers: Vec<_> = watchers.into_iter().flatten().collect();
    Entry {
        at: push.at,
        kind: Kind::Plain,
        title: html! {
            "Pushed to " (watchers.join(" and "))
            " " span.quiet { "version " (push.version) }
        },
        details: html! {
            @if !record.process.is_empty() { p.quiet { "by " (foreign(&record.process)) } }
        },
    }
}

fn begun(attempt: &AttemptRecord) -> Option<Entry> {
    Some(Entry {
        at: attempt.begun_at?,
        kind: Kind::Busy,
        title: html! { "Attempt " (attempt.attempt) " began" },
        details: worker(attempt),
    })
}

fn worker(attempt: &AttemptRecord) -> Markup {
    html! { @if let Some(worker) = &attempt.worker { p.quiet { "on " (foreign(worker)) } } }
}

fn ended(attempt: &AttemptRecord) -> Entry {
    let (kind, result) = match attempt.outcome {
        AttemptOutcome::Processed => (Kind::Good, "succeeded"),
        AttemptOutcome::Failed => (Kind::Bad, "failed, and the order with it"),
        AttemptOutcome::Retried => (Kind::Bad, "failed"),
        AttemptOutcome::Lost => (Kind::Bad, "was lost: its process ended or was cut off"),
    };
    let took = attempt
        .begun_at
        .map(|begun| duration(between(begun, attempt.ended_at)));
    Entry {
        at: attempt.ended_at,
        kind,
        title: html! {
            "Attempt " (attempt.attempt) " " (result)
            @if let Some(took) = took { " " span.quiet { "after " (took) } }
        },
        details: html! {
            @if attempt.begun_at.is_none() { (worker(attempt)) }
            @if let Some(error) = &attempt.error { p { (foreign(error)) } }
            @if let Some(next) = attempt.next_at { p.quiet { "The next attempt may begin at " (time_of_day(next)) "." } }
        },
    }
}

fn waiting(job: &JobRecord, holder: Option<&str>, now: Timestamp) -> Entry {
    let attempts = job.attempt.saturating_sub(job.attempts_before);
    let (at, title) = match job.state {
        JobState::Due(since) => (
            now,
            html! { "Waits for a worker for " (duration(between(since, now))) },
        ),
        JobState::Scheduled(at) => (
            at,
            html! { "Will be tried again in " (duration(between(now, at))) },
        ),
        JobState::Leased(until) => (
            now,
            html! {
                "Held by " @match holder { Some(name) => (foreign(name)), None => "a process that does not report itself" }
                " until " (time_of_day(until))
            },
        ),
        JobState::Dead => (
            now,
            html! { "Waits for a redrive: no worker takes it until then" },
        ),
    };
    Entry {
        at,
        kind: Kind::Open,
        title,
        details: html! {
            p.quiet {
                (n_of(attempts, "attempt", "attempts")) " of this round."
                @if let Some(error) = &job.last_error { " The last error: " (foreign(error)) }
            }
        },
    }
}
