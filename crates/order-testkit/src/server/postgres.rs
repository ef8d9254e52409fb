//! A private PostgreSQL per test run and a fresh database per test.
//!
//! A server lives in a directory of its own and is watched by a small shell process that
//! holds the reading end of a pipe: when the process that started the server ends, in
//! whatever way, the pipe closes, and the watcher stops the server and removes the
//! directory. Values in statics are never dropped, so dropping alone would not do.

mod database;
mod installation;
mod pair;

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_postgres::NoTls;

use super::free_port;
use super::process::{children, is_alive, send_signal};

pub use database::{SharedPostgres, TEST_POSTGRES_URL, TestDatabase, database, shared};
pub use installation::Installation;
use installation::{INITDB_OPTIONS, SUPERUSER};
pub use pair::{Loss, PostgresPair};

/// How long a server may take until it answers. Starting takes well under a second, but
/// crash recovery on a busy machine has taken four.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a stopped or killed server may take to be gone. The server itself kills what
/// is left of its processes after five seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// The time between two looks at a condition that is being waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a server that is starting may be out of sight before it counts as ended.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// How long one statement may take, with the connection it needs. Making and dropping a
/// database wait for a checkpoint of a busy disk.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How often another port is tried when a start fails: between finding a free port and
/// listening on it somebody else may have taken it.
const START_ATTEMPTS_MAX: u32 = 3;

/// Settings of every server; those given to [`PostgresServer::start`] come later and win.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    // Tests of a whole workspace run at the same time, each with a pool.
    ("max_connections", "300"),
    ("timezone", "UTC"),
];

/// What the watcher runs: `$1` is the directory of the server, `$2` is the program that makes
/// its data, the rest is the command of the server. The word `restart` on its input restarts the server, the
/// end of its input ends both.
///
/// `QUIT` stops a server at once. A shell starts background commands with `QUIT` ignored,
/// so a server that is too young to have its own handlers is ended by `TERM`.
const WATCHER: &str = r#"
dir=$1
"$2" $DATA_OPTIONS --pgdata "$dir/data" </dev/null >"$dir/log" 2>&1
shift 2
while :; do
    "$@" </dev/null >>"$dir/log" 2>&1 &
    server=$!
    word=
    read -r word
    kill -TERM "$server"
    kill -QUIT "$server"
    wait "$server"
    [ "$word" = restart ] || break
done
rm -rf "$dir"
"#;

/// A private server. Dropping it stops it and removes everything it stored.
#[derive(Debug)]
pub struct PostgresServer {
    directory: TempDir,
    port: u16,
    watcher: Child,
}

impl PostgresServer {
    /// Starts a server with these settings, as in `postgresql.conf`, and waits until it
    /// answers. `[("fsync", "off")]` is faster and survives everything but a crash of the
    /// machine.
    ///
    /// Fails if PostgreSQL is not installed or does not start; the text is a reason to
    /// show. Needs a tokio runtime with real time.
    pub async fn start(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let data = ("initdb", INITDB_OPTIONS.join(" "));
        Self::launch(&data, None, settings).await
    }

    /// Starts a server on `port`, or on any, with the data that a program makes, given its
    /// options. Waits until it answers.
    async fn launch(
        data: &(&str, String),
        port: Option<u16>,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let installation = Installation::find()?;
        let mut attempt = 1;
        loop {
            let port = port.map_or_else(free_port, Ok).context("no port is free")?;
            let mut server = Self::spawn(&installation, data, port, settings)?;
            match server.wait_until_ready().await {
                Err(_) if attempt < START_ATTEMPTS_MAX && server.lost_its_port() => attempt += 1,
                ready => return ready.map(|()| server),
            }
        }
    }

    fn spawn(
        installation: &Installation,
        (program, options): &(&str, String),
        port: u16,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("order-postgres-")
            .tempdir()
            .context("cannot make a directory for postgresql")?;
        installation.create_directory(directory.path())?;

        let mut watcher = installation.command_at(Path::new("sh"));
        watcher
            .args(["-c", WATCHER, "postgres-watcher"])
            .arg(directory.path())
            .arg(installation.program(program))
            .arg(installation.program("postgres"))
            .arg("-D")
            .arg(directory.path().join("data"))
            .arg("-k")
            .arg(directory.path())
            .args(["-p", &port.to_string()]);
        let settings = SETTINGS
            .iter()
            .copied()
            .chain(installation.statement_statistics())
            .chain(settings.iter().copied());
        for (name, value) in settings {
            watcher.arg("-c").arg(format!("{name}={value}"));
        }
        let watcher = watcher
            .env("DATA_OPTIONS", options)
            .current_dir("/")
            // An interrupt from the terminal goes to a whole process group. The watcher
            // must survive it to clean up.
            .process_group(0)
            .stdin(Stdio::piped())
            // Nothing may hold on to the output of the tests: whoever reads that to its
            // end would wait for the server.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run sh")?;
        Ok(Self {
            directory,
            port,
            watcher,
        })
    }

    /// The URL of the superuser and the database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/postgres", self.port)
    }

    /// The process id of the server, while it runs.
    pub fn id(&self) -> Option<u32> {
        let file = fs::read_to_string(self.directory.path().join("data/postmaster.pid")).ok()?;
        file.lines().next()?.parse().ok()
    }

    /// Kills every process of the server at once, as a power failure would, and waits until
    /// they are gone.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let processes = self.stop_accepting()?;
        // A process that has ended by itself meanwhile makes the command fail: no matter,
        // the loop looks at each of them.
        send_signal("KILL", &processes)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while processes.iter().any(|&process| is_alive(process)) {
            ensure!(Instant::now() < deadline, "the killed server does not end");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Stops every process of the server where it is, as if its machine were cut off: clients
    /// hear nothing more, and connections to it are not refused. Can only be killed after that.
    pub fn hang(&self) -> anyhow::Result<()> {
        let processes = self.stop_accepting()?;
        send_signal("STOP", &processes)?;
        Ok(())
    }

    /// Stops the process that starts all others, so that no process is missing in the list that
    /// is returned.
    fn stop_accepting(&self) -> anyhow::Result<Vec<u32>> {
        let server = self.id().context("the server does not run")?;
        ensure!(
            send_signal("STOP", &[server])?.success(),
            "the server cannot be stopped"
        );
        let mut processes = children(server);
        processes.push(server);
        Ok(processes)
    }

    /// Starts the server again on its data and its port after [`kill`](Self::kill); one
    /// that still runs is stopped first, without a checkpoint. Waits until it answers.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let before = self.id().filter(|&id| is_alive(id));
        let input = self.watcher.stdin.as_mut().context("no watcher")?;
        input
            .write_all(b"restart\n")
            .context("the watcher of the server has ended")?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while before.is_some_and(is_alive) {
            ensure!(Instant::now() < deadline, "the server does not stop");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut seen_alive = Instant::now();
        loop {
            let Err(error) = execute(&self.url(), "SELECT 1").await else {
                return Ok(());
            };
            if self.is_running() {
                seen_alive = Instant::now();
            }
            if seen_alive.elapsed() > EXIT_GRACE || Instant::now() >= deadline {
                return Err(error.context(self.log()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether the watcher has a server, ready or not.
    fn is_running(&self) -> bool {
        children(self.watcher.id()).into_iter().any(is_alive)
    }

    fn lost_its_port(&self) -> bool {
        self.log().contains("could not bind")
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log"));
        format!("the server wrote: {}", log.unwrap_or_default().trim())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // The end of its input tells the watcher to stop the server and to clean up.
        drop(self.watcher.stdin.take());
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.watcher.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Runs one statement on a connection of its own.
async fn execute(url: &str, statement: &str) -> anyhow::Result<()> {
    let run = async {
        let (client, connection) = tokio_postgres::connect(url, NoTls)
            .await
            .context("cannot connect")?;
        tokio::select! {
            result = client.batch_execute(statement) => result.context("the statement failed"),
            _ = connection => bail!("the connection was lost"),
        }
    };
    tokio::time::timeout(STATEMENT_TIMEOUT, run)
        .await
        .context("postgresql does not answer")?
}

#[cfg(test)]
mod tests;
