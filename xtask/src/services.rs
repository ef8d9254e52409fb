//! `cargo xtask services`: the servers that development needs, on this machine.
//!
//! Each runs as a private instance with its data under the target folder and on a port of
//! its own; an instance of the operating system is never touched. One file per server.

pub(crate) mod axe;
mod kafka;
mod postgres;
mod redis;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use order_testkit::server::postgres::Installation;

/// Packages of Debian and Ubuntu, each with a program that shows whether it is there.
const PACKAGES: &[(&str, &str)] = &[
    ("postgresql", "postgres"),
    ("redis-server", "redis-server"),
    ("openssl", "openssl"),
    ("python3-venv", "python3"),
    ("chromium", "chromium"),
    ("npm", "npm"),
    ("prometheus", "prometheus"),
    ("wrk", "wrk"),
    ("haproxy", "haproxy"),
    ("pgbouncer", "pgbouncer"),
    ("default-jre-headless", "java"),
    ("maven", "mvn"),
];

/// How often, and how far apart, the server is asked whether it has started or stopped.
const POLLS_MAX: u32 = 1000;
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What to do with the servers.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Services {
    /// Install what tests and benchmarks need, on Debian and Ubuntu.
    Install,
    /// Start PostgreSQL, Redis and Kafka and print how to reach them.
    Up,
    /// Stop them; what PostgreSQL and Kafka hold stays.
    Down,
    /// Tell which of them run.
    Status,
}

/// A server for development.
trait Server {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Where it listens.
    fn address(&self) -> String;

    /// Whether it runs.
    fn is_running(&self) -> anyhow::Result<bool>;

    /// Starts it, if it does not run, and gives the environment variable that names it, with
    /// its value.
    fn up(&self) -> anyhow::Result<(&'static str, String)>;

    /// Stops it.
    fn down(&self) -> anyhow::Result<()>;
}

/// Those that are installed. Without PostgreSQL there is nothing to develop on.
fn servers() -> anyhow::Result<Vec<Box<dyn Server>>> {
    let mut servers: Vec<Box<dyn Server>> = vec![Box::new(postgres::Postgres::find()?)];
    match redis::Redis::find() {
        Ok(server) => servers.push(Box::new(server)),
        Err(error) => eprintln!("no Redis: {error:#}"),
    }
    match kafka::Kafka::find() {
        Ok(server) => servers.push(Box::new(server)),
        Err(error) => eprintln!("no Kafka: {error:#}"),
    }
    Ok(servers)
}

/// Does it.
pub(crate) fn run(command: &Services) -> anyhow::Result<()> {
    if matches!(command, Services::Install) {
        return install();
    }
    for server in servers()? {
        let (name, address) = (server.name(), server.address());
        match command {
            Services::Install => {}
            Services::Up => {
                let (variable, value) = server.up()?;
                // The only thing on standard output, so that a shell can evaluate it.
                writeln!(std::io::stdout(), "export {variable}={value}")?;
            }
            Services::Down if server.is_running()? => {
                server.down()?;
                eprintln!("stopped {name}");
            }
            Services::Status if server.is_running()? => eprintln!("{name} runs on {address}"),
            Services::Down | Services::Status => eprintln!("{name} does not run"),
        }
    }
    Ok(())
}

/// Waits until something holds; `false` if it does not in time.
fn wait_for(mut holds: impl FnMut() -> bool) -> bool {
    for _ in 0..POLLS_MAX {
        if holds() {
            return true;
        }
        thread::sleep(POLL_INTERVAL);
    }
    false
}

fn install() -> anyhow::Result<()> {
    install_packages()?;
    kafka::install()?;
    axe::install()
}

fn install_packages() -> anyhow::Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, program)| !is_installed(program))
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        eprintln!("every package is installed");
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
    find_program(program).is_some()
}

/// Where a program is; the folder for those of the administrator counts for everybody.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
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

/// What a program complained about.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
