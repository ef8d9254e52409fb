//! Rows of the database as values of the domain, and back.
//!
//! Invariant: what the schema allows and the domain does not is an error that names the
//! order, never a panic and never a guess.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use order_core::{
    Cause, Error, ExternalId, JobEffect, JobToken, Metadata, Money, Order, OrderEvent, OrderId,
    OrderState, OrderStatus, TraceParent, UserId, Version,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::errors::Fault;

/// The columns of `orders` in the order in which [`order`] reads them.
pub(super) const ORDER_COLUMNS: &str = "id, user_id, amount_minor, currency, status, version, \
    failure_code, failure_message, created_at, updated_at, metadata::text, external_id";

/// How many columns [`ORDER_COLUMNS`] names.
pub(super) const ORDER_COLUMNS_LEN: usize = 12;

/// The longest time the database is asked to add to its clock: a hundred years, far below
/// where its calendar ends.
const DELAY_MAX: Duration = Duration::from_hours(100 * 365 * 24);

/// The longest text kept in `jobs.last_error`, in characters.
const LAST_ERROR_CHARS_MAX: usize = 1_000;

/// Reads rows, each of which begins with an order id. A row that cannot be read is logged and
/// left out, so that it fails alone.
pub(super) fn readable<T>(rows: &[Row], read: fn(&Row) -> Result<T, Fault>) -> Vec<T> {
    let read = |row| {
        let logged = |fault| {
            let order_id = order_id(row, 0).ok().map(tracing::field::display);
            let error = Error::from(fault);
            tracing::error!(
                order.id = order_id,
                error = error.chain(),
                "order is unreadable"
            );
        };
        read(row).map_err(logged).ok()
    };
    rows.iter().filter_map(read).collect()
}

/// Reads an order from the first columns of a row.
pub(super) fn order(row: &Row) -> Result<Order, Fault> {
    let id = order_id(row, 0)?;
    let corrupt = |what| Fault::Defect(format!("the stored order {id} has a bad {what}").into());
    Ok(Order {
        id,
        user_id: UserId::from_accepted(row.try_get(1)?),
        money: Money::from_accepted(row.try_get(2)?, row.try_get(3)?, None)
            .map_err(|_| corrupt("amount"))?,
        status: status(row, 4)?,
        version: number(row, 5)?,
        metadata: metadata(row.try_get(10)?).ok_or_else(|| corrupt("metadata"))?,
        external_id: row
            .try_get::<_, Option<&str>>(11)?
            .map(ExternalId::from_accepted),
        failure: cause(row, 6)?,
        created_at: row.try_get(8)?,
        updated_at: row.try_get(9)?,
    })
}

/// The entries of a JSON object, none for NULL; `None` for anything else.
fn metadata(json: Option<&str>) -> Option<Metadata> {
    let Some(json) = json else {
        return Some(Metadata::NONE);
    };
    let entries: BTreeMap<String, String> = serde_json::from_str(json).ok()?;
    Metadata::new(entries).ok()
}

/// Metadata as a JSON object, `None` without entries.
pub(super) fn metadata_text(metadata: &Metadata) -> Option<String> {
    if metadata.is_empty() {
        return None;
    }
    let entries = metadata.iter();
    let object: serde_json::Map<_, _> = entries
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Some(serde_json::Value::from(object).to_string())
}

/// Reads an order id.
pub(super) fn order_id(row: &Row, column: usize) -> Result<OrderId, Fault> {
    Ok(OrderId::from_uuid(row.try_get(column)?))
}

/// Reads a status.
pub(super) fn status(row: &Row, column: usize) -> Result<OrderStatus, Fault> {
    let code: i16 = row.try_get(column)?;
    OrderStatus::from_code(code.into())
        .ok_or_else(|| Fault::Defect(format!("{code} is not the code of a status").into()))
}

/// Reads a version or an attempt.
pub(super) fn number(row: &Row, column: usize) -> Result<u32, Fault> {
    let number: i32 = row.try_get(column)?;
    u32::try_from(number).map_err(|error| Fault::Defect(error.into()))
}

/// Reads a cause from its two columns, of which a code makes it one.
pub(super) fn cause(row: &Row, column: usize) -> Result<Option<Cause>, Fault> {
    let code: Option<String> = row.try_get(column)?;
    let message: Option<String> = row.try_get(column + 1)?;
    Ok(code.map(|code| Cause {
        code,
        message: message.unwrap_or_default(),
    }))
}

/// What a token is known by in a batch, in the order of the ids.
pub(super) type TokenKey = (OrderId, u32);

/// The key of a token.
pub(super) fn token_key(token: &JobToken) -> TokenKey {
    (token.order_id, token.attempt)
}

/// Reads the key of a token from the first two columns of a row.
pub(super) fn read_token_key(row: &Row) -> Result<TokenKey, Fault> {
    Ok((order_id(row, 0)?, number(row, 1)?))
}

/// Reads who placed an order.
pub(super) fn user_id(row: &Row, column: usize) -> Result<UserId, Fault> {
    Ok(UserId::from_accepted(row.try_get(column)?))
}

/// Reads where an order stands from its id, version, status, time, user and cause.
pub(super) fn state(row: &Row) -> Result<OrderState, Fault> {
    Ok(OrderState {
        order_id: order_id(row, 0)?,
        version: number(row, 1)?,
        status: status(row, 2)?,
        updated_at: row.try_get(3)?,
        user_id: user_id(row, 4)?,
        cause: cause(row, 5)?,
    })
}

/// Reads the event of an order that moved to `status` from the token, the version, the time
/// and the user in the first five columns of a row.
pub(super) fn event(
    row: &Row,
    status: OrderStatus,
    cause: Option<Cause>,
) -> Result<OrderEvent, Fault> {
    Ok(OrderEvent {
        order_id: order_id(row, 0)?,
        user_id: user_id(row, 4)?,
        version: number(row, 2)?,
        status,
        at: row.try_get::<_, Timestamp>(3)?,
        cause,
        trace_parent: None,
    })
}

/// Reads the position in a trace that is stored with an order. One that is not valid counts as
/// absent: an order is worth more than its trace.
pub(super) fn trace_parent(row: &Row, column: usize) -> Result<Option<TraceParent>, Fault> {
    let text: Option<&str> = row.try_get(column)?;
    Ok(text.and_then(TraceParent::parse))
}

/// The ids of a batch.
pub(super) fn ids<'a>(ids: impl IntoIterator<Item = &'a OrderId>) -> Vec<Uuid> {
    ids.into_iter().map(|id| *id.as_uuid()).collect()
}

/// The number of a version or an attempt. No row has one that is too large for the column,
/// nor a negative one, which stands for it.
pub(super) fn number_code(number: Version) -> i32 {
    i32::try_from(number).unwrap_or(-1)
}

/// The code of a status.
pub(super) fn status_code(status: OrderStatus) -> i16 {
    status.code().into()
}

/// The code of a job's fate in `sql/commit.sql`.
pub(super) fn job_effect_code(effect: JobEffect) -> i16 {
    match effect {
        JobEffect::Keep => 0,
        JobEffect::Delete => 1,
        JobEffect::Bury => 2,
        JobEffect::Requeue => 3,
    }
}

/// A span of time in microseconds, cut to what the calendar of the database can take.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.min(DELAY_MAX).as_micros()).unwrap_or(i64::MAX)
}

/// The text of an error as the database can keep it. It comes from anywhere, and losing the
/// retry over a character would be worse than losing the character.
pub(super) fn last_error(error: &str) -> String {
    let is_kept = |c: &char| *c != '\0';
    error
        .chars()
        .filter(is_kept)
        .take(LAST_ERROR_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_spans_stay_inside_the_calendar() {
        assert_eq!(micros(Duration::from_micros(5)), 5);
        assert_eq!(micros(Duration::MAX), micros(DELAY_MAX));
    }

    #[test]
    fn any_error_text_can_be_kept() {
        assert_eq!(last_error("a\0b"), "ab");
        assert_eq!(last_error(&"ß".repeat(2_000)).chars().count(), 1_000);
    }

    #[test]
    fn metadata_is_an_object_of_texts_or_null() {
        let entries = [("a", "\"1\""), ("b", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let some = Metadata::new(entries).unwrap();
        let text = metadata_text(&some);
        assert_eq!(text.as_deref(), Some(r#"{"a":"\"1\"","b":""}"#));
        assert_eq!(metadata(text.as_deref()), Some(some));
        assert_eq!(metadata_text(&Metadata::NONE), None);
        assert_eq!(metadata(None), Some(Metadata::NONE));
        assert_eq!(metadata(Some(r#"{"a":1}"#)), None);
    }

    #[test]
    fn a_number_no_row_can_have_matches_none() {
        assert_eq!(number_code(7), 7);
        assert_eq!(number_code(u32::MAX), -1);
    }
}
