//! Redis for development. It keeps nothing: what it carries are hints and events.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use order_testkit::server::redis::is_installed;

use super::{Server, wait_for};
use crate::workspace_root;

/// The port of the development server: not Redis's own, which may be taken.
const PORT: u16 = 16379;

/// How long a connection and an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The development server.
pub(super) struct Redis {
    directory: PathBuf,
}

impl Redis {
    pub(super) fn find() -> anyhow::Result<Self> {
        is_installed().context("run cargo xtask services install")?;
        Ok(Self {
            directory: workspace_root().join("target/services/redis"),
        })
    }

    fn start(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.directory).context("cannot make the folder of redis")?;
        let log = self.directory.join("log");
        let status = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &PORT.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "yes"])
            .arg("--dir")
            .arg(&self.directory)
            .arg("--logfile")
            .arg(&log)
            .stdout(Stdio::null())
            .status()
            .context("cannot run redis-server")?;
        ensure!(status.success(), "redis-server ended with {status}");
        if !wait_for(|| answer("PING").is_ok()) {
            bail!("redis does not answer; see {}", log.display());
        }
        eprintln!("started Redis; its log is {}", log.display());
        Ok(())
    }
}

impl Server for Redis {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{PORT}")
    }

    fn is_running(&self) -> anyhow::Result<bool> {
        // Whatever else listens there is not to be stopped.
        let directory = fs::canonicalize(&self.directory).unwrap_or_default();
        let found = answer("CONFIG GET dir").unwrap_or_default();
        Ok(found.lines().any(|line| directory.as_os_str() == line))
    }

    fn up(&self) -> anyhow::Result<(&'static str, String)> {
        if !self.is_running()? {
            self.start()?;
        }
        Ok(("REDIS_URL", format!("redis://127.0.0.1:{PORT}")))
    }

    fn down(&self) -> anyhow::Result<()> {
        // The server answers by closing the connection.
        let _closed = answer("SHUTDOWN NOSAVE");
        ensure!(wait_for(|| answer("PING").is_err()), "redis does not stop");
        Ok(())
    }
}

/// What the server says to a command, as far as it comes at once.
fn answer(command: &str) -> anyhow::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let mut connection = TcpStream::connect_timeout(&address, TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.write_all(format!("{command}\r\n").as_bytes())?;
    let mut buffer = [0; 4096];
    let n = connection.read(&mut buffer)?;
    ensure!(n > 0, "the connection was closed");
    Ok(String::from_utf8_lossy(buffer.get(..n).unwrap_or_default()).into_owned())
}
