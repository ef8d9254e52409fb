//! The SQL of orders and their history: one function per element of a call.

use order_core::{
    Cause, Change, Committed, Created, Error, JobEffect, NewOrder, Order, OrderEvent, OrderId,
    OrderQuery, OrderState, OrderStatus, Version,
};
use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::{
    jobs,
    rows::{key, order_columns, read_cause, read_id, read_order, read_status, read_time, to_limit},
};

/// An id that is taken inserts nothing; the caller then looks at the row that is there.
const INSERT: &str = "\
INSERT INTO orders
  (id, user_id, amount_minor, currency, status, version, created_at, updated_at)
VALUES (:id, :user_id, :amount_minor, :currency, :status, 1, :now, :now)
ON CONFLICT (id) DO NOTHING";

/// Stores an order with its job; [`Error::OrderAlreadyExists`] if its id is taken by
/// another one.
pub(super) fn create(
    connection: &Connection,
    now: i64,
    new: &NewOrder,
) -> rusqlite::Result<Result<Created, Error>> {
    let n_inserted = connection.prepare_cached(INSERT)?.execute(named_params! {
        ":id": key(new.id),
        ":user_id": new.user_id.as_str(),
        ":amount_minor": new.money.minor_units(),
        ":currency": new.money.currency(),
        ":status": OrderStatus::Pending.code(),
        ":now": now,
    })?;
    let is_new = n_inserted > 0;
    if is_new {
        jobs::insert(connection, now, new)?;
    }
    let order = find(connection, new.id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    if order.is_same_request(new) {
        Ok(Ok(Created { order, is_new }))
    } else {
        Ok(Err(Error::OrderAlreadyExists { order_id: new.id }))
    }
}

const IS_AT_VERSION: &str = "SELECT 1 FROM orders WHERE id = :id AND version = :version";

/// Applies a decided change, if the order is still at the version it was decided on.
pub(super) fn commit(
    connection: &Connection,
    now: i64,
    change: &Change,
) -> rusqlite::Result<Committed> {
    let is_expected = connection
        .prepare_cached(IS_AT_VERSION)?
        .exists(named_params! {
            ":id": key(change.order_id),
            ":version": change.expected_version,
        })?;
    if !is_expected {
        return Ok(Committed::Stale);
    }
    match change.job {
        JobEffect::Keep => {}
        JobEffect::Delete => jobs::delete(connection, change.order_id)?,
        JobEffect::Bury => jobs::bury(connection, change.order_id)?,
        JobEffect::Requeue => jobs::requeue(connection, now, change.order_id)?,
    }
    let cause = change.cause.as_ref();
    let (order, event) = advance(connection, now, change.order_id, change.status, cause)?;
    Ok(Committed::Applied {
        order: Box::new(order),
        event,
    })
}

const ADVANCE: &str = concat!(
    "\
UPDATE orders
SET status = :status, version = version + 1, updated_at = :now,
    failure_code = :failure_code, failure_message = :failure_message
WHERE id = :id
RETURNING ",
    order_columns!()
);

const INSERT_EVENT: &str = "\
INSERT INTO order_events (order_id, version, status, at, cause_code, cause_message)
VALUES (:order_id, :version, :status, :at, :cause_code, :cause_message)";

/// Moves an order that is there to its next version, and appends the event.
///
/// The write lock makes the check before and the update here one step.
pub(super) fn advance(
    connection: &Connection,
    now: i64,
    order_id: OrderId,
    status: OrderStatus,
    cause: Option<&Cause>,
) -> rusqlite::Result<(Order, OrderEvent)> {
    let failure = cause.filter(|_| status == OrderStatus::Failed);
    let order = connection.prepare_cached(ADVANCE)?.query_row(
        named_params! {
            ":id": key(order_id),
            ":status": status.code(),
            ":now": now,
            ":failure_code": failure.map(|cause| &cause.code),
            ":failure_message": failure.map(|cause| &cause.message),
        },
        read_order,
    )?;
    let event = OrderEvent {
        cause: cause.cloned(),
        ..order.last_event()
    };
    connection
        .prepare_cached(INSERT_EVENT)?
        .execute(named_params! {
            ":order_id": key(order_id),
            ":version": order.version,
            ":status": status.code(),
            ":at": now,
            ":cause_code": cause.map(|cause| &cause.code),
            ":cause_message": cause.map(|cause| &cause.message),
        })?;
    Ok((order, event))
}

const FIND: &str = concat!("SELECT ", order_columns!(), " FROM orders WHERE id = :id");

/// Reads an order.
pub(super) fn find(connection: &Connection, order_id: OrderId) -> rusqlite::Result<Option<Order>> {
    connection
        .prepare_cached(FIND)?
        .query_row(named_params! { ":id": key(order_id) }, read_order)
        .optional()
}

/// Walks the orders backwards from an id. `:statuses` has bit n set for status n.
const LIST: &str = concat!(
    "SELECT ",
    order_columns!(),
    " FROM orders
WHERE id < :before AND (:statuses >> status) & 1
ORDER BY id DESC LIMIT :limit"
);

/// The same for the orders of one user, by the index on user and id.
const LIST_OF_USER: &str = concat!(
    "SELECT ",
    order_columns!(),
    " FROM orders
WHERE user_id = :user_id AND id < :before AND (:statuses >> status) & 1
ORDER BY id DESC LIMIT :limit"
);

/// Sorts behind every id, which has 16 bytes.
const AFTER_EVERY_ID: [u8; 17] = [0xff; 17];

/// Reads orders by id descending.
pub(super) fn list(connection: &Connection, query: &OrderQuery) -> rusqlite::Result<Vec<Order>> {
    let before = query.before.map(key);
    let before = before
        .as_ref()
        .map_or(&AFTER_EVERY_ID[..], |before| &before[..]);
    let statuses: &[OrderStatus] = match &query.statuses[..] {
        [] => &OrderStatus::ALL,
        some => some,
    };
    let statuses = statuses
        .iter()
        .fold(0_i64, |mask, status| mask | 1 << status.code());
    let limit = to_limit(query.limit);
    match &query.user_id {
        Some(user_id) => connection
            .prepare_cached(LIST_OF_USER)?
            .query_map(
                named_params! {
                    ":user_id": user_id.as_str(),
                    ":before": before,
                    ":statuses": statuses,
                    ":limit": limit,
                },
                read_order,
            )?
            .collect(),
        None => connection
            .prepare_cached(LIST)?
            .query_map(
                named_params! { ":before": before, ":statuses": statuses, ":limit": limit },
                read_order,
            )?
            .collect(),
    }
}

/// Version 1 comes from the order itself, the later ones from the log.
const EVENTS: &str = "\
SELECT 1 AS version, :pending AS status, created_at AS at,
       NULL AS cause_code, NULL AS cause_message
FROM orders WHERE id = :order_id AND :after < 1
UNION ALL
SELECT version, status, at, cause_code, cause_message
FROM order_events WHERE order_id = :order_id AND version > :after
ORDER BY version LIMIT :limit";

/// Reads the history of an order after a version.
pub(super) fn events(
    connection: &Connection,
    order_id: OrderId,
    after: Version,
    limit: usize,
) -> rusqlite::Result<Vec<OrderEvent>> {
    connection
        .prepare_cached(EVENTS)?
        .query_map(
            named_params! {
                ":order_id": key(order_id),
                ":pending": OrderStatus::Pending.code(),
                ":after": after,
                ":limit": to_limit(limit),
            },
            |row| {
                Ok(OrderEvent {
                    order_id,
                    version: row.get(0)?,
                    status: read_status(row, 1)?,
                    at: read_time(row, 2)?,
                    cause: read_cause(row, 3)?,
                })
            },
        )?
        .collect()
}

const STATE: &str = "SELECT id, version, status, updated_at FROM orders WHERE id = :id";

/// Reads where orders stand. A row that cannot be read is logged and left out, so that it
/// blinds nobody who watches others.
pub(super) fn states(
    connection: &Connection,
    order_ids: &[OrderId],
) -> rusqlite::Result<Vec<OrderState>> {
    let mut statement = connection.prepare_cached(STATE)?;
    let mut states = Vec::with_capacity(order_ids.len());
    for order_id in order_ids {
        let state = statement
            .query_row(named_params! { ":id": key(*order_id) }, |row| {
                let read = || {
                    Ok(OrderState {
                        order_id: read_id(row, 0)?,
                        version: row.get(1)?,
                        status: read_status(row, 2)?,
                        updated_at: read_time(row, 3)?,
                    })
                };
                Ok(read().inspect_err(|error: &rusqlite::Error| {
                    tracing::error!(order.id = %order_id, %error, "order is unreadable");
                }))
            })
            .optional()?;
        states.extend(state.and_then(Result::ok));
    }
    Ok(states)
}
