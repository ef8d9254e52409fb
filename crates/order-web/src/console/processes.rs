//! `/console/processes`: every process, as it reported itself, and whether it may claim jobs.

use std::{sync::Arc, time::Duration};

use axum::response::Response;
use maud::{Markup, html};
use order_core::{ClusterState, ProcessId, ProcessState, Violations, overview::is_silent};

use super::{
    Shared,
    form::{self, Form},
    page::{Notice, Page, Region, Section},
    sampler::Samples,
    text::{between, count, duration, foreign, time},
};
use crate::http::{host::see_other, operation::Call, problem::Problem};

/// Shows the page.
pub(super) async fn show(console: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    let samples = console.sampler.fresh().await;
    let page = Page {
        live: Some("page=processes".to_owned()),
        notice: form::done(&call.parts).map(Notice::Done),
        ..Page::new(Section::Processes, body(&samples))
    };
    Ok(console.respond(page, &samples))
}

fn body(samples: &Samples) -> Markup {
    html! { @for (id, region) in regions(samples) { div id=(id) data-region { (region) } } }
}

/// The parts of the page.
pub(super) fn regions(samples: &Samples) -> Vec<Region> {
    let region = samples.last().map_or_else(
        || html! { p.quiet { "No process has been read yet." } },
        |(_, state)| processes(state),
    );
    vec![("processes", region)]
}

fn processes(state: &ClusterState) -> Markup {
    html! {
        div.bar {
            p {
                @if state.is_paused {
                    strong { "Processing is paused." } " No process claims jobs. Those that were claimed are finished."
                } @else {
                    "Processes claim jobs."
                }
            }
            (button("all", None, state.is_paused, "all processes"))
        }
        div.scroll tabindex="0" role="region" aria-labelledby="processes-caption" {
            table {
                caption #processes-caption { "Processes that reported in the last minute" }
                thead { (head()) }
                tbody {
                    @if state.processes.is_empty() {
                        tr { td.quiet colspan="11" { "No process reports." } }
                    }
                    @for process in &state.processes { (row(state, process)) }
                }
            }
        }
    }
}

fn head() -> Markup {
    html! {
        tr {
            th scope="col" { "Process" }
            th scope="col" { "State" }
            th.right scope="col" { "Busy" }
            th.right scope="col" { "Queued" }
            th.right scope="col" { "Lag" }
            th.right scope="col" { "Connections" }
            th.right scope="col" { "Sockets" }
            th scope="col" { "Version" }
            th scope="col" { "Running since" }
            th scope="col" { "Last report" }
            th scope="col" { "Pause" }
        }
    }
}

fn row(state: &ClusterState, process: &ProcessState) -> Markup {
    let report = &process.report;
    let (identity, figures) = (&report.identity, &report.figures);
    let has_workers = figures.workers > 0;
    let lag = Duration::from_millis(figures.lag_ms);
    html! {
        tr {
            th.text scope="row" { (foreign(&identity.program)) br; span.quiet { (foreign(&identity.place)) } }
            td { (state_badge(state, process)) }
            td.right {
                @if has_workers { (count(figures.busy)) " of " (count(figures.workers)) } @else { "–" }
            }
            td.right { @if has_workers { (count(figures.queued)) } @else { "–" } }
            td.right { @if has_workers { (duration(lag)) } @else { "–" } }
            td.right { (count(figures.connections)) }
            td.right { (count(figures.sockets)) }
            td { (foreign(&report.version)) }
            td { (time(report.started_at)) }
            td { (duration(between(process.seen_at, state.at))) " ago" }
            td {
                @if has_workers || process.is_paused {
                    (button(&identity.id.to_string(), Some(identity.id), process.is_paused, &identity.name()))
                }
            }
        }
    }
}

fn state_badge(state: &ClusterState, process: &ProcessState) -> Markup {
    html! {
        @if is_silent(state, process) { span.badge.bad { "silent" } }
        @else if process.is_paused || state.is_paused { span.badge.off { "paused" } }
        @else { span.badge.good { "running" } }
    }
}

/// A button that pauses or resumes one process or all.
fn button(key: &str, id: Option<ProcessId>, is_paused: bool, name: &str) -> Markup {
    let word = if is_paused { "Resume" } else { "Pause" };
    let next = if is_paused { "resume" } else { "pause" };
    html! {
        form method="post" action="/console/processes" {
            @if let Some(id) = id { input type="hidden" name="process_id" value=(id); }
            input type="hidden" name="action" value=(next);
            button id=(format!("pause-{key}")) type="submit" {
                (word) @if id.is_none() { " all" } @else { span.hidden { " " (foreign(name)) } }
            }
        }
    }
}

/// Pauses or resumes.
pub(super) async fn set_paused(console: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    let work = try_set_paused(&console, &call);
    console.answer(Section::Processes, &call, work).await
}

async fn try_set_paused(console: &Shared, call: &Call) -> Result<Response, Problem> {
    let (process_id, is_paused) = parse(call)?;
    let ctx = console.context(call);
    let changed = console.admin.set_paused(&ctx, process_id, is_paused);
    console
        .in_time(changed)
        .await
        .map_err(Problem::Parameters)?;
    console.sampler.expire();
    let done = if is_paused { "paused" } else { "resumed" };
    see_other(&format!("/console/processes?done={done}"))
}

fn parse(call: &Call) -> Result<(Option<ProcessId>, bool), Problem> {
    let form = Form::read(call, &["process_id", "action"])?;
    let mut violations = Violations::default();
    let process_id = violations.check_given(form.get("process_id"), str::parse)?;
    let is_paused = match form.get("action") {
        Some("pause") => Some(true),
        Some("resume") => Some(false),
        _ => {
            violations.push("action", "must be pause or resume");
            None
        }
    };
    let is_paused = violations.finish(is_paused).map_err(Problem::Parameters)?;
    Ok((process_id, is_paused))
}
