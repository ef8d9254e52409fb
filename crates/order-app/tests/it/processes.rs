//! The binaries as real processes, which can be stopped in every way a process can.

use std::process::Command;

use order_testkit::server::{free_port, process::ChildServer};

use crate::support::{Database, PATIENCE};

/// Where a process listens, over restarts.
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) grpc: u16,
    pub(crate) ws: u16,
}

impl Ports {
    pub(crate) fn free() -> Self {
        let port = || free_port().expect("a port");
        Self {
            http: port(),
            grpc: port(),
            ws: port(),
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
        .env("ADMIN_ADDR", addr(0))
        .env("SHUTDOWN_TIMEOUT", "10s")
        .env("RUST_LOG", "info,http_access=warn")
        .envs(settings.iter().copied());
    command
}

/// Starts it.
pub(crate) fn spawn(database: &Database, ports: &Ports, settings: &[(&str, &str)]) -> ChildServer {
    ChildServer::spawn(&mut command(database, ports, settings)).expect("the binary runs")
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
