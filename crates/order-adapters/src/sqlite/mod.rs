//! Orders and jobs in one SQLite file: the embedded database of the all-in-one program.
//!
//! One thread writes and commits in groups; a few connections read beside it. The time of
//! the database is the injected [`Clock`], read once per transaction. A clock that is set back
//! makes no lease longer (`time.rs`).
//!
//! Several processes may use one file on one machine: SQLite lets them write one after the
//! other, leases and fencing live in the file, and the schema is changed under a lock. They
//! must share a clock, which processes of one machine do. A network file system is not
//! supported: the write-ahead log needs shared memory.

mod admin;
mod attempts;
mod backlog;
mod jobs;
mod keys;
mod list;
mod open;
mod orders;
mod outbox;
mod readers;
mod rows;
mod secrets;
mod time;
mod writer;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    Backlog, CallContext, Change, Clock, Committed, Completed, Completion, Created,
    DeadLetterGroup, Deadline, Error, Extended, IdempotencyKey, Identity, Job, JobQueue, JobToken,
    KeyOperation, NewOrder, NewTicket, Order, OrderEvent, OrderId, OrderQuery, OrderReads,
    OrderState, OrderStore, PageTokenKey, ProcessId, Start, Started, StoredKey, TicketGrant,
    UserId, Version,
};
use rusqlite::Connection;
use uuid::Uuid;

use self::{jobs::Lease, readers::Readers, rows::to_micros, time::TxClock, writer::Writer};
pub use self::{open::OpenError, writer::SqliteStats};
use crate::{MeasuredPool, PoolUsage};

/// How many queries run at the same time. They come from memory most of the time, so more
/// than a few only wait for the processor.
const READERS: usize = 4;

/// An [`OrderStore`] with its [`JobQueue`], in a SQLite file. Beside `orders.db` stand
/// `orders.db-wal` and `orders.db-shm`, which belong to the data as long as the program
/// runs, and `orders.db.lock`, which is always empty.
pub struct SqliteStore {
    /// Dropped first: the connection that closes last tidies up, and a reader cannot.
    readers: Readers,
    writer: Arc<Writer>,
    clock: Arc<dyn Clock>,
    process_id: ProcessId,
    process_name: Arc<str>,
}

impl SqliteStore {
    /// Opens the database file at `path`, which is created if it is missing, and migrates
    /// its schema. Leases run by `clock`. Claims and attempts are recorded as those of `identity`.
    /// Blocks for some milliseconds, and longer while another process migrates.
    pub fn open(
        path: &Path,
        clock: Arc<dyn Clock>,
        identity: &Identity,
    ) -> Result<Self, OpenError> {
        open::migrate(path)?;
        let readers = (0..READERS)
            .map(|_| open::open_reader(path))
            .collect::<Result<_, _>>()?;
        let connection = open::open_writer(path)?;
        let tx_clock = TxClock::new(Arc::clone(&clock), &connection);
        let tx_clock = tx_clock.map_err(|source| OpenError::Open {
            path: path.to_owned(),
            source,
        })?;
        let writer = Writer::spawn(connection, tx_clock);
        let writer = writer.map_err(|source| OpenError::Thread {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            readers: Readers::new(readers, Arc::clone(&clock)),
            writer: Arc::new(writer),
            clock,
            process_id: identity.id,
            process_name: identity.name().into(),
        })
    }

    /// A lease of this process.
    fn lease(&self, length: Duration) -> Lease {
        Lease {
            length,
            holder: self.process_id,
        }
    }

    /// Creates the database file if it is missing and migrates its schema, as
    /// [`SqliteStore::open`] does.
    pub fn migrate(path: &Path) -> Result<(), OpenError> {
        open::migrate(path)
    }

    /// Refuses new calls, waits for the writes that are queued, and moves the write-ahead
    /// log into the database file. Dropping the store does the same, but blocks.
    pub async fn close(&self) {
        self.readers.close();
        let writer = Arc::clone(&self.writer);
        if let Err(error) = tokio::task::spawn_blocking(move || writer.close()).await {
            tracing::error!(%error, "closing SQLite failed");
        }
    }

    /// The connections, for the metrics.
    pub fn pools(&self) -> Vec<MeasuredPool> {
        let usage = || PoolUsage {
            idle: 0,
            used: 1,
            max: 1,
        };
        let writer = MeasuredPool {
            name: "writer",
            stats: self.stats().pool.clone(),
            usage: Box::new(usage),
        };
        vec![writer, self.readers.measured()]
    }

    /// Counters of the writing thread.
    pub fn stats(&self) -> &SqliteStats {
        self.writer.stats()
    }

    /// Writes elements, each a unit of its own, and answers them in order.
    async fn write_each<I, T>(
        &self,
        items: &[I],
        write: impl Fn(&Connection, i64, &I) -> rusqlite::Result<T> + Send + 'static,
    ) -> Vec<Result<T, Error>>
    where
        I: Clone + Send + 'static,
        T: Send + 'static,
    {
        let n_items = items.len();
        if n_items == 0 {
            return Vec::new();
        }
        let items = items.to_vec();
        let write_all = move |tx: &writer::Tx<'_>| {
            let unit = |item| tx.unit(|connection, now| write(connection, now, item));
            items.iter().map(unit).collect()
        };
        self.writer
            .run(n_items, write_all)
            .await
            .unwrap_or_else(|error| {
                std::iter::repeat_with(|| Err(error.without_source()))
                    .take(n_items)
                    .collect()
            })
    }

    /// Writes all or nothing.
    async fn write<T, F>(&self, write: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, i64) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.run(1, move |tx| tx.unit(write)).await.flatten()
    }
}

#[async_trait]
impl OrderReads for SqliteStore {
    async fn find(&self, ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error> {
        self.readers
            .run(ctx.deadline, move |connection| {
                orders::find(connection, order_id)
            })
            .await
    }

    async fn events(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error> {
        self.readers
            .run(ctx.deadline, move |connection| {
                orders::events(connection, order_id, after, limit)
            })
            .await
    }

    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error> {
        let order_ids = order_ids.to_vec();
        self.readers
            .run(Deadline::NONE, move |connection| {
                orders::states(connection, &order_ids)
            })
            .await
    }

    async fn recent_states(
        &self,
        user_ids: &[UserId],
        limit_per_user: usize,
    ) -> Result<Vec<OrderState>, Error> {
        let user_ids = user_ids.to_vec();
        self.readers
            .run(Deadline::NONE, move |connection| {
                list::recent_states(connection, &user_ids, limit_per_user)
            })
            .await
    }
}

#[async_trait]
impl OrderStore for SqliteStore {
    async fn create(&self, orders: &[NewOrder]) -> Vec<Result<Created, Error>> {
        let holder = self.process_id;
        let create = move |connection: &Connection, now, new: &NewOrder| {
            orders::create(connection, now, new, holder)
        };
        let answers = self.write_each(orders, create).await;
        answers.into_iter().map(Result::flatten).collect()
    }

    async fn commit(&self, changes: &[Change]) -> Vec<Result<Committed, Error>> {
        self.write_each(changes, orders::commit).await
    }

    async fn has_change(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        change_id: Uuid,
    ) -> Result<bool, Error> {
        self.readers
            .run(ctx.deadline, move |connection| {
                orders::has_change(connection, order_id, change_id)
            })
            .await
    }

    async fn find_key(
        &self,
        ctx: &CallContext,
        owner: &UserId,
        operation: KeyOperation,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredKey>, Error> {
        let (owner, key) = (owner.clone(), key.clone());
        self.readers
            .run(ctx.deadline, move |connection| {
                keys::find(connection, &owner, operation, &key)
            })
            .await
    }

    async fn list(&self, ctx: &CallContext, query: &OrderQuery) -> Result<Vec<Order>, Error> {
        let query = query.clone();
        self.readers
            .run(ctx.deadline, move |connection| {
                list::list(connection, &query)
            })
            .await
    }

    async fn put_ticket(&self, ticket: &NewTicket) -> Result<Timestamp, Error> {
        let ticket = ticket.clone();
        self.write(move |connection, now| secrets::put_ticket(connection, now, &ticket))
            .await
    }

    async fn take_ticket(&self, digest: &[u8; 32]) -> Result<Option<TicketGrant>, Error> {
        let digest = *digest;
        self.write(move |connection, now| secrets::take_ticket(connection, now, &digest))
            .await
    }

    async fn page_token_key(&self) -> Result<PageTokenKey, Error> {
        let random = rand::random();
        self.write(move |connection, _| secrets::page_token_key(connection, random))
            .await
    }

    async fn prune(&self, limit: usize) -> Result<usize, Error> {
        self.write(move |connection, now| {
            let n_keys = keys::prune(connection, now, limit)?;
            Ok(n_keys + secrets::prune_tickets(connection, now, limit)?)
        })
        .await
    }

    async fn dead_letters(&self, ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        self.readers.run(ctx.deadline, backlog::dead_letters).await
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        let now = to_micros(self.clock.now());
        self.readers
            .run(Deadline::NONE, move |connection| {
                backlog::read(connection, now)
            })
            .await
    }

    /// A commit is on the disk before a reader can see it.
    async fn confirm(&self, _ctx: &CallContext) -> Result<(), Error> {
        Ok(())
    }

    async fn check(&self, ctx: &CallContext) -> Result<(), Error> {
        let found = self
            .readers
            .run(ctx.deadline, open::read_schema_version)
            .await?;
        let needed = open::schema_version();
        // A later schema serves this program too: migrations only add what it does not use.
        if found < needed {
            return Err(Error::store_unavailable(format!(
                "the schema has version {found}, but {needed} is needed"
            )));
        }
        self.writer.check().await
    }
}

#[async_trait]
impl JobQueue for SqliteStore {
    async fn claim_overdue(
        &self,
        limit: usize,
        lease: Duration,
        overdue: Duration,
    ) -> Result<Vec<Job>, Error> {
        let lease = self.lease(lease);
        self.write(move |connection, now| {
            let due_by = rows::earlier(now, overdue);
            jobs::claim(connection, now, limit, lease, due_by)
        })
        .await
    }

    async fn claim_hinted(
        &self,
        order_ids: &[OrderId],
        lease: Duration,
    ) -> Result<Vec<Job>, Error> {
        let (order_ids, lease) = (order_ids.to_vec(), self.lease(lease));
        self.write(move |connection, now| jobs::claim_hinted(connection, now, &order_ids, lease))
            .await
    }

    async fn claim_abandoned(&self, lease: Duration) -> Result<Option<Job>, Error> {
        let lease = self.lease(lease);
        self.write(move |connection, now| jobs::claim_abandoned(connection, now, lease))
            .await
    }

    async fn extend(&self, tokens: &[JobToken], lease: Duration) -> Result<Vec<Extended>, Error> {
        let tokens = tokens.to_vec();
        self.write(move |connection, now| jobs::extend(connection, now, &tokens, lease))
            .await
    }

    async fn start(&self, starts: &[Start]) -> Vec<Result<Started, Error>> {
        self.write_each(starts, attempts::start).await
    }

    async fn complete(&self, completions: &[Completion]) -> Vec<Result<Completed, Error>> {
        let worker = Arc::clone(&self.process_name);
        let complete = move |connection: &Connection, now, completion: &Completion| {
            attempts::complete(connection, now, completion, &worker)
        };
        self.write_each(completions, complete).await
    }

    async fn release(&self, tokens: &[JobToken]) -> Result<usize, Error> {
        let tokens = tokens.to_vec();
        self.write(move |connection, now| jobs::release(connection, now, &tokens))
            .await
    }
}
