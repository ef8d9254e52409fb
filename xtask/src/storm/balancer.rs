//! `HAProxy` in front of a fleet, as a deployment has it.

use std::{fmt::Write as _, fs, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use order_testkit::server::{free_port, process::ChildServer};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::fleet::{Fleet, Kind};
use crate::{services::find_program, system::loopback};

/// How long a process may take until the balancer uses it.
const UP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an answer of the balancer itself may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The time between two looks at what is up.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What does not depend on ports. A request is tried again only while no connection
/// carried it, which is safe for a POST. A process that says it is not ready is out after
/// two checks, well within its `SHUTDOWN_DELAY`.
const SETTINGS: &str = "
defaults
    mode http
    retries 3
    option redispatch 1
    retry-on conn-failure
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
    timeout check 1s
    option httpchk GET /readyz
    http-check expect status 200
    default-server inter 300ms fall 2 rise 1
";

/// A running balancer.
pub(super) struct Balancer {
    http_port: u16,
    ws_port: u16,
    health_port: u16,
    process: ChildServer,
    _directory: TempDir,
}

impl Balancer {
    /// Starts one for this fleet and waits until every process behind it is up.
    pub(super) async fn start(fleet: &Fleet) -> anyhow::Result<Self> {
        let program = find_program("haproxy")
            .context("haproxy is not installed; run cargo xtask services install")?;
        let (http_port, ws_port, health_port) = (free_port()?, free_port()?, free_port()?);
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("haproxy.cfg");
        fs::write(
            &file,
            configuration(fleet, http_port, ws_port, health_port)?,
        )?;
        let process = ChildServer::spawn(Command::new(program).arg("-db").arg("-f").arg(file))?;
        let balancer = Self {
            http_port,
            ws_port,
            health_port,
            process,
            _directory: directory,
        };
        balancer.wait_until_all_up().await?;
        Ok(balancer)
    }

    /// The address of `/orders`.
    pub(super) fn http_url(&self) -> String {
        format!("http://{}/orders", loopback(self.http_port))
    }

    /// The address of `/ws`.
    pub(super) fn ws_url(&self) -> String {
        format!("ws://{}/ws", loopback(self.ws_port))
    }

    /// Waits until requests go to every gateway and every service.
    pub(super) async fn wait_until_all_up(&self) -> anyhow::Result<()> {
        wait_until_200(self.health_port, "/up")
            .await
            .with_context(|| format!("haproxy wrote:\n{}", self.process.output()))
    }
}

fn configuration(
    fleet: &Fleet,
    http_port: u16,
    ws_port: u16,
    health_port: u16,
) -> anyhow::Result<String> {
    let mut text = format!(
        "global\n    maxconn 4000\n{SETTINGS}\n\
         frontend http\n    bind 127.0.0.1:{http_port}\n    default_backend gateways\n\n\
         frontend websocket\n    bind 127.0.0.1:{ws_port}\n    default_backend services\n\n\
         frontend health\n    bind 127.0.0.1:{health_port}\n    monitor-uri /up\n"
    );
    for (backend, kind) in [("gateways", Kind::Gateway), ("services", Kind::Service)] {
        let members = || fleet.members.iter().filter(|member| member.kind == kind);
        let n = members().count();
        writeln!(text, "    monitor fail if {{ nbsrv({backend}) lt {n} }}")?;
    }
    for (backend, kind) in [("gateways", Kind::Gateway), ("services", Kind::Service)] {
        writeln!(text, "\nbackend {backend}\n    balance leastconn")?;
        for member in fleet.members.iter().filter(|member| member.kind == kind) {
            writeln!(
                text,
                "    server {} {} check port {}",
                member.name,
                loopback(member.port),
                member.admin_port
            )?;
        }
    }
    Ok(text)
}

/// Asks until the answer is 200.
pub(super) async fn wait_until_200(port: u16, path: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + UP_TIMEOUT;
    loop {
        let answer = timeout(ANSWER_TIMEOUT, get(port, path)).await;
        if matches!(&answer, Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200")) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{path} on port {port} is not 200 within {UP_TIMEOUT:?}: {answer:?}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}
