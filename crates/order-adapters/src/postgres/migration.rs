//! The schema: which migrations there are, and applying them.
//!
//! Each migration runs in a transaction of its own and is never edited once released. A new
//! one must leave the schema usable for the version of the program before it, because both
//! run during a deployment; so a program accepts a schema that is newer than it needs.

use std::time::Duration;

use order_core::{BoxError, error_chain};
use refinery::{Migration, Runner};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tracing::info;

use super::table_lock::{TRY_TIMEOUT_SQL, is_lock_timeout};

/// Every migration, oldest first: its file name and its text.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "V1__create_orders",
        include_str!("../../../../migrations/postgres/V1__create_orders.sql"),
    ),
    (
        "V2__create_jobs",
        include_str!("../../../../migrations/postgres/V2__create_jobs.sql"),
    ),
    (
        "V3__create_order_events",
        include_str!("../../../../migrations/postgres/V3__create_order_events.sql"),
    ),
    (
        "V4__create_idempotency_keys",
        include_str!("../../../../migrations/postgres/V4__create_idempotency_keys.sql"),
    ),
    (
        "V5__add_client_keys",
        include_str!("../../../../migrations/postgres/V5__add_client_keys.sql"),
    ),
    (
        "V6__create_event_outbox",
        include_str!("../../../../migrations/postgres/V6__create_event_outbox.sql"),
    ),
    (
        "V7__count_attempts_that_began",
        include_str!("../../../../migrations/postgres/V7__count_attempts_that_began.sql"),
    ),
    (
        "V8__index_failed_orders",
        include_str!("../../../../migrations/postgres/V8__index_failed_orders.sql"),
    ),
    (
        "V9__compare_keys_by_bytes",
        include_str!("../../../../migrations/postgres/V9__compare_keys_by_bytes.sql"),
    ),
    (
        "V10__name_changes",
        include_str!("../../../../migrations/postgres/V10__name_changes.sql"),
    ),
    (
        "V11__index_lists_by_status",
        include_str!("../../../../migrations/postgres/V11__index_lists_by_status.sql"),
    ),
    (
        "V12__store_traces",
        include_str!("../../../../migrations/postgres/V12__store_traces.sql"),
    ),
    (
        "V13__record_orders_and_processes",
        include_str!("../../../../migrations/postgres/V13__record_orders_and_processes.sql"),
    ),
];

/// The schema this program needs: the version of the last of [`MIGRATIONS`].
pub(super) const VERSION_NEEDED: i32 = 13;

/// Whether the schema has at least version $1, and the server takes writes. One row of an
/// index: cheap enough for a readiness probe.
pub(super) const CHECK_SQL: &str = "SELECT EXISTS (SELECT FROM refinery_schema_history \
    WHERE version >= $1), current_setting('transaction_read_only') = 'off'";

/// The key of the advisory lock that lets one process migrate at a time: "orders" in ASCII.
const LOCK_KEY: i64 = 0x6f72_6465_7273;

/// The bounds of the pause after a try that met a table in use.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Applies what is missing and returns its names, oldest first. Waits until `deadline` for
/// another process that does the same, and for tables that are in use.
///
/// The lock belongs to the connection of `client`, which the caller closes.
pub(super) async fn migrate(
    client: &mut Client,
    deadline: Instant,
) -> Result<Vec<String>, BoxError> {
    // First without the lock: a start that finds the schema in place needs neither to wait
    // nor the privilege to change it.
    if version(client).await? >= VERSION_NEEDED {
        return Ok(Vec::new());
    }
    let migrations: Vec<_> = MIGRATIONS
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, sql))
        .collect::<Result<_, _>>()?;
    let lock_wait = deadline.saturating_duration_since(Instant::now());
    // In the unit of the setting; 0 would mean no limit.
    let millis = lock_wait.as_millis().clamp(1, 86_400_000);
    set_lock_timeout(client, &format!("'{millis}'")).await?;
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK_KEY])
        .await?;
    let names = apply(client, &migrations, deadline).await?;
    if !names.is_empty() {
        info!(migrations = names.join(", "), "migrated the schema");
    }
    Ok(names)
}

/// Applies migrations, each when its tables are free.
async fn apply(
    client: &mut Client,
    migrations: &[Migration],
    deadline: Instant,
) -> Result<Vec<String>, BoxError> {
    let begin = Instant::now();
    let mut names = Vec::new();
    let mut pause = PAUSE_MIN;
    loop {
        set_lock_timeout(client, TRY_TIMEOUT_SQL).await?;
        let result = Runner::new(migrations).run_async(client).await;
        let report = result.as_ref().map_or_else(|error| error.report(), Some);
        let applied = report.iter().flat_map(|report| report.applied_migrations());
        names.extend(applied.map(ToString::to_string));
        let error: BoxError = match result {
            Ok(_) => return Ok(names),
            Err(error) => error.into(),
        };
        if !is_lock_timeout(&error) {
            return Err(error);
        }
        // Jitter, so that the tries do not always meet the same periodic work on the tables.
        let next = Instant::now() + pause.mul_f64(rand::random_range(0.5..=1.0));
        if next >= deadline {
            let waited = begin.elapsed();
            return Err(format!(
                "a table was in use by another transaction for {waited:.1?}: {}; end the \
                 transaction (see pg_stat_activity) or raise STARTUP_TIMEOUT",
                error_chain(&*error)
            )
            .into());
        }
        info!(
            error = error_chain(&*error),
            "waiting for a table that is in use"
        );
        sleep(next - Instant::now()).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The version of the schema, 0 if there is none.
async fn version(client: &Client) -> Result<i32, BoxError> {
    let history = client
        .query_one(
            "SELECT to_regclass('refinery_schema_history') IS NOT NULL",
            &[],
        )
        .await?;
    if !history.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let version = client
        .query_one(
            "SELECT coalesce(max(version), 0) FROM refinery_schema_history",
            &[],
        )
        .await?;
    Ok(version.try_get(0)?)
}

/// Sets the limit of the session to what an expression says.
async fn set_lock_timeout(client: &Client, expression: &str) -> Result<(), BoxError> {
    let sql = format!("SELECT set_config('lock_timeout', {expression}, false)");
    client.execute(&sql, &[]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_file_is_applied_in_order() {
        let versions: Vec<_> = MIGRATIONS
            .iter()
            .map(|(name, sql)| Migration::unapplied(name, sql).unwrap().version())
            .collect();
        let expected: Vec<_> = (1..=VERSION_NEEDED).collect();
        assert_eq!(versions, expected);

        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/postgres");
        let files: BTreeSet<String> = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let embedded = MIGRATIONS.iter().map(|(name, _)| (*name).to_owned());
        assert_eq!(files, embedded.collect());
    }
}
