//! The backlog in the database: jobs, events and dead letters.

use std::time::Duration;

use order_core::{Backlog, DeadLetterGroup};
use rusqlite::{Connection, named_params};

use super::rows::{BURIED, read_id};

const JOBS: &str = "\
SELECT
    count(*) FILTER (WHERE due_at <= :now),
    count(*) FILTER (WHERE due_at > :now AND due_at < :buried AND NOT is_held),
    count(*) FILTER (WHERE due_at > :now AND due_at < :buried AND is_held),
    count(*) FILTER (WHERE due_at = :buried),
    (SELECT :now - due_at FROM jobs WHERE due_at <= :now ORDER BY due_at LIMIT 1)
FROM (SELECT due_at, is_held FROM jobs LIMIT :limit)";

const EVENTS: &str = "\
SELECT
    (SELECT count(*) FROM (SELECT 1 FROM event_outbox LIMIT :limit)),
    (SELECT :now - coalesce(
            (SELECT at FROM order_events AS e WHERE e.order_id = x.order_id AND e.version = x.version),
            (SELECT created_at FROM orders WHERE id = x.order_id))
        FROM event_outbox AS x ORDER BY position LIMIT 1)";

const DEAD_LETTERS: &str = "\
SELECT o.failure_code, count(*) AS n, max(o.id)
FROM (SELECT order_id FROM jobs WHERE due_at = :buried ORDER BY order_id DESC LIMIT :limit) AS dead
JOIN orders AS o ON o.id = dead.order_id
WHERE o.failure_code IS NOT NULL
GROUP BY o.failure_code ORDER BY n DESC, o.failure_code LIMIT :groups";

/// Counts dead letters by the codes of their causes.
pub(super) fn dead_letters(connection: &Connection) -> rusqlite::Result<Vec<DeadLetterGroup>> {
    let params = named_params! {
        ":buried": BURIED,
        ":limit": DeadLetterGroup::COUNT_MAX,
        ":groups": DeadLetterGroup::LEN_MAX,
    };
    let mut statement = connection.prepare_cached(DEAD_LETTERS)?;
    let groups = statement.query_map(params, |row| {
        Ok(DeadLetterGroup {
            code: row.get(0)?,
            count: row.get(1)?,
            example: read_id(row, 2)?,
        })
    })?;
    groups.collect()
}

/// Counts jobs and events at `now`, in microseconds since 1970.
pub(super) fn read(connection: &Connection, now: i64) -> rusqlite::Result<Backlog> {
    let limit = Backlog::COUNT_MAX;
    // Rows of the last moment may come from a clock that was ahead.
    let age = |micros: Option<i64>| {
        micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
    };
    let params = named_params! { ":now": now, ":buried": BURIED, ":limit": limit };
    let jobs = connection.prepare_cached(JOBS)?.query_row(params, |row| {
        Ok(Backlog {
            due: row.get(0)?,
            scheduled: row.get(1)?,
            leased: row.get(2)?,
            dead: row.get(3)?,
            oldest_due: age(row.get(4)?),
            ..Backlog::default()
        })
    })?;
    let params = named_params! { ":now": now, ":limit": limit };
    connection.prepare_cached(EVENTS)?.query_row(params, |row| {
        Ok(Backlog {
            events: row.get(0)?,
            oldest_event: age(row.get(1)?),
            ..jobs
        })
    })
}
