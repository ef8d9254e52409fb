//! The SQL of jobs: the lease protocol, one function per element of a call.

use std::{collections::BTreeSet, time::Duration};

use order_core::{
    Completed, Completion, Extended, Job, JobToken, NewOrder, OrderId, OrderStatus, Start, Started,
    Verdict,
};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use crate::UNREADABLE_REST;

use super::{
    orders,
    rows::{BURIED, ORDER_COLUMNS, key, later, order_columns, read_order, readable, to_limit},
};

const INSERT: &str = "\
INSERT INTO jobs (order_id, attempt, attempts_before, due_at, is_held)
VALUES (:order_id, :attempt, 0, :due_at, :attempt)";

/// Stores the job of a new order, due or born leased.
pub(super) fn insert(connection: &Connection, now: i64, new: &NewOrder) -> rusqlite::Result<()> {
    connection
        .prepare_cached(INSERT)?
        .execute(named_params! {
            ":order_id": key(new.id),
            ":attempt": u32::from(new.lease.is_some()),
            ":due_at": new.lease.map_or(now, |lease| later(now, lease)),
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

/// Buries a job until its order is redriven. Its tokens are stale from now on.
pub(super) fn bury(connection: &Connection, order_id: OrderId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE jobs SET due_at = :buried, is_held = 0, is_begun = 0 WHERE order_id = :order_id",
        )?
        .execute(named_params! { ":order_id": key(order_id), ":buried": BURIED })
        .map(drop)
}

/// A job that is gone begins anew; one that is there keeps counting its attempts.
const REQUEUE: &str = "\
INSERT INTO jobs (order_id, attempt, attempts_before, due_at)
VALUES (:order_id, 0, 0, :now)
ON CONFLICT (order_id) DO UPDATE
SET due_at = :now, attempts_before = attempt, is_held = 0, is_begun = 0";

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
    min(attempts_before + (is_held AND NOT is_begun), attempt)
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
    is_held = 1, is_begun = 0
WHERE order_id = :order_id";

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
    lease: Duration,
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
    lease: Duration,
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

/// Claims the longest due abandoned job.
pub(super) fn claim_abandoned(
    connection: &Connection,
    now: i64,
    lease: Duration,
) -> rusqlite::Result<Option<Job>> {
    let due = connection
        .prepare_cached(DUE_ABANDONED)?
        .query_row(named_params! { ":due_by": now }, read_due)
        .optional()?;
    match due {
        Some(due) => lease_due(connection, now, lease, due),
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
    lease: Duration,
    due: Due,
) -> rusqlite::Result<Option<Job>> {
    let (statement, rest) = match due.job {
        Some(_) => (LEASE, lease),
        None => (SET_ASIDE, UNREADABLE_REST),
    };
    connection
        .prepare_cached(statement)?
        .execute(named_params! { ":order_id": due.key, ":due_at": later(now, rest) })?;
    Ok(due.job)
}

/// The condition under which a token is current: the attempt is the last one, and its claim
/// still holds the job.
macro_rules! is_current {
    () => {
        " WHERE order_id = :order_id AND attempt = :attempt AND is_held"
    };
}

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

const STATUS_OF_CURRENT: &str = concat!(
    "SELECT (SELECT status FROM orders WHERE id = order_id) FROM jobs",
    is_current!()
);

const COUNT: &str = concat!("UPDATE jobs SET is_begun = 1", is_current!());

/// Sets the marks of a current token.
pub(super) fn start(connection: &Connection, now: i64, start: &Start) -> rusqlite::Result<Started> {
    let token = start.token;
    let params = named_params! { ":order_id": key(token.order_id), ":attempt": token.attempt };
    let status: Option<u8> = connection
        .prepare_cached(STATUS_OF_CURRENT)?
        .query_row(params, |row| row.get(0))
        .optional()?;
    let Some(status) = status else {
        return Ok(Started::Stale);
    };
    if start.counts {
        connection.prepare_cached(COUNT)?.execute(params)?;
    }
    if !start.moves_order || status == OrderStatus::Processing.code() {
        return Ok(Started::Applied(None));
    }
    let processing = OrderStatus::Processing;
    let (_, event) = orders::advance(connection, now, token.order_id, processing, None, None)?;
    Ok(Started::Applied(Some(event)))
}

const FINISH: &str = concat!("DELETE FROM jobs", is_current!());

const SET_BACK: &str = concat!(
    "UPDATE jobs SET due_at = :due_at, last_error = :last_error, is_held = 0, is_begun = 0, ",
    "attempts_before = attempts_before + NOT :is_counted, ",
    "retried = iif(:is_retry, attempt, retried)",
    is_current!()
);

/// Commits the result of an attempt, if its token is current.
pub(super) fn complete(
    connection: &Connection,
    now: i64,
    completion: &Completion,
) -> rusqlite::Result<Completed> {
    let token = completion.token;
    let set_back = |due_at: i64, error: &str, is_counted: bool| {
        connection.prepare_cached(SET_BACK)?.execute(named_params! {
            ":order_id": key(token.order_id),
            ":attempt": token.attempt,
            ":due_at": due_at,
            ":last_error": error,
            ":is_counted": is_counted,
            ":is_retry": due_at < BURIED,
        })
    };
    let (n_current, moved) = match &completion.verdict {
        Verdict::Processed => {
            let params =
                named_params! { ":order_id": key(token.order_id), ":attempt": token.attempt };
            let n_current = connection.prepare_cached(FINISH)?.execute(params)?;
            (n_current, Some((OrderStatus::Processed, None)))
        }
        Verdict::Failed(cause) => {
            let n_current = set_back(BURIED, &cause.message, true)?;
            (n_current, Some((OrderStatus::Failed, Some(cause))))
        }
        Verdict::Retry {
            delay,
            error,
            is_counted,
        } => {
            let n_current = set_back(later(now, *delay), error, *is_counted)?;
            (n_current, None)
        }
    };
    if n_current == 0 {
        return repeated(connection, completion);
    }
    let Some((status, cause)) = moved else {
        return Ok(Completed::Applied(None));
    };
    let attempt = Some(token.attempt);
    let (_, event) = orders::advance(connection, now, token.order_id, status, cause, attempt)?;
    Ok(Completed::Applied(Some(event)))
}

const WAS_RETRIED: &str = "SELECT 1 FROM jobs WHERE order_id = :order_id AND retried = :attempt";

/// The answer to a report whose token is not current: that of the first, if it is a repetition.
/// Which of two failures a report becomes may change from one time to the next.
fn repeated(connection: &Connection, completion: &Completion) -> rusqlite::Result<Completed> {
    let JobToken { order_id, attempt } = completion.token;
    let is_success = matches!(completion.verdict, Verdict::Processed);
    if let Some(event) = orders::find_event_of_attempt(connection, order_id, attempt)?
        && (event.status == OrderStatus::Processed) == is_success
    {
        return Ok(Completed::Applied(Some(event)));
    }
    let params = named_params! { ":order_id": key(order_id), ":attempt": attempt };
    let was_retried = connection.prepare_cached(WAS_RETRIED)?.exists(params)?;
    Ok(if was_retried && !is_success {
        Completed::Applied(None)
    } else {
        Completed::Stale
    })
}
