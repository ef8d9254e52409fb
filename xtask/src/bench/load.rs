//! `wrk` on `POST /orders`; the clock stops when every order is PROCESSED.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use order_testkit::server::postgres::PostgresServer;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::{QUIET, cpu, output, script};
use crate::system::{Sql, System};

/// How long the rest may take to be processed after the last request.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(2);

/// The time between two looks at what is left. It bounds the error of the clock.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

const POST: &str = r#"
wrk.method = "POST"
wrk.body = '{"user_id":"user-1","amount":100}'
wrk.headers["Content-Type"] = "application/json"
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) created = 0; other = 0 end
function response(status) if status == 201 then created = created + 1 else other = other + 1 end end
function done(summary, latency, requests)
  local created, other = 0, 0
  for _, thread in ipairs(threads) do
    created = created + thread:get("created"); other = other + thread:get("other")
  end
  io.write(string.format("CREATED %d OTHER %d P50 %.2f P99 %.2f\n", created, other,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"#;

/// How much is asked of a system.
#[derive(Clone, Copy)]
pub(super) struct Load {
    /// Each has one request under way.
    pub(super) connections: u32,
    pub(super) seconds: u32,
}

/// What one round found.
pub(super) struct Round {
    /// Orders per second from POST to PROCESSED.
    pub(super) rate: f64,
    /// Orders that were processed.
    pub(super) n_orders: u32,
    /// How long clients waited, as text.
    pub(super) latency: String,
}

/// Gateway and service as processes on PostgreSQL: their rate, and what was counted, as text.
pub(super) async fn split_on_postgres(
    programs: &Path,
    postgres: &PostgresServer,
    load: Load,
) -> anyhow::Result<(f64, String)> {
    let url = postgres.url();
    let system = System::start_split(programs, &url, &QUIET).await?;
    let gateway = system.gateway.as_ref().context("no gateway")?.id()?;
    let postgres = postgres.id().context("PostgreSQL is not running")?;
    let processes = [gateway, system.service.id()?, postgres];
    let before = processes.map(cpu::used);
    let round = measure(&url, system.http_port, load).await?;
    let mut micros = [0.0; 3];
    for ((micros, process), before) in micros.iter_mut().zip(processes).zip(before) {
        let used = cpu::used(process)?.saturating_sub(before?);
        *micros = used.as_secs_f64() * 1e6 / f64::from(round.n_orders);
    }
    let [gateway, service, postgres] = micros;
    let cpu = format!(
        "- processor time per order: gateway {gateway:.1} µs, service {service:.1} µs, PostgreSQL {postgres:.1} µs\n"
    );
    let counters = counters(&url).await?;
    system.stop().await?;
    Ok((round.rate, counters + &round.latency + &cpu))
}

/// Loads a system that works on this database and serves HTTP at `http_port`, on tables that
/// are emptied before; the schema was made by its start.
pub(super) async fn measure(
    database_url: &str,
    http_port: u16,
    load: Load,
) -> anyhow::Result<Round> {
    let client = Sql::connect(database_url).await?;
    client
        .batch_execute(
            "TRUNCATE jobs, orders, order_events; CHECKPOINT;
             CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
             SELECT pg_stat_statements_reset(0, oid, 0), pg_stat_reset()
               FROM pg_database WHERE datname = current_database();",
        )
        .await?;
    let begin = Instant::now();
    let report = wrk(http_port, load).await?;
    drain(&client).await?;
    let elapsed = begin.elapsed();
    let n_processed: i64 = client
        .query_one("SELECT count(*) FROM orders WHERE status = 3", &[])
        .await?
        .get(0);
    let n_orders = u32::try_from(n_processed)?;
    report.check(n_orders, load)?;
    Ok(Round {
        n_orders,
        rate: f64::from(report.created) / elapsed.as_secs_f64(),
        latency: report.latency,
    })
}

/// Waits until all jobs are done.
async fn drain(client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while client
        .query_one("SELECT EXISTS (SELECT FROM jobs)", &[])
        .await?
        .get(0)
    {
        ensure!(
            Instant::now() < deadline,
            "jobs are left after {DRAIN_TIMEOUT:?}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Everything in one process on SQLite.
pub(super) async fn all_in_one_on_sqlite(programs: &Path, load: Load) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir_in(crate::workspace_root().join("target"))?;
    let url = format!("sqlite:{}", dir.path().join("orders.db").display());
    let system = System::start_all_in_one(programs, &url, &QUIET).await?;
    let begin = Instant::now();
    let report = wrk(system.http_port, load).await?;
    let probe = format!(
        "http://127.0.0.1:{}/orders?status=PENDING&page_size=1",
        system.http_port
    );
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while output("curl", &["-sf", &probe])?.contains("order_id") {
        ensure!(
            Instant::now() < deadline,
            "orders are left after {DRAIN_TIMEOUT:?}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let elapsed = begin.elapsed();
    system.stop().await?;
    Ok(f64::from(report.created) / elapsed.as_secs_f64())
}

struct Report {
    created: u32,
    latency: String,
}

impl Report {
    /// Orders in flight when the load stops are stored but no longer counted by wrk.
    fn check(&self, n_processed: u32, load: Load) -> anyhow::Result<()> {
        ensure!(
            (self.created..=self.created + load.connections).contains(&n_processed),
            "{} orders were acknowledged and {n_processed} processed",
            self.created
        );
        Ok(())
    }
}

async fn wrk(port: u16, load: Load) -> anyhow::Result<Report> {
    let dir = tempfile::tempdir()?;
    let lua = script(dir.path(), "post.lua", POST)?;
    let duration = format!("{}s", load.seconds);
    let connections = load.connections.to_string();
    let url = format!("http://127.0.0.1:{port}/orders");
    let text = tokio::task::spawn_blocking(move || {
        output(
            "wrk",
            &[
                "-t1",
                "-c",
                &connections,
                "-d",
                &duration,
                "--latency",
                "-s",
                &lua,
                &url,
            ],
        )
    })
    .await??;
    drop(dir);
    let line = text
        .lines()
        .find(|line| line.starts_with("CREATED"))
        .with_context(|| format!("no result in the output of wrk:\n{text}"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, created, _, other, _, p50, _, p99] = words.as_slice() else {
        anyhow::bail!("cannot read {line:?}");
    };
    ensure!(*other == "0", "{other} answers were not 201:\n{text}");
    Ok(Report {
        created: created.parse()?,
        latency: format!("- acknowledged after: p50 {p50} ms, p99 {p99} ms\n"),
    })
}

/// What the database counted since the last round on it began, as text.
pub(super) async fn counters(database_url: &str) -> anyhow::Result<String> {
    let client = Sql::connect(database_url).await?;
    let row = client
        .query_one(
            "WITH statements AS (
               SELECT s.* FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
               WHERE d.datname = current_database()
             )
             SELECT
               coalesce((SELECT sum(calls) FROM statements WHERE query ILIKE '%INSERT INTO orders%'), 0)::float8,
               coalesce((SELECT sum(calls) FROM statements WHERE query ILIKE '%DELETE FROM jobs%'), 0)::float8,
               coalesce((SELECT sum(rows) FROM statements WHERE query ILIKE '%SKIP LOCKED%'), 0)::float8,
               coalesce((SELECT sum(calls) FROM statements WHERE query ILIKE '%SKIP LOCKED%'), 0)::float8,
               (SELECT count(*) FROM orders)::float8",
            &[],
        )
        .await?;
    let [inserts, completes, claimed, claims, orders] =
        [0, 1, 2, 3, 4].map(|i| row.get::<_, f64>(i));
    // The statistics of tables arrive about a second after the sessions fall idle.
    let deadline = Instant::now() + Duration::from_secs(10);
    let (updates, hot) = loop {
        let row = client
            .query_one(
                "SELECT n_tup_upd::float8, n_tup_hot_upd::float8 FROM pg_stat_user_tables WHERE relname = 'orders'",
                &[],
            )
            .await?;
        let (updates, hot): (f64, f64) = (row.get(0), row.get(1));
        if updates >= orders || Instant::now() > deadline {
            break (updates, hot);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    Ok(format!(
        "- {orders:.0} orders in {inserts:.0} insert statements: {:.1} per statement\n\
         - {completes:.0} complete statements: {:.1} orders per statement\n\
         - {claims:.0} claim statements, which claimed {claimed:.0} jobs\n\
         - {:.1} % of the status updates HOT\n",
        orders / inserts,
        orders / completes,
        100.0 * hot / updates,
    ))
}
