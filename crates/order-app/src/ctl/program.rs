//! The process: its arguments, its signals and its connection to the service.

use std::{process::ExitCode, sync::Arc};

use order_core::Error;
use order_rpc::{RemoteOrderApi, RpcClientConfig};
use tokio::task::JoinSet;

use super::{Cli, Console, Deps, ExitStatus, failure::Failure, output::Output, run};
use crate::{
    cli::parse, config::LogFormat, lifecycle::stop_on_signal, telemetry, wire::system_ports,
};

/// The `main` of `orderctl`.
pub async fn main() -> ExitCode {
    let cli: Cli = parse();
    // The commands say themselves what happens; the log is for whoever asks for it.
    if telemetry::filter().is_some() {
        telemetry::init(LogFormat::Text);
    }
    let (format, is_quiet) = (cli.settings.output, cli.settings.quiet);
    let status = match connect_and_run(cli).await {
        Ok(status) => status,
        Err(failure) => {
            let mut output = Output::new(Console::standard(), format, is_quiet);
            // Without a place to tell the reason, the exit code has to do.
            let _ = output.failure(&failure);
            failure.exit_status()
        }
    };
    telemetry::flush();
    status.into()
}

async fn connect_and_run(cli: Cli) -> Result<ExitStatus, Failure> {
    let stop = stop_on_signal().map_err(Error::internal)?;
    let (clock, ids) = system_ports();
    let config = RpcClientConfig::new(cli.settings.server.clone());
    let (api, lanes) = RemoteOrderApi::new(&config, &clock)
        .map_err(|error| Failure::Usage(Error::invalid("server", error.to_string())))?;
    // They end with the program: when the command is done, nothing is under way.
    let mut tasks = JoinSet::new();
    for lane in lanes {
        tasks.spawn(lane);
    }
    let api = Arc::new(api);
    let deps = Deps {
        admin: Arc::clone(&api) as _,
        api,
        clock,
        ids,
    };
    Ok(run(cli, deps, Console::standard(), &stop).await)
}
