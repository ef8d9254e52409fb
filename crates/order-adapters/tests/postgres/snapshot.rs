//! An old snapshot keeps every dead row in place.

use super::{
    plans::{close, fill, store_that_keeps_plans},
    *,
};

const N_DONE: i64 = 20_000;

const N_READ: &str = "SELECT idx_tup_read FROM pg_stat_user_indexes \
    WHERE indexrelname = 'jobs_due_at_idx'";

/// Whether the server has counted `n` scans of the index of due jobs.
async fn wait_for_scans(fixture: &Fixture, n: i64) {
    let sql = format!(
        "SELECT (idx_scan >= {n})::integer::bigint FROM pg_stat_user_indexes \
        WHERE indexrelname = 'jobs_due_at_idx'"
    );
    fixture.wait_for(&sql, 1).await;
}

/// Holds a snapshot for as long as the connection is there.
async fn hold_snapshot(fixture: &Fixture) -> impl Sized + use<> {
    let held = raw_connection(&fixture.database.url).await;
    let open = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM orders LIMIT 1";
    held.0.batch_execute(open).await.unwrap();
    held
}

#[tokio::test]
async fn claims_read_no_dead_jobs_again() {
    let fixture = available!(fixture());
    let _held = hold_snapshot(&fixture).await;
    let fill = format!(
        "INSERT INTO jobs (order_id, due_at) \
        SELECT gen_random_uuid(), now() - n * interval '1 ms' - interval '5 s' \
        FROM generate_series(1, {N_DONE}) AS n"
    );
    fixture.run(&fill).await;
    fixture.run("DELETE FROM jobs").await;
    let look = async || {
        assert!(fixture.store.claim(10, LEASE).await.unwrap().is_empty());
        assert_eq!(fixture.store.claim_abandoned(LEASE).await.unwrap(), None);
    };

    look().await;
    wait_for_scans(&fixture, 2).await;
    let n_read = fixture.number(N_READ).await;
    assert!(n_read >= 2 * N_DONE, "the dead jobs are there: {n_read}");
    for _ in 0..10 {
        look().await;
    }
    wait_for_scans(&fixture, 22).await;
    let n_again = fixture.number(N_READ).await - n_read;
    // Of these 20 looks those begin at the beginning that come 10 s after the last such one.
    assert!(n_again < 10 * N_DONE, "{n_again}");

    // Nothing is missed that becomes due.
    assert!(is_new(&fixture.store.create(&[due(1)]).await[0]));
    assert_eq!(fixture.store.claim(10, LEASE).await.unwrap().len(), 1);
}

#[tokio::test]
async fn relay_reads_few_published_entries_again() {
    // A transaction of another test that writes would make the relay look further back.
    let Ok(server) = PostgresServer::start(&[("fsync", "off")]).await else {
        skip!("a PostgreSQL of its own");
    };
    let shared = postgres::SharedPostgres { url: server.url() };
    let database = postgres::database(&shared).await.unwrap();
    let fixture = fixture_on(database).await;
    let _held = hold_snapshot(&fixture).await;
    let publish_all = format!(
        "INSERT INTO event_outbox (order_id, version) \
        SELECT gen_random_uuid(), 1 FROM generate_series(1, {N_DONE}); DELETE FROM event_outbox"
    );
    fill(&fixture, &publish_all).await;
    let store = store_that_keeps_plans(&fixture).await;
    store.enable().await.unwrap();

    for id in 1..=20 {
        assert!(is_new(&store.create(&[due(id)]).await[0]));
        let entries = store.read(10).await.unwrap();
        let positions: Vec<_> = entries.iter().map(|entry| entry.position).collect();
        assert_eq!(positions.len(), 1);
        store.remove(&positions).await.unwrap();
    }

    close(&fixture, store).await;
    let n_read = "SELECT idx_tup_read FROM pg_stat_user_indexes \
        WHERE indexrelname = 'event_outbox_pkey'";
    let n_read = fixture.number(n_read).await;
    assert!(n_read >= N_DONE, "the dead entries are there: {n_read}");
    // All 20 reads, if each began at the beginning.
    assert!(n_read < 5 * N_DONE, "{n_read}");
}
