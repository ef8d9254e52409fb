//! A primary and a standby that takes over from it, again and again.

use std::{fs, time::Duration};

use anyhow::{Context as _, bail, ensure};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::NoTls;

use super::{
    POLL_INTERVAL, PostgresServer, START_TIMEOUT, STATEMENT_TIMEOUT, execute,
    installation::SUPERUSER,
};
use crate::server::process::{children, is_alive, send_signal};

/// What a standby that is not started yet may still need of the log.
const KEEP_LOG: (&str, &str) = ("wal_keep_size", "256MB");

/// A commit that changes nothing.
const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'pair', '')";

/// How a primary is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Every process is killed; connections break at once.
    Killed,
    /// Every process stands still; connections stay open and silent.
    Hanging,
}

/// Two servers, each on a port of its own: one is the primary, the other follows it or is lost.
#[derive(Debug)]
pub struct PostgresPair {
    primary: PostgresServer,
    other: PostgresServer,
    url: String,
    settings: Vec<(String, String)>,
}

impl PostgresPair {
    /// Starts a primary and its standby with these settings and waits until the standby
    /// follows. Commits do not wait for it; see [`make_synchronous`](Self::make_synchronous).
    ///
    /// Fails as [`PostgresServer::start`] does.
    pub async fn start(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let settings: Vec<_> = settings.iter().copied().chain([KEEP_LOG]).collect();
        let primary = PostgresServer::start(&settings).await?;
        let other = start_standby(&primary, None, &settings).await?;
        let url = format!(
            "postgres://{SUPERUSER}@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
            primary.port, other.port
        );
        Ok(Self {
            primary,
            other,
            url,
            settings: settings
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })
    }

    /// The URL with both servers. It leads to the primary and stays the same.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The server that takes writes.
    pub const fn primary(&self) -> &PostgresServer {
        &self.primary
    }

    /// The standby, or the server that was lost.
    pub const fn other(&self) -> &PostgresServer {
        &self.other
    }

    /// Has commits wait for the standby from now on. When this returns, every commit so far is
    /// on both servers.
    pub async fn make_synchronous(&self) -> anyhow::Result<()> {
        let url = self.primary.url();
        execute(&url, "ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        execute(&url, "SELECT pg_reload_conf()").await?;
        // The checkpointer takes the setting over some time after the reload. Only a commit
        // that waits shows that it has.
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        tokio::select! {
            ended = commit_until_error(&url) => ended?,
            seen = wait_until_some(&url, waiting) => seen?,
        }
        // The standby has everything before a commit that it has confirmed.
        execute(&url, COMMIT).await
    }

    /// Stops the process that sends the log to the standby, until the primary is killed. From
    /// now on nothing is replicated.
    pub fn stop_replication(&self) -> anyhow::Result<()> {
        let server = self.primary.id().context("the primary does not run")?;
        let is_sender = |process: &u32| {
            let title = fs::read_to_string(format!("/proc/{process}/cmdline"));
            title.is_ok_and(|title| title.contains("walsender"))
        };
        let senders: Vec<u32> = children(server).into_iter().filter(is_sender).collect();
        ensure!(!senders.is_empty(), "nothing is sent to the standby");
        ensure!(
            send_signal("STOP", &senders)?.success(),
            "the walsender cannot be stopped"
        );
        Ok(())
    }

    /// Makes the primary stop at once and promotes the standby. Commits on it wait for no
    /// standby. Returns when it takes writes, with the time since the loss.
    pub async fn fail_over(&mut self, loss: Loss) -> anyhow::Result<Duration> {
        match loss {
            Loss::Killed => self.primary.kill().await?,
            Loss::Hanging => self.primary.hang()?,
        }
        let begin = Instant::now();
        execute(&self.other.url(), "SELECT pg_promote()").await?;
        std::mem::swap(&mut self.primary, &mut self.other);
        let writable = "SELECT count(*) WHERE NOT pg_is_in_recovery()";
        wait_until_some(&self.primary.url(), writable).await?;
        Ok(begin.elapsed())
    }

    /// Starts the lost server again on its port, as a standby with a fresh copy of the
    /// primary's data, and waits until it follows.
    pub async fn rejoin(&mut self) -> anyhow::Result<()> {
        if self.other.id().is_some_and(is_alive) {
            self.other.kill().await?;
        }
        let settings: Vec<_> = self
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.other = start_standby(&self.primary, Some(self.other.port), &settings).await?;
        Ok(())
    }
}

/// Starts a standby on `port`, or on any, and waits until it follows.
async fn start_standby(
    primary: &PostgresServer,
    port: Option<u16>,
    settings: &[(&str, &str)],
) -> anyhow::Result<PostgresServer> {
    // No option has a space in it, since a shell splits them again.
    let options = format!(
        "--write-recovery-conf --checkpoint=fast --no-sync --host=127.0.0.1 --port={} \
         --username={SUPERUSER}",
        primary.port
    );
    let data = ("pg_basebackup", options);
    let standby = PostgresServer::launch(&data, port, settings).await?;
    let following = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    wait_until_some(&primary.url(), following).await?;
    Ok(standby)
}

async fn commit_until_error(url: &str) -> anyhow::Result<()> {
    loop {
        execute(url, COMMIT).await?;
    }
}

/// Waits until a query counts something.
async fn wait_until_some(url: &str, sql: &str) -> anyhow::Result<()> {
    let (client, connection) = timeout(STATEMENT_TIMEOUT, tokio_postgres::connect(url, NoTls))
        .await
        .context("postgresql does not answer")??;
    let look = async {
        while client.query_one(sql, &[]).await?.get::<_, i64>(0) == 0 {
            sleep(POLL_INTERVAL).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        seen = timeout(START_TIMEOUT, look) => seen.with_context(|| format!("never so: {sql}"))?,
        _ = connection => bail!("the connection was lost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{server::postgres::Installation, skip};

    #[tokio::test]
    async fn synchronous_commit_survives_failovers_and_another_does_not() {
        if let Err(reason) = Installation::find() {
            skip!("PostgreSQL: {reason}");
        }
        let mut pair = PostgresPair::start(&[("fsync", "off")]).await.unwrap();
        execute(&pair.url(), "CREATE TABLE t (n int)")
            .await
            .unwrap();
        for (n, loss) in [(1, Loss::Killed), (2, Loss::Hanging)] {
            let (old, url) = (pair.primary().url(), pair.url());
            pair.make_synchronous().await.unwrap();
            execute(&url, &format!("INSERT INTO t VALUES ({n})"))
                .await
                .unwrap();
            pair.stop_replication().unwrap();
            let commit = format!("SET synchronous_commit = local; INSERT INTO t VALUES (-{n})");
            execute(&url, &commit).await.unwrap();

            pair.fail_over(loss).await.unwrap();

            wait_until_some(&url, &format!("SELECT count(*) FROM t WHERE n = {n}"))
                .await
                .unwrap();
            pair.rejoin().await.unwrap();
            assert!(execute(&old, "DELETE FROM t").await.is_err());
        }
        let unreplicated = "SELECT count(*) WHERE NOT EXISTS (SELECT FROM t WHERE n < 0)";
        wait_until_some(&pair.url(), unreplicated).await.unwrap();
    }
}
