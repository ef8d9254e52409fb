//! The SQL of lists of orders, by id descending. Each statement walks one range of one
//! index; what is left of the filters is checked on the way.

use jiff::Timestamp;
use order_core::{ExternalId, Order, OrderQuery, OrderState, OrderStatus, UserId};
use rusqlite::{Connection, ToSql, named_params};

use crate::open_orders::{Jobs, jobs_of};

use super::rows::{key, order_columns, read_order, read_state, readable, state_columns, to_limit};

/// The list from tables, by the id of one of them, with a condition. `:statuses` has bit n set
/// for status n.
macro_rules! list_from {
    ($tables:literal, $id:literal, $condition:literal) => {
        concat!(
            "SELECT ",
            order_columns!(),
            " FROM ",
            $tables,
            " WHERE ",
            $condition,
            $id,
            " > :after AND ",
            $id,
            " < :before AND (:statuses >> status) & 1
AND created_at > :created_after AND created_at < :created_before
ORDER BY ",
            $id,
            " DESC"
        )
    };
}

/// By the primary key.
const ALL: &str = list_from!("orders", "id", "");

/// By the index on user and id.
const OF_USER: &str = list_from!("orders", "id", "user_id = :user_id AND ");

/// By the index on external id and user: one row for each user who has the external id.
const BY_EXTERNAL_ID: &str = list_from!("orders", "id", "external_id = :external_id AND ");

/// By the same index: one row at most.
const BY_EXTERNAL_ID_OF_USER: &str = list_from!(
    "orders",
    "id",
    "external_id = :external_id AND user_id = :user_id AND "
);

/// The list by way of the jobs, for statuses that only orders with a job have. CROSS JOIN keeps
/// the order of the tables.
macro_rules! list_by_jobs {
    ($condition:literal) => {
        list_from!(
            "jobs CROSS JOIN orders ON id = order_id",
            "order_id",
            $condition
        )
    };
}

/// By the primary key of the jobs.
const WITH_JOB: &str = list_by_jobs!("");

/// By the same key.
const UNFINISHED: &str = list_by_jobs!("due_at <> 9223372036854775807 AND ");

/// By the index of due times, in which the buried ones are one range, by id.
const FAILED: &str = list_by_jobs!("due_at = 9223372036854775807 AND ");

/// Sorts before every id, which has 16 bytes.
const BEFORE_EVERY_ID: [u8; 0] = [];

/// Sorts behind every id.
const AFTER_EVERY_ID: [u8; 17] = [0xff; 17];

/// Reads orders by id descending. A row that cannot be read is logged and left out.
pub(super) fn list(connection: &Connection, query: &OrderQuery) -> rusqlite::Result<Vec<Order>> {
    let after = query.after.map(key);
    let after = after
        .as_ref()
        .map_or(&BEFORE_EVERY_ID[..], |after| &after[..]);
    let before = query.before.map(key);
    let before = before
        .as_ref()
        .map_or(&AFTER_EVERY_ID[..], |before| &before[..]);
    let statuses = statuses_mask(&query.statuses);
    let created_after = query.created_after.map_or(i64::MIN, micros_floor);
    let created_before = query.created_before.map_or(i64::MAX, micros_ceil);
    let user_id = query.user_id.as_ref().map(UserId::as_str);
    let external_id = query.external_id.as_ref().map(ExternalId::as_str);
    let mut params: Vec<(&str, &dyn ToSql)> = vec![
        (":after", &after),
        (":before", &before),
        (":statuses", &statuses),
        (":created_after", &created_after),
        (":created_before", &created_before),
    ];
    if user_id.is_some() {
        params.push((":user_id", &user_id));
    }
    if external_id.is_some() {
        params.push((":external_id", &external_id));
    }
    let mut statement = connection.prepare_cached(statement(query))?;
    let mut rows = statement.query(&params[..])?;
    let mut orders = Vec::new();
    // Stepped rather than limited by the statement, because a row that is left out does not
    // count: a page that is not full is taken for the last one.
    while orders.len() < query.limit
        && let Some(row) = rows.next()?
    {
        orders.extend(readable(row, read_order(row)));
    }
    Ok(orders)
}

/// The statement whose index serves a query best.
fn statement(query: &OrderQuery) -> &'static str {
    match (&query.external_id, &query.user_id) {
        (Some(_), Some(_)) => BY_EXTERNAL_ID_OF_USER,
        (Some(_), None) => BY_EXTERNAL_ID,
        (None, Some(_)) => OF_USER,
        (None, None) => match jobs_of(query) {
            None => ALL,
            Some(Jobs::All) => WITH_JOB,
            Some(Jobs::Unfinished) => UNFINISHED,
            Some(Jobs::Buried) => FAILED,
        },
    }
}

fn statuses_mask(statuses: &[OrderStatus]) -> i64 {
    let wanted = match statuses {
        [] => &OrderStatus::ALL[..],
        some => some,
    };
    wanted
        .iter()
        .fold(0, |mask, status| mask | 1 << status.code())
}

/// The last whole microsecond that is not later than `time`. A stored time, which is a whole
/// one, is later than `time` exactly if it is later than this.
fn micros_floor(time: Timestamp) -> i64 {
    let micros = time.as_nanosecond().div_euclid(1_000);
    i64::try_from(micros).unwrap_or(i64::MIN)
}

/// The first whole microsecond that is not earlier than `time`.
fn micros_ceil(time: Timestamp) -> i64 {
    let micros = -(-time.as_nanosecond()).div_euclid(1_000);
    i64::try_from(micros).unwrap_or(i64::MAX)
}

const RECENT_STATES: &str = concat!(
    "SELECT ",
    state_columns!(),
    " FROM orders WHERE user_id = :user_id ORDER BY id DESC LIMIT :limit"
);

/// Reads where the newest orders of users stand. A row that cannot be read is logged and
/// left out.
pub(super) fn recent_states(
    connection: &Connection,
    user_ids: &[UserId],
    limit_per_user: usize,
) -> rusqlite::Result<Vec<OrderState>> {
    let mut statement = connection.prepare_cached(RECENT_STATES)?;
    let mut states = Vec::new();
    for user_id in user_ids {
        let rows = statement.query_map(
            named_params! { ":user_id": user_id.as_str(), ":limit": to_limit(limit_per_user) },
            |row| Ok(read_state(row)),
        )?;
        for state in rows {
            states.extend(state?);
        }
    }
    Ok(states)
}

#[cfg(test)]
mod tests;
