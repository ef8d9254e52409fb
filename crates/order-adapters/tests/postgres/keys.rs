//! Idempotency keys under concurrency: twins in other processes, and twins that end while
//! somebody looks.

use super::*;

/// Counts statements of stores that wait for a lock.
const N_WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock' \
    AND application_name LIKE 'order-system%'";

/// Waits until a store waits for a lock. On a connection of its own: a transaction sees the
/// activity of the server as it was when it first looked.
async fn wait_for_lock(fixture: &Fixture) {
    let (client, _connection) = raw_connection(&fixture.database.url).await;
    wait_for(&client, N_WAITING, 1).await;
}

/// Stores order 99 of the user with this key in a transaction that stays open, without any
/// lock that a store would look at.
async fn begin_twin(fixture: &Fixture, operation: KeyOperation, key: &str) {
    let operation = operation.code();
    fixture
        .run(&format!(
            "BEGIN;
            INSERT INTO orders (id, user_id, amount_minor, currency, status, version, created_at,
                updated_at)
            VALUES ('{}', 'ada', 100, 'EUR', 1, 1, now(), now());
            INSERT INTO idempotency_keys
            VALUES ('ada', {operation}, '{key}', decode(repeat('01', 32), 'hex'), '{}', now())",
            Uuid::from_u128(99),
            Uuid::from_u128(99),
        ))
        .await;
}

fn insertion(answer: &Result<Created, Error>) -> Option<Insertion> {
    answer.as_ref().map(|created| created.insertion).ok()
}

#[tokio::test]
async fn create_whose_twin_is_under_way_does_not_wait() {
    let fixture = available!(fixture());
    // As a store does that is storing the key.
    let operation = KeyOperation::CreateOrder.code();
    let lock = format!("SELECT pg_advisory_xact_lock(hashtextextended('k ada', {operation}))");
    fixture.run(&format!("BEGIN; {lock}")).await;

    // Keys of others, or for something else, are no twins; a neighbour is not held up.
    let slice = [keyed(2, "k", 1), order(3, 100), keyed(4, "l", 1)];
    let answers = fixture.store.create(&slice).await;

    assert!(
        matches!(answers[0], Err(Error::RequestInProgress { .. })),
        "{answers:?}"
    );
    assert!(is_new(&answers[1]) && is_new(&answers[2]), "{answers:?}");
    fixture.run("ROLLBACK").await;
    let again = fixture.store.create(&slice[..1]).await;
    assert!(is_new(&again[0]), "{again:?}");
}

#[tokio::test]
async fn create_whose_twin_ends_meanwhile_is_answered_by_it() {
    let fixture = available!(fixture());
    begin_twin(&fixture, KeyOperation::CreateOrder, "k").await;
    let store = Arc::clone(&fixture.store);
    let mut tasks = JoinSet::new();
    // It does not wait for longer than locks are waited for, so it is asked for again.
    tasks.spawn(async move {
        loop {
            match store.create(&[keyed(1, "k", 1)]).await.remove(0) {
                Err(Error::RequestInProgress { .. }) => {}
                answer => return answer,
            }
        }
    });
    wait_for_lock(&fixture).await;

    fixture.run("COMMIT").await;

    let answer = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(insertion(&answer), Some(Insertion::SameKey), "{answer:?}");
    assert_eq!(fixture.number("SELECT count(*) FROM orders").await, 1);
    assert_eq!(fixture.number("SELECT count(*) FROM jobs").await, 0);
}

#[tokio::test]
async fn change_whose_twin_ends_meanwhile_is_stale() {
    let fixture = available!(fixture());
    fixture.store.create(&orders(3)).await;
    begin_twin(&fixture, KeyOperation::CancelOrder, "k").await;
    let cancel = |id, key: &str| Change {
        order_id: order(id, 100).id,
        expected_version: 1,
        status: OrderStatus::Cancelled,
        job: JobEffect::Delete,
        cause: None,
        key: Some(key_claim(KeyOperation::CancelOrder, key, 1)),
        id: None,
        trace_parent: None,
    };
    let changes = [cancel(1, "a"), cancel(2, "k"), cancel(3, "b")];
    let store = Arc::clone(&fixture.store);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { store.commit(&changes).await });
    wait_for_lock(&fixture).await;

    fixture.run("COMMIT").await;

    let committed = tasks.join_next().await.unwrap().unwrap();
    assert!(
        matches!(
            committed[..],
            [
                Ok(Committed::Applied { .. }),
                Ok(Committed::Stale),
                Ok(Committed::Applied { .. })
            ]
        ),
        "{committed:?}"
    );
    let events = "SELECT count(*) FROM order_events";
    assert_eq!(fixture.number(events).await, 2);
}

#[tokio::test]
async fn one_order_comes_of_two_hundred_creates_with_one_key() {
    const N_TASKS: u128 = 10;
    const N_CREATES: u128 = 10;
    let fixture = available!(fixture());
    let mut tasks = JoinSet::new();
    for n_store in 0..2 {
        // A connection for each task: nobody waits for one.
        let config = PostgresConfig {
            requests_pool: 10,
            ..PostgresConfig::new(&fixture.database.url)
        };
        let store = Arc::new(PostgresStore::connect(config, identity()).await.unwrap());
        for n_task in 0..N_TASKS {
            let store = Arc::clone(&store);
            let first = (n_store * N_TASKS + n_task) * N_CREATES;
            let mut open: Vec<_> = (first..first + N_CREATES)
                .map(|id| keyed(id, "k", 1))
                .collect();
            tasks.spawn(async move {
                let (mut insertions, deadline) = (Vec::new(), Instant::now() + DEADLINE);
                while !open.is_empty() {
                    assert!(Instant::now() < deadline, "{open:?}");
                    let answers = store.create(&open).await;
                    let mut answers = answers.into_iter();
                    open.retain(|_| match answers.next() {
                        Some(Ok(created)) => {
                            insertions.push(created.insertion);
                            false
                        }
                        Some(Err(Error::RequestInProgress { .. })) => true,
                        answer => panic!("{answer:?}"),
                    });
                }
                insertions
            });
        }
    }

    let insertions = tasks.join_all().await.concat();

    let count = |wanted| insertions.iter().filter(|i| **i == wanted).count();
    assert_eq!((count(Insertion::New), count(Insertion::SameKey)), (1, 199));
    assert_eq!(fixture.number("SELECT count(*) FROM orders").await, 1);
    assert_eq!(fixture.number("SELECT count(*) FROM jobs").await, 1);
}

#[tokio::test]
async fn prune_leaves_alone_what_another_process_removes() {
    let fixture = available!(fixture());
    fixture
        .run(
            "INSERT INTO idempotency_keys
            SELECT 'ada', 1, n::text, decode(repeat('01', 32), 'hex'), gen_random_uuid(),
                now() - n * interval '1 hour'
            FROM generate_series(-1, 9) n",
        )
        .await;
    fixture
        .run("BEGIN; DELETE FROM idempotency_keys WHERE key = '9'")
        .await;

    // Key 9 is somebody else's, and the key of the next hour has not expired.
    assert_eq!(fixture.store.prune(4).await.unwrap(), 4);
    assert_eq!(fixture.store.prune(100).await.unwrap(), 5);

    fixture.run("ROLLBACK").await;
    assert_eq!(fixture.store.prune(100).await.unwrap(), 1);
    let kept = "SELECT min(key::bigint) FROM idempotency_keys";
    assert_eq!(fixture.number(kept).await, -1);
}
