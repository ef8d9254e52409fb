//! What statements cost the server, whatever is in its tables.

use super::*;

#[tokio::test]
async fn lone_create_is_one_statement() {
    let fixture = available!(fixture());
    let statements = "SELECT sum(calls)::bigint FROM pg_stat_statements s \
        JOIN pg_database d ON d.oid = s.dbid \
        WHERE d.datname = current_database() AND query NOT LIKE '%pg_stat_statements%'";
    let create = "CREATE EXTENSION pg_stat_statements";
    if fixture.sql.batch_execute(create).await.is_err()
        || fixture.sql.query(statements, &[]).await.is_err()
    {
        skip!("pg_stat_statements");
    }
    // The first one opens its connection and prepares the statement.
    assert!(
        fixture
            .store
            .create(&[order(1, 100)])
            .await
            .iter()
            .all(is_new)
    );
    let before = fixture.number(statements).await;

    assert!(
        fixture
            .store
            .create(&[order(2, 100)])
            .await
            .iter()
            .all(is_new)
    );

    assert_eq!(fixture.number(statements).await - before, 1);
}

#[tokio::test]
async fn status_updates_stay_on_their_page() {
    let fixture = available!(fixture());
    let slice = orders(512);
    assert!(fixture.store.create(&slice).await.iter().all(is_new));

    // One update each. A second one needs the space of the first again, and transactions of
    // other tests on the server may still keep that.
    fixture.store.start(&tokens(&slice)).await;

    let updates = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'orders'";
    fixture.wait_for(updates, 512).await;
    let hot = "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'orders'";
    assert_eq!(fixture.number(hot).await, 512);
}

/// Runs the statements that a running system repeats, on few orders.
async fn run_everything(store: &PostgresStore, new: &[NewOrder]) {
    let tokens = tokens(new);
    assert!(store.create(new).await.iter().all(is_new));
    for order in new {
        assert!(store.find(&ctx(), order.id).await.unwrap().is_some());
        assert_eq!(store.events(&ctx(), order.id, 0, 9).await.unwrap().len(), 1);
    }
    let ids: Vec<_> = new.iter().map(|order| order.id).collect();
    assert_eq!(store.states(&ids).await.unwrap().len(), ids.len());
    assert_eq!(store.extend(&tokens, LEASE).await.unwrap(), []);
    store.claim(2, LEASE).await.unwrap();
    let started = store.start(&tokens).await;
    assert!(started.iter().all(|s| matches!(s, Ok(Started::Applied(_)))));
    let verdicts = [
        Verdict::Processed,
        Verdict::Failed(Cause::new("NO", "no")),
        Verdict::Retry {
            delay: LEASE,
            error: "later".to_owned(),
        },
    ];
    let completions: Vec<_> = tokens
        .iter()
        .zip(verdicts)
        .map(|(&token, verdict)| Completion { token, verdict })
        .collect();
    let done = store.complete(&completions).await;
    assert!(done.iter().all(|d| matches!(d, Ok(Completed::Applied(_)))));
    let redrive = Change {
        order_id: new[1].id,
        expected_version: 3,
        status: OrderStatus::Pending,
        job: JobEffect::Requeue,
        cause: None,
    };
    let redriven = store.commit(&[redrive]).await;
    assert!(matches!(redriven[..], [Ok(Committed::Applied { .. })]));
}

#[tokio::test]
async fn plans_made_on_empty_tables_fit_full_ones() {
    let fixture = available!(fixture());
    fixture.run("VACUUM ANALYZE").await;
    // One connection each, so that the second round runs on the plans of the first.
    let config = PostgresConfig {
        requests_pool: 1,
        workers_pool: 1,
        maintenance_pool: 1,
        ..PostgresConfig::new(&fixture.database.url)
    };
    let store = PostgresStore::connect(config).await.unwrap();
    // Plans every statement while there is nothing.
    let unknown = tokens(&orders(1));
    let verdict = |verdict| Completion {
        token: unknown[0],
        verdict,
    };
    store.find(&ctx(), unknown[0].order_id).await.unwrap();
    store
        .events(&ctx(), unknown[0].order_id, 0, 9)
        .await
        .unwrap();
    store.states(&[unknown[0].order_id]).await.unwrap();
    store.extend(&unknown, LEASE).await.unwrap();
    store.claim(1, LEASE).await.unwrap();
    store.start(&unknown).await;
    store.complete(&[verdict(Verdict::Processed)]).await;
    store
        .complete(&[verdict(Verdict::Failed(Cause::new("NO", "no")))])
        .await;
    run_everything(&store, &orders(3)).await;
    fixture
        .run(
            "INSERT INTO jobs (order_id, due_at)
                SELECT gen_random_uuid(), now() - n * interval '1ms' FROM generate_series(1, 20000) n;
            INSERT INTO orders (id, user_id, amount_minor, currency, status, version, created_at, updated_at)
                SELECT order_id, 'bob', 1, 'EUR', 1, 1, now(), now() FROM jobs WHERE attempt = 0;
            SELECT pg_stat_reset()",
        )
        .await;

    run_everything(&store, &[order(11, 1), order(12, 1), order(13, 1)]).await;

    // A connection that ends hands in its statistics.
    drop(store);
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name LIKE 'order-system%'";
    fixture.wait_for(connected, N_FIXTURE_CONNECTIONS).await;
    let scans = "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables \
        WHERE relname IN ('orders', 'jobs')";
    assert_eq!(fixture.number(scans).await, 0);
    let read = "SELECT sum(idx_blks_hit + idx_blks_read)::bigint FROM pg_statio_user_indexes \
        WHERE relname IN ('orders', 'jobs')";
    let n_read = fixture.number(read).await;
    assert!(
        (20..600).contains(&n_read),
        "{n_read} index pages were read"
    );
}
