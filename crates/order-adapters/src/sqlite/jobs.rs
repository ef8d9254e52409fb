//! The SQL of jobs: their rows and leases.

use std::{collections::BTreeSet, time::Duration};

use order_core::{Cause, Extended, Job, JobToken, NewOrder, OrderId, ProcessId};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use crate::UNREADABLE_REST;

use super::rows::{
    BURIED, ORDER_COLUMNS, key, later, order_columns, process_key, read_order, read_trace_parent,
    readable, to_limit,
};

const INSERT: &str = "\
INSERT INTO jobs (order_id, attempt, attempts_before, due_at, is_held, holder)
VALUES (:order_id, :attempt, 0, :due_at, :attempt, :holder)";

/// Stores the job of a new order, due or born leased by process `holder`.
pub(super) fn insert(
    connection: &Connection,
    now: i64,
    new: &NewOrder,
    holder: ProcessId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(INSERT)?
        .execute(named_params! {
            ":order_id": key(new.id),
            ":attempt": u32::from(new.lease.is_some()),
            ":due_at": new.lease.map_or(now, |lease| later(now, lease)),
            ":holder": process_key(holder),
        })
        .map(drop)
}

/// Deletes a job, if there is one.
pub(super) fn delete(connection: &Connection, order_id: OrderId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM jobs WHERE order_id = :order_id")?
        .execute(named_params! { ":order_id": key(order_id) })
        .map(drop)
}

const BURY: &str = "\
UPDATE jobs SET due_at = :buried, last_error = :last_error, is_held = 0, is_begun = 0
WHERE order_id = :order_id";

/// Buries a job until its order is redriven. Its tokens are stale from now on.
pub(super) fn bury(
    connection: &Connection,
    order_id: OrderId,
    cause: Option<&Cause>,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(BURY)?
        .execute(named_params! {
            ":order_id": key(order_id),
            ":buried": BURIED,
            ":last_error": cause.map(|cause| &cause.message),
        })
        .map(drop)
}

/// A job that is gone begins anew; one that is there keeps counting its attempts.
const REQUEUE: &str = "\
INSERT INTO jobs (order_id, attempt, attempts_before, due_at)
VALUES (:order_id, 0, 0, :now)
ON CONFLICT (order_id) DO UPDATE
SET due_at = :now, attempts_before = attempt, last_error = NULL, is_held = 0, is_begun = 0";

/// Makes a job due, with a new round of attempts.
pub(super) fn requeue(connection: &Connection, now: i64, id: OrderId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(REQUEUE)?
        .execute(named_params! { ":order_id": key(id), ":now": now })
        .map(drop)
}

/// The columns of a [`Due`] job; `CROSS JOIN` keeps SQLite from turning the join around.
macro_rules! due_jobs {
    () => {
        concat!(
            "SELECT ",
            order_columns!(),
            ", order_id, attempt + 1,
    min(attempts_before + (is_held AND NOT is_begun), attempt), trace_parent
FROM jobs CROSS JOIN orders ON id = order_id
WHERE due_at <= :due_by"
        )
    };
}

/// The longest due first.
const DUE: &str = concat!(
    due_jobs!(),
    " AND NOT is_held ORDER BY due_at, order_id LIMIT :limit"
);

/// One job, if it is due.
const DUE_HINTED: &str = concat!(due_jobs!(), " AND NOT is_held AND order_id = :order_id");

/// The longest due job that a claim still holds, unless it is behind a long queue: it is found
/// when its turn comes.
const DUE_ABANDONED: &str = concat!(
    due_jobs!(),
    " AND order_id = (SELECT order_id FROM \
        (SELECT order_id, is_held FROM jobs WHERE due_at <= :due_by ORDER BY due_at LIMIT 1024) \
        WHERE is_held LIMIT 1)"
);

/// Work under an abandoned claim that was not marked as begun does not count.
const LEASE: &str = "\
UPDATE jobs
SET due_at = :due_at, attempt = attempt + 1,
    attempts_before = min(attempts_before + (is_held AND NOT is_begun), attempt),
    is_held = 1, is_begun = 0, holder = :holder
WHERE order_id = :order_id";

/// The parameters of a claim.
#[derive(Clone, Copy)]
pub(super) struct Lease {
    /// How long it lasts.
    pub(super) length: Duration,
    /// The process that claims.
    pub(super) holder: ProcessId,
}

/// A due job, as its next claim sees it; `None` if it or its order cannot be read, which is
/// logged.
struct Due {
    key: Vec<u8>,
    job: Option<Job>,
}

fn read_due(row: &Row<'_>) -> rusqlite::Result<Due> {
    let read = || {
        Ok(Job {
            order: read_order(row)?,
            attempt: row.get(ORDER_COLUMNS + 1)?,
            attempts_before: row.get(ORDER_COLUMNS + 2)?,
            trace_parent: read_trace_parent(row, ORDER_COLUMNS + 3),
        })
    };
    Ok(Due {
        key: row.get(ORDER_COLUMNS)?,
        job: readable(row, read()),
    })
}

/// Claims jobs that have been due since `due_by`.
pub(super) fn claim(
    connection: &Connection,
    now: i64,
    limit: usize,
    lease: Lease,
    due_by: i64,
) -> rusqlite::Result<Vec<Job>> {
    let due: Vec<Due> = connection
        .prepare_cached(DUE)?
        .query_map(
            named_params! { ":due_by": due_by, ":limit": to_limit(limit) },
            read_due,
        )?
        .collect::<rusqlite::Result<_>>()?;
    let mut jobs = Vec::with_capacity(due.len());
    for due in due {
        jobs.extend(lease_due(connection, now, lease, due)?);
    }
    Ok(jobs)
}

/// Claims those of the given jobs that are due.
pub(super) fn claim_hinted(
    connection: &Connection,
    now: i64,
    order_ids: &[OrderId],
    lease: Lease,
) -> rusqlite::Result<Vec<Job>> {
    let mut find = connection.prepare_cached(DUE_HINTED)?;
    let mut jobs = Vec::with_capacity(order_ids.len());
    // With a lease of no length a job would be due again at once, so each is looked at once.
    let distinct: BTreeSet<_> = order_ids.iter().copied().collect();
    for order_id in distinct {
        let params = named_params! { ":due_by": now, ":order_id": key(order_id) };
        if let Some(due) = find.query_row(params, read_due).optional()? {
            jobs.extend(lease_due(connection, now, lease, due)?);
        }
    }
    Ok(jobs)
}

/// An attempt under an abandoned claim that was marked as begun is lost.
const INSERT_LOST: &str = "\
INSERT INTO order_attempts (order_id, attempt, worker, ended_at, outcome)
SELECT order_id, attempt, (SELECT program || ' ' || place FROM processes WHERE id = holder), :now, 2
FROM jobs
WHERE order_id = :order_id AND is_begun
ON CONFLICT DO NOTHING";

/// Claims the longest due abandoned job.
pub(super) fn claim_abandoned(
    connection: &Connection,
    now: i64,
    lease: Lease,
) -> rusqlite::Result<Option<Job>> {
    let due = connection
        .prepare_cached(DUE_ABANDONED)?
        .query_row(named_params! { ":due_by": now }, read_due)
        .optional()?;
    match due {
        Some(due) => {
            let params = named_params! { ":order_id": due.key, ":now": now };
            connection.prepare_cached(INSERT_LOST)?.execute(params)?;
            lease_due(connection, now, lease, due)
        }
        None => Ok(None),
    }
}

const SET_ASIDE: &str = "\
UPDATE jobs
SET due_at = :due_at, last_error = 'the order cannot be read', is_held = 0, is_begun = 0
WHERE order_id = :order_id";

/// Leases a job. One that cannot be read is set aside instead, so that it neither stands in
/// the way of the others nor uses up its attempts.
fn lease_due(
    connection: &Connection,
    now: i64,
    lease: Lease,
    due: Due,
) -> rusqlite::Result<Option<Job>> {
    if due.job.is_none() {
        let due_at = later(now, UNREADABLE_REST);
        connection
            .prepare_cached(SET_ASIDE)?
            .execute(named_params! { ":order_id": due.key, ":due_at": due_at })?;
        return Ok(None);
    }
    connection.prepare_cached(LEASE)?.execute(named_params! {
        ":order_id": due.key,
        ":due_at": later(now, lease.length),
        ":holder": process_key(lease.holder),
    })?;
    Ok(due.job)
}

/// The condition under which a token is current: the attempt is the last one, and its claim
/// still holds the job.
macro_rules! is_current {
    () => {
        " WHERE order_id = :order_id AND attempt = :attempt AND is_held"
    };
}
pub(super) use is_current;

const EXTEND: &str = concat!("UPDATE jobs SET due_at = :due_at", is_current!());

/// Moves the end of leases.
pub(super) fn extend(
    connection: &Connection,
    now: i64,
    tokens: &[JobToken],
    lease: Duration,
) -> rusqlite::Result<Vec<Extended>> {
    let mut update = connection.prepare_cached(EXTEND)?;
    let mut answers = Vec::with_capacity(tokens.len());
    for token in tokens {
        let n_extended = update.execute(named_params! {
            ":order_id": key(token.order_id),
            ":attempt": token.attempt,
            ":due_at": later(now, lease),
        })?;
        answers.push(match n_extended {
            0 => Extended::Stale,
            _ => Extended::Applied,
        });
    }
    Ok(answers)
}

const RELEASE: &str = concat!(
    "UPDATE jobs SET due_at = :due_at, attempts_before = attempts_before + 1, \
     is_held = 0, is_begun = 0",
    is_current!()
);

/// Gives leases back; returns how many.
pub(super) fn release(
    connection: &Connection,
    now: i64,
    tokens: &[JobToken],
) -> rusqlite::Result<usize> {
    let mut update = connection.prepare_cached(RELEASE)?;
    let mut n_released = 0;
    for token in tokens {
        n_released += update.execute(named_params! {
            ":order_id": key(token.order_id),
            ":attempt": token.attempt,
            ":due_at": now,
        })?;
    }
    Ok(n_released)
}
