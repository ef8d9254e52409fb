//! The cost of records and reports: statements, plans and HOT updates.

use order_core::{Figures, OrderRecord, ProcessReport};

use super::{
    plans::{N_STATEMENTS, close, fill, store_that_keeps_plans},
    *,
};

fn timed(token: JobToken, verdict: Verdict) -> Completion {
    Completion {
        took: Some(Duration::from_secs(1)),
        token,
        verdict,
        trace_parent: None,
    }
}

fn postponed() -> Verdict {
    Verdict::Retry {
        delay: Duration::ZERO,
        error: "busy".to_owned(),
        is_counted: false,
    }
}

fn report() -> ProcessReport {
    ProcessReport {
        identity: identity(),
        version: "1".to_owned(),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        figures: Figures::default(),
    }
}

async fn read(store: &PostgresStore, order_id: OrderId) -> OrderRecord {
    store.record(&ctx(), order_id).await.unwrap().unwrap()
}

/// Ends an attempt in each way, reads and reports, with new orders from `first` on. Returns how
/// many statements each step took.
async fn run_each(fixture: &Fixture, store: &PostgresStore, first: u128) -> Vec<i64> {
    let new: Vec<_> = (first..first + 4).map(|id| order(id, 100)).collect();
    assert!(store.create(&new).await.iter().all(is_new));
    let tokens = tokens(&new);
    store.start(&starts(&tokens[3..])).await;
    fixture
        .run("UPDATE jobs SET due_at = now() WHERE is_begun")
        .await;
    let mut n_statements = Vec::new();
    let mut before = fixture.number(N_STATEMENTS).await;
    let mut count = async || {
        let now = fixture.number(N_STATEMENTS).await;
        n_statements.push(now - std::mem::replace(&mut before, now));
    };
    let failed = Verdict::Failed(Cause::new("NO", "no"));
    for (token, verdict) in tokens.iter().zip([Verdict::Processed, failed, postponed()]) {
        let done = store.complete(&[timed(*token, verdict)]).await;
        assert!(matches!(done[..], [Ok(Completed::Applied(_))]), "{done:?}");
        count().await;
    }
    assert!(store.claim_abandoned(LEASE).await.unwrap().is_some());
    count().await;
    assert_eq!(read(store, new[3].id).await.attempts.len(), 1);
    count().await;
    store.report(&ctx(), &report()).await.unwrap();
    count().await;
    store.cluster(&ctx()).await.unwrap();
    count().await;
    n_statements
}

/// Whatever ends an attempt records it, without a statement beside it.
#[tokio::test]
async fn attempts_are_recorded_by_the_statements_that_end_them() {
    let fixture = available!(fixture());
    let extension = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";
    if fixture.sql.batch_execute(extension).await.is_err()
        || fixture.sql.query(N_STATEMENTS, &[]).await.is_err()
    {
        skip!("pg_stat_statements");
    }
    let store = store_that_keeps_plans(&fixture).await;
    // Prepares the statements.
    run_each(&fixture, &store, 1).await;
    let n_statements = run_each(&fixture, &store, 11).await;
    assert_eq!(n_statements, [1; 7]);
}

/// Among many others, an order that was postponed often.
const FILL: &str = "
    INSERT INTO orders (id, user_id, amount_minor, currency, status, version, created_at, updated_at)
        SELECT gen_random_uuid(), 'bob', 1, 'EUR', 1, 1, now(), now()
        FROM generate_series(1, 20000) n;
    INSERT INTO jobs (order_id, due_at) SELECT id, now() FROM orders WHERE user_id = 'bob';
    INSERT INTO order_events (order_id, version, status, at, attempt)
        SELECT id, 2, 3, now(), 1 FROM orders WHERE user_id = 'bob';
    INSERT INTO order_attempts (order_id, attempt, ended_at, outcome)
        SELECT id, 1, now(), 1 FROM orders WHERE user_id = 'bob';
    INSERT INTO processes (id, program, place, version, started_at, seen_at, figures)
        SELECT n, 'p', n, '1', now(), now(), '{}' FROM generate_series(1, 20000) n;
    UPDATE jobs SET attempt = 205, claim_id = gen_random_uuid(), due_at = now() + interval '1 h'
        WHERE order_id = '00000000-0000-0000-0000-000000000001';
    INSERT INTO order_attempts (order_id, attempt, ended_at, outcome)
        SELECT '00000000-0000-0000-0000-000000000001', n, now(), 1 FROM generate_series(2, 20) n";

#[tokio::test]
async fn records_planned_on_empty_tables_read_single_entries_of_full_ones() {
    let fixture = available!(fixture());
    fixture.run("VACUUM ANALYZE").await;
    let store = store_that_keeps_plans(&fixture).await;
    let new = [order(1, 100)];
    assert!(store.create(&new).await.iter().all(is_new));
    let token = tokens(&new)[0];
    store.complete(&[timed(token, postponed())]).await;
    read(&store, new[0].id).await;
    fill(&fixture, FILL).await;

    let attempt = 205;
    let last = timed(JobToken { attempt, ..token }, postponed());
    let done = store.complete(&[last]).await;
    assert!(
        matches!(done[..], [Ok(Completed::Applied(None))]),
        "{done:?}"
    );
    let record = read(&store, new[0].id).await;

    let attempts = record.attempts.iter().map(|attempt| attempt.attempt);
    let kept: Vec<_> = (6..=20).chain([attempt]).collect();
    assert_eq!(attempts.collect::<Vec<_>>(), kept);
    close(&fixture, store).await;
    let scans = "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE relname \
        IN ('orders', 'jobs', 'order_events', 'order_attempts', 'processes', 'event_outbox')";
    assert_eq!(fixture.number(scans).await, 0);
    let entries = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes";
    let n_entries = fixture.number(entries).await;
    assert!(
        (10..60).contains(&n_entries),
        "{n_entries} entries were read"
    );
}

#[tokio::test]
async fn reports_of_processes_stay_on_their_page() {
    let fixture = available!(fixture());
    let store = &fixture.store;
    for _ in 0..20 {
        store.report(&ctx(), &report()).await.unwrap();
    }
    let id = Some(identity().id);
    assert!(store.set_paused(&ctx(), id, true).await.unwrap());
    let updates = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'processes'";
    fixture.wait_for(updates, 20).await;
    let hot = "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'processes'";
    assert_eq!(fixture.number(hot).await, 20);
}
