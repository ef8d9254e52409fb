//! The SQL of orders and their history: one function per element of a call.

use std::time::Duration;

use order_core::{
    Cause, Change, Committed, Created, Error, ExternalId, Insertion, JobEffect, NewOrder, Order,
    OrderEvent, OrderId, OrderState, OrderStatus, ProcessId, RequestId, StoredKey, TraceParent,
    Version,
};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};
use uuid::Uuid;

use super::{
    jobs, keys,
    rows::{
        earlier, key, metadata_text, order_columns, read_cause, read_id, read_order, read_state,
        read_status, read_time, read_user_id, state_columns, to_limit, to_micros,
    },
};

/// An id or an external id that is taken inserts nothing; the caller then looks at the row
/// that is there.
const INSERT: &str = "\
INSERT INTO orders
  (id, user_id, amount_minor, currency, status, version, metadata, external_id,
   trace_parent, request_id, gateway, created_at, updated_at)
VALUES (:id, :user_id, :amount_minor, :currency, :status, 1, :metadata, :external_id,
  :trace_parent, :request_id, :gateway, :now, :now)
ON CONFLICT DO NOTHING";

/// Stores an order with its job, which is born leased by process `holder` if at all, and its key. An order without a key runs no statement more
/// than it would if there were no keys.
pub(super) fn create(
    connection: &Connection,
    now: i64,
    new: &NewOrder,
    holder: ProcessId,
) -> rusqlite::Result<Result<Created, Error>> {
    if let Some(claim) = &new.key
        && let Some(stored) = keys::find_claimed(connection, claim)?
    {
        return match stored.check(claim.fingerprint) {
            Ok(()) => replay(connection, new.id, stored).map(Ok),
            Err(error) => Ok(Err(error)),
        };
    }
    let n_inserted = connection.prepare_cached(INSERT)?.execute(named_params! {
        ":id": key(new.id),
        ":user_id": new.user_id.as_str(),
        ":amount_minor": new.money.minor_units(),
        ":currency": new.money.currency(),
        ":status": OrderStatus::Pending.code(),
        ":metadata": metadata_text(&new.metadata)?,
        ":external_id": new.external_id.as_ref().map(ExternalId::as_str),
        ":trace_parent": new.trace_parent.as_ref().map(TraceParent::as_str),
        ":request_id": new.request_id.as_ref().map(RequestId::as_str),
        ":gateway": new.gateway.as_deref(),
        ":now": now,
    })?;
    if n_inserted == 0 {
        return find_same(connection, new);
    }
    jobs::insert(connection, now, new, holder)?;
    if let Some(claim) = &new.key {
        keys::insert(connection, now, claim, new.id)?;
    }
    Ok(Ok(Created {
        order: find_stored(connection, new.id)?,
        insertion: Insertion::New,
    }))
}

/// The answer to a create whose key is there already.
fn replay(
    connection: &Connection,
    new_id: OrderId,
    stored: StoredKey,
) -> rusqlite::Result<Created> {
    let insertion = if stored.order_id == new_id {
        Insertion::SameId
    } else {
        Insertion::SameKey
    };
    Ok(Created {
        order: find_stored(connection, stored.order_id)?.as_created(),
        insertion,
    })
}

const FIND_EXTERNAL_ID: &str =
    "SELECT id FROM orders WHERE external_id = :external_id AND user_id = :user_id";

/// The answer to a create whose id or external id is taken.
fn find_same(connection: &Connection, new: &NewOrder) -> rusqlite::Result<Result<Created, Error>> {
    if let Some(order) = find(connection, new.id)? {
        return Ok(if order.is_same_request(new) {
            Ok(Created {
                order,
                insertion: Insertion::SameId,
            })
        } else {
            Err(Error::OrderAlreadyExists { order_id: new.id })
        });
    }
    let external_id = new.external_id.as_ref();
    let external_id = external_id.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let order_id = connection.prepare_cached(FIND_EXTERNAL_ID)?.query_row(
        named_params! {
            ":external_id": external_id.as_str(),
            ":user_id": new.user_id.as_str(),
        },
        |row| read_id(row, 0),
    )?;
    Ok(Err(Error::ExternalIdTaken {
        external_id: external_id.clone(),
        order_id,
    }))
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
    if let Some(claim) = &change.key {
        if keys::find_claimed(connection, claim)?.is_some() {
            return Ok(Committed::Stale);
        }
        keys::insert(connection, now, claim, change.order_id)?;
    }
    let cause = change.cause.as_ref();
    match change.job {
        JobEffect::Keep => {}
        JobEffect::Delete => jobs::delete(connection, change.order_id)?,
        JobEffect::Bury => jobs::bury(connection, change.order_id, cause)?,
        JobEffect::Requeue => jobs::requeue(connection, now, change.order_id)?,
    }
    let (order, event) = advance(
        connection,
        now,
        change.order_id,
        change.status,
        cause,
        None,
        change.id,
    )?;
    Ok(Committed::Applied {
        order: Box::new(order),
        event,
    })
}

const ADVANCE: &str = concat!(
    "\
UPDATE orders
SET status = :status, version = version + 1, updated_at = max(updated_at, :now),
    failure_code = :failure_code, failure_message = :failure_message
WHERE id = :id
RETURNING ",
    order_columns!()
);

const INSERT_EVENT: &str = "\
INSERT INTO order_events
  (order_id, version, status, at, cause_code, cause_message, attempt, worker, begun_at, change_id)
VALUES (:order_id, :version, :status, :at, :cause_code, :cause_message, :attempt, :worker, :begun_at,
  :change_id)";

/// The end of an attempt.
#[derive(Clone, Copy)]
pub(super) struct Ended<'a> {
    pub(super) attempt: u32,
    pub(super) took: Option<Duration>,
    /// The process that ran it.
    pub(super) worker: &'a str,
}

impl Ended<'_> {
    /// When an attempt began that ended at `at`.
    pub(super) fn begun_at(&self, at: i64) -> Option<i64> {
        self.took.map(|took| earlier(at, took))
    }
}

/// Moves an order that is there to its next version, and appends the event: `ended` is the
/// attempt whose report moves it, `change_id` names the change that does. History does not run backwards, even if the clock does.
///
/// The write lock makes the check before and the update here one step.
pub(super) fn advance(
    connection: &Connection,
    now: i64,
    order_id: OrderId,
    status: OrderStatus,
    cause: Option<&Cause>,
    ended: Option<Ended<'_>>,
    change_id: Option<Uuid>,
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
    let at = to_micros(order.updated_at);
    connection
        .prepare_cached(INSERT_EVENT)?
        .execute(named_params! {
            ":order_id": key(order_id),
            ":version": order.version,
            ":status": status.code(),
            ":at": at,
            ":cause_code": cause.map(|cause| &cause.code),
            ":cause_message": cause.map(|cause| &cause.message),
            ":attempt": ended.map(|ended| ended.attempt),
            ":worker": ended.map(|ended| ended.worker),
            ":begun_at": ended.and_then(|ended| ended.begun_at(at)),
            ":change_id": change_id.map(Uuid::into_bytes),
        })?;
    Ok((order, event))
}

const HAS_CHANGE: &str =
    "SELECT 1 FROM order_events WHERE order_id = :order_id AND change_id = :change_id";

/// Whether the history of an order has the change.
pub(super) fn has_change(
    connection: &Connection,
    order_id: OrderId,
    change_id: Uuid,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(HAS_CHANGE)?
        .exists(named_params! {
            ":order_id": key(order_id),
            ":change_id": change_id.into_bytes(),
        })
}

const FIND: &str = concat!("SELECT ", order_columns!(), " FROM orders WHERE id = :id");

/// Reads an order.
pub(super) fn find(connection: &Connection, order_id: OrderId) -> rusqlite::Result<Option<Order>> {
    connection
        .prepare_cached(FIND)?
        .query_row(named_params! { ":id": key(order_id) }, read_order)
        .optional()
}

/// Reads an order that must be there.
fn find_stored(connection: &Connection, order_id: OrderId) -> rusqlite::Result<Order> {
    find(connection, order_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// Version 1 comes from the order itself, the later ones from the log.
const EVENTS: &str = "\
SELECT user_id, 1 AS version, :pending AS status, created_at AS at,
       NULL AS cause_code, NULL AS cause_message
FROM orders WHERE id = :order_id AND :after < 1
UNION ALL
SELECT (SELECT user_id FROM orders WHERE id = :order_id),
       version, status, at, cause_code, cause_message
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
            |row| read_event(row, order_id),
        )?
        .collect()
}

/// Reads an event from its user, version, status, time and cause.
fn read_event(row: &Row<'_>, order_id: OrderId) -> rusqlite::Result<OrderEvent> {
    Ok(OrderEvent {
        order_id,
        user_id: read_user_id(row, 0)?,
        version: row.get(1)?,
        status: read_status(row, 2)?,
        at: read_time(row, 3)?,
        cause: read_cause(row, 4)?,
        trace_parent: None,
    })
}

const EVENT_OF_ATTEMPT: &str = "\
SELECT (SELECT user_id FROM orders WHERE id = :order_id),
       version, status, at, cause_code, cause_message
FROM order_events WHERE order_id = :order_id AND attempt = :attempt";

/// Finds the event by which a report of `attempt` ended an order.
pub(super) fn find_event_of_attempt(
    connection: &Connection,
    order_id: OrderId,
    attempt: u32,
) -> rusqlite::Result<Option<OrderEvent>> {
    connection
        .prepare_cached(EVENT_OF_ATTEMPT)?
        .query_row(
            named_params! { ":order_id": key(order_id), ":attempt": attempt },
            |row| read_event(row, order_id),
        )
        .optional()
}

const STATE: &str = concat!("SELECT ", state_columns!(), " FROM orders WHERE id = :id");

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
                Ok(read_state(row))
            })
            .optional()?;
        states.extend(state.flatten());
    }
    Ok(states)
}

#[cfg(test)]
mod tests;
