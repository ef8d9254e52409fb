//! The `AdminStore`: records of orders, processes and pauses.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    AdminStore, Backlog, CallContext, ClusterState, Directive, Error, Identity, OrderId,
    OrderRecord, ProcessId, ProcessReport, ProcessState,
};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, types::Type};

use super::{
    SqliteStore,
    rows::{
        BURIED, ORDER_COLUMNS, earlier, key, order_columns, process_key, read_order, read_time,
        to_micros, unreadable,
    },
};
use crate::{figures, order_record};

/// The record is one document, from one statement. JSON that comes from a subquery is marked as
/// such again, since it would be a text otherwise.
const RECORD: &str = concat!(
    "SELECT ",
    order_columns!(),
    ", json_object(
    'trace_parent', trace_parent, 'request_id', request_id, 'gateway', gateway,
    'events', json((
        SELECT json_group_array(json_object(
            'version', version, 'status', status, 'at', at,
            'code', cause_code, 'message', cause_message) ORDER BY version)
        FROM (SELECT * FROM order_events WHERE order_id = :id ORDER BY version DESC LIMIT :len_max)
    )),
    'attempts', json((
        SELECT json_group_array(json_object(
            'attempt', attempt, 'worker', worker, 'begun_at', begun_at, 'ended_at', ended_at,
            'outcome', outcome, 'error', error, 'next_at', next_at) ORDER BY attempt)
        FROM (
            SELECT * FROM (
                SELECT attempt, worker, begun_at, at AS ended_at, status AS outcome,
                    cause_message AS error, NULL AS next_at
                FROM order_events WHERE order_id = :id AND attempt IS NOT NULL
                ORDER BY version DESC LIMIT :len_max
            )
            UNION ALL
            SELECT * FROM (
                SELECT attempt, worker, begun_at, ended_at, outcome, error, next_at
                FROM order_attempts WHERE order_id = :id
                ORDER BY attempt DESC LIMIT :len_max
            )
            ORDER BY attempt DESC LIMIT :len_max
        )
    )),
    'job', json((
        SELECT json_object(
            'attempt', attempt, 'attempts_before', attempts_before,
            'due_at', nullif(due_at, :buried), 'is_held', is_held,
            'holder', (SELECT p.id FROM processes AS p WHERE p.id = holder AND is_held),
            'last_error', last_error)
        FROM jobs WHERE order_id = :id
    )),
    'unpublished', json((
        SELECT iif(count(*) < :outbox_max,
            json_group_array(version ORDER BY version) FILTER (WHERE order_id = :id), NULL)
        FROM (SELECT order_id, version FROM event_outbox ORDER BY position LIMIT :outbox_max)
        HAVING EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'keep_order_events')
    )))
FROM orders WHERE id = :id"
);

fn record(
    connection: &Connection,
    now: Timestamp,
    order_id: OrderId,
) -> rusqlite::Result<Option<OrderRecord>> {
    let params = named_params! {
        ":id": key(order_id),
        ":len_max": OrderRecord::LEN_MAX,
        ":outbox_max": OrderRecord::OUTBOX_READ_MAX,
        ":buried": BURIED,
    };
    connection
        .prepare_cached(RECORD)?
        .query_row(params, |row| {
            let document: String = row.get(ORDER_COLUMNS)?;
            order_record::read(read_order(row)?, now, &document)
                .map_err(|error| unreadable(ORDER_COLUMNS, Type::Text, error))
        })
        .optional()
}

const PROCESSES: &str = "\
SELECT id, program, place, version, started_at, seen_at, figures, is_paused
FROM (SELECT * FROM processes WHERE seen_at > :since ORDER BY seen_at DESC LIMIT :len_max)
ORDER BY program, place, id";

fn read_process(row: &Row<'_>) -> rusqlite::Result<ProcessState> {
    let id: i64 = row.get(0)?;
    let figures: String = row.get(6)?;
    Ok(ProcessState {
        report: ProcessReport {
            identity: Identity {
                id: ProcessId::from_u64(id.cast_unsigned()),
                program: row.get(1)?,
                place: row.get(2)?,
            },
            version: row.get(3)?,
            started_at: read_time(row, 4)?,
            figures: figures::read(&figures),
        },
        seen_at: read_time(row, 5)?,
        is_paused: row.get(7)?,
    })
}

const ARE_ALL_PAUSED: &str = "SELECT coalesce((SELECT is_paused FROM all_processes), 0)";

fn are_all_paused(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(ARE_ALL_PAUSED)?
        .query_row([], |row| row.get(0))
}

const REPORT: &str = "\
INSERT INTO processes (id, program, place, version, started_at, seen_at, figures)
VALUES (:id, :program, :place, :version, :started_at, :now, :figures)
ON CONFLICT (id) DO UPDATE SET seen_at = :now, figures = :figures
RETURNING is_paused";

const FORGET: &str = "DELETE FROM processes WHERE seen_at < :long_ago";

/// How long the row of a process is kept after its last report.
const KEPT_FOR: Duration = Duration::from_hours(1);

fn report(connection: &Connection, now: i64, report: &ProcessReport) -> rusqlite::Result<bool> {
    let long_ago = earlier(now, KEPT_FOR);
    connection
        .prepare_cached(FORGET)?
        .execute(named_params! { ":long_ago": long_ago })?;
    let figures = figures::write(&report.figures)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let params = named_params! {
        ":id": process_key(report.identity.id),
        ":program": report.identity.program,
        ":place": report.identity.place,
        ":version": report.version,
        ":started_at": to_micros(report.started_at),
        ":now": now,
        ":figures": figures,
    };
    let is_paused: bool = connection
        .prepare_cached(REPORT)?
        .query_row(params, |row| row.get(0))?;
    Ok(is_paused || are_all_paused(connection)?)
}

const PAUSE_ONE: &str = "\
UPDATE processes SET is_paused = :is_paused WHERE id = :id AND seen_at > :since";

const PAUSE_ALL: &str = "\
INSERT INTO all_processes (is_paused) VALUES (:is_paused)
ON CONFLICT (is_only) DO UPDATE SET is_paused = :is_paused";

fn set_paused(
    connection: &Connection,
    now: i64,
    process_id: Option<ProcessId>,
    is_paused: bool,
) -> rusqlite::Result<bool> {
    let n_written = match process_id {
        Some(id) => connection
            .prepare_cached(PAUSE_ONE)?
            .execute(named_params! {
                ":id": process_key(id),
                ":is_paused": is_paused,
                ":since": earlier(now, ProcessReport::SHOWN_FOR),
            })?,
        None => connection
            .prepare_cached(PAUSE_ALL)?
            .execute(named_params! { ":is_paused": is_paused })?,
    };
    Ok(n_written > 0)
}

#[async_trait]
impl AdminStore for SqliteStore {
    async fn record(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
    ) -> Result<Option<OrderRecord>, Error> {
        let now = self.clock.now();
        self.readers
            .run(ctx.deadline, move |connection| {
                record(connection, now, order_id)
            })
            .await
    }

    async fn cluster(&self, ctx: &CallContext) -> Result<ClusterState, Error> {
        let at = self.clock.now();
        let now = to_micros(at);
        let read = move |connection: &Connection| {
            let params = named_params! {
                ":since": earlier(now, ProcessReport::SHOWN_FOR),
                ":len_max": ProcessReport::LEN_MAX,
            };
            let mut processes = connection.prepare_cached(PROCESSES)?;
            let processes = processes.query_map(params, read_process)?;
            Ok(ClusterState {
                at,
                is_paused: are_all_paused(connection)?,
                processes: processes.collect::<rusqlite::Result<_>>()?,
                backlog: Backlog::default(),
            })
        };
        self.readers.run(ctx.deadline, read).await
    }

    async fn report(&self, _ctx: &CallContext, new: &ProcessReport) -> Result<Directive, Error> {
        let new = new.clone();
        let is_paused = self.write(move |connection, now| report(connection, now, &new));
        Ok(Directive {
            is_paused: is_paused.await?,
        })
    }

    async fn set_paused(
        &self,
        _ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<bool, Error> {
        self.write(move |connection, now| set_paused(connection, now, process_id, is_paused))
            .await
    }
}
