//! The naive design: one autocommitted INSERT and two autocommitted UPDATEs per order, by
//! pgbench with 32 clients, without HTTP or gRPC in front of it.

use anyhow::Context as _;
use order_testkit::server::postgres::{Installation, PostgresServer};

use crate::system::Sql;

const TABLE: &str = "
    DROP TABLE IF EXISTS naive_orders;
    CREATE TABLE naive_orders (
        id uuid PRIMARY KEY,
        user_id text NOT NULL,
        amount bigint NOT NULL,
        status text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX ON naive_orders (user_id);
    CHECKPOINT;";

const LIFECYCLE: &str = "\
INSERT INTO naive_orders (id, user_id, amount, status) VALUES (gen_random_uuid(), 'user-' || :client_id::text, 10000, 'PENDING') RETURNING id \\gset
UPDATE naive_orders SET status = 'PROCESSING', updated_at = now() WHERE id = :id;
UPDATE naive_orders SET status = 'PROCESSED', updated_at = now() WHERE id = :id;
";

/// Orders per second from INSERT to PROCESSED.
pub(super) async fn rate(postgres: &PostgresServer, seconds: u32) -> anyhow::Result<f64> {
    let client = Sql::connect(&postgres.url()).await?;
    client.batch_execute(TABLE).await?;
    let dir = tempfile::tempdir()?;
    // pgbench may run under another account than this program.
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let script = super::script(dir.path(), "naive.sql", LIFECYCLE)?;
    let output = Installation::find()?
        .command("pgbench")
        .args([
            "-n",
            "-M",
            "prepared",
            "-c",
            "32",
            "-j",
            "2",
            "-T",
            &seconds.to_string(),
        ])
        .args(["-f", &script, &postgres.url()])
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "pgbench: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| {
            line.strip_prefix("tps = ")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("no tps in the output of pgbench:\n{text}"))
}
