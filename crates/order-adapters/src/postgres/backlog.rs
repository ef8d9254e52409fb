//! The backlog in the database: jobs, events and dead letters.

use std::time::Duration;

use order_core::{Backlog, CallContext, DeadLetterGroup, Error};

use super::{
    PostgresStore,
    errors::Fault,
    row::{self, readable},
    store::only,
};

impl PostgresStore {
    /// See [`OrderStore::dead_letters`](order_core::OrderStore::dead_letters).
    pub(super) async fn count_dead_letters(
        &self,
        ctx: &CallContext,
    ) -> Result<Vec<DeadLetterGroup>, Error> {
        let n_counted = i64::from(DeadLetterGroup::COUNT_MAX);
        let n_groups = i64::from(DeadLetterGroup::LEN_MAX);
        let sql = include_str!("sql/dead_letters.sql");
        let rows = self.lists.read(ctx, sql, &[&n_counted, &n_groups]).await?;
        let group = |row: &_| -> Result<DeadLetterGroup, Fault> {
            Ok(DeadLetterGroup {
                code: tokio_postgres::Row::try_get(row, 0)?,
                count: row::number(row, 1)?,
                example: row::order_id(row, 2)?,
            })
        };
        Ok(readable(&rows, group))
    }

    /// See [`OrderStore::backlog`](order_core::OrderStore::backlog).
    pub(super) async fn read_backlog(&self) -> Result<Backlog, Error> {
        let limit = i64::from(Backlog::COUNT_MAX);
        let sql = include_str!("sql/backlog.sql");
        let rows = self.maintenance.query(sql, &[&limit]).await?;
        let row = only(&rows)?;
        let count = |column: usize| -> Result<u32, Error> {
            let n: i64 = row.try_get(column).map_err(Fault::from)?;
            u32::try_from(n).map_err(Error::internal)
        };
        let age = |column: usize| -> Result<Option<Duration>, Error> {
            let secs: Option<f64> = row.try_get(column).map_err(Fault::from)?;
            // An event of a moment ago may come from a clock that is ahead.
            Ok(secs.map(|secs| Duration::try_from_secs_f64(secs).unwrap_or_default()))
        };
        Ok(Backlog {
            due: count(0)?,
            scheduled: count(1)?,
            leased: count(2)?,
            dead: count(3)?,
            oldest_due: age(4)?,
            events: count(5)?,
            oldest_event: age(6)?,
        })
    }
}
