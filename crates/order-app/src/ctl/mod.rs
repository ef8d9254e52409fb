//! `orderctl`, the command-line client.
//!
//! Owns the arguments, the exit codes and what is printed. Everything about orders is asked
//! of an [`OrderApi`](order_core::OrderApi), so this knows of gRPC only how to reach the
//! service, and decides nothing. Data goes to standard output, all else to standard error.

mod admin;
mod client;
mod csv;
mod events;
mod export;
mod failure;
mod import;
mod list;
mod order;
mod output;
mod processes;
mod program;
mod redrive;
pub mod top;
mod trace;
mod watch;

use std::{io::Write as _, sync::Arc, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use order_core::OrderId;
use tokio_util::sync::CancellationToken;

use self::{
    admin::AdminCommand, client::Client, failure::Failure, output::Output, trace::OrderCommand,
};
pub use self::{
    client::Deps,
    failure::ExitStatus,
    output::{Colours, Console, OutputFormat},
    program::main,
};

/// The command-line client of the order system: it speaks gRPC to the order service.
#[derive(Clone, Debug, Parser)]
#[command(name = "orderctl", version, after_help = ExitStatus::help())]
pub struct Cli {
    /// Settings of every command.
    #[command(flatten)]
    pub settings: Settings,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Settings of every command.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// The order service: one URL, or several separated by commas.
    #[arg(
        long,
        global = true,
        env = "ORDER_SERVICE_URL",
        default_value = "http://127.0.0.1:50051",
        value_delimiter = ','
    )]
    pub server: Vec<String>,
    /// How long one call may take, like 5s.
    #[arg(long, global = true, default_value = "5s", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// How data is printed.
    #[arg(long, global = true, default_value = "table")]
    pub output: OutputFormat,
    /// Print data and errors, and nothing else.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Create an order.
    Create(order::CreateArgs),
    /// Show an order.
    Get {
        /// The id of the order.
        order_id: OrderId,
    },
    /// List orders, newest first.
    List(list::ListArgs),
    /// Withdraw an order that is still PENDING.
    Cancel(order::CancelArgs),
    /// Give a FAILED order a new round of attempts.
    Retry(order::RetryArgs),
    /// Follow orders: prints where they stand, then each change.
    Watch(watch::WatchArgs),
    /// Show the history of an order, oldest first.
    Events(events::EventsArgs),
    /// Show everything that is known about an order, as a timeline.
    Trace(trace::TraceArgs),
    /// Commands about one order: `order trace` is `trace`.
    #[command(subcommand, hide = true)]
    Order(trace::OrderCommand),
    /// Show the system at a glance: rates, latencies, what waits and what is wrong.
    Top,
    /// Create an order for each line of a file; running it again creates nothing twice.
    Import(import::ImportArgs),
    /// Write orders to a file that `import` reads, newest first.
    Export(export::ExportArgs),
    /// Look after the system.
    #[command(subcommand)]
    Admin(admin::AdminCommand),
    /// Print a script that completes the arguments of this program in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Runs a command until it is done, or until `stop` is cancelled.
pub async fn run(cli: Cli, deps: Deps, console: Console, stop: &CancellationToken) -> ExitStatus {
    let Cli { settings, command } = cli;
    let client = Arc::new(Client::new(deps, settings.timeout));
    let mut output = Output::new(console, settings.output, settings.quiet);
    // They have something to save or to set back when they are interrupted: they watch `stop`.
    let ends_by_itself = matches!(
        command,
        Command::Import(_) | Command::Admin(AdminCommand::LogLevel(_))
    );
    let done = tokio::select! {
        biased;
        () = stop.cancelled(), if !ends_by_itself => Err(Failure::Interrupted),
        done = run_command(command, settings.server, &client, &mut output, stop) => done,
    };
    let done = output.flush().map_err(Failure::Output).and(done);
    match done {
        Ok(()) => ExitStatus::Ok,
        Err(failure) => {
            // Without a place to tell the reason, the exit code has to do.
            let _ = output.failure(&failure);
            failure.exit_status()
        }
    }
}

async fn run_command(
    command: Command,
    server: Vec<String>,
    client: &Arc<Client>,
    output: &mut Output,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    match command {
        Command::Create(args) => order::create(client, args, output).await,
        Command::Get { order_id } => {
            let order = client.api.get_order(&client.context(), order_id).await?;
            Ok(output.order(&order)?)
        }
        Command::List(args) => list::list(client, args, output).await,
        Command::Cancel(args) => order::cancel(client, args, output).await,
        Command::Retry(args) => order::retry(client, args, output).await,
        Command::Watch(args) => watch::watch(client, args, output).await,
        Command::Events(args) => events::events(client, args, output).await,
        Command::Trace(args) | Command::Order(OrderCommand::Trace(args)) => {
            trace::trace(client, args, output).await
        }
        Command::Top => top::top(client, output).await,
        Command::Import(args) => import::import(client, args, server, output, stop).await,
        Command::Export(args) => export::export(client, args, output).await,
        Command::Admin(args) => admin::run(client, args, output, stop).await,
        Command::Completions { shell } => {
            // The generator panics if it cannot write; memory can always be written to.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "orderctl", &mut script);
            Ok(output.out().write_all(&script)?)
        }
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let rule = "must be a duration from 10ms to 5m, like 300ms or 5s";
    let duration: jiff::SignedDuration = text.parse().map_err(|_| rule)?;
    Duration::try_from(duration)
        .ok()
        .filter(|timeout| (Duration::from_millis(10)..=Duration::from_mins(5)).contains(timeout))
        .ok_or_else(|| rule.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn timeouts_need_a_unit_and_stay_in_range() {
        assert_eq!(parse_timeout("300ms"), Ok(Duration::from_millis(300)));
        for bad in ["5", "-1s", "1ms", "6m", "soon"] {
            assert!(parse_timeout(bad).is_err(), "{bad}");
        }
    }
}
