//! A private Redis that keeps nothing, for tests that share it or have one of their own.
//!
//! As with PostgreSQL, a small shell process holds the reading end of a pipe and kills the
//! server when the process that started it ends, in whatever way.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::process::{children, is_alive, send_signal};
use super::{Backend, free_port};

/// The environment variable with the URL of a server that is shared by all test processes
/// of a run.
pub const TEST_REDIS_URL: &str = "TEST_REDIS_URL";

/// How long a server may take until it answers, or until it is gone. Either takes
/// milliseconds.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The time between two looks at a condition that is being waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How often another port is tried when a start fails: between finding a free port and
/// listening on it somebody else may have taken it.
const START_ATTEMPTS_MAX: u32 = 3;

/// Settings of every server; those given to [`RedisServer::start`] come later and win.
const SETTINGS: &[(&str, &str)] = &[("bind", "127.0.0.1"), ("save", ""), ("appendonly", "no")];

/// What the watcher runs: `$1` is the directory of the server, the rest is its command. The
/// word `restart` on its input restarts the server, the end of its input ends both.
pub(super) const WATCHER: &str = r#"
dir=$1
shift
while :; do
    "$@" </dev/null >>"$dir/log" 2>&1 &
    server=$!
    word=
    read -r word
    kill -KILL "$server"
    wait "$server"
    [ "$word" = restart ] || break
done
rm -rf "$dir"
"#;

/// A certificate of a server that is no authority for others.
const OPENSSL_CONFIG: &str = "
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = 127.0.0.1
[extensions]
subjectAltName = IP:127.0.0.1
basicConstraints = critical,CA:FALSE
";

/// A private server. Dropping it kills it.
#[derive(Debug)]
pub struct RedisServer {
    directory: TempDir,
    port: u16,
    tls_port: Option<u16>,
    password: Option<String>,
    watcher: Child,
}

impl RedisServer {
    /// Starts a server with these settings, as in `redis.conf`, and waits until it answers.
    ///
    /// Fails if Redis is not installed or does not start; the text is a reason to show.
    /// Needs a tokio runtime with real time.
    pub async fn start(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_on(settings, false).await
    }

    /// Starts a server that also takes connections with TLS, at [`Self::tls_url`]. Fails as
    /// well where there is no openssl to make its certificate.
    pub async fn start_with_tls() -> anyhow::Result<Self> {
        Self::start_on(&[], true).await
    }

    async fn start_on(settings: &[(&str, &str)], has_tls: bool) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            let server = Self::spawn(settings, has_tls)?;
            match server.wait_until_ready().await {
                Err(_) if attempt < START_ATTEMPTS_MAX && server.lost_its_port() => attempt += 1,
                ready => return ready.map(|()| server),
            }
        }
    }

    fn spawn(settings: &[(&str, &str)], has_tls: bool) -> anyhow::Result<Self> {
        is_installed()?;
        let directory = tempfile::Builder::new()
            .prefix("order-redis-")
            .tempdir()
            .context("cannot make a directory for redis")?;
        let port = free_port().context("no port is free")?;
        let mut watcher = Command::new("sh");
        watcher
            .args(["-c", WATCHER, "redis-watcher"])
            .arg(directory.path())
            .args(["redis-server", "--port", &port.to_string(), "--dir"])
            .arg(directory.path());
        for (name, value) in SETTINGS.iter().chain(settings) {
            watcher.arg(format!("--{name}")).arg(value);
        }
        let mut tls_port = None;
        if has_tls {
            let files = Certificate::create(&directory)?;
            let port = *tls_port.insert(free_port().context("no port is free")?);
            watcher
                .args(["--tls-port", &port.to_string()])
                .args(["--tls-auth-clients", "no", "--tls-cert-file"])
                .arg(&files.certificate)
                .arg("--tls-key-file")
                .arg(&files.key)
                .arg("--tls-ca-cert-file")
                .arg(&files.certificate);
        }
        let watcher = watcher
            .current_dir("/")
            // An interrupt from the terminal goes to a whole process group. The watcher
            // must survive it to clean up.
            .process_group(0)
            .stdin(Stdio::piped())
            // Nothing may hold on to the output of the tests.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run sh")?;
        let password = settings.iter().find(|(name, _)| *name == "requirepass");
        Ok(Self {
            directory,
            port,
            tls_port,
            password: password.map(|(_, password)| (*password).to_owned()),
            watcher,
        })
    }

    /// The URL, with the password if the server has one.
    pub fn url(&self) -> String {
        let port = self.port;
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{port}"),
            None => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// The URL for TLS, if the server was started with it. Its certificate is for
    /// `127.0.0.1` and its own authority: see [`Self::certificate`].
    pub fn tls_url(&self) -> Option<String> {
        let port = self.tls_port?;
        Some(format!("rediss://127.0.0.1:{port}"))
    }

    /// The file with the certificate that whoever uses [`Self::tls_url`] has to trust.
    pub fn certificate(&self) -> PathBuf {
        Certificate::files(&self.directory).certificate
    }

    /// Kills the server, which forgets everything, and waits until it is gone.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let server = self.id()?;
        send_signal("KILL", &[server])?;
        wait_until_gone(server).await
    }

    /// Starts the server again on its port, with nothing in it; one that still runs is
    /// killed first. Waits until it answers.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let before = self.id().ok();
        let input = self.watcher.stdin.as_mut().context("no watcher")?;
        input
            .write_all(b"restart\n")
            .context("the watcher of the server has ended")?;
        if let Some(before) = before {
            wait_until_gone(before).await?;
        }
        self.wait_until_ready().await
    }

    /// Lets the server stand still: connections stay open and nothing is answered.
    pub fn freeze(&self) -> anyhow::Result<()> {
        let status = send_signal("STOP", &[self.id()?])?;
        ensure!(status.success(), "the server cannot be stopped");
        Ok(())
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        let status = send_signal("CONT", &[self.id()?])?;
        ensure!(status.success(), "the server cannot be continued");
        Ok(())
    }

    /// Makes the server forget everything.
    pub async fn flush_all(&self) -> anyhow::Result<()> {
        command(&self.url(), "FLUSHALL").await
    }

    fn id(&self) -> anyhow::Result<u32> {
        children(self.watcher.id())
            .into_iter()
            .find(|&process| is_alive(process))
            .context("the server does not run")
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let Err(error) = command(&self.url(), "PING").await else {
                return Ok(());
            };
            let is_over = Instant::now() >= deadline || self.lost_its_port();
            if is_over {
                return Err(error.context(self.log()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn lost_its_port(&self) -> bool {
        self.log().contains("Failed listening on port")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // The end of its input makes the watcher kill the server.
        drop(self.watcher.stdin.take());
        let _ended = self.watcher.wait();
    }
}

/// A server that many tests share, each with a prefix of its own.
#[derive(Clone, Debug)]
pub struct SharedRedis {
    /// Its URL.
    pub url: String,
}

impl SharedRedis {
    /// The URL with a prefix that no other test has.
    pub fn private_url(&self) -> String {
        format!("{}?prefix=test_{:016x}", self.url, rand::random::<u64>())
    }
}

/// The server all tests of this run share: the one `TEST_REDIS_URL` names, else one that
/// this process starts once and that ends with it.
pub async fn shared() -> Backend<SharedRedis> {
    static STARTED: OnceCell<Backend<RedisServer>> = OnceCell::const_new();

    if let Ok(url) = std::env::var(TEST_REDIS_URL) {
        return match command(&url, "PING").await {
            Ok(()) => Backend::Available(SharedRedis { url }),
            Err(error) => Backend::Unavailable(format!("{TEST_REDIS_URL}: {error:#}")),
        };
    }
    let started = STARTED
        .get_or_init(|| async {
            match RedisServer::start(&[]).await {
                Ok(server) => Backend::Available(server),
                Err(error) => Backend::Unavailable(format!("{error:#}")),
            }
        })
        .await;
    match started {
        Backend::Available(server) => Backend::Available(SharedRedis { url: server.url() }),
        Backend::Unavailable(reason) => Backend::Unavailable(reason.clone()),
    }
}

/// Fails with a reason to show if there is no Redis on this machine.
pub fn is_installed() -> anyhow::Result<()> {
    let found = Command::new("redis-server").arg("--version").output();
    found.context("redis-server is not installed").map(drop)
}

/// Runs a command without arguments.
async fn command(url: &str, name: &str) -> anyhow::Result<()> {
    let client = redis::Client::open(url).context("not a URL of Redis")?;
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .context("redis does not answer")?;
    redis::cmd(name)
        .query_async::<()>(&mut connection)
        .await
        .with_context(|| format!("{name} failed"))
}

async fn wait_until_gone(process: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while is_alive(process) {
        ensure!(Instant::now() < deadline, "the killed server does not end");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// The files of a certificate that signs itself.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn files(directory: &TempDir) -> Self {
        Self {
            certificate: directory.path().join("certificate.pem"),
            key: directory.path().join("key.pem"),
        }
    }

    fn create(directory: &TempDir) -> anyhow::Result<Self> {
        let files = Self::files(directory);
        let config = directory.path().join("openssl.cnf");
        fs::write(&config, OPENSSL_CONFIG).context("cannot write the settings of openssl")?;
        let output = Command::new("openssl")
            .args(["req", "-x509", "-days", "30", "-nodes"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .arg("-config")
            .arg(&config)
            .arg("-out")
            .arg(&files.certificate)
            .arg("-keyout")
            .arg(&files.key)
            .output()
            .context("openssl is not installed")?;
        ensure!(
            output.status.success(),
            "openssl failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server, or the end of the test as skipped.
    macro_rules! available {
        ($server:expr) => {
            match is_installed() {
                Ok(()) => $server.await.unwrap(),
                Err(reason) => crate::skip!("Redis: {reason:#}"),
            }
        };
    }

    #[tokio::test]
    async fn killed_server_comes_back_on_its_port() {
        let mut server = available!(RedisServer::start(&[]));
        let url = server.url();
        server.kill().await.unwrap();
        assert!(command(&url, "PING").await.is_err());
        server.restart().await.unwrap();
        command(&url, "PING").await.unwrap();
        server.flush_all().await.unwrap();
    }

    #[tokio::test]
    async fn dropped_server_is_gone() {
        let server = available!(RedisServer::start(&[]));
        let (process, directory) = (server.id().unwrap(), server.directory.path().to_owned());
        drop(server);
        assert!(!is_alive(process));
        assert!(!directory.exists());
    }

    #[tokio::test]
    async fn password_is_required() {
        let server = available!(RedisServer::start(&[("requirepass", "open")]));
        let without = format!("redis://127.0.0.1:{}", server.port);
        assert!(command(&without, "PING").await.is_err());
        assert!(command(&server.url(), "PING").await.is_ok());
    }
}
