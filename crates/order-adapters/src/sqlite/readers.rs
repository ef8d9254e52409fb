//! A few connections that only read. Each reads a snapshot of what was committed when it
//! began, and none waits for the writer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use order_core::{Clock, Deadline, Error};
use rusqlite::{Connection, InterruptHandle};
use tokio::{sync::Semaphore, time::Instant};

use super::rows::store_error;
use crate::{MeasuredPool, PoolStats, PoolUsage};

/// Connections that are free; there are as many permits as connections in it.
struct Pool {
    idle: Mutex<Vec<Connection>>,
    free: Arc<Semaphore>,
}

impl Pool {
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop()
    }

    fn put_back(&self, connection: Connection) {
        if !self.free.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(connection);
        }
    }
}

/// The right to interrupt a query: held as long as its connection has not gone back, so an
/// interrupt never hits the next reader.
#[derive(Clone)]
struct Interrupt(Arc<Mutex<Option<InterruptHandle>>>);

impl Interrupt {
    fn new(connection: &Connection) -> Self {
        Self(Arc::new(Mutex::new(Some(
            connection.get_interrupt_handle(),
        ))))
    }

    /// Ends the right.
    fn disarm(&self) {
        let mut handle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *handle = None;
    }

    fn is_armed(&self) -> bool {
        let handle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        handle.is_some()
    }

    fn fire(&self) {
        let mut handle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handle.take() {
            handle.interrupt();
        }
    }
}

/// Interrupts the query when the future that waits for it is dropped.
struct InterruptOnDrop(Interrupt);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        self.0.fire();
    }
}

/// The reading connections.
pub(super) struct Readers {
    pool: Arc<Pool>,
    n_connections: usize,
    stats: PoolStats,
    clock: Arc<dyn Clock>,
}

impl Readers {
    pub(super) fn new(connections: Vec<Connection>, clock: Arc<dyn Clock>) -> Self {
        let n_connections = connections.len();
        let free = Arc::new(Semaphore::new(n_connections));
        let pool = Pool {
            idle: Mutex::new(connections),
            free,
        };
        Self {
            pool: Arc::new(pool),
            n_connections,
            stats: PoolStats::default(),
            clock,
        }
    }

    /// Runs `query` on a free connection, on a thread that may block.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when the time runs out, waiting or reading.
    ///
    /// # Cancel safety
    /// Dropping the future interrupts the query; its connection goes back when the query
    /// has ended.
    pub(super) async fn run<T, F>(&self, deadline: Deadline, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let Some(remaining) = deadline.remaining(self.clock.instant()) else {
            return self.run_unlimited(query).await;
        };
        if remaining.is_zero() {
            return Err(Error::DeadlineExceeded);
        }
        tokio::time::timeout(remaining, self.run_unlimited(query))
            .await
            .unwrap_or(Err(Error::DeadlineExceeded))
    }

    async fn run_unlimited<T, F>(&self, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let asked_at = Instant::now();
        let permit = Arc::clone(&self.pool.free)
            .acquire_owned()
            .await
            .map_err(|_| Error::shutting_down())?;
        let begun_at = Instant::now();
        self.stats.waits.observe(begun_at - asked_at);
        let connection = self.pool.take().ok_or_else(Error::shutting_down)?;
        let interrupt = Interrupt::new(&connection);
        let (pool, armed) = (Arc::clone(&self.pool), interrupt.clone());
        let guard = InterruptOnDrop(interrupt);
        let reading = tokio::task::spawn_blocking(move || {
            // A panic must not take the connection with it, or the pool would shrink.
            let result = catch_unwind(AssertUnwindSafe(|| {
                if armed.is_armed() {
                    query(&connection).map_err(store_error)
                } else {
                    Err(Error::DeadlineExceeded)
                }
            }))
            .unwrap_or_else(|_| Err(Error::internal("a query panicked")));
            armed.disarm();
            pool.put_back(connection);
            drop(permit);
            result
        });
        let result = reading
            .await
            .unwrap_or_else(|error| Err(Error::internal(error)));
        drop(guard);
        self.stats.operations.observe(begun_at.elapsed());
        if result.is_err() {
            self.stats.errors.inc();
        }
        result
    }

    /// The pool, for the metrics.
    pub(super) fn measured(&self) -> MeasuredPool {
        let (pool, max) = (Arc::clone(&self.pool), self.n_connections);
        let usage = move || {
            let idle = pool.free.available_permits();
            PoolUsage {
                idle,
                used: max.saturating_sub(idle),
                max,
            }
        };
        MeasuredPool {
            name: "readers",
            stats: self.stats.clone(),
            usage: Box::new(usage),
        }
    }

    /// Refuses new queries and closes the connections that are free; the others close when
    /// their queries end.
    pub(super) fn close(&self) {
        self.pool.free.close();
        while self.pool.take().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use order_testkit::clock::SimClock;

    use super::*;

    /// Counts for ever.
    const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i FROM n) \
                           SELECT count(*) FROM n";

    fn readers() -> (Readers, Arc<SimClock>) {
        let clock = Arc::new(SimClock::new());
        let connection = Connection::open_in_memory().expect("opens");
        let readers = Readers::new(vec![connection], Arc::clone(&clock) as _);
        (readers, clock)
    }

    async fn count(readers: &Readers, sql: &'static str, deadline: Deadline) -> Result<i64, Error> {
        let query = |connection: &Connection| connection.query_row(sql, [], |row| row.get(0));
        readers.run(deadline, query).await
    }

    #[tokio::test]
    async fn query_past_its_deadline_is_interrupted_and_its_connection_used_again() {
        let (readers, clock) = readers();
        for _ in 0..3 {
            let deadline = Deadline::at(clock.instant() + Duration::from_millis(20));
            let late = count(&readers, ENDLESS, deadline).await;
            assert!(matches!(late, Err(Error::DeadlineExceeded)), "{late:?}");
        }
        // There is one connection, so this waits for the interrupted query to end.
        assert_eq!(
            count(&readers, "SELECT 7", Deadline::NONE).await.ok(),
            Some(7)
        );
    }

    #[tokio::test]
    async fn expired_deadline_is_refused() {
        let (readers, clock) = readers();
        let refused = count(&readers, "SELECT 7", Deadline::at(clock.instant())).await;
        assert!(matches!(refused, Err(Error::DeadlineExceeded)));
    }

    #[tokio::test]
    async fn panic_in_a_query_keeps_the_connection() {
        let (readers, _) = readers();
        let panicking = |_: &Connection| -> rusqlite::Result<()> { panic!("at the query") };
        let failed = readers.run(Deadline::NONE, panicking).await;
        assert!(matches!(failed, Err(Error::Internal { .. })));
        assert_eq!(
            count(&readers, "SELECT 7", Deadline::NONE).await.ok(),
            Some(7)
        );
    }

    #[tokio::test]
    async fn closed_readers_refuse() {
        let (readers, _) = readers();
        readers.close();
        let refused = count(&readers, "SELECT 7", Deadline::NONE).await;
        assert!(matches!(refused, Err(Error::ShuttingDown { .. })));
    }
}
