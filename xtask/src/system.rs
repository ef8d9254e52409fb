//! The project's own processes on free ports: what `storm` and `bench` run against.

use std::{ops::Deref, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, ensure};
use order_testkit::server::{
    free_port,
    process::{ChildServer, Signal},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_postgres::{Client, NoTls};

/// How long a process may take until it serves, a database that recovers included.
const READY_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a process may take to stop; longer than its own `SHUTDOWN_TIMEOUT`.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the memory must stay the same to count as settled.
const SETTLED: Duration = Duration::from_secs(2);

/// Builds the binaries and returns the folder they are in.
pub(crate) fn build(release: bool) -> anyhow::Result<PathBuf> {
    // For a debug build the features of the tests, so that nothing is built twice.
    let mut cargo = if release {
        let arguments = ["build", "--package=order-app", "--features=kafka", "--bins"];
        let mut cargo = crate::cargo(&arguments);
        cargo.arg("--release");
        cargo
    } else {
        crate::cargo(&["build", "--workspace", "--all-features", "--bins"])
    };
    ensure!(cargo.status()?.success(), "the binaries do not build");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate::workspace_root().join("target"), PathBuf::from);
    Ok(target.join(if release { "release" } else { "debug" }))
}

/// A connection to a database.
pub(crate) struct Sql {
    client: Client,
    _connection: JoinSet<Result<(), tokio_postgres::Error>>,
}

impl Sql {
    /// Connects.
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let mut background = JoinSet::new();
        background.spawn(connection);
        Ok(Self {
            client,
            _connection: background,
        })
    }
}

impl Deref for Sql {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// One process: how to start it, and the run that is under way.
pub(crate) struct Process {
    program: PathBuf,
    settings: Vec<(&'static str, String)>,
    run: Option<ChildServer>,
}

impl Process {
    /// A process that is not started yet.
    pub(crate) fn new(program: PathBuf, settings: Vec<(&'static str, String)>) -> Self {
        Self {
            program,
            settings,
            run: None,
        }
    }

    /// Starts the process and waits until it serves.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_until_ready().await
    }

    /// Starts the process and does not wait.
    pub(crate) fn spawn(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        self.run = Some(ChildServer::spawn(&mut command)?);
        Ok(())
    }

    /// Waits until the process says that it serves.
    pub(crate) async fn wait_until_ready(&self) -> anyhow::Result<()> {
        self.wait_for_line("is ready").await?;
        Ok(())
    }

    /// Ends the process at once, as a crash would, and gives what it wrote. Fails if it had
    /// ended by itself.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<String> {
        let run = self.run.take().context("the process is not running")?;
        run.signal(Signal::Kill)
            .with_context(|| format!("{}:\n{}", self.program.display(), run.output()))?;
        run.wait_for_exit(STOP_TIMEOUT).await?;
        Ok(run.output())
    }

    /// Asks the process to stop, checks that it ended cleanly, and gives what it wrote.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<String> {
        let run = self.run.take().context("the process is not running")?;
        run.signal(Signal::Terminate)
            .with_context(|| format!("{}:\n{}", self.program.display(), run.output()))?;
        let status = run.wait_for_exit(STOP_TIMEOUT).await?;
        ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.program.display(),
            run.output()
        );
        Ok(run.output())
    }

    /// Waits for a line of output that contains `text`, and gives the whole line.
    pub(crate) async fn wait_for_line(&self, text: &str) -> anyhow::Result<String> {
        let run = self.run.as_ref().context("the process is not running")?;
        run.wait_for_line(text, READY_TIMEOUT).await
    }

    /// The process id.
    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        Ok(self
            .run
            .as_ref()
            .context("the process is not running")?
            .id())
    }
}

/// A gateway and a service on one database, or all in one.
pub(crate) struct System {
    /// The process that holds workers and hub: `order-service` or `order-system`.
    pub(crate) service: Process,
    /// The gateway, if it is a process of its own.
    pub(crate) gateway: Option<Process>,
    /// Port of the HTTP API.
    pub(crate) http_port: u16,
    /// Port of the WebSocket endpoint.
    pub(crate) ws_port: u16,
}

impl System {
    /// Starts gateway and service as processes on PostgreSQL.
    pub(crate) async fn start_split(
        programs: &std::path::Path,
        database_url: &str,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<Self> {
        let (http_port, grpc_port, ws_port) = (free_port()?, free_port()?, free_port()?);
        let mut service = settings_of(settings);
        service.extend([
            ("DATABASE_URL", database_url.to_owned()),
            ("GRPC_ADDR", loopback(grpc_port)),
            ("WS_ADDR", loopback(ws_port)),
            ("ADMIN_ADDR", loopback(0)),
        ]);
        let mut gateway = settings_of(settings);
        gateway.extend([
            ("HTTP_ADDR", loopback(http_port)),
            ("ADMIN_ADDR", loopback(0)),
            (
                "ORDER_SERVICE_URL",
                format!("http://{}", loopback(grpc_port)),
            ),
        ]);
        let mut system = Self {
            service: Process::new(programs.join("order-service"), service),
            gateway: Some(Process::new(programs.join("api-gateway"), gateway)),
            http_port,
            ws_port,
        };
        system.start().await?;
        Ok(system)
    }

    /// Starts everything in one process.
    pub(crate) async fn start_all_in_one(
        programs: &std::path::Path,
        database_url: &str,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<Self> {
        let (http_port, ws_port) = (free_port()?, free_port()?);
        let mut service = settings_of(settings);
        service.extend([
            ("DATABASE_URL", database_url.to_owned()),
            ("HTTP_ADDR", loopback(http_port)),
            ("GRPC_ADDR", loopback(0)),
            ("WS_ADDR", loopback(ws_port)),
            ("ADMIN_ADDR", loopback(0)),
        ]);
        let mut system = Self {
            service: Process::new(programs.join("order-system"), service),
            gateway: None,
            http_port,
            ws_port,
        };
        system.start().await?;
        Ok(system)
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        self.service.start().await?;
        match &mut self.gateway {
            Some(gateway) => gateway.start().await,
            None => Ok(()),
        }
    }

    /// Stops everything, gateway first, and checks that all ended cleanly.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(gateway) = &mut self.gateway {
            gateway.stop().await?;
        }
        self.service.stop().await?;
        Ok(())
    }
}

fn settings_of(settings: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    settings
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect()
}

/// A port of this machine.
pub(crate) fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// The resident memory of a process, in KiB, once it stays the same.
pub(crate) async fn settled_rss_kib(pid: u32) -> anyhow::Result<i64> {
    let (mut value, mut since) = (rss_kib(pid)?, Instant::now());
    while since.elapsed() < SETTLED {
        sleep(Duration::from_millis(100)).await;
        let next = rss_kib(pid)?;
        if next != value {
            (value, since) = (next, Instant::now());
        }
    }
    Ok(value)
}

fn rss_kib(pid: u32) -> anyhow::Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .context("no VmRSS in the status of the process")
}
