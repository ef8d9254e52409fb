//! The processes of the system: what there are, and whether they claim jobs.

use clap::Args;
use order_core::{ClusterState, Error, ProcessId, ProcessState, overview::is_silent};
use serde::Serialize;

use super::{client::Client, failure::Failure, output::Output};

/// Arguments of `admin pause` and `admin resume`.
#[derive(Clone, Copy, Debug, Args)]
pub struct PauseArgs {
    /// The id of the process, as `admin processes` shows it. Without it, all processes.
    #[arg(value_parser = parse_process_id)]
    pub process_id: Option<ProcessId>,
}

fn parse_process_id(text: &str) -> Result<ProcessId, String> {
    text.parse().map_err(|error: Error| match error {
        Error::InvalidArgument { violations } => {
            let rules = violations.into_iter().map(|violation| violation.rule);
            rules.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    })
}

/// Pauses or resumes one process, or all.
pub(super) async fn set_paused(
    client: &Client,
    PauseArgs { process_id }: PauseArgs,
    is_paused: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let context = client.context();
    let admin = &client.admin;
    admin.set_paused(&context, process_id, is_paused).await?;
    let done = PausedJson {
        process_id: process_id.map(|id| id.to_string()),
        paused: is_paused,
    };
    let who = match &done.process_id {
        Some(id) => format!("process {id} is"),
        None => "all processes are".to_owned(),
    };
    let what = if is_paused { "paused" } else { "resumed" };
    let line = format_args!("{who} {what}; they follow within a few seconds");
    Ok(output.line(&done, line)?)
}

/// The result of a pause or resumption, as JSON.
#[derive(Serialize)]
struct PausedJson {
    process_id: Option<String>,
    paused: bool,
}

/// Prints the processes that have reported lately.
pub(super) async fn processes(client: &Client, output: &mut Output) -> Result<(), Failure> {
    let cluster = client.admin.cluster(&client.context()).await?;
    for process in &cluster.processes {
        let json = ProcessJson::of(&cluster, process);
        let row = row_of(&cluster, process);
        output.row(&json, format_args!("{HEADER}"), format_args!("{row}"))?;
    }
    if cluster.is_paused {
        output.note(format_args!("processing is paused"))?;
    }
    Ok(())
}

/// The columns of [`row_of`].
pub(super) const HEADER: &str = "PROCESS           STATE    BUSY     QUEUED  CONNS  SOCKETS  \
                                 SEEN   SINCE                 VERSION   PROGRAM AND PLACE";

/// A process as a line of a table.
pub(super) fn row_of(cluster: &ClusterState, process: &ProcessState) -> String {
    let json = ProcessJson::of(cluster, process);
    let busy = format!("{}/{}", json.busy, json.workers);
    let report = &process.report;
    format!(
        "{}  {:<7}  {busy:<7}  {:>6}  {:>5}  {:>7}  {:>3} s  {:.0}  {:<8}  {}",
        json.process_id,
        json.state,
        report.figures.queued,
        report.figures.connections,
        report.figures.sockets,
        json.seen_seconds_ago,
        report.started_at,
        report.version,
        report.identity.name(),
    )
}

/// A process as JSON.
#[derive(Serialize)]
struct ProcessJson<'a> {
    process_id: String,
    program: &'a str,
    place: &'a str,
    version: &'a str,
    started_at: String,
    state: &'static str,
    seen_seconds_ago: i64,
    busy: u32,
    workers: u32,
    queued: u32,
    lag_ms: u64,
    connections: u32,
    sockets: u32,
}

impl<'a> ProcessJson<'a> {
    fn of(cluster: &ClusterState, process: &'a ProcessState) -> Self {
        let report = &process.report;
        let figures = &report.figures;
        let state = if is_silent(cluster, process) {
            "silent"
        } else if cluster.is_paused || process.is_paused {
            "paused"
        } else {
            "running"
        };
        Self {
            process_id: report.identity.id.to_string(),
            program: &report.identity.program,
            place: &report.identity.place,
            version: &report.version,
            started_at: format!("{:.3}", report.started_at),
            state,
            seen_seconds_ago: cluster.at.duration_since(process.seen_at).as_secs(),
            busy: figures.busy,
            workers: figures.workers,
            queued: figures.queued,
            lag_ms: figures.lag_ms,
            connections: figures.connections,
            sockets: figures.sockets,
        }
    }
}
