//! The binaries as real processes, which can be stopped in every way a process can.

use std::process::Command;

use order_testkit::server::{free_port, process::ChildServer};

use crate::{
    metrics::{scrape, value},
    support::{Database, PATIENCE, wait_for},
};

/// Where a process listens, over restarts.
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) grpc: u16,
    pub(crate) ws: u16,
    pub(crate) admin: u16,
}

impl Ports {
    pub(crate) fn free() -> Self {
        let port = || free_port().expect("a port");
        Self {
            http: port(),
            grpc: port(),
            ws: port(),
            admin: port(),
        }
    }
}

/// `order-system` on a database, with settings of its own.
pub(crate) fn command(database: &Database, ports: &Ports, settings: &[(&str, &str)]) -> Command {
    let addr = |port: u16| format!("127.0.0.1:{port}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-system"));
    command
        .env("DATABASE_URL", &database.url)
        .env("HTTP_ADDR", addr(ports.http))
        .env("GRPC_ADDR", addr(ports.grpc))
        .env("WS_ADDR", addr(ports.ws))
        .env("ADMIN_ADDR", addr(ports.admin))
        .env("SHUTDOWN_TIMEOUT", "10s")
        .env("RUST_LOG", "info,http_access=warn")
        .envs(settings.iter().copied());
    command
}

/// Starts it.
pub(crate) fn spawn(database: &Database, ports: &Ports, settings: &[(&str, &str)]) -> ChildServer {
    ChildServer::spawn(&mut command(database, ports, settings)).expect("the binary runs")
}

/// Waits until a worker of the process has a job. It claims none before it knows that nobody has
/// paused it, which takes a moment after the start.
pub(crate) async fn wait_for_work(ports: &Ports) {
    let admin = ([127, 0, 0, 1], ports.admin).into();
    wait_for("a worker has a job", async || {
        let busy = value(&scrape(admin).await, "workers_busy");
        busy.is_some_and(|busy| busy > 0.0).then_some(())
    })
    .await;
}

/// Starts it and waits until it serves.
pub(crate) async fn start(
    database: &Database,
    ports: &Ports,
    settings: &[(&str, &str)],
) -> ChildServer {
    let process = spawn(database, ports, settings);
    process
        .wait_for_line("is ready", PATIENCE)
        .await
        .expect("ready");
    process
}
