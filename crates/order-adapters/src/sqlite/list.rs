//! The SQL of lists of orders, by id descending. Each statement walks one range of one
//! index; what is left of the filters is checked on the way.

use std::borrow::Cow;

use jiff::Timestamp;
use order_core::{ExternalId, Listing, Order, OrderQuery, OrderState, OrderStatus, UserId};
use rusqlite::{Connection, ToSql, named_params};

use crate::open_orders::{Source, sources};

use super::rows::{key, order_columns, read_order, read_state, readable, state_columns, to_limit};

/// The filters of every list; the argument is the id column that the scan follows. `:statuses` has
/// bit n set for status n.
macro_rules! filters {
    ($id:literal) => {
        concat!(
            $id,
            " > :after AND ",
            $id,
            " < :before AND (:statuses >> orders.status) & 1
AND created_at > :created_after AND created_at < :created_before"
        )
    };
}

/// The list by an index of the orders.
macro_rules! list_by_index {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            order_columns!(),
            " FROM orders WHERE ",
            $condition,
            filters!("id"),
            " ORDER BY id DESC"
        )
    };
}

/// By the primary key.
const ALL: &str = list_by_index!("");

/// By the index on user and id.
const OF_USER: &str = list_by_index!("user_id = :user_id AND ");

/// By the index on external id and user: one row for each user who has the external id.
const BY_EXTERNAL_ID: &str = list_by_index!("external_id = :external_id AND ");

/// By the same index: one row at most.
const BY_EXTERNAL_ID_OF_USER: &str =
    list_by_index!("external_id = :external_id AND user_id = :user_id AND ");

/// The list of the orders that a statement selects by an index. CROSS JOIN keeps the order of
/// the tables.
macro_rules! list_from {
    ($select:literal) => {
        concat!(
            "SELECT ",
            // Not the id of the order, by whose index SQLite would not see the order.
            order_columns!("order_id"),
            " FROM (",
            $select,
            ") CROSS JOIN orders ON id = order_id WHERE ",
            filters!("order_id")
        )
    };
}

/// The list from a source, in no order; it is read in that of the ids.
const fn list_from(source: Source) -> &'static str {
    match source {
        // By the primary key of the jobs, which has all that is asked. Indexes of their own would
        // cost every order more than they save the few lists behind a long backlog.
        Source::Unclaimed => list_from!(
            "SELECT order_id FROM jobs NOT INDEXED
WHERE attempt = 0 AND due_at <> 9223372036854775807"
        ),
        Source::Claimed => list_from!(
            "SELECT order_id FROM jobs NOT INDEXED
WHERE attempt > 0 AND due_at <> 9223372036854775807"
        ),
        // The buried ones are one range, by id.
        Source::Buried => list_from!(
            "SELECT order_id FROM jobs INDEXED BY jobs_due_at_idx
WHERE due_at = 9223372036854775807"
        ),
        Source::Cancelled => list_from!(
            "SELECT order_id FROM order_events INDEXED BY order_events_cancelled_idx
WHERE status = 5"
        ),
    }
}

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
    let mut statement = connection.prepare_cached(&statement(query))?;
    let mut rows = statement.query(&params[..])?;
    let mut listing = Listing::new(query);
    // Stepped rather than limited by the statement, because a row that is left out does not
    // count: a page that is not full is taken for the last one.
    while listing.n_missing() > 0
        && let Some(row) = rows.next()?
    {
        if let Some(order) = readable(row, read_order(row)) {
            listing.push(order);
        }
    }
    Ok(listing.into_orders())
}

/// The statement whose index serves a query best.
fn statement(query: &OrderQuery) -> Cow<'static, str> {
    match (&query.external_id, &query.user_id) {
        (Some(_), Some(_)) => BY_EXTERNAL_ID_OF_USER.into(),
        (Some(_), None) => BY_EXTERNAL_ID.into(),
        (None, Some(_)) => OF_USER.into(),
        (None, None) => sources(query).map_or(ALL.into(), |sources| {
            // Each part is in order already, so they are merged as they are read.
            let lists: Vec<_> = sources.into_iter().map(list_from).collect();
            (lists.join(" UNION ALL ") + " ORDER BY 1 DESC").into()
        }),
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
