//! PostgreSQL for development.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context, bail, ensure};
use order_testkit::server::postgres::Installation;

use super::{Server, text};
use crate::workspace_root;

/// The port of the development server: not PostgreSQL's own, which may be taken.
const PORT: &str = "15432";

/// The database that exists in it.
const DATABASE: &str = "orderdb";

/// The development server.
pub(super) struct Postgres {
    installation: Installation,
    directory: PathBuf,
}

impl Postgres {
    pub(super) fn find() -> anyhow::Result<Self> {
        Ok(Self {
            installation: Installation::find()
                .context("postgresql is not installed; run cargo xtask services install")?,
            directory: workspace_root().join("target/services/postgres"),
        })
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn pg_ctl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.installation
            .command("pg_ctl")
            .args(arguments)
            .arg("--pgdata")
            .arg(self.data())
            .output()
            .context("cannot run pg_ctl")
    }

    fn start(&self) -> anyhow::Result<()> {
        // TCP on loopback only: the path of a socket under the target folder may be too long.
        let mut options =
            format!("-p {PORT} -c listen_addresses=127.0.0.1 -c unix_socket_directories=");
        if let Some((name, value)) = self.installation.statement_statistics() {
            options = format!("{options} -c {name}={value}");
        }
        let log = self.directory.join("log");
        let log = log
            .to_str()
            .context("the path of the workspace is not UTF-8")?;
        let output = self.pg_ctl(&["start", "--wait", "--log", log, "--options", &options])?;
        if !output.status.success() {
            bail!("{}; see {log}", text(&output));
        }
        eprintln!("started PostgreSQL; its log is {log}");
        Ok(())
    }

    fn create_database(&self) -> anyhow::Result<()> {
        let output = self
            .installation
            .command("createdb")
            .args(["--host=127.0.0.1", "--port", PORT, "--username=postgres"])
            .arg(DATABASE)
            .output()
            .context("cannot run createdb")?;
        ensure!(
            output.status.success(),
            "createdb failed: {}",
            text(&output)
        );
        Ok(())
    }
}

impl Server for Postgres {
    fn name(&self) -> &'static str {
        "PostgreSQL"
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{PORT}")
    }

    fn is_running(&self) -> anyhow::Result<bool> {
        Ok(self.pg_ctl(&["status"])?.status.success())
    }

    fn up(&self) -> anyhow::Result<(&'static str, String)> {
        let is_new = !self.data().join("PG_VERSION").exists();
        if is_new {
            self.installation.create_directory(&self.directory)?;
            self.installation.initialize(&self.data())?;
        }
        if !self.is_running()? {
            self.start()?;
        }
        if is_new {
            self.create_database()?;
        }
        let url = format!("postgres://postgres@127.0.0.1:{PORT}/{DATABASE}");
        Ok(("DATABASE_URL", url))
    }

    fn down(&self) -> anyhow::Result<()> {
        let output = self.pg_ctl(&["stop", "--wait", "--mode=fast"])?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(())
    }
}
