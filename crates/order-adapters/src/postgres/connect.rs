//! The way to the database: reading its URL and waiting until it answers.
//!
//! Invariant: no password is ever part of a log line or of an error. The place where TLS
//! begins is [`tls`].

use std::{fmt::Write as _, str::FromStr, time::Duration};

use order_core::{BoxError, error_chain};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::{
    Client, Config, NoTls,
    config::{Host, SslMode, TargetSessionAttrs},
};
use tokio_util::task::TaskTracker;
use tracing::info;

use super::errors::heals_with_time;

/// The bounds of the pause between two attempts to reach the database at the start.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long one address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long sent data may stay unacknowledged before the connection counts as broken.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// A silent connection is probed after this time, at this interval, this often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

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

/// What secures connections. Plain for now; a connector for TLS takes its place here and
/// in [`Target::parse`], and nowhere else.
pub(super) fn tls() -> NoTls {
    NoTls
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
        config
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            // Of several hosts, and after a failover, only the primary will do.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        let server = server_name(&config);
        Ok(Self { config, server })
    }

    /// Opens one connection, waiting for the database until `deadline` if it has to. Its
    /// driver runs on `tasks` and ends when the client is dropped.
    pub(super) async fn wait(
        &self,
        waited: Duration,
        deadline: Instant,
        tasks: &TaskTracker,
    ) -> Result<Client, ConnectError> {
        let mut config = self.config.clone();
        config.application_name("order-system start");
        let mut pause = PAUSE_MIN;
        loop {
            let error: BoxError = match timeout_at(deadline, config.connect(tls())).await {
                Ok(Ok((client, connection))) => {
                    tasks.spawn(async move {
                        // The client sees every error of the connection, too.
                        let _ = connection.await;
                    });
                    return Ok(client);
                }
                Ok(Err(source)) if !heals_with_time(&source) => {
                    let server = self.server.clone();
                    return Err(ConnectError::Refused { server, source });
                }
                Ok(Err(error)) => error.into(),
                Err(_) => "the server does not answer".into(),
            };
            // Jitter keeps the replicas of a service from knocking all at the same time.
            let next = Instant::now() + pause.mul_f64(rand::random_range(0.5..=1.0));
            if next >= deadline {
                return Err(ConnectError::Unreachable {
                    server: self.server.clone(),
                    waited,
                    source: error,
                });
            }
            info!(db.server = %self.server, error = error_chain(&*error), "waiting for the database");
            sleep(next - Instant::now()).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn server_name(config: &Config) -> String {
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
