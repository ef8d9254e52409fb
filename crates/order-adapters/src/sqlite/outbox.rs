//! Events that wait to be published: kept by triggers, which are there only if somebody
//! wants the events.

use std::time::Duration;

use async_trait::async_trait;
use order_core::{Deadline, Error, EventOutbox, OrderEvent, OrderStatus, OutboxEntry};
use rusqlite::{Connection, named_params};
use uuid::Uuid;

use super::{
    SqliteStore,
    rows::{
        later, read_cause, read_id, read_status, read_time, read_trace_parent, read_user_id,
        readable, to_limit,
    },
};

const ENABLE: &str = "\
CREATE TRIGGER IF NOT EXISTS keep_created_orders AFTER INSERT ON orders BEGIN
  INSERT INTO event_outbox (order_id, version) VALUES (new.id, 1);
END;
CREATE TRIGGER IF NOT EXISTS keep_order_events AFTER INSERT ON order_events BEGIN
  INSERT INTO event_outbox (order_id, version) VALUES (new.order_id, new.version);
END;";

const DISABLE: &str = "\
DROP TRIGGER IF EXISTS keep_created_orders;
DROP TRIGGER IF EXISTS keep_order_events;
DELETE FROM event_outbox;";

const ACQUIRE: &str = "\
INSERT INTO event_relay (relay, lease_end) VALUES (:relay, :lease_end)
ON CONFLICT (is_only) DO UPDATE SET relay = :relay, lease_end = :lease_end
WHERE relay = :relay OR lease_end <= :now";

fn acquire(
    connection: &Connection,
    now: i64,
    relay: Uuid,
    lease: Duration,
) -> rusqlite::Result<bool> {
    let n_written = connection.prepare_cached(ACQUIRE)?.execute(named_params! {
        ":relay": relay.into_bytes(),
        ":lease_end": later(now, lease),
        ":now": now,
    })?;
    Ok(n_written > 0)
}

/// Version 1 comes from the order itself, the later ones from the log. What is gone is NULL.
const READ: &str = "\
SELECT kept.order_id, position, user_id, kept.version,
       CASE kept.version WHEN 1 THEN :pending ELSE event.status END,
       CASE kept.version WHEN 1 THEN created_at ELSE at END, cause_code, cause_message,
       trace_parent
FROM event_outbox AS kept
LEFT JOIN orders ON id = kept.order_id
LEFT JOIN order_events AS event
  ON event.order_id = kept.order_id AND event.version = kept.version
ORDER BY position LIMIT :limit";

fn read(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<OutboxEntry>> {
    connection
        .prepare_cached(READ)?
        .query_map(
            named_params! {
                ":pending": OrderStatus::Pending.code(),
                ":limit": to_limit(limit),
            },
            |row| {
                let event = || {
                    Ok(OrderEvent {
                        order_id: read_id(row, 0)?,
                        user_id: read_user_id(row, 2)?,
                        version: row.get(3)?,
                        status: read_status(row, 4)?,
                        at: read_time(row, 5)?,
                        cause: read_cause(row, 6)?,
                        trace_parent: read_trace_parent(row, 8),
                    })
                };
                Ok(OutboxEntry {
                    position: row.get(1)?,
                    event: readable(row, event()),
                })
            },
        )?
        .collect()
}

fn remove(connection: &Connection, positions: &[i64]) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("DELETE FROM event_outbox WHERE position = :position")?;
    for position in positions {
        statement.execute(named_params! { ":position": position })?;
    }
    Ok(())
}

#[async_trait]
impl EventOutbox for SqliteStore {
    async fn enable(&self) -> Result<(), Error> {
        self.write(|connection, _| connection.execute_batch(ENABLE))
            .await
    }

    async fn disable(&self) -> Result<(), Error> {
        self.write(|connection, _| connection.execute_batch(DISABLE))
            .await
    }

    async fn acquire(&self, relay: Uuid, lease: Duration) -> Result<bool, Error> {
        self.write(move |connection, now| acquire(connection, now, relay, lease))
            .await
    }

    async fn release(&self, relay: Uuid) -> Result<(), Error> {
        self.write(move |connection, _| {
            connection
                .prepare_cached("DELETE FROM event_relay WHERE relay = :relay")?
                .execute(named_params! { ":relay": relay.into_bytes() })
                .map(drop)
        })
        .await
    }

    async fn read(&self, limit: usize) -> Result<Vec<OutboxEntry>, Error> {
        self.readers
            .run(Deadline::NONE, move |connection| read(connection, limit))
            .await
    }

    async fn remove(&self, positions: &[i64]) -> Result<(), Error> {
        let positions = positions.to_vec();
        self.write(move |connection, _| remove(connection, &positions))
            .await
    }
}
