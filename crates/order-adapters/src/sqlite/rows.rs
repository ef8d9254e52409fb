//! Rows of the tables as types of the domain, and failures of SQLite as errors of the
//! domain. The only place that knows how values are stored.

use std::time::Duration;

use jiff::Timestamp;
use order_core::{BoxError, Cause, Error, Money, Order, OrderId, OrderStatus, UserId, Version};
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

/// A count or limit as SQLite takes it.
pub(super) fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The key of an order.
pub(super) fn key(order_id: OrderId) -> [u8; 16] {
    order_id.as_uuid().into_bytes()
}

/// Reports that column `index` holds what no version of this program has written.
fn unreadable(index: usize, kind: Type, source: impl Into<BoxError>) -> rusqlite::Error {
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
        "id, user_id, amount_minor, currency, status, version, \
         failure_code, failure_message, created_at, updated_at"
    };
}
pub(super) use order_columns;

/// How many columns an order has.
pub(super) const ORDER_COLUMNS: usize = 10;

/// Reads an order from the first [`ORDER_COLUMNS`] columns.
pub(super) fn read_order(row: &Row<'_>) -> rusqlite::Result<Order> {
    let user_id: String = row.get(1)?;
    let currency: String = row.get(3)?;
    Ok(Order {
        id: read_id(row, 0)?,
        user_id: UserId::parse(&user_id).map_err(|error| unreadable(1, Type::Text, error))?,
        money: Money::from_minor_units(row.get(2)?, &currency)
            .map_err(|error| unreadable(2, Type::Integer, error))?,
        status: read_status(row, 4)?,
        version: row.get::<_, Version>(5)?,
        failure: read_cause(row, 6)?,
        created_at: read_time(row, 8)?,
        updated_at: read_time(row, 9)?,
    })
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
