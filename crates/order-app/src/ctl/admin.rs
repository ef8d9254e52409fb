//! Commands of operators. Those about one process go to its admin listener.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use axum::http::Method;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    client::Client,
    failure::{ExitStatus, Failure},
    output::{Output, OutputFormat},
    processes, redrive,
};
use crate::{
    admin,
    config::{parse_addr, parse_duration_between},
};

/// Commands of operators.
#[derive(Clone, Debug, Subcommand)]
pub enum AdminCommand {
    /// Count FAILED orders by the code of their cause.
    DeadLetters,
    /// Give FAILED orders a new round of attempts, and follow them until they have ended.
    Redrive(redrive::RedriveArgs),
    /// Show the processes of the system.
    Processes,
    /// Have a process, or all of them, claim no more jobs. What they hold is finished.
    Pause(processes::PauseArgs),
    /// Have a process, or all of them, claim jobs again.
    Resume(processes::PauseArgs),
    /// Show what a process logs, or change it until the process is restarted.
    LogLevel(LogLevelArgs),
}

/// Arguments of `admin log-level`.
#[derive(Clone, Debug, Args)]
pub struct LogLevelArgs {
    /// A level, and levels of targets, like `info,order_worker=debug`.
    pub filter: Option<String>,
    /// Wait this long, or until Ctrl-C, and set it back, like 10m.
    #[arg(long = "for", value_name = "DURATION", requires = "filter", value_parser = parse_wait)]
    pub wait: Option<Duration>,
    /// The admin listener of the process.
    #[arg(
        long,
        env = "ADMIN_ADDR",
        default_value = "127.0.0.1:9090",
        value_parser = parse_addr
    )]
    pub admin_addr: SocketAddr,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    parse_duration_between(text, Duration::from_secs(1), Duration::from_hours(24))
}

pub(super) async fn run(
    client: &Client,
    command: AdminCommand,
    output: &mut Output,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    match command {
        AdminCommand::DeadLetters => redrive::dead_letters(client, output).await,
        AdminCommand::Redrive(args) => redrive::redrive(client, args, output).await,
        AdminCommand::Processes => processes::processes(client, output).await,
        AdminCommand::Pause(args) => processes::set_paused(client, args, true, output).await,
        AdminCommand::Resume(args) => processes::set_paused(client, args, false, output).await,
        AdminCommand::LogLevel(args) => set_log_level(client, args, output, stop).await,
    }
}

async fn set_log_level(
    client: &Client,
    args: LogLevelArgs,
    output: &mut Output,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let LogLevelArgs {
        filter,
        wait,
        admin_addr,
    } = args;
    let before = log_level(client, admin_addr, None).await?;
    let Some(filter) = filter else {
        return print(output, before);
    };
    let after = log_level(client, admin_addr, Some(filter)).await?;
    print(output, after)?;
    let Some(wait) = wait else {
        return Ok(());
    };
    // Show the new level before the wait.
    output.flush()?;
    let waited = stop.run_until_cancelled(client.clock.sleep(wait)).await;
    let after = log_level(client, admin_addr, Some(before)).await?;
    print(output, after)?;
    waited.ok_or(Failure::Interrupted)
}

/// The log level of the process, after it was set to `filter` if there is one.
async fn log_level(
    client: &Client,
    addr: SocketAddr,
    filter: Option<String>,
) -> Result<String, Failure> {
    let method = if filter.is_some() {
        Method::PUT
    } else {
        Method::GET
    };
    let request = (method, "/log-level", filter.unwrap_or_default());
    let answered = admin::call(addr, request, client.timeout).await;
    let (status, text) = answered.map_err(|error| Failure::Admin {
        message: format!("{error:#}"),
        exit: ExitStatus::Unavailable,
    })?;
    if status.is_success() {
        return Ok(text.trim().to_owned());
    }
    let problem = serde_json::from_str::<ProblemJson>(&text);
    let detail = problem.map_or_else(|_| text.trim().to_owned(), |problem| problem.detail);
    Err(Failure::Admin {
        message: format!("{addr} answered {}: {detail}", status.as_u16()),
        exit: match status.as_u16() {
            400 => ExitStatus::Usage,
            503 => ExitStatus::Unavailable,
            _ => ExitStatus::Refused,
        },
    })
}

/// The part of a problem document that is printed.
#[derive(Deserialize)]
struct ProblemJson {
    detail: String,
}

/// The log level as JSON.
#[derive(Serialize)]
struct LogLevelJson {
    filter: String,
}

fn print(output: &mut Output, filter: String) -> Result<(), Failure> {
    match output.format() {
        OutputFormat::Table => writeln!(output.out(), "{filter}")?,
        OutputFormat::Json => output.json(&LogLevelJson { filter })?,
    }
    Ok(())
}
