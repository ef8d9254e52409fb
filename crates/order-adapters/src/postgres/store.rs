//! Orders and their history.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    CallContext, Change, Committed, Created, Error, NewOrder, Order, OrderEvent, OrderId,
    OrderQuery, OrderState, OrderStatus, OrderStore, Version,
};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    PostgresStore,
    errors::Fault,
    migration,
    pool::{BatchStatement, Columns},
    row::{
        self, ORDER_COLUMNS, ORDER_COLUMNS_LEN, ids, job_effect_code, micros, number_code,
        status_code,
    },
};

fn create<'a>() -> BatchStatement<&'a NewOrder, OrderId, Timestamp> {
    BatchStatement {
        sql: include_str!("sql/create.sql"),
        columns: |orders| {
            let users = orders.iter().map(|order| order.user_id.as_str());
            let money = || orders.iter().map(|order| order.money);
            vec![
                Box::new(ids(orders.iter().map(|order| &order.id))),
                Box::new(users.collect::<Vec<_>>()),
                Box::new(money().map(|money| money.minor_units()).collect::<Vec<_>>()),
                Box::new(money().map(|money| money.currency()).collect::<Vec<_>>()),
                Box::new(
                    orders
                        .iter()
                        .map(|order| order.lease.map(micros))
                        .collect::<Vec<_>>(),
                ),
            ]
        },
        key: |order| order.id,
        read: |row| Ok((row::order_id(row, 0)?, row.try_get(1)?)),
    }
}

fn commit<'a>() -> BatchStatement<&'a Change, (OrderId, Version), Order> {
    BatchStatement {
        sql: include_str!("sql/commit.sql"),
        columns: change_columns,
        key: |change| change_key(change),
        read: |row| {
            let order = row::order(row)?;
            Ok(((order.id, row::number(row, ORDER_COLUMNS_LEN)?), order))
        },
    }
}

fn change_key(change: &Change) -> (OrderId, Version) {
    (change.order_id, change.expected_version)
}

fn change_columns<'a>(changes: &'a [&Change]) -> Columns<'a> {
    let causes = || changes.iter().map(|change| change.cause.as_ref());
    let numbers = |number: fn(&Change) -> i16| -> Vec<i16> {
        changes.iter().map(|change| number(change)).collect()
    };
    let versions = changes
        .iter()
        .map(|change| number_code(change.expected_version));
    let codes = causes().map(|cause| cause.map(|cause| cause.code.as_str()));
    let messages = causes().map(|cause| cause.map(|cause| cause.message.as_str()));
    vec![
        Box::new(ids(changes.iter().map(|change| &change.order_id))),
        Box::new(versions.collect::<Vec<_>>()),
        Box::new(numbers(|change| status_code(change.status))),
        Box::new(numbers(|change| job_effect_code(change.job))),
        Box::new(codes.collect::<Vec<_>>()),
        Box::new(messages.collect::<Vec<_>>()),
    ]
}

/// The items in the order of their keys, the first of those with equal keys.
pub(super) fn ascending<T, K: Ord>(items: &[T], key: fn(&T) -> K) -> Vec<&T> {
    let mut items: Vec<&T> = items.iter().collect();
    // Stable, and deduplication keeps the first.
    items.sort_by_key(|item| key(item));
    items.dedup_by_key(|item| key(item));
    items
}

/// The SELECT of a page, with only the conditions that the query has: one that asks "or is
/// the parameter absent" would keep the planner from using the index.
fn list_sql(query: &OrderQuery) -> String {
    let mut n_params = 0;
    let mut param = || {
        n_params += 1;
        format!("${n_params}")
    };
    let mut conditions = Vec::with_capacity(3);
    if query.user_id.is_some() {
        conditions.push(format!("user_id = {}", param()));
    }
    if query.before.is_some() {
        conditions.push(format!("id < {}", param()));
    }
    if !query.statuses.is_empty() {
        conditions.push(format!("status = ANY ({})", param()));
    }
    let filter = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    format!(
        "SELECT {ORDER_COLUMNS} FROM orders{filter} ORDER BY id DESC LIMIT {}",
        param()
    )
}

fn read_all<T>(rows: &[Row], read: fn(&Row) -> Result<T, Fault>) -> Result<Vec<T>, Error> {
    rows.iter()
        .map(|row| read(row).map_err(Error::from))
        .collect()
}

impl PostgresStore {
    /// The orders among `ids` that exist.
    async fn find_all(&self, ids: Vec<Uuid>) -> Result<BTreeMap<OrderId, Order>, Error> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let sql = format!("SELECT {ORDER_COLUMNS} FROM orders WHERE id = ANY ($1)");
        let rows = self.requests.query(&sql, &[&ids]).await?;
        let orders = read_all(&rows, row::order)?;
        Ok(orders.into_iter().map(|order| (order.id, order)).collect())
    }
}

/// What a new order is once it is stored.
fn stored(new: &NewOrder, created_at: Timestamp) -> Order {
    Order {
        id: new.id,
        user_id: new.user_id.clone(),
        money: new.money,
        status: OrderStatus::Pending,
        version: 1,
        failure: None,
        created_at,
        updated_at: created_at,
    }
}

/// The answer to a new order whose id is taken.
fn taken(
    new: &NewOrder,
    existing: &Result<BTreeMap<OrderId, Order>, Error>,
) -> Result<Created, Error> {
    match existing.as_ref().map(|orders| orders.get(&new.id)) {
        Ok(Some(order)) if order.is_same_request(new) => Ok(Created {
            order: order.clone(),
            is_new: false,
        }),
        Ok(Some(_)) => Err(Error::OrderAlreadyExists { order_id: new.id }),
        // The first of two equal ids in this slice was refused; repeated alone, this one
        // gets its own answer.
        Ok(None) => Err(Error::store_unavailable(
            "the order was neither inserted nor found",
        )),
        Err(error) => Err(error.without_source()),
    }
}

#[async_trait]
impl OrderStore for PostgresStore {
    async fn create(&self, orders: &[NewOrder]) -> Vec<Result<Created, Error>> {
        let new = ascending(orders, |order| order.id);
        let mut inserted = self.requests.query_batch(create(), &new).await;
        // What was not inserted was there before, or comes a second time in this slice.
        let mut seen = BTreeSet::new();
        let others = orders
            .iter()
            .map(|order| &order.id)
            .filter(|id| !inserted.contains_key(*id) || !seen.insert(**id));
        let existing = self.find_all(ids(others)).await;
        orders
            .iter()
            .map(|new| match inserted.remove(&new.id) {
                Some(created_at) => Ok(Created {
                    order: stored(new, created_at?),
                    is_new: true,
                }),
                None => taken(new, &existing),
            })
            .collect()
    }

    async fn commit(&self, changes: &[Change]) -> Vec<Result<Committed, Error>> {
        let unique = ascending(changes, change_key);
        let mut moved = self.requests.query_batch(commit(), &unique).await;
        changes
            .iter()
            .map(|change| match moved.remove(&change_key(change)) {
                Some(order) => {
                    let order = Box::new(order?);
                    let event = OrderEvent {
                        cause: change.cause.clone(),
                        ..order.last_event()
                    };
                    Ok(Committed::Applied { order, event })
                }
                // No row: another version, no order, or the second of two equal changes.
                None => Ok(Committed::Stale),
            })
            .collect()
    }

    async fn find(&self, ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error> {
        let sql = format!("SELECT {ORDER_COLUMNS} FROM orders WHERE id = $1");
        let rows = self.requests.read(ctx, &sql, &[order_id.as_uuid()]).await?;
        Ok(read_all(&rows, row::order)?.pop())
    }

    async fn list(&self, ctx: &CallContext, query: &OrderQuery) -> Result<Vec<Order>, Error> {
        let user_id = query.user_id.as_ref().map(order_core::UserId::as_str);
        let before = query.before.as_ref().map(OrderId::as_uuid);
        let statuses: Vec<i16> = query.statuses.iter().copied().map(status_code).collect();
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
        let mut params: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(4);
        if let Some(user_id) = &user_id {
            params.push(user_id);
        }
        if let Some(before) = before {
            params.push(before);
        }
        if !statuses.is_empty() {
            params.push(&statuses);
        }
        params.push(&limit);
        let rows = self.requests.read(ctx, &list_sql(query), &params).await?;
        read_all(&rows, row::order)
    }

    async fn events(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error> {
        let after = i32::try_from(after).unwrap_or(i32::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self
            .requests
            .read(
                ctx,
                include_str!("sql/events.sql"),
                &[order_id.as_uuid(), &after, &limit],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(OrderEvent {
                    order_id,
                    version: row::number(row, 0)?,
                    status: row::status(row, 1)?,
                    at: row.try_get(2).map_err(Fault::from)?,
                    cause: row::cause(row, 3)?,
                })
            })
            .collect()
    }

    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error> {
        if order_ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "SELECT id, version, status, updated_at FROM orders WHERE id = ANY ($1)";
        let rows = self.maintenance.query(sql, &[&ids(order_ids)]).await?;
        read_all(&rows, |row| {
            Ok(OrderState {
                order_id: row::order_id(row, 0)?,
                version: row::number(row, 1)?,
                status: row::status(row, 2)?,
                updated_at: row.try_get(3)?,
            })
        })
    }

    async fn check(&self, ctx: &CallContext) -> Result<(), Error> {
        let needed = &migration::VERSION_NEEDED;
        let rows = self
            .requests
            .read(ctx, migration::CHECK_SQL, &[needed])
            .await?;
        let row = rows.first().map(|row| -> Result<_, Fault> {
            let (has_schema, is_writable): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
            Ok((has_schema, is_writable))
        });
        match row.transpose()? {
            Some((true, true)) => Ok(()),
            Some((true, false)) => Err(Error::store_unavailable("the database is read-only")),
            _ => Err(Error::store_unavailable(
                "the schema of the database is older than this program needs",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use order_core::UserId;

    use super::*;

    #[test]
    fn page_asks_only_for_what_the_query_filters_by() {
        let all = OrderQuery {
            user_id: None,
            statuses: vec![],
            before: None,
            limit: 1,
        };
        let sql = |query: &OrderQuery| {
            let sql = list_sql(query);
            sql.split_once("FROM ").map(|(_, rest)| rest.to_owned())
        };
        assert_eq!(
            sql(&all).as_deref(),
            Some("orders ORDER BY id DESC LIMIT $1")
        );
        let some = OrderQuery {
            user_id: Some(UserId::parse("u").unwrap()),
            statuses: vec![OrderStatus::Failed],
            before: Some(OrderId::from_uuid(Uuid::nil())),
            limit: 1,
        };
        assert_eq!(
            sql(&some).as_deref(),
            Some(
                "orders WHERE user_id = $1 AND id < $2 AND status = ANY ($3) \
                ORDER BY id DESC LIMIT $4"
            )
        );
    }
}
