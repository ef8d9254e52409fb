//! A private Prometheus that scrapes what a test tells it to.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::time::Instant;

use super::free_port;
use super::redis::WATCHER;

/// How long a start may take. Usually it takes a second.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The time between two looks at the log.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How often another port is tried when somebody else has taken it meanwhile.
const START_ATTEMPTS_MAX: u32 = 3;

/// A private server. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct PrometheusServer {
    directory: TempDir,
    address: SocketAddr,
    watcher: Child,
}

impl PrometheusServer {
    /// Starts a server with this configuration file, in YAML, and waits until it answers.
    ///
    /// Fails if Prometheus is not installed or does not start; the text is a reason to show.
    pub async fn start(config: &str) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            let server = Self::spawn(config)?;
            match server.wait_until_ready().await {
                Err(_) if attempt < START_ATTEMPTS_MAX && server.lost_its_port() => attempt += 1,
                ready => return ready.map(|()| server),
            }
        }
    }

    fn spawn(config: &str) -> anyhow::Result<Self> {
        is_installed()?;
        let directory = tempfile::Builder::new()
            .prefix("order-prometheus-")
            .tempdir()
            .context("cannot make a directory for prometheus")?;
        let file = directory.path().join("prometheus.yaml");
        fs::write(&file, config).context("cannot write the configuration of prometheus")?;
        let port = free_port().context("no port is free")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let watcher = Command::new("sh")
            .args(["-c", WATCHER, "prometheus-watcher"])
            .arg(directory.path())
            .arg("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run sh")?;
        Ok(Self {
            directory,
            address,
            watcher,
        })
    }

    /// Where it answers over HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the server wrote so far, to show when a test fails.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !self
            .log()
            .contains("Server is ready to receive web requests")
        {
            if Instant::now() >= deadline || self.lost_its_port() {
                bail!("prometheus does not start: {}", self.log());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    fn lost_its_port(&self) -> bool {
        self.log().contains("address already in use")
    }
}

impl Drop for PrometheusServer {
    fn drop(&mut self) {
        // The end of its input makes the watcher kill the server.
        drop(self.watcher.stdin.take());
        let _ended = self.watcher.wait();
    }
}

/// Fails with a reason to show if there is no Prometheus on this machine.
pub fn is_installed() -> anyhow::Result<()> {
    for program in ["prometheus", "promtool"] {
        let found = Command::new(program).arg("--version").output();
        found.with_context(|| format!("{program} is not installed"))?;
    }
    Ok(())
}
