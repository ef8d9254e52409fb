//! The SQL of attempts: what their beginning and their end do to a job and its order.

use order_core::{
    Completed, Completion, JobToken, OrderRecord, OrderStatus, Start, Started, Verdict,
};
use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::{
    jobs::is_current,
    orders::{self, Ended},
    rows::{BURIED, key, later},
};

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
    let (_, event) = orders::advance(
        connection,
        now,
        token.order_id,
        processing,
        None,
        None,
        None,
    )?;
    Ok(Started::Applied(Some(event)))
}

const FINISH: &str = concat!("DELETE FROM jobs", is_current!());

const SET_BACK: &str = concat!(
    "UPDATE jobs SET due_at = :due_at, last_error = :last_error, is_held = 0, is_begun = 0, ",
    "attempts_before = attempts_before + NOT :is_counted, ",
    "retried = iif(:is_retry, attempt, retried)",
    is_current!()
);

const INSERT_RETRIED: &str = "\
INSERT INTO order_attempts
  (order_id, attempt, worker, begun_at, ended_at, outcome, error, next_at)
VALUES (:order_id, :attempt, :worker, :begun_at, :ended_at, 1, :error, :next_at)
ON CONFLICT DO NOTHING";

/// Postponed attempts do not count, so there may be any number of them.
const FORGET: &str = "\
DELETE FROM order_attempts WHERE order_id = :order_id AND attempt <= :attempt - :n_kept";

/// Records an attempt whose job is due again at `next_at`.
fn record_retried(
    connection: &Connection,
    now: i64,
    completion: &Completion,
    ended: Ended<'_>,
    (next_at, error): (i64, &str),
) -> rusqlite::Result<()> {
    let order_id = key(completion.token.order_id);
    connection
        .prepare_cached(INSERT_RETRIED)?
        .execute(named_params! {
            ":order_id": order_id,
            ":attempt": ended.attempt,
            ":worker": ended.worker,
            ":begun_at": ended.begun_at(now),
            ":ended_at": now,
            ":error": error,
            ":next_at": next_at,
        })?;
    let n_kept = OrderRecord::LEN_MAX;
    if ended.attempt > n_kept {
        connection.prepare_cached(FORGET)?.execute(named_params! {
            ":order_id": order_id,
            ":attempt": ended.attempt,
            ":n_kept": n_kept,
        })?;
    }
    Ok(())
}

/// Commits the result of an attempt that process `worker` ran, if its token is current.
pub(super) fn complete(
    connection: &Connection,
    now: i64,
    completion: &Completion,
    worker: &str,
) -> rusqlite::Result<Completed> {
    let token = completion.token;
    let ended = Ended {
        attempt: token.attempt,
        took: completion.took,
        worker,
    };
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
            let due_at = later(now, *delay);
            let n_current = set_back(due_at, error, *is_counted)?;
            if n_current > 0 {
                record_retried(connection, now, completion, ended, (due_at, error))?;
            }
            (n_current, None)
        }
    };
    if n_current == 0 {
        return repeated(connection, completion);
    }
    let Some((status, cause)) = moved else {
        return Ok(Completed::Applied(None));
    };
    let (_, event) = orders::advance(
        connection,
        now,
        token.order_id,
        status,
        cause,
        Some(ended),
        None,
    )?;
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
