//! Orders, jobs and the events between processes in PostgreSQL.
//!
//! Owns the connections, the SQL and the schema; knows the ports of `order-core` and
//! nothing of transports or workers. What the module does not show:
//!
//! - Each write is one statement (`sql/*.sql`) over a whole batch, and one round trip. There
//!   are no explicit transactions, so none can be left open, and what failed can be repeated.
//! - The row of a job is the mutex of its order: whoever moves an order out of PENDING or
//!   PROCESSING locks the job first, and moves the order and the job together.
//! - Time is the database's; the clock of this process only bounds waits.
//!
//! Works with PostgreSQL 14 and newer, connected to directly: sessions keep settings and
//! prepared statements, which a pooler in transaction mode would mix up.

mod admin;
mod backlog;
mod change;
mod connect;
mod create;
mod cursor;
mod errors;
mod events;
mod key;
mod list;
mod migration;
mod open;
mod outbox;
mod pool;
mod queue;
mod row;
mod session;
mod store;
mod table_lock;
mod unsure;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use order_core::{CallContext, Deadline, Identity, OrderStore, RESPONSE_BYTES_MAX, RequestId};
use tokio_postgres::Config;
use uuid::Uuid;

pub use self::{connect::ConnectError, events::PostgresEventTransport};
use self::{
    connect::Target,
    cursor::Cursor,
    pool::{Cancels, Pool, PoolConfig},
    unsure::Unsure,
};
use crate::MeasuredPool;

/// How long a request waits for a connection. It has a caller with a deadline, and when all
/// connections are busy for that long, more waiting only makes it worse.
const REQUESTS_WAIT: Duration = Duration::from_millis(250);

/// How long a list waits for a connection. It may take long and has few, and only a few dozen wait.
const LISTS_WAIT: Duration = Duration::from_secs(2);

/// How long workers and maintenance wait for a connection. Nobody waits for them, and what
/// they have done must not be lost over a short stall.
const WORKERS_WAIT: Duration = Duration::from_secs(5);

/// Connections for lists of orders, which may take long each.
const LISTS_POOL: usize = 2;

/// Connections for the jobs of workers outside.
const REMOTE_WORKERS_POOL: usize = 2;

/// Waits until what was read before is on the standbys that commits wait for.
const CONFIRM: &str = include_str!("sql/confirm.sql");

/// Where the database is and how it is used.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`; several hosts, separated by commas,
    /// are tried until one takes writes.
    pub url: String,
    /// The most connections for requests. Default: 8.
    pub requests_pool: usize,
    /// The most connections for the worker pool. Default: 4.
    pub workers_pool: usize,
    /// The most connections for everything in the background. Default: 2.
    pub maintenance_pool: usize,
    /// How long the start waits for the database, and for another process that migrates it.
    /// Default: 60 s.
    pub startup_timeout: Duration,
}

impl PostgresConfig {
    /// The defaults for the database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            requests_pool: 8,
            workers_pool: 4,
            maintenance_pool: 2,
            startup_timeout: Duration::from_mins(1),
        }
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL holds a password.
        f.debug_struct("PostgresConfig")
            .field("requests_pool", &self.requests_pool)
            .field("workers_pool", &self.workers_pool)
            .field("maintenance_pool", &self.maintenance_pool)
            .field("startup_timeout", &self.startup_timeout)
            .finish_non_exhaustive()
    }
}

/// Orders and jobs in PostgreSQL.
///
/// # Durability
/// As good as the server's: `fsync` and `synchronous_commit` must be on, and a standby that
/// may take over must be synchronous.
///
/// # Cancel safety
/// Dropping the future of any method cancels its statement. A write that is dropped has happened
/// as a whole or not at all.
pub struct PostgresStore {
    identity: Identity,
    database: Config,
    requests: Arc<Pool>,
    lists: Arc<Pool>,
    readiness: Arc<Pool>,
    workers: Pool,
    maintenance: Arc<Pool>,
    cancels: Cancels,
    /// Whether a statement failed for want of disk or memory since a probe last succeeded.
    is_exhausted: Arc<AtomicBool>,
    unsure: Unsure,
    due: Cursor,
    abandoned: Cursor,
    outbox_start: outbox::Start,
}

impl PostgresStore {
    /// Waits for the database, brings its schema up to date and checks that it can be used. Claims
    /// and attempts are recorded as those of `identity`.
    ///
    /// # Errors
    /// At once if waiting cannot help: a URL that is not valid, a wrong password, a database
    /// that does not exist, a migration that fails. After
    /// [`startup_timeout`](PostgresConfig::startup_timeout) if nobody answers.
    pub async fn connect(config: PostgresConfig, identity: Identity) -> Result<Self, ConnectError> {
        let target = Target::parse(&config.url)?;
        let (database, _) = target.prepare(config.startup_timeout).await?;
        let unusable = |source| ConnectError::Unusable {
            server: target.server.clone(),
            source,
        };
        let cancels = Cancels::new();
        let is_exhausted = Arc::default();
        let pool = |name, connections_max, wait| {
            let config = PoolConfig {
                name,
                connections_max,
                wait,
            };
            Pool::new(&database, &config, &cancels, &is_exhausted)
                .map_err(|error| unusable(error.into()))
        };
        let store = Self {
            identity,
            requests: pool("requests", config.requests_pool, REQUESTS_WAIT)?.into(),
            lists: pool("lists", LISTS_POOL, LISTS_WAIT)?
                .with_rows_bytes_max(RESPONSE_BYTES_MAX)
                .into(),
            readiness: pool("readiness", 1, REQUESTS_WAIT)?.into(),
            workers: pool("workers", config.workers_pool, WORKERS_WAIT)?,
            maintenance: pool("maintenance", config.maintenance_pool, WORKERS_WAIT)?.into(),
            cancels,
            is_exhausted,
            unsure: Unsure::default(),
            due: Cursor::default(),
            abandoned: Cursor::default(),
            outbox_start: outbox::Start::default(),
            database,
        };
        let ctx = CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE);
        store
            .check(&ctx)
            .await
            .map_err(|error| unusable(error.into()))?;
        Ok(store)
    }

    /// The same store with connections of its own for jobs, so that workers outside this process
    /// take none from those inside.
    ///
    /// # Errors
    /// [`ConnectError::Unusable`], which does not happen for a store that was connected.
    pub fn for_remote_workers(&self) -> Result<Self, ConnectError> {
        let config = PoolConfig {
            name: "remote workers",
            connections_max: REMOTE_WORKERS_POOL,
            wait: WORKERS_WAIT,
        };
        let workers = Pool::new(&self.database, &config, &self.cancels, &self.is_exhausted);
        Ok(Self {
            identity: self.identity.clone(),
            database: self.database.clone(),
            requests: Arc::clone(&self.requests),
            lists: Arc::clone(&self.lists),
            readiness: Arc::clone(&self.readiness),
            workers: workers.map_err(|error| ConnectError::Unusable {
                server: connect::server_name(&self.database),
                source: error.into(),
            })?,
            maintenance: Arc::clone(&self.maintenance),
            cancels: self.cancels.clone(),
            is_exhausted: Arc::clone(&self.is_exhausted),
            unsure: Unsure::default(),
            due: Cursor::default(),
            abandoned: Cursor::default(),
            outbox_start: outbox::Start::default(),
        })
    }

    /// Waits for the database and brings its schema up to date. Returns the names of the
    /// migrations that were applied, oldest first.
    ///
    /// # Errors
    /// As for [`PostgresStore::connect`].
    pub async fn migrate(config: PostgresConfig) -> Result<Vec<String>, ConnectError> {
        let target = Target::parse(&config.url)?;
        let (_, names) = target.prepare(config.startup_timeout).await?;
        Ok(names)
    }

    /// The pools of connections, for the metrics.
    pub fn pools(&self) -> Vec<MeasuredPool> {
        let shared = [
            &self.requests,
            &self.lists,
            &self.readiness,
            &self.maintenance,
        ];
        let mut pools: Vec<_> = shared.iter().map(|pool| pool.measured()).collect();
        pools.push(self.workers.measured());
        pools
    }

    /// The pool of [`PostgresStore::for_remote_workers`], for the metrics.
    pub fn remote_pool(&self) -> MeasuredPool {
        self.workers.measured()
    }

    /// Refuses new work; connections close when the work on them is done.
    pub fn close(&self) {
        self.requests.close();
        self.lists.close();
        self.readiness.close();
        self.workers.close();
        self.maintenance.close();
    }
}
