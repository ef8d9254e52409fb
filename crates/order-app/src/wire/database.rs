//! Which database, and what it serves.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use order_adapters::{
    MeasuredPool,
    postgres::{PostgresConfig, PostgresStore},
    sqlite::SqliteStore,
    system::SystemClock,
};
use order_core::{AdminStore, Clock, Error, EventOutbox, Identity, JobQueue, OrderStore};
use tokio::time::{sleep, timeout};

use crate::config::DatabaseUrl;

/// Brings the schema up to date.
pub(crate) async fn migrate(url: &DatabaseUrl) -> anyhow::Result<()> {
    match url {
        DatabaseUrl::Postgres(url) => {
            PostgresStore::migrate(PostgresConfig::new(url)).await?;
        }
        DatabaseUrl::Sqlite(path) => {
            let path = path.clone();
            tokio::task::spawn_blocking(move || SqliteStore::migrate(&path)).await??;
        }
    }
    Ok(())
}

/// Keeps no events for systems outside any longer, and forgets those that wait.
pub(crate) async fn drop_event_sink(url: &DatabaseUrl) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let identity = super::identity("drop-event-sink");
    let database = Database::open(url, PATIENCE, &clock, &identity).await?;
    let outbox = database.outbox();
    let disabled = when_tables_are_free(PATIENCE, async || outbox.disable().await).await;
    drop(outbox);
    database.close().await;
    disabled.context("cannot stop keeping events")
}

/// The bounds of the pause after a try that met tables in use. It grows, because each try
/// holds up the writers of the tables for a moment.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Repeats a change of tables while they are in use, for at most `patience`.
pub(super) async fn when_tables_are_free(
    patience: Duration,
    change: impl AsyncFn() -> Result<(), Error>,
) -> anyhow::Result<()> {
    let mut pause = PAUSE_MIN;
    let mut last_error = None;
    let changed = timeout(patience, async {
        loop {
            match change().await {
                Err(error @ Error::StoreUnavailable { .. }) => {
                    let error = error.chain();
                    tracing::info!(error, "waiting for tables that are in use");
                    last_error = Some(error);
                }
                changed => return changed,
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    });
    match changed.await {
        Ok(changed) => Ok(changed?),
        Err(_) => bail!(
            "the tables were in use, or the database busy, for {patience:?}: {}; \
             end long transactions (see pg_stat_activity)",
            last_error.unwrap_or_else(|| "no answer".to_owned())
        ),
    }
}

/// How long a command waits for the database.
const PATIENCE: Duration = Duration::from_mins(1);

/// An opened database.
pub(super) enum Database {
    Postgres {
        store: Arc<PostgresStore>,
        /// With connections of its own for workers outside.
        remote: Arc<PostgresStore>,
    },
    Sqlite(Arc<SqliteStore>),
}

impl Database {
    pub(super) async fn open(
        url: &DatabaseUrl,
        startup_timeout: Duration,
        clock: &Arc<dyn Clock>,
        identity: &Identity,
    ) -> anyhow::Result<Self> {
        match url {
            DatabaseUrl::Postgres(url) => {
                let config = PostgresConfig {
                    startup_timeout,
                    ..PostgresConfig::new(url)
                };
                let store = PostgresStore::connect(config, identity.clone()).await?;
                Ok(Self::Postgres {
                    remote: Arc::new(store.for_remote_workers()?),
                    store: Arc::new(store),
                })
            }
            DatabaseUrl::Sqlite(path) => {
                let (path, clock) = (path.clone(), Arc::clone(clock));
                let identity = identity.clone();
                let open = move || SqliteStore::open(&path, clock, &identity);
                Ok(Self::Sqlite(Arc::new(
                    tokio::task::spawn_blocking(open).await??,
                )))
            }
        }
    }

    pub(super) fn store(&self) -> Arc<dyn OrderStore> {
        match self {
            Self::Postgres { store, .. } => Arc::clone(store) as _,
            Self::Sqlite(store) => Arc::clone(store) as _,
        }
    }

    pub(super) fn admin_store(&self) -> Arc<dyn AdminStore> {
        match self {
            Self::Postgres { store, .. } => Arc::clone(store) as _,
            Self::Sqlite(store) => Arc::clone(store) as _,
        }
    }

    pub(super) fn queue(&self) -> Arc<dyn JobQueue> {
        match self {
            Self::Postgres { store, .. } => Arc::clone(store) as _,
            Self::Sqlite(store) => Arc::clone(store) as _,
        }
    }

    /// The queue for workers outside this process.
    pub(super) fn remote_queue(&self) -> Arc<dyn JobQueue> {
        match self {
            Self::Postgres { remote, .. } => Arc::clone(remote) as _,
            Self::Sqlite(store) => Arc::clone(store) as _,
        }
    }

    pub(super) fn outbox(&self) -> Arc<dyn EventOutbox> {
        match self {
            Self::Postgres { store, .. } => Arc::clone(store) as _,
            Self::Sqlite(store) => Arc::clone(store) as _,
        }
    }

    /// The connections, for the metrics.
    pub(super) fn pools(&self) -> Vec<MeasuredPool> {
        match self {
            Self::Postgres { store, remote } => {
                let mut pools = store.pools();
                pools.push(remote.remote_pool());
                pools
            }
            Self::Sqlite(store) => store.pools(),
        }
    }

    /// How many create statements run at the same time. SQLite has one writer, and more
    /// lanes than one would only cut its batches in pieces.
    pub(super) const fn create_lanes(&self) -> usize {
        match self {
            Self::Postgres { .. } => 2,
            Self::Sqlite(_) => 1,
        }
    }

    pub(super) async fn close(self) {
        match self {
            Self::Postgres { store, remote } => {
                store.close();
                remote.close();
            }
            Self::Sqlite(store) => store.close().await,
        }
    }
}
