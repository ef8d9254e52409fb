//! The time of transactions, and the times in the tables after the clock was set back.
//!
//! The tables hold times of day, so that all processes on a file agree on them. A clock that is
//! set back by an hour would make every lease and every retry an hour longer, and hide due jobs
//! for an hour. The first transaction that notices therefore moves these times back as well.

use std::{cell::Cell, sync::Arc, time::Instant};

use order_core::Clock;
use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::rows::{BURIED, to_micros};

/// Smaller steps, as from a clock that is slowed down, are left alone. In microseconds.
const STEP_MIN: i64 = 1_000_000;

/// One reading of both clocks.
#[derive(Clone, Copy)]
pub(super) struct Time {
    /// Microseconds since 1970.
    pub(super) now: i64,
    at: Instant,
    /// How far the clock was set back since the last committed transaction, in microseconds.
    step: i64,
}

/// The clock of the transactions of one process.
pub(super) struct TxClock {
    clock: Arc<dyn Clock>,
    /// The time of the last transaction that was committed.
    last: Cell<(i64, Instant)>,
}

/// Ids rise with the time of their creation, so this is about the newest order.
const NEWEST: &str = "SELECT created_at FROM orders ORDER BY id DESC LIMIT 1";

const MOVE_JOBS: &str = "\
UPDATE jobs SET due_at = max(due_at - :step, :now) WHERE due_at > :now AND due_at < :buried";

const MOVE_RELAY: &str = "UPDATE event_relay SET lease_end = lease_end - :step";

const MOVE_PROCESSES: &str = "UPDATE processes SET seen_at = seen_at - :step";

const MOVE_TICKETS: &str = "UPDATE stream_tickets SET expires_at = expires_at - :step";

impl TxClock {
    /// A clock for the database of `connection`. What was set back while no process ran is
    /// seen by the newest order, as far as it can be.
    pub(super) fn new(clock: Arc<dyn Clock>, connection: &Connection) -> rusqlite::Result<Self> {
        let newest = connection.query_row(NEWEST, [], |row| row.get(0));
        let (now, at) = (to_micros(clock.now()), clock.instant());
        let last = newest.optional()?.unwrap_or(now).max(now);
        Ok(Self {
            clock,
            last: Cell::new((last, at)),
        })
    }

    /// Reads the time for a transaction.
    pub(super) fn read(&self) -> Time {
        let (now, at) = (to_micros(self.clock.now()), self.clock.instant());
        let (last, last_at) = self.last.get();
        let elapsed = at.saturating_duration_since(last_at).as_micros();
        let expected = last.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX));
        Time {
            now,
            at,
            step: expected.saturating_sub(now),
        }
    }

    /// Corrects the tables if the clock was set back; part of the transaction of `time`.
    pub(super) fn correct(connection: &Connection, time: Time) -> rusqlite::Result<()> {
        let Time { now, step, .. } = time;
        if step < STEP_MIN {
            return Ok(());
        }
        let n_jobs = connection.execute(
            MOVE_JOBS,
            named_params! { ":step": step, ":now": now, ":buried": BURIED },
        )?;
        connection.execute(MOVE_RELAY, named_params! { ":step": step })?;
        connection.execute(MOVE_PROCESSES, named_params! { ":step": step })?;
        connection.execute(MOVE_TICKETS, named_params! { ":step": step })?;
        tracing::warn!(
            step_seconds = step / 1_000_000,
            n_jobs,
            "the clock was set back; leases and retries were moved back with it"
        );
        Ok(())
    }

    /// Remembers the time of a transaction that was committed.
    pub(super) fn committed(&self, time: Time) {
        self.last.set((time.now, time.at));
    }
}
