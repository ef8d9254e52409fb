//! What every `main` does: parse, start, serve until told to stop, stop.

mod secret_files;

use std::{io::Write as _, net::SocketAddr, process::ExitCode};

use clap::{
    Command, Parser,
    error::{ContextKind, ContextValue},
};

use order_web::http::CONSOLE_PATH;

use crate::{
    config::{
        DatabaseUrl, GatewayCommand, GatewayConfig, ProcessConfig, ServiceConfig, StoreCommand,
        SystemConfig, WorkerConfig,
    },
    healthcheck,
    lifecycle::{Exit, stop_on_signal},
    process::Process,
    telemetry,
    traces::Traces,
    wire,
};

/// The `main` of `order-system`.
pub async fn order_system() -> ExitCode {
    let config: SystemConfig = parse();
    begin(&config.process);
    let done = match config.command {
        Some(command) => run_command(command, &config.database_url, config.admin_addr).await,
        None => {
            serve("order-system", async {
                // On the heap: starting takes a lot of room for a short time.
                let process = Box::pin(Process::start_system(config)).await?;
                // The last lines on a terminal, after those of the log. Without one, the text is not
                // worth failing for.
                telemetry::flush();
                let _ = std::io::stdout().write_all(welcome(&process).as_bytes());
                Ok(process)
            })
            .await
        }
    };
    end(done)
}

/// The `main` of `order-service`.
pub async fn order_service() -> ExitCode {
    let config: ServiceConfig = parse();
    begin(&config.process);
    let done = match config.command {
        Some(command) => run_command(command, &config.database_url, config.admin_addr).await,
        None => serve("order-service", Process::start_service(config)).await,
    };
    end(done)
}

/// The `main` of `order-worker`.
pub async fn order_worker() -> ExitCode {
    let config: WorkerConfig = parse();
    begin(&config.process);
    let done = match config.command {
        Some(command) => run_command(command, &config.database_url, config.admin_addr).await,
        None => serve("order-worker", Process::start_worker(config)).await,
    };
    end(done)
}

/// The `main` of `api-gateway`.
pub async fn api_gateway() -> ExitCode {
    let config: GatewayConfig = parse();
    begin(&config.process);
    let done = match config.command {
        Some(GatewayCommand::Healthcheck) => healthcheck::check(config.admin_addr)
            .await
            .map(|()| Exit::Clean),
        None => serve("api-gateway", Process::start_gateway(config)).await,
    };
    end(done)
}

/// Reads flags and environment, or ends the program with what is wrong with them.
pub(crate) fn parse<C: Parser>() -> C {
    let mut command = C::command();
    let parsed = secret_files::add(&mut command, std::env::args_os());
    let mut command = ignore_empty_variables(command);
    let parsed = parsed.and_then(|arguments| command.try_get_matches_from_mut(arguments));
    let parsed = parsed.and_then(|mut matches| C::from_arg_matches_mut(&mut matches));
    parsed.unwrap_or_else(|error| hide_secret(error.format(&mut command), &command).exit())
}

/// Lets a variable that is empty count as unset: files of settings have all of them.
fn ignore_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_env().and_then(std::env::var_os) {
        Some(value) if value.is_empty() => arg.env(None::<&'static str>),
        _ => arg,
    });
    command.mut_subcommands(ignore_empty_variables)
}

/// Takes a refused secret out of the error that refuses it.
fn hide_secret(mut error: clap::Error, command: &Command) -> clap::Error {
    let is_secret = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(refused)) => command
            .get_arguments()
            .any(|arg| secret_files::is_secret(arg) && arg.to_string() == *refused),
        _ => false,
    };
    if is_secret {
        let hidden = ContextValue::String("…".to_owned());
        error.insert(ContextKind::InvalidValue, hidden);
    }
    error
}

fn begin(config: &ProcessConfig) {
    choose_cryptography();
    telemetry::init(config.log_format);
}

/// Names the cryptography of all TLS in this process. By itself rustls finds it only while
/// there is one in the build, and panics at the first connection once a dependency brings
/// another.
fn choose_cryptography() {
    // Whoever was first has chosen, and that is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn end(done: anyhow::Result<Exit>) -> ExitCode {
    telemetry::flush();
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            // The log may be filtered or in JSON; a person who starts the program reads this.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_command(
    command: StoreCommand,
    database_url: &DatabaseUrl,
    admin_addr: SocketAddr,
) -> anyhow::Result<Exit> {
    match command {
        StoreCommand::Migrate => wire::migrate(database_url).await?,
        StoreCommand::DropEventSink => wire::drop_event_sink(database_url).await?,
        StoreCommand::Healthcheck => healthcheck::check(admin_addr).await?,
    }
    Ok(Exit::Clean)
}

async fn serve(
    program: &'static str,
    start: impl Future<Output = anyhow::Result<Process>>,
) -> anyhow::Result<Exit> {
    let stop = stop_on_signal()?;
    let traces = Traces::start(program)?;
    let process = tokio::select! {
        process = start => process?,
        () = stop.cancelled() => return Ok(Exit::Clean),
    };
    let exit = process.run_until(stop).await;
    // The last spans are those of the stop. Without them the exit is as clean.
    if let Some(traces) = traces {
        traces.flush().await;
    }
    Ok(exit)
}

fn welcome(process: &Process) -> String {
    let addrs = process.addrs();
    let mut lines = vec!["order-system is ready".to_owned()];
    let mut line = |name: &str, addr: Option<SocketAddr>, scheme: &str, path: &str| {
        lines.extend(addr.map(|addr| format!("  {name:<10} {scheme}://{addr}{path}")));
    };
    line("HTTP API", addrs.http, "http", "");
    line("WebSocket", addrs.ws, "ws", "/ws");
    line("gRPC", addrs.grpc, "http", "");
    line("console", addrs.console, "http", CONSOLE_PATH);
    line("health", addrs.admin, "http", "/readyz");
    lines.extend(addrs.http.map(|addr| {
        format!(
            "try: curl -i http://{addr}/orders -H 'content-type: application/json' \
             -d '{{\"user_id\":\"user-1\",\"amount\":100}}'"
        )
    }));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use rustls::crypto::CryptoProvider;

    use super::*;

    #[test]
    fn cryptography_is_chosen_once() {
        choose_cryptography();
        let first = CryptoProvider::get_default().expect("one is chosen");
        choose_cryptography();
        let second = CryptoProvider::get_default().expect("one is chosen");
        assert!(std::sync::Arc::ptr_eq(first, second));
    }
}
