//! The outbox: what it costs, and transactions that are slower than others.

use std::{cell::Cell, collections::BTreeMap};

use order_core::OutboxEntry;
use tokio_util::sync::CancellationToken;

use super::{
    plans::{close, fill, store_that_keeps_plans},
    *,
};

async fn read(store: &PostgresStore) -> Vec<OutboxEntry> {
    store.read(10_000).await.unwrap()
}

async fn remove(store: &PostgresStore, entries: &[OutboxEntry]) {
    let positions: Vec<_> = entries.iter().map(|entry| entry.position).collect();
    store.remove(&positions).await.unwrap();
}

fn ids_and_versions(entries: &[OutboxEntry]) -> Vec<(u128, u32)> {
    let id_and_version = |entry: &OutboxEntry| {
        let event = entry.event.as_ref().unwrap();
        (event.order_id.as_uuid().as_u128(), event.version)
    };
    entries.iter().map(id_and_version).collect()
}

/// The triggers are not there, rather than disabled: for one that is, the server copies
/// every row.
#[tokio::test]
async fn outbox_that_is_off_is_not_there() {
    let fixture = available!(fixture());
    let triggers = "SELECT count(*) FROM pg_trigger \
        WHERE tgrelid IN ('orders'::regclass, 'order_events'::regclass)";
    assert_eq!(fixture.number(triggers).await, 0);
    fixture.store.enable().await.unwrap();
    assert_eq!(fixture.number(triggers).await, 2);

    fixture.store.disable().await.unwrap();

    assert_eq!(fixture.number(triggers).await, 0);
    run_lifecycle(&fixture.store, 1).await;
    let n_bytes = "SELECT pg_relation_size('event_outbox')";
    assert_eq!(fixture.number(n_bytes).await, 0);
}

/// A process that finds the outbox enabled needs neither a lock nor the right to change
/// tables.
#[tokio::test]
async fn enabled_outbox_is_enabled_again_beside_any_writer() {
    let fixture = available!(fixture());
    fixture.store.enable().await.unwrap();
    fixture
        .run("BEGIN; LOCK TABLE orders, order_events IN ACCESS EXCLUSIVE MODE")
        .await;

    fixture.store.enable().await.unwrap();
}

/// A statement that waits for the lock of a table holds up every writer that comes later: so
/// it gives up well before their limit of a second.
#[tokio::test]
async fn outbox_is_switched_beside_a_long_writer_without_holding_up_others() {
    let fixture = available!(fixture());
    begin_slow_transaction(&fixture, 1).await;
    assert_others_write_while(&fixture, 2, async |store| store.enable().await).await;
    fixture.run("COMMIT").await;
    fixture.store.enable().await.unwrap();

    begin_slow_transaction(&fixture, 3).await;
    assert_others_write_while(&fixture, 4, async |store| store.disable().await).await;
    fixture.run("COMMIT").await;
    fixture.store.disable().await.unwrap();
}

/// Order `id` runs through while `switching` waits for a table and gives up.
async fn assert_others_write_while(
    fixture: &Fixture,
    id: u128,
    switching: impl AsyncFn(&PostgresStore) -> Result<(), Error>,
) {
    let is_waiting = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
        WHERE c.relname = 'order_events' AND NOT l.granted";
    let is_over = Cell::new(false);
    let switching = async {
        let switched = switching(&fixture.store).await;
        is_over.set(true);
        switched
    };
    let others = async {
        while !is_over.get() && fixture.number(is_waiting).await == 0 {}
        run_lifecycle(&fixture.store, id).await;
    };
    let (switched, ()) = tokio::join!(switching, others);
    let busy = switched.unwrap_err();
    assert_eq!(busy.reason(), Reason::StoreUnavailable);
}

/// An order that is created and processed.
async fn run_lifecycle(store: &PostgresStore, id: u128) {
    let new = [order(id, 100)];
    assert!(is_new(&store.create(&new).await[0]));
    let completion = Completion {
        took: None,
        token: tokens(&new)[0],
        verdict: Verdict::Processed,
        trace_parent: None,
    };
    let done = store.complete(&[completion]).await;
    assert!(matches!(done[..], [Ok(Completed::Applied(Some(_)))]));
}

/// Orders `id` and its move to PROCESSING, in a transaction that is still open.
async fn begin_slow_transaction(fixture: &Fixture, id: u128) {
    let id = Uuid::from_u128(id);
    fixture
        .run(&format!(
            "BEGIN;
            INSERT INTO orders (id, user_id, amount_minor, currency, status, version, created_at,
                    updated_at)
                VALUES ('{id}', 'ada', 1, 'EUR', 2, 2, now(), now());
            INSERT INTO order_events (order_id, version, status, at)
                VALUES ('{id}', 3, 4, now()), ('{id}', 2, 2, now());"
        ))
        .await;
}

/// The positions of a transaction that commits late are lower than those that others have
/// read and removed meanwhile.
#[tokio::test]
async fn entries_of_a_late_commit_are_read() {
    let fixture = available!(fixture());
    fixture.store.enable().await.unwrap();
    begin_slow_transaction(&fixture, 1).await;
    run_lifecycle(&fixture.store, 2).await;
    let fast = read(&fixture.store).await;
    assert_eq!(ids_and_versions(&fast), [(2, 1), (2, 2)]);
    remove(&fixture.store, &fast).await;
    assert_eq!(read(&fixture.store).await, []);

    fixture.run("COMMIT").await;

    let slow = read(&fixture.store).await;
    // By version, although one statement wrote them the other way round.
    assert_eq!(ids_and_versions(&slow), [(1, 1), (1, 2), (1, 3)]);
    assert!(slow[0].position < fast[0].position);
}

#[tokio::test]
async fn entries_of_a_transaction_that_is_undone_are_not_there() {
    let fixture = available!(fixture());
    fixture.store.enable().await.unwrap();
    begin_slow_transaction(&fixture, 1).await;

    fixture.run("ROLLBACK").await;

    run_lifecycle(&fixture.store, 2).await;
    let entries = read(&fixture.store).await;
    assert_eq!(ids_and_versions(&entries), [(2, 1), (2, 2)]);
}

/// Everybody goes on while the outbox is enabled, and of each order the end of its history
/// is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outbox_is_enabled_while_orders_move() {
    let fixture = available!(fixture());
    let is_enabled = CancellationToken::new();
    let mut writers = JoinSet::new();
    for writer in 0..4_u128 {
        let (store, is_enabled) = (Arc::clone(&fixture.store), is_enabled.clone());
        writers.spawn(async move {
            let mut id = writer * 1_000_000;
            while !is_enabled.is_cancelled() {
                id += 1;
                run_lifecycle(&store, id).await;
            }
            // Certainly after it.
            run_lifecycle(&store, id + 1).await;
        });
    }
    let busy = "SELECT (count(*) > 20)::int::bigint FROM order_events";
    fixture.wait_for(busy, 1).await;

    let enabled = async {
        // Too busy, perhaps; the caller tries again.
        while fixture.store.enable().await.is_err() {}
    };
    tokio::time::timeout(DEADLINE, enabled).await.unwrap();
    is_enabled.cancel();

    writers.join_all().await;
    let mut kept = BTreeMap::<_, Vec<_>>::new();
    for entry in read(&fixture.store).await {
        let event = entry.event.unwrap();
        kept.entry(event.order_id).or_default().push(event.version);
    }
    let n_whole = kept
        .values()
        .filter(|versions| **versions == [1, 2])
        .count();
    assert!(n_whole >= 4, "{kept:?}");
    assert!(kept.values().all(|v| *v == [1, 2] || *v == [2]), "{kept:?}");
}

async fn run_outbox(store: &PostgresStore, id: u128) {
    run_lifecycle(store, id).await;
    let relay = Uuid::from_u128(1);
    assert!(store.acquire(relay, LEASE).await.unwrap());
    let entries = store.read(2).await.unwrap();
    assert_eq!(entries.len(), 2);
    remove(store, &entries).await;
    EventOutbox::release(store, relay).await.unwrap();
}

#[tokio::test]
async fn outbox_planned_while_empty_reads_single_entries_of_a_full_one() {
    let fixture = available!(fixture());
    fixture.run("VACUUM ANALYZE").await;
    let store = store_that_keeps_plans(&fixture).await;
    store.enable().await.unwrap();
    run_outbox(&store, 1).await;
    fill(
        &fixture,
        "INSERT INTO orders (id, user_id, amount_minor, currency, status, version, created_at,
                updated_at)
            SELECT gen_random_uuid(), 'bob', 1, 'EUR', 3, 2, now(), now()
            FROM generate_series(1, 20000) n;
        INSERT INTO order_events (order_id, version, status, at)
            SELECT id, 2, 3, now() FROM orders WHERE user_id = 'bob'",
    )
    .await;

    run_outbox(&store, 2).await;

    close(&fixture, store).await;
    let scans = "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables \
        WHERE relname IN ('orders', 'order_events', 'event_outbox', 'event_relay')";
    assert_eq!(fixture.number(scans).await, 0);
    let entries = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes";
    let n_entries = fixture.number(entries).await;
    assert!(
        (6..40).contains(&n_entries),
        "{n_entries} entries were read"
    );
}
