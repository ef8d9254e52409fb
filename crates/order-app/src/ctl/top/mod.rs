//! The system at a glance, in a terminal.

mod screen;
mod view;

use std::{collections::VecDeque, time::Duration};

use order_core::{ClusterState, overview::Overview};
use serde::Serialize;

pub use self::{
    screen::draw,
    view::{Question, View},
};
use super::{
    client::Client,
    failure::{Failure, describe},
    output::{Output, OutputFormat},
};

/// The time between two readings.
const INTERVAL: Duration = Duration::from_secs(2);

/// Rates are those of so many intervals: a process reports about once in each, so those of a single
/// one would jump.
const INTERVALS: usize = 5;

/// Shows the system until the user has seen enough, or once if there is no terminal.
pub(super) async fn top(client: &Client, output: &mut Output) -> Result<(), Failure> {
    if output.has_screen() && output.format() == OutputFormat::Table {
        return screen::run(client).await;
    }
    let mut readings = Readings::default();
    readings.read(client).await?;
    client.clock.sleep(INTERVAL * 2).await;
    let view = readings.read(client).await?;
    if output.format() == OutputFormat::Json {
        return Ok(output.json(&OverviewJson::from(&view.overview))?);
    }
    for line in view.text() {
        output.text(format_args!("{line}"))?;
    }
    Ok(())
}

/// The last readings, the oldest first.
#[derive(Default)]
struct Readings(VecDeque<ClusterState>);

impl Readings {
    /// Reads once more, and compares with the oldest of the last readings.
    async fn read(&mut self, client: &Client) -> Result<View, Failure> {
        let cluster = client.admin.cluster(&client.context()).await?;
        self.0.push_back(cluster.clone());
        if self.0.len() > INTERVALS + 1 {
            self.0.pop_front();
        }
        let oldest = self.0.front().unwrap_or(&cluster);
        Ok(View {
            overview: Overview::between(oldest, &cluster),
            cluster,
            error: None,
            question: None,
        })
    }

    /// The last view with the failure, while the system cannot be read.
    fn stale(&self, failure: &Failure) -> Option<View> {
        let (oldest, newest) = (self.0.front()?, self.0.back()?);
        let error = match failure {
            Failure::Service(error) => describe(error).0,
            other => format!("{other:?}"),
        };
        Some(View {
            overview: Overview::between(oldest, newest),
            cluster: newest.clone(),
            error: Some(error),
            question: None,
        })
    }
}

/// The overview as JSON; durations are in seconds.
#[derive(Serialize)]
struct OverviewJson<'a> {
    at: String,
    findings: Vec<&'a str>,
    created_per_second: f64,
    processed_per_second: f64,
    failed_per_second: f64,
    retried_per_second: f64,
    requests_per_second: f64,
    failing_requests: f64,
    request_p50: Option<f64>,
    request_p99: Option<f64>,
    completion_p50: Option<f64>,
    completion_p99: Option<f64>,
    due: u32,
    oldest_due: Option<f64>,
    scheduled: u32,
    leased: u32,
    dead: u32,
    events: u32,
    oldest_event: Option<f64>,
    workers: u32,
    busy: u32,
    connections: u32,
    sockets: u32,
    failures: &'a std::collections::BTreeMap<String, u64>,
}

impl<'a> From<&'a Overview> for OverviewJson<'a> {
    fn from(now: &'a Overview) -> Self {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let findings = now.findings.iter().map(|finding| finding.text.as_str());
        Self {
            at: format!("{:.3}", now.at),
            findings: findings.collect(),
            created_per_second: now.created,
            processed_per_second: now.processed,
            failed_per_second: now.failed,
            retried_per_second: now.retried,
            requests_per_second: now.requests,
            failing_requests: now.request_failures,
            request_p50: seconds(now.request_times.p50),
            request_p99: seconds(now.request_times.p99),
            completion_p50: seconds(now.completion_times.p50),
            completion_p99: seconds(now.completion_times.p99),
            due: now.backlog.due,
            oldest_due: seconds(now.backlog.oldest_due),
            scheduled: now.backlog.scheduled,
            leased: now.backlog.leased,
            dead: now.backlog.dead,
            events: now.backlog.events,
            oldest_event: seconds(now.backlog.oldest_event),
            workers: now.workers,
            busy: now.busy,
            connections: now.connections,
            sockets: now.sockets,
            failures: &now.failures,
        }
    }
}
