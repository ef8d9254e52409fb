//! Decided changes. A change whose commit was not answered is recognised when it is sent again.

use std::collections::BTreeSet;

use order_core::{Change, Committed, Error, Order, OrderEvent, OrderId, Version};
use uuid::Uuid;

use super::{
    CONFIRM, PostgresStore,
    errors::Fault,
    key::{key_columns, key_id},
    pool::{Answers, BatchStatement, Columns},
    row::{self, ORDER_COLUMNS_LEN, ids, job_effect_code, number_code, status_code},
    store::ascending,
};

type ChangeKey = (OrderId, Version);

fn commit<'a>() -> BatchStatement<&'a Change, ChangeKey, Order> {
    BatchStatement {
        sql: include_str!("sql/commit.sql"),
        columns: change_columns,
        key: |change| change_key(change),
        read_key: |row| {
            let expected_version = row::number(row, ORDER_COLUMNS_LEN)?;
            Ok((row::order_id(row, 0)?, expected_version))
        },
        read: row::order,
    }
}

fn change_key(change: &Change) -> ChangeKey {
    (change.order_id, change.expected_version)
}

fn versions(changes: &[&Change]) -> Vec<i32> {
    let versions = changes.iter().map(|change| change.expected_version);
    versions.map(number_code).collect()
}

fn change_ids(changes: &[&Change]) -> Vec<Option<Uuid>> {
    changes.iter().map(|change| change.id).collect()
}

fn change_columns<'a>(changes: &'a [&Change]) -> Columns<'a> {
    let causes = || changes.iter().map(|change| change.cause.as_ref());
    let numbers = |number: fn(&Change) -> i16| -> Vec<i16> {
        changes.iter().map(|change| number(change)).collect()
    };
    let codes = causes().map(|cause| cause.map(|cause| cause.code.as_str()));
    let messages = causes().map(|cause| cause.map(|cause| cause.message.as_str()));
    let mut columns: Columns<'a> = vec![
        Box::new(ids(changes.iter().map(|change| &change.order_id))),
        Box::new(versions(changes)),
        Box::new(numbers(|change| status_code(change.status))),
        Box::new(numbers(|change| job_effect_code(change.job))),
        Box::new(codes.collect::<Vec<_>>()),
        Box::new(messages.collect::<Vec<_>>()),
    ];
    columns.extend(key_columns(
        changes.iter().map(|change| change.key.as_ref()),
    ));
    columns.push(Box::new(change_ids(changes)));
    columns
}

impl PostgresStore {
    /// See [`OrderStore::commit`](order_core::OrderStore::commit).
    pub(super) async fn commit_all(&self, changes: &[Change]) -> Vec<Result<Committed, Error>> {
        let mut keys = BTreeSet::new();
        let mut unique = ascending(changes, change_key);
        unique.retain(|change| {
            let key = change.key.as_ref().map(key_id);
            key.is_none_or(|key| keys.insert(key))
        });
        let mut moved = self.requests.query_batch(commit(), &unique).await;
        let (mut answers, mut unmoved) = (Answers::default(), Vec::new());
        for change in unique {
            let key = change_key(change);
            match moved.remove(&key) {
                Some(order) => {
                    let committed = order.map(|order| applied(order.last_event(), order, change));
                    answers.insert(key, committed);
                }
                // Another version, no order, or a key that was there before.
                None => unmoved.push(change),
            }
        }
        answers.extend(self.find_own(unmoved).await);
        changes
            .iter()
            // The second of two changes that are equal or have the same key is stale, too.
            .map(|change| {
                let answer = answers.remove(&change_key(change));
                answer.unwrap_or(Ok(Committed::Stale))
            })
            .collect()
    }

    /// Finds the changes that were committed before. The first run of a statement whose
    /// connection broke may have been committed, so the second finds other versions.
    async fn find_own(&self, mut changes: Vec<&Change>) -> Answers<ChangeKey, Committed> {
        changes.retain(|change| change.id.is_some());
        if changes.is_empty() {
            return Answers::default();
        }
        self.try_find_own(&changes).await.unwrap_or_else(|error| {
            let unknown = |change| (change_key(change), Err(error.without_source()));
            changes.into_iter().map(unknown).collect()
        })
    }

    async fn try_find_own(
        &self,
        changes: &[&Change],
    ) -> Result<Answers<ChangeKey, Committed>, Error> {
        let order_ids = ids(changes.iter().map(|change| &change.order_id));
        let sql = include_str!("sql/own_changes.sql");
        let rows = self
            .requests
            .query(sql, &[&order_ids, &versions(changes), &change_ids(changes)])
            .await?;
        if !rows.is_empty() {
            // A success that is answered from a row needs it to be where commits are.
            self.requests.query(CONFIRM, &[]).await?;
        }
        let mut found = Answers::default();
        for row in &rows {
            let expected_version = row::number(row, ORDER_COLUMNS_LEN)?;
            let key = (row::order_id(row, 0)?, expected_version);
            let at = row.try_get(ORDER_COLUMNS_LEN + 1).map_err(Fault::from)?;
            let Some(change) = changes.iter().find(|change| change_key(change) == key) else {
                continue;
            };
            let committed = row::order(row).map(|order| {
                let event = OrderEvent {
                    version: expected_version + 1,
                    status: change.status,
                    at,
                    ..order.last_event()
                };
                applied(event, order, change)
            });
            found.insert(key, committed.map_err(Error::from));
        }
        Ok(found)
    }
}

fn applied(event: OrderEvent, order: Order, change: &Change) -> Committed {
    Committed::Applied {
        order: Box::new(order),
        event: OrderEvent {
            cause: change.cause.clone(),
            ..event
        },
    }
}
