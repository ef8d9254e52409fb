//! `cargo xtask services`: the servers that development needs, on this machine.
//!
//! PostgreSQL runs as a private instance with its data under the target folder; an
//! instance of the operating system is never touched.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, bail, ensure};
use order_testkit::server::postgres::Installation;

use crate::workspace_root;

/// The port of the development server: not PostgreSQL's own, which may be taken.
const PORT: &str = "15432";

/// The database that exists in it.
const DATABASE: &str = "orderdb";

/// Packages of Debian and Ubuntu, each with a program that shows whether it is there.
const PACKAGES: &[(&str, &str)] = &[
    ("postgresql", "postgres"),
    ("python3-venv", "python3"),
    ("chromium", "chromium"),
    ("wrk", "wrk"),
];

/// What to do with the servers.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Services {
    /// Install what tests and benchmarks need, on Debian and Ubuntu.
    Install,
    /// Start PostgreSQL and print how to reach it.
    Up,
    /// Stop PostgreSQL; its data stays.
    Down,
    /// Tell whether PostgreSQL runs.
    Status,
}

/// Does it.
pub(crate) fn run(command: &Services) -> anyhow::Result<()> {
    match command {
        Services::Install => install(),
        Services::Up => up(&Instance::find()?),
        Services::Down => down(&Instance::find()?),
        Services::Status => status(&Instance::find()?),
    }
}

fn install() -> anyhow::Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, program)| !is_installed(program))
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        eprintln!("nothing to install");
        return Ok(());
    }
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "this system has no apt-get; install by other means: {}",
        missing.join(", ")
    );
    apt_get(&["update", "--quiet"])?;
    let mut arguments = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
    arguments.extend(missing);
    apt_get(&arguments)
}

fn is_installed(program: &str) -> bool {
    if program == "postgres" {
        return Installation::find().is_ok();
    }
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Runs apt-get, through sudo where this is not root.
fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let id = Command::new("id").arg("-u").output();
    let is_root = id.is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let prefix: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let words = [
        prefix,
        &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"],
        arguments,
    ]
    .concat();
    eprintln!("running {}", words.join(" "));
    let (program, arguments) = words.split_first().context("no command")?;
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "failed: {}", words.join(" "));
    Ok(())
}

/// The development server.
struct Instance {
    installation: Installation,
    directory: PathBuf,
}

impl Instance {
    fn find() -> anyhow::Result<Self> {
        Ok(Self {
            installation: Installation::find()
                .context("postgresql is not installed; run cargo xtask services install")?,
            directory: workspace_root().join("target/services/postgres"),
        })
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn is_running(&self) -> anyhow::Result<bool> {
        Ok(self.pg_ctl(&["status"])?.status.success())
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
}

fn up(instance: &Instance) -> anyhow::Result<()> {
    let is_new = !instance.data().join("PG_VERSION").exists();
    if is_new {
        instance
            .installation
            .create_directory(&instance.directory)?;
        instance.installation.initialize(&instance.data())?;
    }
    if !instance.is_running()? {
        start(instance)?;
    }
    if is_new {
        let output = instance
            .installation
            .command("createdb")
            .args([
                "--host=127.0.0.1",
                "--port",
                PORT,
                "--username=postgres",
                DATABASE,
            ])
            .output()
            .context("cannot run createdb")?;
        ensure!(
            output.status.success(),
            "createdb failed: {}",
            text(&output)
        );
    }
    // The only thing on standard output, so that a shell can evaluate it.
    writeln!(
        std::io::stdout(),
        "export DATABASE_URL=postgres://postgres@127.0.0.1:{PORT}/{DATABASE}"
    )?;
    Ok(())
}

fn start(instance: &Instance) -> anyhow::Result<()> {
    // TCP on loopback only: the path of a socket under the target folder may be too long.
    let mut options =
        format!("-p {PORT} -c listen_addresses=127.0.0.1 -c unix_socket_directories=");
    if let Some((name, value)) = instance.installation.statement_statistics() {
        options = format!("{options} -c {name}={value}");
    }
    let log = instance.directory.join("log");
    let log = log
        .to_str()
        .context("the path of the workspace is not UTF-8")?;
    let output = instance.pg_ctl(&["start", "--wait", "--log", log, "--options", &options])?;
    if !output.status.success() {
        bail!("{}; see {log}", text(&output));
    }
    eprintln!("started PostgreSQL; its log is {log}");
    Ok(())
}

fn down(instance: &Instance) -> anyhow::Result<()> {
    if !instance.is_running()? {
        eprintln!("PostgreSQL does not run");
        return Ok(());
    }
    let output = instance.pg_ctl(&["stop", "--wait", "--mode=fast"])?;
    ensure!(output.status.success(), "{}", text(&output));
    eprintln!(
        "stopped PostgreSQL; its data stays in {}",
        instance.data().display()
    );
    Ok(())
}

fn status(instance: &Instance) -> anyhow::Result<()> {
    if instance.is_running()? {
        eprintln!("PostgreSQL runs on 127.0.0.1:{PORT}");
    } else {
        eprintln!("PostgreSQL does not run");
    }
    Ok(())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
