//! Kafka for development: one node, broker and controller in one. Its data stays.

mod jars;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use order_testkit::server::kafka::{JAVA_OPTIONS, SETTINGS, libs};

pub(in crate::services) use jars::install;

use super::{Server, wait_for};
use crate::workspace_root;

/// The ports of the development server: not Kafka's own, which may be taken.
const PORT: u16 = 19092;
const CONTROLLER_PORT: u16 = 19093;

/// How long a connection may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Any id will do for a cluster of one.
const CLUSTER_ID: &str = "b3JkZXItc3lzdGVtLWRldg";

/// The development server.
pub(super) struct Kafka {
    directory: PathBuf,
    libs: PathBuf,
}

impl Kafka {
    pub(super) fn find() -> anyhow::Result<Self> {
        Ok(Self {
            directory: workspace_root().join("target/services/kafka"),
            libs: libs().context("run cargo xtask services install")?,
        })
    }

    fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.args(JAVA_OPTIONS).arg("-cp").arg(self.libs.join("*"));
        java
    }

    /// Writes the settings, and formats the storage if there is none.
    fn prepare(&self) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(&self.directory).context("cannot make the folder of kafka")?;
        let settings = self.directory.join("settings");
        let listeners = format!("PLAINTEXT://127.0.0.1:{PORT}");
        let controller = format!("127.0.0.1:{CONTROLLER_PORT}");
        let text = format!(
            "{SETTINGS}\
            log.dirs={}\n\
            listeners={listeners},CONTROLLER://{controller}\n\
            advertised.listeners={listeners}\n\
            controller.quorum.voters=1@{controller}\n",
            self.directory.join("data").display()
        );
        fs::write(&settings, text).context("cannot write the settings of kafka")?;
        let output = self
            .java()
            .args(["kafka.tools.StorageTool", "format", "--ignore-formatted"])
            .args(["--cluster-id", CLUSTER_ID, "--config"])
            .arg(&settings)
            .output()
            .context("cannot run java")?;
        ensure!(
            output.status.success(),
            "kafka cannot format its storage: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(settings)
    }

    fn start(&self) -> anyhow::Result<()> {
        let settings = self.prepare()?;
        let log = self.directory.join("log");
        let output = File::create(&log).context("cannot make the log of kafka")?;
        let server = self
            .java()
            .arg("kafka.Kafka")
            .arg(settings)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // It outlives this command, and an interrupt from the terminal.
            .process_group(0)
            .spawn()
            .context("cannot run java")?;
        fs::write(self.directory.join("pid"), server.id().to_string())?;
        if !wait_for(is_listening) {
            bail!("kafka does not answer; see {}", log.display());
        }
        eprintln!("started Kafka; its log is {}", log.display());
        Ok(())
    }

    /// The process that this command started, if it still runs.
    fn process(&self) -> Option<String> {
        let pid = fs::read_to_string(self.directory.join("pid")).ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let directory = self.directory.as_os_str().as_encoded_bytes();
        let is_ours = command
            .windows(directory.len().max(1))
            .any(|part| part == directory);
        is_ours.then_some(pid)
    }
}

impl Server for Kafka {
    fn name(&self) -> &'static str {
        "Kafka"
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{PORT}")
    }

    fn is_running(&self) -> anyhow::Result<bool> {
        Ok(self.process().is_some())
    }

    fn up(&self) -> anyhow::Result<(&'static str, String)> {
        if !self.is_running()? {
            self.start()?;
        }
        Ok(("KAFKA_URL", format!("kafka://127.0.0.1:{PORT}")))
    }

    fn down(&self) -> anyhow::Result<()> {
        let Some(pid) = self.process() else {
            return Ok(());
        };
        let status = Command::new("sh")
            .args(["-c", r#"kill "$0""#, &pid])
            .status()
            .context("cannot run sh")?;
        ensure!(status.success(), "kafka cannot be told to stop");
        ensure!(wait_for(|| self.process().is_none()), "kafka does not stop");
        Ok(())
    }
}

fn is_listening() -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    TcpStream::connect_timeout(&address, TIMEOUT).is_ok()
}
