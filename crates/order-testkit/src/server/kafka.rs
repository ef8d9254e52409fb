//! A private Apache Kafka: one node that is broker and controller, for tests that share it or
//! have one of their own.
//!
//! As with PostgreSQL, a small shell process holds the reading end of a pipe and kills the
//! server when the process that started it ends, in whatever way.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::process::{children, is_alive, send_signal};
use super::{Backend, free_port};

/// The environment variable with the `host:port` list of a cluster that is shared by all test
/// processes of a run.
pub const KAFKA_BROKERS: &str = "KAFKA_BROKERS";

/// The environment variable with the directory of Kafka's jars, if it is not the one that
/// `cargo xtask services install` fills.
pub const KAFKA_LIBS: &str = "KAFKA_LIBS";

/// How long a server may take until it answers: two starts of Java, seconds on an idle
/// machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a killed server may take to be gone.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a broker may take to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The time between two looks at a condition that is being waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How often other ports are tried when a start fails: between finding a free port and
/// listening on it somebody else may have taken it.
const START_ATTEMPTS_MAX: u32 = 3;

/// Small, and quick to start rather than quick for long.
pub const JAVA_OPTIONS: &[&str] = &[
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];

/// Settings of every server beside its addresses.
pub const SETTINGS: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
";

/// Who may log in at [`KafkaServer::sasl_url`].
const USER: &str = "order";
const PASSWORD: &str = "a-password";

/// What the watcher runs: `$1` is the directory of the server, the rest is the command of
/// Java. The word `restart` on its input restarts the server, `wipe` does so without its data,
/// the end of its input ends both. The id of a cluster has no `-`, because one that begins
/// with it would be read as an option.
const WATCHER: &str = r#"
dir=$1
shift
format() {
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' 'ab' | tr -d =)
    "$@" kafka.tools.StorageTool format -t "$id" -c "$dir/settings" </dev/null >>"$dir/log" 2>&1
}
format "$@"
while :; do
    "$@" kafka.Kafka "$dir/settings" </dev/null >>"$dir/log" 2>&1 &
    server=$!
    word=
    read -r word
    kill -KILL "$server"
    wait "$server"
    case $word in
    restart) ;;
    wipe) rm -rf "$dir/data" && format "$@" ;;
    *) break ;;
    esac
done
rm -rf "$dir"
"#;

/// A private server. Dropping it kills it and removes everything it stored.
#[derive(Debug)]
pub struct KafkaServer {
    directory: TempDir,
    port: u16,
    sasl_port: u16,
    watcher: Child,
}

impl KafkaServer {
    /// Starts a server and waits until it answers.
    ///
    /// Fails if Java or Kafka is not installed or the server does not start; the text is a
    /// reason to show. Needs a tokio runtime with real time.
    pub async fn start() -> anyhow::Result<Self> {
        let libs = libs()?;
        let mut attempt = 1;
        loop {
            let server = Self::spawn(&libs)?;
            match server.wait_until_ready().await {
                Err(_) if attempt < START_ATTEMPTS_MAX && server.lost_its_port() => attempt += 1,
                ready => return ready.map(|()| server),
            }
        }
    }

    fn spawn(libs: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("order-kafka-")
            .tempdir()
            .context("cannot make a directory for kafka")?;
        let mut ports = [0; 3];
        for port in &mut ports {
            *port = free_port().context("no port is free")?;
        }
        let [port, sasl_port, _] = ports;
        fs::write(
            directory.path().join("settings"),
            settings(directory.path(), ports),
        )
        .context("cannot write the settings of kafka")?;
        let watcher = Command::new("sh")
            .args(["-c", WATCHER, "kafka-watcher"])
            .arg(directory.path())
            .arg("java")
            .args(JAVA_OPTIONS)
            .arg("-cp")
            .arg(libs.join("*"))
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
        Ok(Self {
            directory,
            port,
            sasl_port,
            watcher,
        })
    }

    /// `host:port` of the broker, which asks nobody for a password there.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL.
    pub fn url(&self) -> String {
        format!("kafka://{}", self.brokers())
    }

    /// The URL of the listener that asks for a password, with this one or the right one.
    pub fn sasl_url(&self, password: Option<&str>) -> String {
        let password = password.unwrap_or(PASSWORD);
        format!("kafka://{USER}:{password}@127.0.0.1:{}", self.sasl_port)
    }

    /// Kills the server, as a power failure of its machine would, and waits until it is gone.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let server = self.id().context("the server does not run")?;
        send_signal("KILL", &[server])?;
        wait_until_gone(server).await
    }

    /// Starts the server again on its data and its ports; one that still runs is killed
    /// first. Waits until it answers.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.start_again(b"restart\n").await
    }

    /// Makes the server forget everything: kills it, and starts it with no data as another
    /// cluster on the same ports. Waits until it answers.
    pub async fn wipe(&mut self) -> anyhow::Result<()> {
        self.start_again(b"wipe\n").await
    }

    async fn start_again(&mut self, word: &[u8]) -> anyhow::Result<()> {
        let before = self.id();
        let input = self.watcher.stdin.as_mut().context("no watcher")?;
        input
            .write_all(word)
            .context("the watcher of the server has ended")?;
        if let Some(before) = before {
            wait_until_gone(before).await?;
        }
        self.wait_until_ready().await
    }

    fn id(&self) -> Option<u32> {
        children(self.watcher.id())
            .into_iter()
            .find(|&process| is_alive(process))
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let Err(error) = ask(&self.brokers()).await else {
                return Ok(());
            };
            let is_over = Instant::now() >= deadline || self.lost_its_port();
            if is_over || !self.directory.path().exists() {
                return Err(error.context(format!("the server wrote: {}", self.log().trim())));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn lost_its_port(&self) -> bool {
        self.log().contains("Address already in use")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for KafkaServer {
    fn drop(&mut self) {
        // The end of its input makes the watcher kill the server.
        drop(self.watcher.stdin.take());
        let _ended = self.watcher.wait();
    }
}

fn settings(directory: &Path, [port, sasl_port, controller_port]: [u16; 3]) -> String {
    let host = "127.0.0.1";
    let listeners = format!("PLAINTEXT://{host}:{port},SASL_PLAINTEXT://{host}:{sasl_port}");
    let data = directory.join("data");
    format!(
        "{SETTINGS}\
        log.dirs={}\n\
        listeners={listeners},CONTROLLER://{host}:{controller_port}\n\
        advertised.listeners={listeners}\n\
        controller.quorum.voters=1@{host}:{controller_port}\n\
        listener.name.sasl_plaintext.plain.sasl.jaas.config=\
        org.apache.kafka.common.security.plain.PlainLoginModule required \
        user_{USER}=\"{PASSWORD}\";\n",
        data.display()
    )
}

/// A cluster that many tests share, each with a topic and a group of its own.
#[derive(Clone, Debug)]
pub struct SharedKafka {
    /// `host:port` of its brokers, separated by commas.
    pub brokers: String,
}

/// The cluster all tests of this run share: the one `KAFKA_BROKERS` names, else one that this
/// process starts once and that ends with it.
pub async fn shared() -> Backend<SharedKafka> {
    static STARTED: OnceCell<Backend<KafkaServer>> = OnceCell::const_new();

    if let Ok(brokers) = std::env::var(KAFKA_BROKERS) {
        return match ask(brokers.split(',').next().unwrap_or_default()).await {
            Ok(()) => Backend::Available(SharedKafka { brokers }),
            Err(error) => Backend::Unavailable(format!("{KAFKA_BROKERS}: {error:#}")),
        };
    }
    let started = STARTED
        .get_or_init(|| async {
            match KafkaServer::start().await {
                Ok(server) => Backend::Available(server),
                Err(error) => Backend::Unavailable(format!("{error:#}")),
            }
        })
        .await;
    match started {
        Backend::Available(server) => Backend::Available(SharedKafka {
            brokers: server.brokers(),
        }),
        Backend::Unavailable(reason) => Backend::Unavailable(reason.clone()),
    }
}

/// Where `cargo xtask services install` puts Kafka's jars.
pub fn libs_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kafka/libs")
}

/// The directory of Kafka's jars. Fails with a reason to show if they or Java are missing.
pub fn libs() -> anyhow::Result<PathBuf> {
    let java = Command::new("java").arg("-version").output();
    ensure!(
        java.is_ok_and(|output| output.status.success()),
        "java is not installed"
    );
    let libs = std::env::var_os(KAFKA_LIBS).map_or_else(libs_directory, PathBuf::from);
    let has_kafka = fs::read_dir(&libs).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| is_broker(&file.file_name().to_string_lossy())))
    });
    ensure!(
        has_kafka,
        "the jars are missing; run cargo xtask services install"
    );
    fs::canonicalize(libs).context("cannot find the jars")
}

fn is_broker(file: &str) -> bool {
    file.starts_with("kafka_2.")
}

/// Asks a broker which versions of the protocol it speaks, as every client does first.
async fn ask(broker: &str) -> anyhow::Result<()> {
    /// Length; key and version of the request `ApiVersions`; its number; no name of a client.
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let run = async {
        let mut stream = TcpStream::connect(broker).await?;
        stream.write_all(&REQUEST).await?;
        // Length and number of the answer.
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await
    };
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, run).await;
    answered
        .context("kafka does not answer in time")?
        .context("kafka does not answer")?;
    Ok(())
}

async fn wait_until_gone(process: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + STOP_TIMEOUT;
    while is_alive(process) {
        ensure!(Instant::now() < deadline, "the killed server does not end");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip;

    #[tokio::test]
    async fn server_survives_a_kill_and_leaves_nothing_when_it_is_dropped() {
        if let Err(reason) = libs() {
            skip!("Kafka: {reason:#}");
        }
        let mut server = KafkaServer::start().await.unwrap();
        let directory = server.directory.path().to_owned();
        server.kill().await.unwrap();
        assert!(ask(&server.brokers()).await.is_err());
        server.restart().await.unwrap();
        ask(&server.brokers()).await.unwrap();
        let process = server.id().unwrap();

        drop(server);

        assert!(!is_alive(process));
        assert!(!directory.exists());
    }
}
