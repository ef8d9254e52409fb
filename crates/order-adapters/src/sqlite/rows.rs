//! Rows of the tables as types of the domain, and failures of SQLite as errors of the
//! domain. The only place that knows how values are stored.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use order_core::{
    BoxError, Cause, Error, ExternalId, Metadata, Money, Order, OrderId, OrderState, OrderStatus,
    ProcessId, TraceParent, UserId, Version,
};
use rusqlite::{ErrorCode, Row, types::Type};
use uuid::Uuid;

/// `jobs.due_at` of a buried job.
pub(super) const BURIED: i64 = i64::MAX;

/// A time as it is stored: microseconds since 1970.
pub(super) fn to_micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// The time `duration` after `now`; never so late that it means a buried job.
pub(super) fn later(now: i64, duration: Duration) -> i64 {
    let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    now.saturating_add(micros).min(BURIED - 1)
}

/// The time `duration` before `now`.
pub(super) fn earlier(now: i64, duration: Duration) -> i64 {
    now.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

/// A count or limit as SQLite takes it.
pub(super) fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The key of an order.
pub(super) fn key(order_id: OrderId) -> [u8; 16] {
    order_id.as_uuid().into_bytes()
}

/// The key of a process. A number of 64 bits is stored with a sign.
pub(super) fn process_key(id: ProcessId) -> i64 {
    id.as_u64().cast_signed()
}

/// Reports that column `index` holds what no version of this program has written.
pub(super) fn unreadable(index: usize, kind: Type, source: impl Into<BoxError>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, kind, source.into())
}

/// Reads the order id in column `index`.
pub(super) fn read_id(row: &Row<'_>, index: usize) -> rusqlite::Result<OrderId> {
    Ok(OrderId::from_uuid(Uuid::from_bytes(row.get(index)?)))
}

/// Reads the status in column `index`.
pub(super) fn read_status(row: &Row<'_>, index: usize) -> rusqlite::Result<OrderStatus> {
    let code: i64 = row.get(index)?;
    OrderStatus::from_code(code)
        .ok_or_else(|| unreadable(index, Type::Integer, format!("no status has code {code}")))
}

/// Reads the time in column `index`.
pub(super) fn read_time(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(row.get(index)?)
        .map_err(|error| unreadable(index, Type::Integer, error))
}

/// Reads the user id in column `index`.
pub(super) fn read_user_id(row: &Row<'_>, index: usize) -> rusqlite::Result<UserId> {
    let user_id: String = row.get(index)?;
    Ok(UserId::from_accepted(&user_id))
}

/// Metadata as it is stored: a JSON object, or NULL without entries.
pub(super) fn metadata_text(metadata: &Metadata) -> rusqlite::Result<Option<String>> {
    if metadata.is_empty() {
        return Ok(None);
    }
    let entries: BTreeMap<_, _> = metadata.iter().collect();
    serde_json::to_string(&entries)
        .map(Some)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// Reads the metadata in column `index`.
fn read_metadata(row: &Row<'_>, index: usize) -> rusqlite::Result<Metadata> {
    let Some(text) = row.get::<_, Option<String>>(index)? else {
        return Ok(Metadata::NONE);
    };
    let entries: BTreeMap<String, String> =
        serde_json::from_str(&text).map_err(|error| unreadable(index, Type::Text, error))?;
    Metadata::new(entries).map_err(|error| unreadable(index, Type::Text, error))
}

/// Reads the external id in column `index`.
fn read_external_id(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<ExternalId>> {
    let external_id: Option<String> = row.get(index)?;
    Ok(external_id.map(|id| ExternalId::from_accepted(&id)))
}

/// Reads the cause in columns `index` (code) and `index + 1` (message).
pub(super) fn read_cause(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Cause>> {
    let code: Option<String> = row.get(index)?;
    let message: Option<String> = row.get(index + 1)?;
    Ok(code
        .zip(message)
        .map(|(code, message)| Cause { code, message }))
}

/// The columns that [`read_order`] reads, in its order. No other table has columns of
/// these names.
macro_rules! order_columns {
    () => {
        order_columns!("id")
    };
    ($id:literal) => {
        concat!(
            $id,
            ", user_id, amount_minor, currency, status, version, metadata, external_id, \
         failure_code, failure_message, created_at, updated_at"
        )
    };
}
pub(super) use order_columns;

/// How many columns an order has.
pub(super) const ORDER_COLUMNS: usize = 12;

/// Reads an order from the first [`ORDER_COLUMNS`] columns.
pub(super) fn read_order(row: &Row<'_>) -> rusqlite::Result<Order> {
    let currency: String = row.get(3)?;
    Ok(Order {
        id: read_id(row, 0)?,
        user_id: read_user_id(row, 1)?,
        money: Money::from_accepted(row.get(2)?, &currency, None)
            .map_err(|error| unreadable(2, Type::Integer, error))?,
        status: read_status(row, 4)?,
        version: row.get::<_, Version>(5)?,
        metadata: read_metadata(row, 6)?,
        external_id: read_external_id(row, 7)?,
        failure: read_cause(row, 8)?,
        created_at: read_time(row, 10)?,
        updated_at: read_time(row, 11)?,
    })
}

/// Reads the position in a trace that is stored with an order. One that is not valid counts as
/// absent: an order is worth more than its trace.
pub(super) fn read_trace_parent(row: &Row<'_>, index: usize) -> Option<TraceParent> {
    let text: Option<String> = row.get(index).ok()?;
    TraceParent::parse(&text?)
}

/// The columns that [`read_state`] reads, in its order.
macro_rules! state_columns {
    () => {
        "id, user_id, version, status, updated_at, \
         (SELECT cause_code FROM order_events \
          WHERE order_id = orders.id AND version = orders.version), \
         (SELECT cause_message FROM order_events \
          WHERE order_id = orders.id AND version = orders.version)"
    };
}
pub(super) use state_columns;

/// Reads where an order stands; `None`, and a line in the log, if the row cannot be read.
pub(super) fn read_state(row: &Row<'_>) -> Option<OrderState> {
    let read = || {
        Ok(OrderState {
            order_id: read_id(row, 0)?,
            user_id: read_user_id(row, 1)?,
            version: row.get(2)?,
            status: read_status(row, 3)?,
            updated_at: read_time(row, 4)?,
            cause: read_cause(row, 5)?,
        })
    };
    readable(row, read())
}

/// What was read from a row that begins with an order id; `None`, and a line in the log, if
/// that failed.
pub(super) fn readable<T>(row: &Row<'_>, read: rusqlite::Result<T>) -> Option<T> {
    let read = read.inspect_err(|error| {
        let order_id = read_id(row, 0).ok().map(tracing::field::display);
        tracing::error!(order.id = order_id, %error, "order is unreadable");
    });
    read.ok()
}

/// Whether the disk or the file system is the cause of a failure, so that other writes are
/// likely to fail too.
pub(super) fn is_disk_failure(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
        )
    )
}

/// Translates a failure: what may go away by itself is the store being unavailable, a
/// statement that was interrupted ran out of time, the rest is a defect.
pub(super) fn store_error(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => Error::DeadlineExceeded,
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed,
        ) => Error::store_unavailable(error),
        _ => Error::internal(error),
    }
}
