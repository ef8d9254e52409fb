//! Connections, and the one way statements run on them.
//!
//! Everything this adapter does to the database is a single statement that commits by
//! itself. No transaction is ever open between two calls, so a connection cannot carry one
//! back to the pool, and repeating a statement repeats all of it.
//!
//! Invariants: a connection goes back to its pool only after its statement was answered;
//! every wait is bounded, here and on the server (`session.rs`).

use std::{
    collections::HashMap,
    hash::Hash,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Manager, ManagerConfig, Object, QueueMode, RecyclingMethod, Runtime};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::FuturesUnordered};
use order_core::{CallContext, Error};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, error::Elapsed, timeout, timeout_at},
};
use tokio_postgres::{Client, Config, Row, error::SqlState, types::ToSql};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{errors::Fault, open, session::Connector};
use crate::{MeasuredPool, PoolStats, PoolUsage};

/// How long a statement may stay unanswered. Two seconds more than the server's own limit,
/// so that it only ends waits on a server or network that has gone silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);

/// How long opening a connection may take, with everything that belongs to it.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement whose caller has gone may go on before it is cancelled.
const END_TIMEOUT: Duration = Duration::from_millis(20);

/// How long the request to cancel a statement may take, and then its end. Without it the
/// statement ends by the server's limits.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// How many such requests, each a connection of its own, a process makes at a time.
const CANCELS_MAX: usize = 4;

/// How often a statement is repeated that lost against concurrent ones.
const CONFLICTS_MAX: u32 = 3;

/// Into how many parts a batch is cut to find an item that fails.
const PARTS: usize = 8;

/// The parameters of a statement over a batch: one array for each column.
pub(super) type Columns<'a> = Vec<Box<dyn ToSql + Send + Sync + 'a>>;

/// How one pool differs from another.
pub(super) struct PoolConfig {
    /// What it is for; part of the `application_name` that operators see.
    pub(super) name: &'static str,
    /// The most connections at the same time.
    pub(super) connections_max: usize,
    /// How long a caller waits while all of them are busy.
    pub(super) wait: Duration,
}

/// The outcome of each item of a batch. Hashed with a random seed, because clients may choose ids.
pub(super) type Answers<K, V> = HashMap<K, Result<V, Error>, foldhash::fast::RandomState>;

/// A statement over a batch of `T`: each item, known by its `K`, is answered with a `V`.
pub(super) struct BatchStatement<T, K, V> {
    /// The statement.
    pub(super) sql: &'static str,
    /// Its parameters.
    pub(super) columns: fn(&[T]) -> Columns<'_>,
    /// What an item is known by.
    pub(super) key: fn(&T) -> K,
    /// Reads the key of the item that a row of the answer is about. An item without a row was
    /// not applied.
    pub(super) read_key: fn(&Row) -> Result<K, Fault>,
    /// Reads the answer itself. A row that cannot be read fails alone.
    pub(super) read: fn(&Row) -> Result<V, Fault>,
}

/// Connections for one kind of work, so that no other kind can starve it.
pub(super) struct Pool {
    name: &'static str,
    connections: deadpool_postgres::Pool,
    stats: PoolStats,
    /// How many parts of a batch run at the same time; other work has the other connections.
    parts_at_once: usize,
    rows_bytes_max: usize,
    cancels: Cancels,
    n_broken: AtomicU64,
    is_exhausted: Arc<AtomicBool>,
}

impl Pool {
    /// Makes a pool; connections are opened when they are first needed. A statement that fails
    /// with [`Fault::Exhausted`] sets `is_exhausted`.
    pub(super) fn new(
        database: &Config,
        pool: &PoolConfig,
        cancels: &Cancels,
        is_exhausted: &Arc<AtomicBool>,
    ) -> Result<Self, deadpool_postgres::BuildError> {
        let mut database = database.clone();
        database.application_name(format!("order-system {}", pool.name));
        // A broken connection is noticed when it breaks, so asking before each use, a round
        // trip, would tell nothing that the statement itself does not.
        let recycling_method = RecyclingMethod::Fast;
        let config = ManagerConfig { recycling_method };
        let manager = Manager::from_connect(database, Connector::new(), config);
        let connections = deadpool_postgres::Pool::builder(manager)
            .max_size(pool.connections_max.max(1))
            // The one used last: its server process has everything at hand.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(pool.wait))
            .create_timeout(Some(OPEN_TIMEOUT))
            .build()?;
        Ok(Self {
            name: pool.name,
            connections,
            stats: PoolStats::default(),
            parts_at_once: (pool.connections_max / 2).max(1),
            rows_bytes_max: usize::MAX,
            cancels: cancels.clone(),
            n_broken: AtomicU64::new(0),
            is_exhausted: Arc::clone(is_exhausted),
        })
    }

    /// The same pool for statements whose rows are not read beyond the one that makes them longer
    /// than this together. The rest is cancelled.
    pub(super) fn with_rows_bytes_max(mut self, rows_bytes_max: usize) -> Self {
        self.rows_bytes_max = rows_bytes_max;
        self
    }

    /// How often a connection broke under a statement, which may have been committed.
    pub(super) fn n_broken(&self) -> u64 {
        self.n_broken.load(Ordering::Relaxed)
    }

    /// The pool, for the metrics.
    pub(super) fn measured(&self) -> MeasuredPool {
        let connections = self.connections.clone();
        let usage = move || {
            let status = connections.status();
            PoolUsage {
                idle: status.available,
                used: status.size.saturating_sub(status.available),
                max: status.max_size,
            }
        };
        MeasuredPool {
            name: self.name,
            stats: self.stats.clone(),
            usage: Box::new(usage),
        }
    }

    /// Refuses new work; connections close as they come back.
    pub(super) fn close(&self) {
        self.connections.close();
    }

    /// Runs a statement that reads, until the deadline of the call.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the statement on the server.
    pub(super) async fn read(
        &self,
        ctx: &CallContext,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let rows = self.query(sql, params);
        let rows = match ctx.deadline.instant() {
            Some(deadline) => timeout_at(Instant::from_std(deadline), rows)
                .await
                .unwrap_or(Err(Fault::DeadlineExceeded)),
            None => rows.await,
        };
        rows.map_err(Error::from)
    }

    /// Runs a statement and returns its rows. Repeats it once if the connection broke, on a
    /// fresh one, and a few times if it lost against concurrent statements.
    pub(super) async fn query(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Fault> {
        let mut n_locks = 0;
        loop {
            match self.query_at_once(sql, params).await {
                Err(Fault::Locked(_)) if n_locks < CONFLICTS_MAX => n_locks += 1,
                answer => return answer,
            }
        }
    }

    /// Like [`Pool::query`], but a lock that another transaction holds is the caller's business.
    pub(super) async fn query_at_once(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Fault> {
        let mut is_repeated = false;
        let mut n_conflicts = 0;
        loop {
            match self.query_once(sql, params).await {
                Err(Fault::Connection(error)) if !is_repeated => {
                    debug!(error = %error, "repeating a statement on a fresh connection");
                    is_repeated = true;
                }
                Err(Fault::Conflict(error)) if n_conflicts < CONFLICTS_MAX => {
                    debug!(error = %error, "repeating a statement that lost a conflict");
                    n_conflicts += 1;
                }
                answer => return answer,
            }
        }
    }

    /// Runs a statement over a batch, whose items must differ in their keys and be in the
    /// order in which every batch takes its locks. An item the database refuses fails alone,
    /// and so does one that keeps losing against concurrent statements or whose row another
    /// transaction has locked: the batch is cut into parts, which run beside each other, until it
    /// is found. That takes one wait for a lock for each factor of [`PARTS`] in the length.
    pub(super) async fn query_batch<T, K: Eq + Hash, V>(
        &self,
        statement: BatchStatement<T, K, V>,
        items: &[T],
    ) -> Answers<K, V> {
        let mut answers = Answers::default();
        let mut pending = Vec::new();
        if !items.is_empty() {
            pending.push(items);
        }
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.parts_at_once
                && let Some(part) = pending.pop()
            {
                let is_part = part.len() < items.len();
                running.push(self.query_part(&statement, part, is_part));
            }
            let Some((part, answer)) = running.next().await else {
                return answers;
            };
            match answer {
                Ok(rows) => answers.extend(rows),
                Err(Fault::Row(_) | Fault::Conflict(_) | Fault::Locked(_)) if part.len() > 1 => {
                    pending.extend(part.chunks(part.len().div_ceil(PARTS)));
                }
                Err(fault) => {
                    let error = Error::from(fault);
                    let copies = part.iter().map(|item| {
                        let key = (statement.key)(item);
                        (key, Err(error.without_source()))
                    });
                    answers.extend(copies);
                    // One of them keeps the source, for the log.
                    if let Some(first) = part.first() {
                        answers.insert((statement.key)(first), Err(error));
                    }
                }
            }
        }
    }

    /// Runs a statement over items that succeed or fail together, and returns them with what
    /// became of each.
    async fn query_part<'a, T, K, V>(
        &self,
        statement: &BatchStatement<T, K, V>,
        items: &'a [T],
        is_part: bool,
    ) -> (&'a [T], Result<Vec<(K, Result<V, Error>)>, Fault>) {
        let columns = (statement.columns)(items);
        let params: Vec<_> = columns.iter().map(|column| &**column as _).collect();
        // A batch of one waits a little longer: it may be the table that is locked, for a moment.
        let rows = match items {
            [_] if !is_part => self.query(statement.sql, &params).await,
            _ => self.query_at_once(statement.sql, &params).await,
        };
        let read = |row: &Row| {
            let value = (statement.read)(row).map_err(Error::from);
            Ok(((statement.read_key)(row)?, value))
        };
        let answer = rows.and_then(|rows| rows.iter().map(read).collect());
        (items, answer)
    }

    /// Runs a statement once.
    pub(super) async fn query_once(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Fault> {
        let answer = self.measure(sql, params).await;
        if let Err(fault) = &answer {
            self.stats.errors.inc();
            if matches!(fault, Fault::Unavailable(_)) {
                self.stats.timeouts.inc();
            }
        }
        answer
    }

    async fn measure(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Fault> {
        let asked_at = Instant::now();
        let client = self.connections.get().await?;
        let begun_at = Instant::now();
        self.stats.waits.observe(begun_at - asked_at);
        let answer = self.query_on(client, sql, params).await;
        self.stats.operations.observe(begun_at.elapsed());
        answer
    }

    async fn query_on(
        &self,
        client: Object,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Fault> {
        let mut borrowed = Borrowed {
            client: Some(client),
            cancels: &self.cancels,
            is_silent: false,
        };
        let answer = borrowed.query(sql, params, self.rows_bytes_max);
        let answer = timeout(ANSWER_TIMEOUT, answer).await;
        let Ok(answer) = answer else {
            borrowed.is_silent = true;
            // The others are likely cut off, too.
            self.connections.retain(|_, _| false);
            let error = "the database did not answer in time";
            return Err(Fault::Unavailable(error.into()));
        };
        if matches!(answer, Err(Fault::Exhausted(_))) {
            self.is_exhausted.store(true, Ordering::Relaxed);
        }
        if matches!(answer, Err(Fault::Connection(_))) {
            self.n_broken.fetch_add(1, Ordering::Relaxed);
            // A restart or a failover breaks all connections.
            self.connections.retain(|_, _| false);
        } else if !matches!(answer, Ok(Rows { is_cut: true, .. })) {
            borrowed.give_back();
        }
        answer.map(|rows| rows.read)
    }
}

/// Ends statements whose callers have gone: the tasks that do it, and how many may at a time.
#[derive(Clone)]
pub(super) struct Cancels {
    tasks: TaskTracker,
    requests: Arc<Semaphore>,
}

impl Cancels {
    pub(super) fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            requests: Arc::new(Semaphore::new(CANCELS_MAX)),
        }
    }

    /// Asks the server to cancel what runs on a connection; whether it was asked.
    async fn cancel(&self, client: &Client) -> bool {
        let cancel = async {
            let _permit = self.requests.acquire().await;
            client.cancel_token().cancel_query(open::tls()).await
        };
        match timeout(CANCEL_TIMEOUT, cancel).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                debug!(error = %error, "an abandoned statement could not be cancelled");
                false
            }
            Err(_) => false,
        }
    }

    /// Waits for the end of an abandoned statement; whether the connection is as good as new.
    async fn settle(&self, client: &Client) -> bool {
        // Answered after the statement.
        let mut next = pin!(client.batch_execute(""));
        if let Ok(answer) = timeout(END_TIMEOUT, &mut next).await {
            return answer.is_ok();
        }
        if !self.cancel(client).await || !is_end(timeout(CANCEL_TIMEOUT, next).await) {
            return false;
        }
        // A request that came too late for the statement ends this one instead of a later one.
        let late = client.batch_execute("SELECT pg_sleep(0.05)");
        is_end(timeout(CANCEL_TIMEOUT, late).await)
    }
}

/// Whether a statement was answered or cancelled.
fn is_end(answer: Result<Result<(), tokio_postgres::Error>, Elapsed>) -> bool {
    match answer {
        Ok(Ok(())) => true,
        Ok(Err(error)) => error.code() == Some(&SqlState::QUERY_CANCELED),
        Err(_) => false,
    }
}

/// A connection with a statement on it. If it is dropped before it is given back, its statement
/// is cancelled, and the connection goes back to the pool when the statement has ended, or is
/// closed: no other caller gets it with a statement under way.
struct Borrowed<'a> {
    client: Option<Object>,
    cancels: &'a Cancels,
    /// Whether the server did not answer in time.
    is_silent: bool,
}

/// The rows of a statement.
#[derive(Default)]
struct Rows {
    read: Vec<Row>,
    /// Whether more may follow.
    is_cut: bool,
}

impl Borrowed<'_> {
    async fn query(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        bytes_max: usize,
    ) -> Result<Rows, Fault> {
        let Some(client) = &self.client else {
            return Err(Fault::Defect("the connection was given back".into()));
        };
        let statement = client.prepare_cached(sql).await?;
        let params = params.iter().copied();
        let mut answer = pin!(client.query_raw(&statement, params).await?);
        let (mut rows, mut n_bytes) = (Rows::default(), 0);
        while !rows.is_cut
            && let Some(row) = answer.try_next().await?
        {
            n_bytes += row.raw_size_bytes();
            rows.is_cut = n_bytes > bytes_max;
            rows.read.push(row);
        }
        Ok(rows)
    }

    fn give_back(&mut self) {
        self.client = None;
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else {
            return;
        };
        // Without a runtime the process is about to end, and its connections with it.
        let Some(runtime) = Handle::try_current().ok().filter(|_| !client.is_closed()) else {
            drop(Object::take(client));
            return;
        };
        let cancels = self.cancels.clone();
        if self.is_silent {
            // Its place is free at once.
            let client = Object::take(client);
            let cancel = async move { cancels.cancel(&client).await };
            self.cancels.tasks.spawn_on(cancel, &runtime);
        } else {
            let settle = async move {
                if !cancels.settle(&client).await {
                    drop(Object::take(client));
                }
            };
            self.cancels.tasks.spawn_on(settle, &runtime);
        }
    }
}
