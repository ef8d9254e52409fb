//! What statements cost the server, whatever is in its tables.

use super::*;

/// Counts the statements that ran in the database.
pub(super) const N_STATEMENTS: &str = "SELECT sum(calls)::bigint FROM pg_stat_statements s \
    JOIN pg_database d ON d.oid = s.dbid \
    WHERE d.datname = current_database() AND query NOT LIKE '%pg_stat_statements%'";

/// How many statements a create runs that is not the first of its connection, which prepares
/// the statement.
async fn count_statements(fixture: &Fixture, new: [NewOrder; 2]) -> Option<i64> {
    let extension = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";
    fixture.sql.batch_execute(extension).await.ok()?;
    fixture.sql.query(N_STATEMENTS, &[]).await.ok()?;
    let [first, second] = new;
    assert!(is_new(&fixture.store.create(&[first]).await[0]));
    let before = fixture.number(N_STATEMENTS).await;
    assert!(is_new(&fixture.store.create(&[second]).await[0]));
    Some(fixture.number(N_STATEMENTS).await - before)
}

#[tokio::test]
async fn lone_create_is_one_statement() {
    let fixture = available!(fixture());
    let Some(n_keyless) = count_statements(&fixture, [order(1, 100), order(2, 100)]).await else {
        skip!("pg_stat_statements");
    };
    assert_eq!(n_keyless, 1);
    // What an order does not have costs it nothing: the heap of keys is empty, and indexes
    // without an entry are their first page.
    let n_bytes = "SELECT (pg_relation_size('idempotency_keys') \
        + pg_relation_size('idempotency_keys_pkey') \
        + pg_relation_size('idempotency_keys_expires_at_idx') \
        + pg_relation_size('orders_external_id_user_id_idx')) / 8192";
    assert_eq!(fixture.number(n_bytes).await, 3);

    let keyed = [keyed(3, "k", 1), keyed(4, "l", 1)];
    assert_eq!(count_statements(&fixture, keyed).await, Some(1));
    assert_eq!(fixture.number(n_bytes).await, 6);
}

#[tokio::test]
async fn status_updates_stay_on_their_page() {
    let fixture = available!(fixture());
    let mut slice = orders(512);
    for (n, order) in slice.iter_mut().enumerate().filter(|(n, _)| n % 2 == 0) {
        order.external_id = ExternalId::parse(&n.to_string()).ok();
        order.request_id = RequestId::parse(&"r".repeat(RequestId::CHARS_MAX));
        order.gateway = Some("g".repeat(64).into());
    }
    assert!(fixture.store.create(&slice).await.iter().all(is_new));

    // One update each. A second one needs the space of the first again, and transactions of
    // other tests on the server may still keep that.
    fixture.store.start(&starts(&tokens(&slice))).await;

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
    assert!(
        !store
            .extend(&tokens, LEASE)
            .await
            .unwrap()
            .contains(&Extended::Stale)
    );
    store.claim(2, LEASE).await.unwrap();
    let started = store.start(&starts(&tokens)).await;
    assert!(started.iter().all(|s| matches!(s, Ok(Started::Applied(_)))));
    let verdicts = [
        Verdict::Processed,
        Verdict::Failed(Cause::new("NO", "no")),
        Verdict::Retry {
            delay: LEASE,
            error: "later".to_owned(),
            is_counted: true,
        },
    ];
    let completions: Vec<_> = tokens
        .iter()
        .zip(verdicts)
        .map(|(&token, verdict)| Completion {
            took: None,
            token,
            verdict,
            trace_parent: None,
        })
        .collect();
    let done = store.complete(&completions).await;
    assert!(done.iter().all(|d| matches!(d, Ok(Completed::Applied(_)))));
    let redrive = Change {
        order_id: new[1].id,
        expected_version: 3,
        status: OrderStatus::Pending,
        job: JobEffect::Requeue,
        cause: None,
        key: None,
        id: None,
        trace_parent: None,
    };
    let redriven = store.commit(&[redrive]).await;
    assert!(matches!(redriven[..], [Ok(Committed::Applied { .. })]));
}

/// A store with one connection of each kind, so that what it runs a second time runs on the
/// plans of the first.
pub(super) async fn store_that_keeps_plans(fixture: &Fixture) -> PostgresStore {
    let config = PostgresConfig {
        requests_pool: 1,
        workers_pool: 1,
        maintenance_pool: 1,
        ..PostgresConfig::new(&fixture.database.url)
    };
    PostgresStore::connect(config, identity()).await.unwrap()
}

/// Runs a statement whose costs do not count. A connection hands in its statistics some time
/// after its statements, and at the latest when it ends; so this one ends before they are
/// reset.
pub(super) async fn fill(fixture: &Fixture, sql: &str) {
    let (client, connection) = tokio_postgres::connect(&fixture.database.url, NoTls)
        .await
        .unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(async { connection.await.unwrap_or_default() });
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    let open = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    fixture.wait_for(&open, 0).await;
    fixture.run("SELECT pg_stat_reset()").await;
}

/// Ends the connections of a store, which then hand in their statistics.
pub(super) async fn close(fixture: &Fixture, store: PostgresStore) {
    drop(store);
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name LIKE 'order-system%'";
    fixture.wait_for(connected, N_FIXTURE_CONNECTIONS).await;
}

#[tokio::test]
async fn plans_made_on_empty_tables_fit_full_ones() {
    let fixture = available!(fixture());
    fixture.run("VACUUM ANALYZE").await;
    let store = store_that_keeps_plans(&fixture).await;
    // Plans every statement while there is nothing.
    let unknown = tokens(&orders(1));
    let verdict = |verdict| Completion {
        took: None,
        token: unknown[0],
        verdict,
        trace_parent: None,
    };
    store.find(&ctx(), unknown[0].order_id).await.unwrap();
    store
        .events(&ctx(), unknown[0].order_id, 0, 9)
        .await
        .unwrap();
    store.states(&[unknown[0].order_id]).await.unwrap();
    store.extend(&unknown, LEASE).await.unwrap();
    store.claim(1, LEASE).await.unwrap();
    store.start(&starts(&unknown)).await;
    store.complete(&[verdict(Verdict::Processed)]).await;
    store
        .complete(&[verdict(Verdict::Failed(Cause::new("NO", "no")))])
        .await;
    run_everything(&store, &orders(3)).await;
    fill(
        &fixture,
        "INSERT INTO jobs (order_id, due_at)
            SELECT gen_random_uuid(), now() - n * interval '1ms' FROM generate_series(1, 20000) n;
        INSERT INTO orders (id, user_id, amount_minor, currency, status, version, created_at, updated_at)
            SELECT order_id, 'bob', 1, 'EUR', 1, 1, now(), now() FROM jobs WHERE attempt = 0",
    )
    .await;

    run_everything(&store, &[order(11, 1), order(12, 1), order(13, 1)]).await;

    close(&fixture, store).await;
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

/// Runs every statement that looks something up by what a client named it.
async fn run_lookups(store: &PostgresStore, round: u8) {
    let id = u128::from(round) * 10;
    let name = format!("round-{round}");
    let named = |order: NewOrder| NewOrder {
        external_id: ExternalId::parse(&name).ok(),
        ..order
    };
    let first = store.create(&[named(keyed(id, &name, 1))]).await;
    assert!(is_new(&first[0]), "{first:?}");
    let again = store.create(&[named(keyed(id + 1, &name, 1))]).await;
    let expected = Some(Insertion::SameKey);
    assert_eq!(again[0].as_ref().ok().map(|c| c.insertion), expected);
    let taken = store.create(&[named(order(id + 2, 100))]).await;
    assert!(
        matches!(taken[0], Err(Error::ExternalIdTaken { .. })),
        "{taken:?}"
    );
    let claim = key_claim(KeyOperation::CreateOrder, &name, 1);
    let found = store
        .find_key(&ctx(), &claim.owner, claim.operation, &claim.key)
        .await;
    assert!(found.unwrap().is_some());
    let cancel = Change {
        order_id: order(id, 100).id,
        expected_version: 1,
        status: OrderStatus::Cancelled,
        job: JobEffect::Delete,
        cause: None,
        key: Some(key_claim(KeyOperation::CancelOrder, &name, 1)),
        id: None,
        trace_parent: None,
    };
    let cancelled = store.commit(&[cancel]).await;
    assert!(matches!(cancelled[..], [Ok(Committed::Applied { .. })]));
    let grant = TicketGrant {
        user_id: claim.owner,
    };
    let ticket = NewTicket {
        digest: [round; 32],
        grant,
        lifetime: LEASE,
    };
    store.put_ticket(&ticket).await.unwrap();
    assert!(store.take_ticket(&ticket.digest).await.unwrap().is_some());
    let n_expired = usize::from(round) * 2;
    assert_eq!(store.prune(1).await.unwrap(), n_expired);
}

#[tokio::test]
async fn lookups_planned_on_empty_tables_read_single_entries_of_full_ones() {
    let fixture = available!(fixture());
    fixture.run("VACUUM ANALYZE").await;
    let store = store_that_keeps_plans(&fixture).await;
    run_lookups(&store, 0).await;
    // Of keys and tickets every second has expired.
    fill(
        &fixture,
        "INSERT INTO idempotency_keys
            SELECT 'ada', 1, n, sha256(n::text::bytea), gen_random_uuid(),
                now() + (n % 2 * 2 - 1) * interval '1 hour'
            FROM generate_series(1, 20000) n;
        INSERT INTO stream_tickets
            SELECT sha256(n::text::bytea), 'ada', now() + (n % 2 * 2 - 1) * interval '1 hour'
            FROM generate_series(1, 20000) n;
        INSERT INTO orders (id, user_id, amount_minor, currency, status, version, external_id,
                created_at, updated_at)
            SELECT gen_random_uuid(), 'ada', 1, 'EUR', 1, 1, n, now(), now()
            FROM generate_series(1, 20000) n",
    )
    .await;

    run_lookups(&store, 1).await;

    close(&fixture, store).await;
    let scans = "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE relname \
        IN ('orders', 'jobs', 'order_events', 'idempotency_keys', 'stream_tickets')";
    assert_eq!(fixture.number(scans).await, 0);
    let entries = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes";
    let n_entries = fixture.number(entries).await;
    assert!(
        (10..60).contains(&n_entries),
        "{n_entries} entries were read"
    );
}
