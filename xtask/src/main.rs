//! The project's own commands: `cargo xtask <command>`. One file per command.

#![expect(
    clippy::print_stdout,
    reason = "reports of commands go to standard output"
)]

mod bench;
mod browser;
mod console;
mod docs;
mod lint;
mod schemathesis;
mod services;
mod steps;
mod storm;
mod system;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

/// Everything a developer or a build server runs.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
enum Xtask {
    /// Check format, lints, dependencies, documentation and the rules of the repository.
    Lint,
    /// Run every test, on a PostgreSQL and a Redis that are started for it.
    Test(test::TestArgs),
    /// Install, start and stop the servers that development needs.
    #[command(subcommand)]
    Services(services::Services),
    /// Kill or restart processes again and again under load, and prove that nothing is lost.
    Storm(storm::StormArgs),
    /// Make requests from the OpenAPI document and hold every answer against it.
    Schemathesis(schemathesis::SchemathesisArgs),
    /// Open the documentation page in a browser and create an order there.
    Docs,
    /// Open every page of the console in a browser, follow an order and redrive a dead letter.
    Console,
    /// Measure throughput and memory, beside the naive design in the same run.
    Bench(bench::BenchArgs),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Lint => lint::run(),
        Xtask::Test(args) => test::run(&args).await,
        Xtask::Services(command) => services::run(&command),
        Xtask::Storm(args) => storm::run(args).await,
        Xtask::Schemathesis(args) => schemathesis::run(args).await,
        Xtask::Docs => docs::run().await,
        Xtask::Console => console::run().await,
        Xtask::Bench(args) => bench::run(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Only the text: a backtrace of this program says nothing about what failed.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The cargo that runs this command, in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace_root());
    command
}
