//! Events that wait to be published: kept by triggers, which are there only if somebody
//! wants the events.

use std::time::Duration;

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

fn read_entry(row: &Row) -> Result<OutboxEntry, Fault> {
    Ok(OutboxEntry {
        position: row.try_get(1)?,
        event: row::readable(std::slice::from_ref(row), read_event).pop(),
    })
}

fn read_event(row: &Row) -> Result<OrderEvent, Fault> {
    row::event(row, row::status(row, 5)?, row::cause(row, 6)?)
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
        let rows = self.maintenance.query(sql, &[&limit]).await?;
        let entries = rows.iter().map(read_entry);
        Ok(entries.collect::<Result<_, _>>()?)
    }

    async fn remove(&self, positions: &[i64]) -> Result<(), Error> {
        if positions.is_empty() {
            return Ok(());
        }
        let sql = "DELETE FROM event_outbox WHERE position = ANY ($1)";
        self.maintenance.query(sql, &[&positions]).await?;
        Ok(())
    }
}
