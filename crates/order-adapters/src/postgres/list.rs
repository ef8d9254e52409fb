//! Pages of orders: each is one range of one index, read from its end.

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use order_core::{OrderId, OrderQuery, UserId};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::open_orders::{Source, sources};

use super::{
    pool::Columns,
    row::{ORDER_COLUMNS, status_code},
};

/// A SELECT with its parameters.
pub(super) struct Page<'a> {
    /// The statement.
    pub(super) sql: String,
    /// Its parameters.
    pub(super) params: Columns<'a>,
}

/// Conditions on orders, and the parameters they compare with.
#[derive(Default)]
struct Conditions<'a> {
    texts: Vec<String>,
    params: Columns<'a>,
}

impl<'a> Conditions<'a> {
    fn param(&mut self, value: impl ToSql + Send + Sync + 'a) -> String {
        self.params.push(Box::new(value));
        format!("${}", self.params.len())
    }

    /// Adds a condition, if there is a value for its `?`.
    fn push(&mut self, condition: &str, value: Option<impl ToSql + Send + Sync + 'a>) {
        if let Some(value) = value {
            let param = self.param(value);
            self.texts.push(condition.replace('?', &param));
        }
    }

    /// Adds what is checked of each row.
    fn push_filters(&mut self, query: &OrderQuery) {
        self.push(
            "created_at > ?",
            time(query.created_after, RoundMode::Floor),
        );
        self.push(
            "created_at < ?",
            time(query.created_before, RoundMode::Ceil),
        );
        let statuses: Vec<i16> = query.statuses.iter().copied().map(status_code).collect();
        self.push(
            "status = ANY (?)",
            (!statuses.is_empty()).then_some(statuses),
        );
    }

    /// The clause of what was pushed since the last call.
    fn take(&mut self) -> String {
        let texts = std::mem::take(&mut self.texts);
        if texts.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", texts.join(" AND "))
        }
    }
}

/// A bound as the database can take it: in whole microseconds, which is what it keeps of
/// times, and not before 1970. Its calendar does not reach as far back as the type does, and
/// no order is that old.
fn time(bound: Option<Timestamp>, mode: RoundMode) -> Option<Timestamp> {
    let micros = TimestampRound::new().smallest(Unit::Microsecond).mode(mode);
    let bound = bound?.max(Timestamp::UNIX_EPOCH);
    Some(bound.round(micros).unwrap_or(bound))
}

/// The SELECT of a page, with only the conditions that the query has: one that asks "or is
/// the parameter absent" would keep the planner from using the index.
///
/// A plan is made once, perhaps on an empty table, where all indexes cost the same; so each
/// form of the statement leaves only one index that has its order and its conditions.
pub(super) fn page(query: &OrderQuery) -> Page<'_> {
    if let Some(sources) = sources(query) {
        return page_from(query, &sources);
    }
    let mut all = Conditions::default();
    let user_id = query.user_id.as_ref().map(UserId::as_str);
    let after = query.after.as_ref().map(OrderId::as_uuid);
    let before = query.before.as_ref().map(OrderId::as_uuid);
    let (mut from, mut order) = ("orders".to_owned(), "id DESC");
    if let (Some(user_id), None) = (user_id, &query.external_id) {
        // As rows, whose range begins with the page. The primary key has another order.
        order = "user_id DESC, id DESC";
        let user = all.param(user_id);
        let (operator, id) = after.map_or((">=", Uuid::nil()), |id| (">", *id));
        all.push(&format!("(user_id, id) {operator} ({user}, ?)"), Some(id));
        let (operator, id) = before.map_or(("<=", Uuid::max()), |id| ("<", *id));
        all.push(&format!("(user_id, id) {operator} ({user}, ?)"), Some(id));
    } else {
        if let Some(external_id) = &query.external_id {
            // Behind the fence of OFFSET no index has the order; one that had it would be
            // read to its beginning for a single match.
            all.push("external_id = ?", Some(external_id.as_str()));
            all.push("user_id = ?", user_id);
            from = format!("(SELECT * FROM orders{} OFFSET 0) AS named", all.take());
        }
        all.push("id > ?", after);
        all.push("id < ?", before);
    }
    all.push_filters(query);
    let filter = all.take();
    let limit = all.param(i64::try_from(query.limit).unwrap_or(i64::MAX));
    Page {
        sql: format!("SELECT {ORDER_COLUMNS} FROM {from}{filter} ORDER BY {order} LIMIT {limit}"),
        params: all.params,
    }
}

/// The SELECT of a page from sources, each of which gives a page of its own. What one has not in
/// its page is older, so once a page is full, the next source is not read beyond it.
fn page_from<'a>(query: &'a OrderQuery, sources: &[Source]) -> Page<'a> {
    let mut all = Conditions::default();
    all.texts.push("id = order_id".to_owned());
    all.push_filters(query);
    let filter = all.take();
    all.push("order_id > ?", query.after.as_ref().map(OrderId::as_uuid));
    all.push("order_id < ?", query.before.as_ref().map(OrderId::as_uuid));
    let range = std::mem::take(&mut all.texts);
    let limit = all.param(i64::try_from(query.limit).unwrap_or(i64::MAX));
    let page = |(n, source): (usize, &Source)| {
        let (table, condition) = from(*source);
        all.texts.push(condition.to_owned());
        all.texts.extend_from_slice(&range);
        if let Some(last) = n.checked_sub(1) {
            all.texts.push(format!(
                "order_id > coalesce((SELECT id FROM page{last} OFFSET {limit} - 1), '{}')",
                Uuid::nil()
            ));
        }
        // With its limit the subquery cannot become a join, so it is one descent of the primary
        // key for each entry, until the page is full.
        format!(
            "page{n} AS (SELECT open.* FROM {table} \
            CROSS JOIN LATERAL (SELECT * FROM orders{filter} LIMIT 1) AS open{} \
            ORDER BY order_id DESC LIMIT {limit})",
            all.take()
        )
    };
    let pages: Vec<_> = sources.iter().enumerate().map(page).collect();
    let tables: Vec<_> = (0..pages.len()).map(|n| format!("TABLE page{n}")).collect();
    Page {
        sql: format!(
            "WITH {} SELECT {ORDER_COLUMNS} FROM ({}) AS pages ORDER BY id DESC LIMIT {limit}",
            pages.join(", "),
            tables.join(" UNION ALL ")
        ),
        params: all.params,
    }
}

/// The table of a source, and the condition of its index.
const fn from(source: Source) -> (&'static str, &'static str) {
    match source {
        Source::Unclaimed => ("jobs", "attempt = 0 AND due_at <> 'infinity'"),
        Source::Claimed => ("jobs", "attempt > 0 AND due_at <> 'infinity'"),
        Source::Buried => ("jobs", "due_at = 'infinity'"),
        Source::Cancelled => ("order_events", "order_events.status = 5"),
    }
}

#[cfg(test)]
mod tests {
    use order_core::{ExternalId, OrderStatus};

    use super::*;

    fn sql(query: &OrderQuery) -> String {
        page(query).sql.replace(ORDER_COLUMNS, "*")
    }

    #[test]
    fn page_asks_only_for_what_the_query_filters_by() {
        assert_eq!(
            sql(&OrderQuery::default()),
            "SELECT * FROM orders ORDER BY id DESC LIMIT $1"
        );
        let id = |id| Some(OrderId::from_uuid(Uuid::from_u128(id)));
        let query = OrderQuery {
            statuses: vec![OrderStatus::Processed],
            created_after: Some(Timestamp::UNIX_EPOCH),
            created_before: Some(Timestamp::UNIX_EPOCH),
            after: id(1),
            before: id(2),
            ..OrderQuery::default()
        };
        assert_eq!(
            sql(&query),
            "SELECT * FROM orders WHERE id > $1 AND id < $2 AND created_at > $3 \
            AND created_at < $4 AND status = ANY ($5) ORDER BY id DESC LIMIT $6"
        );
    }

    #[test]
    fn page_by_status_comes_from_its_sources() {
        let query = OrderQuery {
            statuses: vec![OrderStatus::Pending],
            created_after: Some(Timestamp::UNIX_EPOCH),
            before: Some(OrderId::from_uuid(Uuid::nil())),
            ..OrderQuery::default()
        };
        assert_eq!(
            sql(&query),
            "WITH page0 AS (SELECT open.* FROM jobs CROSS JOIN LATERAL (SELECT * FROM orders \
            WHERE id = order_id AND created_at > $1 AND status = ANY ($2) LIMIT 1) AS open \
            WHERE attempt = 0 AND due_at <> 'infinity' AND order_id < $3 \
            ORDER BY order_id DESC LIMIT $4), \
            page1 AS (SELECT open.* FROM jobs CROSS JOIN LATERAL (SELECT * FROM orders \
            WHERE id = order_id AND created_at > $1 AND status = ANY ($2) LIMIT 1) AS open \
            WHERE attempt > 0 AND due_at <> 'infinity' AND order_id < $3 \
            AND order_id > coalesce((SELECT id FROM page0 OFFSET $4 - 1), \
            '00000000-0000-0000-0000-000000000000') ORDER BY order_id DESC LIMIT $4) \
            SELECT * FROM (TABLE page0 UNION ALL TABLE page1) AS pages \
            ORDER BY id DESC LIMIT $4"
        );
    }

    #[test]
    fn page_of_a_user_is_a_range_of_rows() {
        let first = OrderQuery {
            user_id: UserId::parse("u").ok(),
            ..OrderQuery::default()
        };
        assert_eq!(
            sql(&first),
            "SELECT * FROM orders WHERE (user_id, id) >= ($1, $2) AND (user_id, id) <= ($1, $3) \
            ORDER BY user_id DESC, id DESC LIMIT $4"
        );
        let next = OrderQuery {
            before: Some(OrderId::from_uuid(Uuid::nil())),
            ..first
        };
        assert!(sql(&next).contains("(user_id, id) < ($1, $3)"));
    }

    #[test]
    fn external_id_is_looked_up_before_anything_is_sorted() {
        let query = OrderQuery {
            user_id: UserId::parse("u").ok(),
            external_id: ExternalId::parse("x").ok(),
            before: Some(OrderId::from_uuid(Uuid::nil())),
            ..OrderQuery::default()
        };
        assert_eq!(
            sql(&query),
            "SELECT * FROM (SELECT * FROM orders WHERE external_id = $1 AND user_id = $2 \
            OFFSET 0) AS named WHERE id < $3 ORDER BY id DESC LIMIT $4"
        );
    }
}
