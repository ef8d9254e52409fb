//! The `AdminStore`: records of orders, processes and pauses.

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    AdminStore, Backlog, CallContext, ClusterState, Directive, Error, Identity, OrderId,
    OrderRecord, ProcessId, ProcessReport, ProcessState,
};
use tokio_postgres::Row;

use super::{
    PostgresStore,
    errors::Fault,
    row::{self, ORDER_COLUMNS_LEN, micros},
    store::only,
};
use crate::{figures, order_record};

const PAUSE_ONE: &str = "UPDATE processes SET is_paused = $2 \
    WHERE id = $1 AND seen_at > now() - $3::bigint * interval '1 microsecond' RETURNING id";

const PAUSE_ALL: &str = "INSERT INTO all_processes (is_paused) VALUES ($1) \
    ON CONFLICT (is_only) DO UPDATE SET is_paused = excluded.is_paused RETURNING is_paused";

fn process_code(id: ProcessId) -> i64 {
    id.as_u64().cast_signed()
}

fn read_record(row: &Row) -> Result<OrderRecord, Fault> {
    let now: Timestamp = row.try_get(ORDER_COLUMNS_LEN)?;
    let document = row.try_get(ORDER_COLUMNS_LEN + 1)?;
    order_record::read(row::order(row)?, now, document).map_err(Fault::Defect)
}

/// A process; `None` for the row that says that there is none.
fn read_process(row: &Row) -> Result<Option<ProcessState>, Fault> {
    let Some(id) = row.try_get::<_, Option<i64>>(2)? else {
        return Ok(None);
    };
    Ok(Some(ProcessState {
        report: ProcessReport {
            identity: Identity {
                id: ProcessId::from_u64(id.cast_unsigned()),
                program: row.try_get(3)?,
                place: row.try_get(4)?,
            },
            version: row.try_get(5)?,
            started_at: row.try_get(6)?,
            figures: figures::read(row.try_get(9)?),
        },
        seen_at: row.try_get(7)?,
        is_paused: row.try_get(8)?,
    }))
}

#[async_trait]
impl AdminStore for PostgresStore {
    async fn record(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
    ) -> Result<Option<OrderRecord>, Error> {
        let sql = include_str!("sql/record.sql");
        let len_max = i64::from(OrderRecord::LEN_MAX);
        let outbox_max = i64::from(OrderRecord::OUTBOX_READ_MAX);
        let rows = self
            .lists
            .read(ctx, sql, &[order_id.as_uuid(), &len_max, &outbox_max])
            .await?;
        Ok(rows.first().map(read_record).transpose()?)
    }

    async fn cluster(&self, ctx: &CallContext) -> Result<ClusterState, Error> {
        let sql = include_str!("sql/cluster.sql");
        let shown_for = micros(ProcessReport::SHOWN_FOR);
        let len_max = i64::from(ProcessReport::LEN_MAX);
        let rows = self
            .maintenance
            .read(ctx, sql, &[&shown_for, &len_max])
            .await?;
        let first = only(&rows)?;
        let processes = rows.iter().filter_map(|row| read_process(row).transpose());
        Ok(ClusterState {
            at: first.try_get(0).map_err(Fault::from)?,
            is_paused: first.try_get(1).map_err(Fault::from)?,
            processes: processes.collect::<Result<_, _>>()?,
            backlog: Backlog::default(),
        })
    }

    async fn report(&self, ctx: &CallContext, report: &ProcessReport) -> Result<Directive, Error> {
        let sql = include_str!("sql/report.sql");
        let figures = figures::write(&report.figures).map_err(Error::internal)?;
        let rows = self
            .maintenance
            .read(
                ctx,
                sql,
                &[
                    &process_code(report.identity.id),
                    &report.identity.program,
                    &report.identity.place,
                    &report.version,
                    &report.started_at,
                    &figures,
                ],
            )
            .await?;
        let is_paused = only(&rows)?.try_get(0).map_err(Fault::from)?;
        Ok(Directive { is_paused })
    }

    async fn set_paused(
        &self,
        ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<bool, Error> {
        let rows = if let Some(id) = process_id {
            let shown_for = micros(ProcessReport::SHOWN_FOR);
            let params = [&process_code(id) as _, &is_paused as _, &shown_for as _];
            self.maintenance.read(ctx, PAUSE_ONE, &params).await?
        } else {
            self.maintenance.read(ctx, PAUSE_ALL, &[&is_paused]).await?
        };
        Ok(!rows.is_empty())
    }
}
