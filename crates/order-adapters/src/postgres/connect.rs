//! The way to the database: reading its URL and waiting until it answers.
//!
//! Invariant: no password is ever part of a log line or of an error. TLS begins
//! in [`open::tls`].

use std::{error::Error, fmt::Write as _, io, str::FromStr, time::Duration};

use order_core::{BoxError, error_chain};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::{
    Client, Config, SimpleQueryMessage,
    config::{Host, SslMode},
    error::SqlState,
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{
    errors::heals_with_time,
    migration, open,
    pool::OPEN_TIMEOUT,
    session::{self, PROBE, PROBE_VALUE},
};

/// The bounds of the pause between two attempts to reach the database at the start.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long one address may take to accept a connection. Less than half of what opening a
/// connection may take, so that the second of two addresses is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long looking at the server may take at the start.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a store could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be used; waiting will not help.
    #[error("the database url is not valid: {rule}")]
    InvalidUrl {
        /// The rule it breaks. Never quotes the URL, which may hold a password.
        rule: String,
    },
    /// The server answered and will not let us in, whatever the wait: wrong password,
    /// unknown role or database, missing privilege.
    #[error("the database {server} refuses the connection")]
    Refused {
        /// `host:port/database`.
        server: String,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The time for starting up is over and the database has not answered.
    #[error("the database {server} could not be reached within {waited:?}")]
    Unreachable {
        /// `host:port/database`.
        server: String,
        /// How long was waited.
        waited: Duration,
        /// What the last attempt said.
        #[source]
        source: BoxError,
    },
    /// The schema could not be brought to the version this program needs.
    #[error("the schema of the database {server} could not be migrated")]
    Migration {
        /// `host:port/database`.
        server: String,
        /// What went wrong.
        #[source]
        source: BoxError,
    },
    /// Between this process and the server is a pooler that does not pass settings on.
    #[error(
        "a connection pooler before the database {server} drops the settings of sessions; \
         connect to PostgreSQL directly, without PgBouncer"
    )]
    Pooler {
        /// `host:port/database`.
        server: String,
    },
    /// Text in the database is not UTF-8.
    #[error("the database {server} has the encoding {encoding}; create it with ENCODING 'UTF8'")]
    NotUtf8 {
        /// `host:port/database`.
        server: String,
        /// The encoding of the database.
        encoding: String,
    },
    /// The database answers, but the store does not work on it.
    #[error("the database {server} is not usable")]
    Unusable {
        /// `host:port/database`.
        server: String,
        /// What went wrong.
        #[source]
        source: BoxError,
    },
}

/// A database, as its URL names it.
pub(super) struct Target {
    /// How the driver connects.
    pub(super) config: Config,
    /// `host:port/database`, for logs and errors.
    pub(super) server: String,
}

impl Target {
    /// Reads a URL and adds what every connection needs.
    pub(super) fn parse(url: &str) -> Result<Self, ConnectError> {
        let invalid = |rule: String| ConnectError::InvalidUrl { rule };
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(invalid("must begin with postgres://".to_owned()));
        }
        let mut config = Config::from_str(url).map_err(|error| invalid(error_chain(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(invalid("must name a host".to_owned()));
        }
        let is_suspect = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if config.get_hosts().iter().any(is_suspect) {
            // Such a host is the rest of a password, and would be logged as the server.
            return Err(invalid(
                "has more than one @; in a user or password write it as %40".to_owned(),
            ));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err(invalid(
                "asks for sslmode=require, and this build connects without TLS".to_owned(),
            ));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        open::prepare(&mut config);
        let server = server_name(&config);
        Ok(Self { config, server })
    }

    /// Waits for the database, checks it and brings its schema up to date; again until
    /// `startup_timeout` while what goes wrong may pass: the database is away, starting, failing
    /// over or silent. Returns how the store connects, and the migrations that were applied.
    pub(super) async fn prepare(
        &self,
        startup_timeout: Duration,
    ) -> Result<(Config, Vec<String>), ConnectError> {
        let deadline = Instant::now() + startup_timeout;
        let mut pause = PAUSE_MIN;
        loop {
            let attempt = self.attempt(startup_timeout, deadline);
            // Every step keeps to the deadline, unless the server goes silent.
            let error = match timeout_at(deadline + OPEN_TIMEOUT, attempt).await {
                Ok(Err(error)) if error.heals() => error,
                Ok(done) => return done,
                Err(_) => self.unreachable(startup_timeout, no_answer()),
            };
            // Jitter keeps the replicas of a service from knocking all at the same time.
            let next = Instant::now() + pause.mul_f64(rand::random_range(0.5..=1.0));
            if next >= deadline {
                return Err(error);
            }
            info!(db.server = %self.server, error = error_chain(&error), "waiting for the database");
            sleep(next - Instant::now()).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(
        &self,
        startup_timeout: Duration,
        deadline: Instant,
    ) -> Result<(Config, Vec<String>), ConnectError> {
        let tasks = TaskTracker::new();
        let mut client = self.open(startup_timeout, &tasks).await?;
        let prepared = async {
            let inspected = timeout(INSPECT_TIMEOUT, self.inspect(&client)).await;
            let config = inspected.unwrap_or_else(|_| Err(self.unusable(no_answer())))?;
            let names = migration::migrate(&mut client, deadline).await;
            let names = names.map_err(|source| ConnectError::Migration {
                server: self.server.clone(),
                source,
            })?;
            Ok((config, names))
        };
        let prepared = prepared.await;
        // Closing the connection gives its locks back.
        drop(client);
        tasks.close();
        tasks.wait().await;
        prepared
    }

    /// Opens a connection, whose driver runs on `tasks` and ends when the client is dropped.
    async fn open(&self, waited: Duration, tasks: &TaskTracker) -> Result<Client, ConnectError> {
        let mut config = self.config.clone();
        config.application_name("order-system start");
        match timeout(OPEN_TIMEOUT, open::open(&config)).await {
            Ok(Ok((client, connection))) => {
                tasks.spawn(async move {
                    // The client sees every error of the connection, too.
                    let _ = connection.await;
                });
                Ok(client)
            }
            Ok(Err(error)) if heals_with_time(&error) => {
                Err(self.unreachable(waited, error.into()))
            }
            Ok(Err(source)) => Err(ConnectError::Refused {
                server: self.server.clone(),
                source,
            }),
            Err(_) => Err(self.unreachable(waited, no_answer())),
        }
    }

    fn unusable(&self, source: BoxError) -> ConnectError {
        ConnectError::Unusable {
            server: self.server.clone(),
            source,
        }
    }

    fn unreachable(&self, waited: Duration, source: BoxError) -> ConnectError {
        ConnectError::Unreachable {
            server: self.server.clone(),
            waited,
            source,
        }
    }
}

impl ConnectError {
    /// Whether trying again may succeed without anybody changing a setting.
    fn heals(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Migration { source, .. } | Self::Unusable { source, .. } => {
                let mut source: Option<&(dyn Error + 'static)> = Some(&**source);
                std::iter::from_fn(|| {
                    let error = source?;
                    source = error.source();
                    Some(error)
                })
                .any(|error| {
                    let of_server = error.downcast_ref::<tokio_postgres::Error>();
                    of_server.is_some_and(heals_with_time) || error.is::<io::Error>()
                })
            }
            Self::InvalidUrl { .. }
            | Self::Refused { .. }
            | Self::Pooler { .. }
            | Self::NotUtf8 { .. } => false,
        }
    }
}

fn no_answer() -> BoxError {
    io::Error::new(io::ErrorKind::TimedOut, "the server does not answer").into()
}

impl Target {
    /// Checks that the settings of a session reach the server and stay, and the settings of the
    /// server that decide whether its commits are safe. Returns how the store connects.
    async fn inspect(&self, client: &Client) -> Result<Config, ConnectError> {
        self.check_session().await?;
        let settings = "SELECT current_setting('server_encoding'), current_setting('fsync'), \
            current_setting('full_page_writes'), current_setting('synchronous_commit')";
        let row = client.query_one(settings, &[]).await;
        let row = row.map_err(|error| self.unusable(error.into()))?;
        let text = |idx: usize| row.try_get::<_, String>(idx);
        let texts = [text(0), text(1), text(2), text(3)].into_iter();
        let texts: Vec<String> = texts
            .collect::<Result<_, _>>()
            .map_err(|error| self.unusable(error.into()))?;
        let [encoding, fsync, full_page_writes, synchronous_commit] = &texts[..] else {
            return Err(self.unusable("the server left out a setting".into()));
        };
        if encoding != "UTF8" {
            return Err(ConnectError::NotUtf8 {
                server: self.server.clone(),
                encoding: encoding.clone(),
            });
        }
        for (name, value) in [("fsync", fsync), ("full_page_writes", full_page_writes)] {
            if value == "off" {
                warn!(
                    db.server = %self.server,
                    "{name} is off: a crash of the server can lose acknowledged orders"
                );
            }
        }
        let is_weak = !matches!(synchronous_commit.as_str(), "on" | "remote_apply");
        if is_weak {
            warn!(
                db.server = %self.server,
                synchronous_commit,
                "the server does not wait for commits; sessions of this process do"
            );
        }
        // Sent even where the server has it, since an operator may change that at any time.
        let durable = if is_weak { "on" } else { synchronous_commit };
        Ok(session::configure(self.config.clone(), durable))
    }

    /// Checks that settings reach the server and stay.
    async fn check_session(&self) -> Result<(), ConnectError> {
        let config = session::configure(self.config.clone(), "on");
        let pooler = || ConnectError::Pooler {
            server: self.server.clone(),
        };
        let (client, connection) = match open::open(&config).await {
            Ok(opened) => opened,
            // PgBouncer does not know the settings.
            Err(error) if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) => {
                return Err(pooler());
            }
            Err(error) => return Err(self.unusable(error.into())),
        };
        let driver = TaskTracker::new();
        driver.spawn(async move {
            // Ends when the client is dropped.
            let _ = connection.await;
        });
        let shown = client.simple_query(&format!("SHOW {PROBE}")).await;
        drop(client);
        driver.close();
        driver.wait().await;
        let shown = shown.map_err(|error| self.unusable(error.into()))?;
        let is_kept = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(PROBE_VALUE));
        if shown.iter().any(is_kept) {
            Ok(())
        } else {
            Err(pooler())
        }
    }
}

/// `host:port/database` of a configuration.
pub(super) fn server_name(config: &Config) -> String {
    let mut names: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    if names.is_empty() {
        names.extend(config.get_hostaddrs().iter().map(ToString::to_string));
    }
    let ports = config.get_ports();
    for (idx, name) in names.iter_mut().enumerate() {
        let port = ports.get(idx).or(ports.first()).copied().unwrap_or(5432);
        let _ = write!(name, ":{port}");
    }
    // Without a database the server takes the one named like the user.
    let database = config
        .get_dbname()
        .or(config.get_user())
        .unwrap_or_default();
    format!("{}/{database}", names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(url: &str) -> String {
        match Target::parse(url) {
            Ok(target) => panic!("{} is taken", target.server),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn server_is_named_without_user_and_password() {
        for (url, server) in [
            ("postgres://u:secret@db/orders", "db:5432/orders"),
            ("postgresql://u:secret@a:1,b:2/orders", "a:1,b:2/orders"),
            (
                "postgres://u:p%40ss@[::1]:6/x?application_name=y",
                "::1:6/x",
            ),
            ("postgres://u@%2Frun%2Fpg/x", "/run/pg:5432/x"),
            ("postgres://u@db", "db:5432/u"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(target.server, server, "{url}");
        }
    }

    #[test]
    fn bad_url_is_named_by_its_rule_and_never_quoted() {
        for (url, expected) in [
            ("", "postgres://"),
            ("mysql://u:secret@db/x", "postgres://"),
            ("host=db password=secret", "postgres://"),
            ("postgres:///orders", "must name a host"),
            ("postgres://u:secret@db:port/x", "port"),
            ("postgres://u:pass@secret@db/x", "%40"),
            ("postgres://u:secret@db/x?sslmode=require", "TLS"),
            ("postgres://u:secret@db/x?colour=blue", "colour"),
        ] {
            let rule = rule(url);
            assert!(rule.contains(expected), "{url}: {rule}");
            assert!(!rule.contains("secret"), "{rule}");
        }
    }
}
