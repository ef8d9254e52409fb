//! What the server keeps to on every connection, and what the connections keep to.
//!
//! The settings are part of the startup message, so that the server's limits hold from the
//! first byte and opening a connection is one wait.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use deadpool_postgres::Connect;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, error::DbError};
use tokio_util::task::TaskTracker;

use super::open::open;

/// Settings of every connection. The server notices in seconds, not hours, that this process is
/// gone, and frees its locks: while it answers, while it runs a statement, and while it waits.
///
/// Every statement reaches its tables through an index, by a list of ids or in the order of a
/// key, and joins lists of a batch's length. With all else switched off, plans do not depend on
/// statistics, and one made while the jobs table is empty stays right when a million jobs wait
/// a second later. So it is made once and kept.
const SETTINGS: [(&str, &str); 15] = [
    // Nobody waits longer for an answer, and nothing holds a lock for longer.
    ("statement_timeout", "5s"),
    // A batch that meets a lock is halved until the item is found, so each wait is short.
    (PROBE, PROBE_VALUE),
    ("idle_in_transaction_session_timeout", "10s"),
    ("tcp_user_timeout", "10s"),
    ("client_connection_check_interval", "5s"),
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_nestloop", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    // What the statements rely on, whatever a role or a database sets.
    ("default_transaction_isolation", "read\\ committed"),
];

/// The setting that shows whether settings reach the server.
pub(super) const PROBE: &str = "lock_timeout";
/// Its value, as the server shows it.
pub(super) const PROBE_VALUE: &str = "50ms";

/// The configuration of a connection that the store works on. Settings of the URL stay, but
/// for those of the same name.
pub(super) fn configure(mut config: Config, synchronous_commit: &str) -> Config {
    let mut options = config.get_options().unwrap_or_default().to_owned();
    let durable = [("synchronous_commit", synchronous_commit)];
    for (name, value) in SETTINGS.into_iter().chain(durable) {
        options.push_str(" -c ");
        options.push_str(name);
        options.push('=');
        options.push_str(value);
    }
    config.options(options.trim_start());
    config
}

/// Opens the connections of a pool and drives them.
pub(super) struct Connector(TaskTracker);

impl Connector {
    pub(super) fn new() -> Self {
        Self(TaskTracker::new())
    }
}

impl Connect for Connector {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let config = config.clone();
        async move {
            let (client, mut connection) = open(&config).await?;
            let driver = self.0.spawn(async move {
                // The client sees every error of the connection, too.
                while let Some(Ok(message)) = poll_fn(|cx| poll_message(&mut connection, cx)).await
                {
                    if let AsyncMessage::Notice(notice) = message
                        && is_unreplicated(&notice)
                    {
                        // Ends the connection before the answer to the statement, so that its
                        // outcome is unknown, which it is.
                        tracing::warn!("a commit did not wait for the standby");
                        return;
                    }
                }
            });
            Ok((client, driver))
        }
        .boxed()
    }
}

/// Moves a connection on. Ends it when the server says that it no longer takes writes, as a
/// demoted one may that keeps its connections: reads would be answered from the past, and
/// notifications would not arrive. PostgreSQL 14 and newer say so with the next answer, so a
/// connection gives one such answer at most.
pub(super) fn poll_message<S, T>(
    connection: &mut Connection<S, T>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<AsyncMessage, Error>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let message = connection.poll_message(cx);
    if connection.parameter("default_transaction_read_only") == Some("on") {
        tracing::warn!("the database became read-only; connecting again");
        return Poll::Ready(None);
    }
    message
}

/// Whether a notice says that a commit is in the local log only. The text depends on the
/// language of the server, the place in its source does not.
fn is_unreplicated(notice: &DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_url_stay() {
        let config: Config = "host=a options='-c work_mem=8MB'".parse().unwrap();
        let config = configure(config, "on");
        let options = config.get_options().unwrap();
        assert!(options.starts_with("-c work_mem=8MB -c statement_timeout=5s "));
        assert!(options.ends_with(" -c synchronous_commit=on"));
    }
}
