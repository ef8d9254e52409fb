//! Events that wait to be published: kept by triggers, which are there only if somebody
//! wants the events.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use order_core::{Error, EventOutbox, OrderEvent, OutboxEntry};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore,
    errors::Fault,
    row::{self, micros},
    table_lock::TRY_TIMEOUT_SQL,
};

/// The position after which reads begin.
///
/// A published entry leaves a dead one at the front of the index, as in the index of due jobs. So
/// reads begin after a position at or below which no further entry can be committed. A higher
/// position that was read does not prove that: positions are drawn before they are committed, and
/// the versions of an order must be read in order.
#[derive(Default)]
pub(super) struct Start(Mutex<State>);

#[derive(Default)]
struct State {
    /// No entry at or before it is there, nor can one come.
    after: i64,
    /// The highest position that was read.
    highest: i64,
    /// The highest position that was read when the transaction with this id began.
    fence: Option<(i64, i64)>,
}

impl Start {
    fn after(&self) -> i64 {
        self.lock().after
    }

    /// Takes note of the positions of a read that saw what all transactions with an id below
    /// `xmin` have committed.
    fn read(&self, xmin: i64, entries: &[OutboxEntry]) {
        let mut state = self.lock();
        if let Some((end, _)) = state.fence.take_if(|(_, id)| *id <= xmin) {
            let first = entries.first().map(|entry| entry.position - 1);
            state.after = first.map_or(end, |first| end.min(first));
        }
        if let Some(last) = entries.last() {
            state.highest = last.position;
        }
    }

    /// Notes the id of a transaction that began after the last read. All positions up to the highest
    /// of that read had been drawn by then, by transactions with lower ids.
    fn begun(&self, id: i64) {
        let mut state = self.lock();
        let highest = state.highest;
        state.fence.get_or_insert((highest, id));
    }

    /// Begins at the beginning: after a failure the server may be another one.
    fn forget(&self) {
        *self.lock() = State::default();
    }

    /// No code that can panic runs under the lock, so the state is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trigger that keeps what is inserted into a table.
struct Trigger {
    table: &'static str,
    function: &'static str,
}

/// In the order in which they are made, each by a statement of its own, so that no two locks
/// are held at once. Later versions come first, so that of an order that moves in between
/// the end of its history is kept.
const TRIGGERS: [Trigger; 2] = [
    Trigger {
        table: "order_events",
        function: "keep_order_events",
    },
    Trigger {
        table: "orders",
        function: "keep_created_orders",
    },
];

impl Trigger {
    fn create(&self) -> String {
        let Self { table, function } = self;
        format!(
            "CREATE OR REPLACE TRIGGER {function} AFTER INSERT ON {table} \
            REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        )
    }

    fn drop(&self) -> String {
        let Self { table, function } = self;
        format!("DROP TRIGGER IF EXISTS {function} ON {table}")
    }
}

impl PostgresStore {
    /// Whether a trigger is there, which needs no lock on its table.
    async fn has_trigger(&self, trigger: &Trigger) -> Result<bool, Error> {
        let sql = "SELECT FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = $2";
        let params = [&trigger.table as _, &trigger.function as _];
        let rows = self.maintenance.query(sql, &params).await?;
        Ok(!rows.is_empty())
    }

    /// Runs a statement that locks its table. If the table is in use it fails soon, and the
    /// next try is the caller's: tries in a row would hold up the writers of the table.
    async fn lock_briefly(&self, statement: &str) -> Result<(), Error> {
        let statement = format!(
            "DO $do$ BEGIN PERFORM set_config('lock_timeout', {TRY_TIMEOUT_SQL}, true); \
            {statement}; END $do$"
        );
        match self.maintenance.query_at_once(&statement, &[]).await {
            Ok(_) => Ok(()),
            Err(Fault::Locked(source)) => Err(Error::store_unavailable(source)),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// An entry; `None` for the row of an outbox without one.
fn read_entry(row: &Row) -> Result<Option<OutboxEntry>, Fault> {
    let position: Option<i64> = row.try_get(1)?;
    Ok(position.map(|position| OutboxEntry {
        position,
        event: row::readable(std::slice::from_ref(row), read_event).pop(),
    }))
}

fn read_event(row: &Row) -> Result<OrderEvent, Fault> {
    let event = row::event(row, row::status(row, 5)?, row::cause(row, 6)?)?;
    Ok(OrderEvent {
        trace_parent: row::trace_parent(row, 8)?,
        ..event
    })
}

#[async_trait]
impl EventOutbox for PostgresStore {
    async fn enable(&self) -> Result<(), Error> {
        for trigger in &TRIGGERS {
            if !self.has_trigger(trigger).await? {
                self.lock_briefly(&trigger.create()).await?;
            }
        }
        Ok(())
    }

    async fn disable(&self) -> Result<(), Error> {
        for trigger in &TRIGGERS {
            if self.has_trigger(trigger).await? {
                self.lock_briefly(&trigger.drop()).await?;
            }
        }
        // Nobody writes here any more, and positions go on where they were.
        self.lock_briefly("TRUNCATE event_outbox").await
    }

    async fn acquire(&self, relay: Uuid, lease: Duration) -> Result<bool, Error> {
        let sql = include_str!("sql/acquire_relay.sql");
        let rows = self
            .maintenance
            .query(sql, &[&relay, &micros(lease)])
            .await?;
        Ok(!rows.is_empty())
    }

    async fn release(&self, relay: Uuid) -> Result<(), Error> {
        let sql = "DELETE FROM event_relay WHERE is_only AND relay = $1";
        self.maintenance.query(sql, &[&relay]).await?;
        Ok(())
    }

    async fn read(&self, limit: usize) -> Result<Vec<OutboxEntry>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = include_str!("sql/read_outbox.sql");
        let params = [&limit as _, &self.outbox_start.after() as _];
        let rows = self.maintenance.query(sql, &params).await;
        let rows = rows.inspect_err(|_| self.outbox_start.forget())?;
        let entries = rows.iter().filter_map(|row| read_entry(row).transpose());
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        if let Some(row) = rows.first() {
            let xmin = row.try_get(9).map_err(Fault::from)?;
            self.outbox_start.read(xmin, &entries);
        }
        Ok(entries)
    }

    async fn remove(&self, positions: &[i64]) -> Result<(), Error> {
        if positions.is_empty() {
            return Ok(());
        }
        let sql = "WITH removed AS (DELETE FROM event_outbox WHERE position = ANY ($1)) \
            SELECT pg_current_xact_id()::text::bigint";
        let rows = self.maintenance.query(sql, &[&positions]).await;
        let rows = rows.inspect_err(|_| self.outbox_start.forget())?;
        if let Some(row) = rows.first() {
            self.outbox_start
                .begun(row.try_get(0).map_err(Fault::from)?);
        }
        Ok(())
    }
}
