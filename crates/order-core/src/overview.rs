//! The system at a glance: rates and latencies between two readings, and what is wrong.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use crate::{Backlog, ClusterState, Figures, ProcessState};

/// Figures of the time between two readings of the system.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    /// When the later reading was made.
    pub at: Timestamp,
    /// Orders created a second.
    pub created: f64,
    /// Orders that became PROCESSED a second.
    pub processed: f64,
    /// Orders that became FAILED a second.
    pub failed: f64,
    /// Attempts that failed and are retried a second.
    pub retried: f64,
    /// Requests over HTTP a second.
    pub requests: f64,
    /// The share of requests that were answered with a status of 500 or more, 0 to 1.
    pub request_failures: f64,
    /// How long requests over HTTP took.
    pub request_times: Quantiles,
    /// How long orders took from their creation to their end.
    pub completion_times: Quantiles,
    /// The work that waits.
    pub backlog: Backlog,
    /// Workers.
    pub workers: u32,
    /// Workers with a job.
    pub busy: u32,
    /// Open connections.
    pub connections: u32,
    /// Open WebSockets and event streams.
    pub sockets: u32,
    /// Orders that became FAILED since the processes started, by the code of the cause.
    pub failures: BTreeMap<String, u64>,
    /// What is wrong, the worst first. Empty: nothing is.
    pub findings: Vec<Finding>,
}

/// Upper bounds of durations; `None` if nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantiles {
    /// Half took at most so long.
    pub p50: Option<Duration>,
    /// 99 % took at most so long.
    pub p99: Option<Duration>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// A sentence.
    pub text: String,
}

/// What a [`Finding`] is about, and where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Orders that wait.
    Orders,
    /// Orders that failed.
    DeadLetters,
    /// Workers and other processes.
    Processes,
    /// The requests of clients.
    Requests,
    /// The system to which events are published.
    Sink,
}

/// A process is silent when it has missed several reports.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// Jobs and events that have waited longer are a problem.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Leases of the usual length end three beats after the last one.
const LAG_MAX: Duration = Duration::from_secs(20);
/// The share of requests that may fail.
const REQUEST_FAILURES_MAX: f64 = 0.01;

impl Overview {
    /// Compares two readings. A process that is in only one of them has no rates.
    pub fn between(before: &ClusterState, now: &ClusterState) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        let mut delta = Delta::default();
        for process in &now.processes {
            let same =
                |other: &&ProcessState| other.report.identity.id == process.report.identity.id;
            if let Some(earlier) = before.processes.iter().find(same) {
                delta.add(&earlier.report.figures, &process.report.figures);
            }
        }
        let live = || {
            now.processes
                .iter()
                .filter(|process| !is_silent(now, process))
        };
        let figures = || live().map(|process| &process.report.figures);
        let sum = |field: fn(&Figures) -> u32| figures().map(field).fold(0, u32::saturating_add);
        let mut failures = BTreeMap::new();
        for (code, n) in now
            .processes
            .iter()
            .flat_map(|p| &p.report.figures.failures)
        {
            *failures.entry(code.clone()).or_default() += n;
        }
        let rate = |n: u64| {
            if seconds > 0.0 {
                float(n) / seconds
            } else {
                0.0
            }
        };
        let mut overview = Self {
            at: now.at,
            created: rate(delta.created),
            processed: rate(delta.processed),
            failed: rate(delta.failed),
            retried: rate(delta.retried),
            requests: rate(delta.requests),
            request_failures: share(delta.failed_requests, delta.requests),
            request_times: Quantiles::of(&delta.request_times),
            completion_times: Quantiles::of(&delta.completion_times),
            backlog: now.backlog,
            workers: sum(|figures| figures.workers),
            busy: sum(|figures| figures.busy),
            connections: sum(|figures| figures.connections),
            sockets: sum(|figures| figures.sockets),
            failures,
            findings: Vec::new(),
        };
        overview.findings = overview.find(now, &delta);
        overview
    }

    fn find(&self, now: &ClusterState, delta: &Delta) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |subject, text| findings.push(Finding { subject, text });
        let Backlog {
            due, dead, events, ..
        } = self.backlog;
        let oldest = self.backlog.oldest_due.unwrap_or_default();
        let oldest_event = self.backlog.oldest_event.unwrap_or_default();
        if now.is_paused {
            let text = format!("Processing is paused, and {due} jobs wait.");
            add(Subject::Processes, text);
        } else if oldest > WAIT_MAX {
            let text = if self.workers == 0 {
                format!(
                    "No worker runs: {due} jobs wait, the oldest for {} s.",
                    oldest.as_secs()
                )
            } else {
                let (busy, workers) = (self.busy, self.workers);
                format!(
                    "{due} jobs wait, the oldest for {} s; {busy} of {workers} workers are busy.",
                    oldest.as_secs()
                )
            };
            add(Subject::Orders, text);
        }
        if self.request_failures > REQUEST_FAILURES_MAX {
            let percent = self.request_failures * 100.0;
            add(
                Subject::Requests,
                format!("{percent:.0} % of the requests fail."),
            );
        }
        if delta.failed > 0 {
            let n = delta.failed;
            let most = if n == 1 { "" } else { "most " };
            let code = delta.failures.iter().max_by_key(|(_, n)| **n);
            let most = code
                .map(|(code, _)| format!(", {most}with {code}"))
                .unwrap_or_default();
            add(
                Subject::DeadLetters,
                format!("{} just failed{most}.", orders_have(n)),
            );
        } else if dead > 0 {
            add(
                Subject::DeadLetters,
                format!(
                    "{} failed: a redrive gives new attempts.",
                    orders_have(dead.into())
                ),
            );
        }
        for process in &now.processes {
            if let Some(text) = find_in_process(now, process) {
                add(Subject::Processes, text);
            }
        }
        if oldest_event > WAIT_MAX {
            let age = oldest_event.as_secs();
            let text = format!("{events} events wait to be published, the oldest for {age} s.");
            add(Subject::Sink, text);
        }
        findings
    }
}

/// What is wrong with a process.
fn find_in_process(now: &ClusterState, process: &ProcessState) -> Option<String> {
    let name = process.report.identity.name();
    let lag = Duration::from_millis(process.report.figures.lag_ms);
    if is_silent(now, process) {
        let age = age(now, process).as_secs();
        return Some(format!("{name} has been silent for {age} s."));
    }
    if process.is_paused {
        return Some(format!("{name} is paused."));
    }
    let lag = (lag > LAG_MAX).then_some(lag.as_secs())?;
    Some(format!("{name} has not extended its leases for {lag} s."))
}

/// `1 order has`, `2 orders have`.
fn orders_have(n: u64) -> String {
    if n == 1 {
        "1 order has".to_owned()
    } else {
        format!("{n} orders have")
    }
}

/// How long ago a process reported.
fn age(now: &ClusterState, process: &ProcessState) -> Duration {
    let age = now.at.duration_since(process.seen_at);
    Duration::try_from(age).unwrap_or_default()
}

/// Whether a process has not reported for so long that it may have ended.
pub fn is_silent(now: &ClusterState, process: &ProcessState) -> bool {
    age(now, process) > SILENT_AFTER
}

/// What was counted between two readings, by all processes.
#[derive(Default)]
struct Delta {
    created: u64,
    processed: u64,
    failed: u64,
    retried: u64,
    requests: u64,
    failed_requests: u64,
    request_times: [u64; Figures::BOUNDS.len()],
    completion_times: [u64; Figures::BOUNDS.len()],
    failures: BTreeMap<String, u64>,
}

impl Delta {
    fn add(&mut self, before: &Figures, now: &Figures) {
        let between = |field: fn(&Figures) -> u64| field(now).saturating_sub(field(before));
        self.created += between(|figures| figures.created);
        self.processed += between(|figures| figures.processed);
        self.failed += between(|figures| figures.failed);
        self.retried += between(|figures| figures.retried);
        self.requests += between(|figures| figures.requests);
        self.failed_requests += between(|figures| figures.failed_requests);
        add_times(
            &mut self.request_times,
            &before.request_times,
            &now.request_times,
        );
        add_times(
            &mut self.completion_times,
            &before.completion_times,
            &now.completion_times,
        );
        for (code, n) in &now.failures {
            let before = before.failures.get(code).copied().unwrap_or_default();
            let n = n.saturating_sub(before);
            if n > 0 {
                *self.failures.entry(code.clone()).or_default() += n;
            }
        }
    }
}

fn add_times(sums: &mut [u64], before: &[u64], now: &[u64]) {
    let before = before.iter().copied().chain(std::iter::repeat(0));
    for ((sum, before), now) in sums.iter_mut().zip(before).zip(now) {
        *sum += now.saturating_sub(before);
    }
}

impl Quantiles {
    /// Reads quantiles from counts up to each of [`Figures::BOUNDS`].
    fn of(times: &[u64; Figures::BOUNDS.len()]) -> Self {
        Self {
            p50: quantile(times, 0.5),
            p99: quantile(times, 0.99),
        }
    }
}

/// Interpolates inside the bucket, as Prometheus does. Beyond the last finite bound there is only
/// that bound.
fn quantile(times: &[u64; Figures::BOUNDS.len()], q: f64) -> Option<Duration> {
    let total = float(*times.last()?);
    if total == 0.0 {
        return None;
    }
    let rank = q * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, n) in Figures::BOUNDS.iter().zip(times) {
        let n = float(*n);
        if n >= rank {
            let upper = if bound.is_finite() { *bound } else { lower };
            let part = if n > below {
                (rank - below) / (n - below)
            } else {
                1.0
            };
            return Some(Duration::from_secs_f64(lower + (upper - lower) * part));
        }
        (lower, below) = (*bound, n);
    }
    None
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        float(part) / float(whole)
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 is enough")]
const fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests;
