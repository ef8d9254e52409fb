//! What waits in the database.

use std::time::Duration;

use order_core::{Backlog, Error};

use super::{PostgresStore, errors::Fault, store::only};

impl PostgresStore {
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
