//! The one thread that writes: group commit below the ports.
//!
//! It takes all calls that wait, up to a limit, and runs them in one transaction with one
//! durable commit. Each element of a call is a savepoint of its own, so a bad one fails
//! alone. Nobody is answered before the commit. It knows nothing of orders.
//!
//! A full or failing disk leaves reads working. The thread therefore remembers that a write
//! failed because of the disk, and the store is not ready until a write succeeds.

use std::{
    any::Any,
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use order_core::{Error, metrics::Counter};
use rusqlite::Connection;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    rows::{is_disk_failure, store_error},
    time::TxClock,
};
use crate::PoolStats;

/// The most elements of one transaction, unless a single call has more: as many as the
/// lanes of a group commit send in one call.
const UNITS_MAX: usize = 512;

/// How many calls wait at most; one more is refused. Callers are lanes and workers, which
/// have a handful of calls open each.
const QUEUE_LEN_MAX: usize = 1024;

/// Tries the disk: writes a row and removes it, each durably, then moves the log into the
/// database file. The row has more pages than a usual transaction, because a transaction
/// that failed leaves room for some in the log. Its bytes are random because equal pages are
/// not written again.
const PROBE: &str = "\
INSERT OR REPLACE INTO secrets (name, value) VALUES ('write_probe', randomblob(262144));
DELETE FROM secrets WHERE name = 'write_probe';
PRAGMA wal_checkpoint;";

/// What the writing thread has done so far.
#[derive(Clone, Debug, Default)]
pub struct SqliteStats {
    /// Transactions that were committed.
    pub transactions: Counter,
    /// Elements of calls in those transactions, those that were refused among them.
    pub units: Counter,
    /// Counters of the writing connection.
    pub pool: PoolStats,
}

/// The open transaction, as a call sees it.
pub(super) struct Tx<'a> {
    connection: &'a Connection,
    /// The time of the whole transaction, in microseconds since 1970.
    now: i64,
    disk_failure: &'a DiskFailure,
}

/// The last failure of a write because of the disk, until a probe succeeds.
#[derive(Default)]
struct DiskFailure(RefCell<Option<Error>>);

impl DiskFailure {
    /// Translates the failure of a statement, and remembers it if the disk is the cause.
    fn translate(&self, error: rusqlite::Error) -> Error {
        let is_disk_failure = is_disk_failure(&error);
        let error = store_error(error);
        if is_disk_failure {
            *self.0.borrow_mut() = Some(error.clone());
        }
        error
    }
}

impl Tx<'_> {
    /// Runs one element, which gets the connection and the time: all of it or nothing.
    /// A panic in it counts as a failure.
    pub(super) fn unit<T>(
        &self,
        run: impl FnOnce(&Connection, i64) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        // Some failures, a full disk for one, end the whole transaction. What came after
        // would then commit by itself.
        if self.connection.is_autocommit() {
            return Err(transaction_is_gone());
        }
        self.execute("SAVEPOINT unit")?;
        let result = catch_unwind(AssertUnwindSafe(|| run(self.connection, self.now)))
            .map_err(|panic| Error::internal(panic_text(panic.as_ref())))
            .and_then(|result| result.map_err(|error| self.disk_failure.translate(error)));
        if result.is_err() && !self.connection.is_autocommit() {
            self.execute("ROLLBACK TO unit")?;
        }
        if !self.connection.is_autocommit() {
            self.execute("RELEASE unit")?;
        }
        result
    }

    fn execute(&self, sql: &str) -> Result<(), Error> {
        let run = || self.connection.prepare_cached(sql)?.execute([]);
        run()
            .map(drop)
            .map_err(|error| self.disk_failure.translate(error))
    }
}

fn transaction_is_gone() -> Error {
    Error::store_unavailable("the transaction was rolled back by another element")
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a write panicked: {}", text.unwrap_or("without a message"))
}

/// Runs a call in the transaction; what it returns is told how the commit went.
type Call = Box<dyn FnOnce(&Tx<'_>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

struct Entry {
    n_units: usize,
    /// Whether to try the disk first if the last write failed because of it.
    probes: bool,
    queued_at: Instant,
    call: Call,
}

struct Running {
    queue: mpsc::Sender<Entry>,
    thread: JoinHandle<()>,
}

/// The sending side of the writing thread.
pub(super) struct Writer {
    running: Mutex<Option<Running>>,
    stats: SqliteStats,
}

impl Writer {
    /// Gives `connection` to a new thread.
    pub(super) fn spawn(connection: Connection, clock: TxClock) -> std::io::Result<Self> {
        let (queue, receiver) = mpsc::channel(QUEUE_LEN_MAX);
        let stats = SqliteStats::default();
        let worker = Worker {
            connection,
            clock,
            receiver,
            stats: stats.clone(),
            disk_failure: DiskFailure::default(),
        };
        let thread = thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            running: Mutex::new(Some(Running { queue, thread })),
            stats,
        })
    }

    pub(super) fn stats(&self) -> &SqliteStats {
        &self.stats
    }

    /// Runs `call`, which has `n_units` elements, and returns its answer after the commit.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the answer; a call that is queued runs all the same.
    pub(super) async fn run<T, F>(&self, n_units: usize, call: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> T + Send + 'static,
    {
        self.submit(n_units, false, call).await
    }

    /// Checks that the thread answers, that it can begin a transaction, and that the disk
    /// takes writes: after a write that failed because of the disk by writing, else without.
    ///
    /// # Cancel safety
    /// As for [`Writer::run`].
    pub(super) async fn check(&self) -> Result<(), Error> {
        let disk_failure = |tx: &Tx<'_>| tx.disk_failure.0.borrow().clone();
        self.submit(0, true, disk_failure)
            .await?
            .map_or(Ok(()), Err)
    }

    async fn submit<T, F>(&self, n_units: usize, probes: bool, call: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let call: Call = Box::new(move |tx| {
            let value = call(tx);
            Box::new(move |committed| {
                // A caller that hung up gave up its answer, nothing else.
                let _ = sender.send(committed.map(|()| value));
            })
        });
        self.enqueue(Entry {
            n_units,
            probes,
            queued_at: Instant::now(),
            call,
        })?;
        receiver.await.unwrap_or_else(|_| {
            Err(Error::store_unavailable(
                "the writing thread failed before it answered",
            ))
        })
    }

    fn enqueue(&self, entry: Entry) -> Result<(), Error> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = &*running else {
            return Err(Error::shutting_down());
        };
        running.queue.try_send(entry).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::overloaded(),
            mpsc::error::TrySendError::Closed(_) => {
                Error::store_unavailable("the writing thread has ended")
            }
        })
    }

    /// Refuses new calls, runs those that wait, moves the log into the database file and
    /// ends the thread. Blocks until that is done; the second call returns at once.
    pub(super) fn close(&self) {
        let running = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.take()
        };
        if let Some(Running { queue, thread }) = running {
            drop(queue);
            if thread.join().is_err() {
                tracing::error!("the writing thread of SQLite panicked");
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's side.
struct Worker {
    connection: Connection,
    clock: TxClock,
    receiver: mpsc::Receiver<Entry>,
    stats: SqliteStats,
    disk_failure: DiskFailure,
}

impl Worker {
    fn run(mut self) {
        while let Some(first) = self.receiver.blocking_recv() {
            let wait = |entry: &Entry| self.stats.pool.waits.observe(entry.queued_at.elapsed());
            wait(&first);
            let (mut n_units, mut probes) = (first.n_units, first.probes);
            let mut calls = vec![first.call];
            while n_units < UNITS_MAX {
                let Ok(next) = self.receiver.try_recv() else {
                    break;
                };
                wait(&next);
                n_units += next.n_units;
                probes |= next.probes;
                calls.push(next.call);
            }
            // A panic outside of a unit fails the calls of this transaction. Without the
            // thread, the process would never write again.
            let run = AssertUnwindSafe(|| {
                if probes {
                    self.probe();
                }
                self.commit(calls, n_units);
            });
            if let Err(panic) = catch_unwind(run) {
                tracing::error!(error = panic_text(panic.as_ref()), "transaction failed");
                self.roll_back();
            }
        }
        self.checkpoint();
    }

    /// Finds out whether the disk takes writes again, if the last one failed because of it.
    fn probe(&self) {
        if self.disk_failure.0.borrow().is_none() {
            return;
        }
        match self.connection.execute_batch(PROBE) {
            Ok(()) => {
                self.disk_failure.0.take();
                tracing::info!("the disk takes writes again");
            }
            Err(error) => {
                let error = store_error(error);
                self.disk_failure.0.replace(Some(error));
            }
        }
    }

    /// Ends the transaction that is open, if there is one.
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // Fails only if the transaction is rolled back already.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Runs `calls` in one transaction and answers them.
    fn commit(&self, calls: Vec<Call>, n_units: usize) {
        let mut answers = Vec::with_capacity(calls.len());
        let begun_at = Instant::now();
        let committed = self.transaction(calls, &mut answers);
        self.stats.pool.operations.observe(begun_at.elapsed());
        if committed.is_ok() {
            self.stats.transactions.inc();
            self.stats.units.inc_by(n_units as u64);
        } else {
            self.stats.pool.errors.inc();
        }
        for answer in answers {
            answer(match &committed {
                Ok(()) => Ok(()),
                Err(error) => Err(error.without_source()),
            });
        }
        if let Err(error) = committed {
            // The callers get copies without the source, so the cause is logged here.
            tracing::error!(error = error.chain(), "transaction failed");
        }
    }

    fn transaction(&self, calls: Vec<Call>, answers: &mut Vec<Answer>) -> Result<(), Error> {
        let connection = &self.connection;
        // The writing lock is taken at once, so no statement within has to wait for it.
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let time = self.clock.read();
        let begun = begun.and_then(|()| TxClock::correct(connection, time));
        if begun.is_err() {
            self.roll_back();
        }
        let tx = Tx {
            connection,
            now: time.now,
            disk_failure: &self.disk_failure,
        };
        // Without a transaction every unit refuses itself, and every call is answered.
        answers.extend(calls.into_iter().map(|call| call(&tx)));
        let failed = |error| self.disk_failure.translate(error);
        begun.map_err(failed)?;
        if connection.is_autocommit() {
            return Err(transaction_is_gone());
        }
        connection.execute_batch("COMMIT").map_err(|error| {
            self.roll_back();
            failed(error)
        })?;
        self.clock.committed(time);
        Ok(())
    }

    fn checkpoint(&self) {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        if let Err(error) = self
            .connection
            .query_row(checkpoint, [], |row| row.get::<_, i64>(0))
        {
            // Nothing is lost: the next start reads the log.
            tracing::warn!(%error, "the log of SQLite was not moved into the database file");
        }
    }
}

#[cfg(test)]
mod tests;
