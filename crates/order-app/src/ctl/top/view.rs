//! What `top` shows, as lines of text.

use std::time::Duration;

use order_core::{
    Backlog, ClusterState,
    overview::{Overview, Quantiles},
};
use ratatui::{
    style::{Color, Modifier, Style},
    text::Line,
};

use super::super::processes::{HEADER, row_of};
use crate::telemetry::escape;

/// The most causes of failures that are shown.
const FAILURES_MAX: usize = 8;

/// The system at a glance.
pub struct View {
    /// The later reading.
    pub cluster: ClusterState,
    /// The comparison of two readings.
    pub overview: Overview,
    /// Why the readings are not newer, if they cannot be made.
    pub error: Option<String>,
    /// The action that waits for a confirmation.
    pub question: Option<Question>,
}

/// Something that has to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Pause all processes.
    Pause,
    /// Resume all processes.
    Resume,
}

/// How a line is drawn.
#[derive(Clone, Copy)]
enum Look {
    Plain,
    Title,
    Bad,
}

impl View {
    /// The lines, without colours.
    pub fn text(&self) -> Vec<String> {
        let lines = self.lines().into_iter();
        lines.map(|(_, line)| line).collect()
    }

    /// The lines for a terminal.
    pub(super) fn styled(&self) -> Vec<Line<'static>> {
        let lines = self.lines().into_iter().map(|(look, line)| {
            let style = match look {
                Look::Plain => Style::default(),
                Look::Title => Style::default().add_modifier(Modifier::BOLD),
                Look::Bad => Style::default().fg(Color::Red),
            };
            Line::styled(line, style)
        });
        lines.collect()
    }

    /// The text of the last line.
    pub(super) fn footer(&self) -> String {
        match self.question {
            Some(Question::Pause) => {
                "Pause processing in all processes? y: yes, any other key: no".to_owned()
            }
            Some(Question::Resume) => {
                "Resume processing in all processes? y: yes, any other key: no".to_owned()
            }
            None if self.cluster.is_paused => "q: quit   p: resume processing".to_owned(),
            None => "q: quit   p: pause processing".to_owned(),
        }
    }

    fn lines(&self) -> Vec<(Look, String)> {
        let (now, cluster) = (&self.overview, &self.cluster);
        let mut lines = Vec::new();
        let mut add = |look, line: String| lines.push((look, escape(&line).into_owned()));
        add(Look::Title, format!("Order system at {:.0}", now.at));
        if let Some(error) = &self.error {
            add(Look::Bad, format!("No newer figures: {error}"));
        }
        for finding in &now.findings {
            add(Look::Bad, finding.text.clone());
        }
        if now.findings.is_empty() && self.error.is_none() {
            add(Look::Plain, "Nothing is wrong.".to_owned());
        }
        add(Look::Plain, String::new());
        add(Look::Plain, orders(now));
        add(Look::Plain, requests(now));
        add(Look::Plain, backlog(&now.backlog));
        add(Look::Plain, events(&now.backlog));
        add(
            Look::Plain,
            format!(
                "Workers     {} of {} busy, connections {}, sockets {}",
                now.busy, now.workers, now.connections, now.sockets
            ),
        );
        add(Look::Plain, failures(now));
        add(Look::Plain, String::new());
        add(Look::Title, HEADER.to_owned());
        for process in &cluster.processes {
            add(Look::Plain, row_of(cluster, process));
        }
        lines
    }
}

fn orders(now: &Overview) -> String {
    format!(
        "Orders      created {:.1}/s, processed {:.1}/s, failed {:.1}/s, retried {:.1}/s, {}",
        now.created,
        now.processed,
        now.failed,
        now.retried,
        quantiles(now.completion_times)
    )
}

fn requests(now: &Overview) -> String {
    format!(
        "Requests    {:.1}/s, failing {:.1} %, {}",
        now.requests,
        now.request_failures * 100.0,
        quantiles(now.request_times)
    )
}

fn backlog(backlog: &Backlog) -> String {
    format!(
        "Jobs        due {} (oldest {}), scheduled {}, leased {}, dead {}",
        backlog.due,
        duration(backlog.oldest_due),
        backlog.scheduled,
        backlog.leased,
        backlog.dead
    )
}

fn events(backlog: &Backlog) -> String {
    format!(
        "Events      to publish {} (oldest {})",
        backlog.events,
        duration(backlog.oldest_event)
    )
}

fn failures(now: &Overview) -> String {
    let mut failures: Vec<_> = now.failures.iter().collect();
    failures.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let most = failures.iter().take(FAILURES_MAX);
    let most: Vec<_> = most.map(|(code, n)| format!("{code} {n}")).collect();
    if most.is_empty() {
        return "Failures    none".to_owned();
    }
    format!("Failures    {}", most.join(", "))
}

fn quantiles(times: Quantiles) -> String {
    format!("p50 {}, p99 {}", duration(times.p50), duration(times.p99))
}

/// Three digits are enough for people.
fn duration(duration: Option<Duration>) -> String {
    match duration {
        None => "-".to_owned(),
        Some(duration) if duration < Duration::from_secs(1) => {
            format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
        }
        Some(duration) => format!("{:.1} s", duration.as_secs_f64()),
    }
}
