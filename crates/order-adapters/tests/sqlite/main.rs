//! The SQLite store against the contracts of its ports, and what is its own: files,
//! restarts, several processes, group commit.
#![expect(
    clippy::expect_used,
    reason = "the steps of a test are outside of its test function"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use order_adapters::sqlite::{OpenError, SqliteStore};
use order_core::{
    AdminStore, CallContext, Completed, Completion, Deadline, Error, EventOutbox, Fingerprint,
    IdGen as _, IdempotencyKey, Identity, JobQueue, JobToken, KeyClaim, KeyOperation, Money,
    NewOrder, OrderId, OrderReads, OrderStatus, OrderStore, RequestId, UserId, Verdict,
};
use order_testkit::{
    clock::{SeededIds, SimClock},
    conformance::{LEASE, Subject, identity, lease::check_lease_protocol},
};
use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

struct Sqlite {
    clock: Arc<SimClock>,
    store: Arc<SqliteStore>,
    ids: SeededIds,
    directory: TempDir,
}

#[async_trait]
impl Subject for Sqlite {
    fn store(&self) -> Arc<dyn OrderStore> {
        Arc::clone(&self.store) as _
    }

    fn queue(&self) -> Arc<dyn JobQueue> {
        Arc::clone(&self.store) as _
    }

    fn outbox(&self) -> Arc<dyn EventOutbox> {
        Arc::clone(&self.store) as _
    }

    fn admin(&self) -> Arc<dyn AdminStore> {
        Arc::clone(&self.store) as _
    }

    async fn age_processes(&self, age: Duration) {
        self.clock.advance(age);
    }

    async fn write_figures(&self, json: &str) -> bool {
        let connection = Connection::open(self.path()).expect("the database opens");
        assert_eq!(
            connection.execute("UPDATE processes SET figures = ?1", [json]),
            Ok(1)
        );
        true
    }

    async fn forget_record(&self, order_id: OrderId) -> bool {
        for sql in [
            "UPDATE orders SET request_id = NULL, gateway = NULL WHERE id = ?1",
            "UPDATE jobs SET holder = NULL WHERE order_id = ?1",
            "UPDATE order_events SET worker = NULL, begun_at = NULL WHERE order_id = ?1",
        ] {
            assert!(self.change(sql, order_id) > 0, "{sql}");
        }
        true
    }

    async fn expire_leases(&self) {
        self.clock.advance(2 * LEASE);
    }

    async fn tick(&self) {
        self.clock.advance(Duration::from_micros(1));
    }

    async fn break_order(&self, order_id: OrderId) -> bool {
        let sql = "UPDATE orders SET currency = '?1?' WHERE id = ?1";
        assert_eq!(self.change(sql, order_id), 1);
        true
    }

    async fn break_trace(&self, order_id: OrderId) -> bool {
        let sql = "UPDATE orders SET trace_parent = 'none' WHERE id = ?1";
        assert_eq!(self.change(sql, order_id), 1);
        true
    }

    async fn remove_order(&self, order_id: OrderId) -> bool {
        for sql in [
            "DELETE FROM order_events WHERE order_id = ?1",
            "DELETE FROM orders WHERE id = ?1",
        ] {
            assert_eq!(self.change(sql, order_id), 1, "{sql}");
        }
        true
    }

    async fn another_store(&self) -> Option<Arc<dyn OrderStore>> {
        Some(open(&self.path(), &self.clock))
    }

    async fn queue_of(&self, identity: Identity) -> Option<Arc<dyn JobQueue>> {
        let store = SqliteStore::open(&self.path(), Arc::clone(&self.clock) as _, &identity);
        Some(Arc::new(store.expect("the database opens")))
    }
}

async fn sqlite() -> Option<Sqlite> {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let clock = Arc::new(SimClock::new());
    let store = open(&directory.path().join("orders.db"), &clock);
    Some(Sqlite {
        clock,
        store,
        ids: SeededIds::new(1),
        directory,
    })
}

fn open(path: &Path, clock: &Arc<SimClock>) -> Arc<SqliteStore> {
    let store = SqliteStore::open(path, Arc::clone(clock) as _, &identity());
    Arc::new(store.expect("the database opens"))
}

impl Sqlite {
    async fn make() -> Self {
        sqlite().await.expect("SQLite is always there")
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("orders.db")
    }

    /// Runs a statement about an order by hand, and returns how many rows it changed.
    fn change(&self, sql: &str, order_id: OrderId) -> usize {
        let connection = Connection::open(self.path()).expect("the database opens");
        // As in the shell of SQLite, which does not check references.
        let unchecked = connection.pragma_update(None, "foreign_keys", false);
        unchecked.expect("references can be left unchecked");
        let changed = connection.execute(sql, [&order_id.as_uuid().as_bytes()[..]]);
        changed.expect("the test's own SQL is right")
    }

    fn new_order(&self, lease: Option<Duration>) -> NewOrder {
        let user_id = UserId::parse("user-1").expect("valid");
        let money = Money::from_minor_units(10_000, "USD").expect("valid");
        NewOrder {
            lease,
            ..NewOrder::new(self.ids.order_id(), user_id, money)
        }
    }

    fn keyed_order(&self, key: &str) -> NewOrder {
        let new = self.new_order(None);
        let key = KeyClaim {
            owner: new.user_id.clone(),
            operation: KeyOperation::CreateOrder,
            key: IdempotencyKey::parse(key).expect("valid"),
            fingerprint: Fingerprint::from_bytes([1; 32]),
            retention: Duration::from_hours(24),
        };
        NewOrder {
            key: Some(key),
            ..new
        }
    }
}

fn ctx() -> CallContext {
    CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE)
}

async fn create(store: &SqliteStore, new: NewOrder) -> OrderId {
    let created = store.create(&[new]).await.remove(0).expect("is stored");
    created.order.id
}

async fn status(store: &SqliteStore, order_id: OrderId) -> Option<OrderStatus> {
    let order = store.find(&ctx(), order_id).await.expect("find answers");
    order.map(|order| order.status)
}

async fn processed(store: &SqliteStore, order_id: OrderId, attempt: u32) {
    let completion = Completion {
        took: None,
        token: JobToken { order_id, attempt },
        verdict: Verdict::Processed,
        trace_parent: None,
    };
    let completed = store.complete(&[completion]).await.remove(0);
    assert!(matches!(completed, Ok(Completed::Applied(Some(_)))));
}

order_testkit::store_conformance!(sqlite);

mod clock;
mod disk;
mod tables;

#[test]
fn lease_protocol_follows_its_model() {
    check_lease_protocol(32, sqlite);
}

#[tokio::test]
async fn reopened_database_holds_everything() {
    let test = Sqlite::make().await;
    let done = create(&test.store, test.new_order(Some(LEASE))).await;
    processed(&test.store, done, 1).await;
    let leased = create(&test.store, test.new_order(Some(LEASE))).await;
    let keyed = test.keyed_order("k");
    let due = create(&test.store, keyed.clone()).await;
    let page_token_key = test.store.page_token_key().await.expect("answers");

    test.store.close().await;
    let reopened = open(&test.path(), &test.clock);

    let again = NewOrder {
        id: test.ids.order_id(),
        ..keyed
    };
    assert_eq!(create(&reopened, again).await, due);
    assert_eq!(reopened.page_token_key().await.ok(), Some(page_token_key));

    assert_eq!(status(&reopened, done).await, Some(OrderStatus::Processed));
    let events = reopened.events(&ctx(), done, 0, 10).await;
    assert_eq!(events.map(|events| events.len()).ok(), Some(2));
    let claimed = reopened.claim(10, LEASE).await.expect("claim answers");
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].order.id, due);
    processed(&reopened, leased, 1).await;
}

/// What a killed process leaves behind: the files as they are at some moment, without any
/// of the work that an orderly close does.
#[tokio::test]
async fn killed_process_loses_nothing_it_has_answered() {
    let test = Sqlite::make().await;
    let crashed = test.directory.path().join("crashed.db");
    let mut answered = Vec::new();
    for _ in 0..20 {
        answered.push(create(&test.store, test.new_order(None)).await);
        fs::copy(test.path(), &crashed).expect("the file can be copied");
        fs::copy(
            test.path().with_extension("db-wal"),
            crashed.with_extension("db-wal"),
        )
        .expect("the log can be copied");

        let recovered = open(&crashed, &test.clock);

        for order_id in &answered {
            assert_eq!(
                status(&recovered, *order_id).await,
                Some(OrderStatus::Pending)
            );
        }
        let claimed = recovered.claim(100, LEASE).await.expect("claim answers");
        assert_eq!(claimed.len(), answered.len());
        recovered.close().await;
    }
}

#[tokio::test]
async fn dropping_the_store_finishes_what_is_queued() {
    let test = Sqlite::make().await;
    let (path, new) = (test.path(), test.new_order(None));
    let id = new.id;
    {
        let slice = [new];
        let mut creating = test.store.create(&slice);
        let _ = futures_util::poll!(&mut creating);
    }
    let Sqlite {
        store,
        clock,
        directory,
        ..
    } = test;
    drop(store);

    assert_eq!(
        status(&open(&path, &clock), id).await,
        Some(OrderStatus::Pending)
    );
    drop(directory);
}

#[tokio::test]
async fn closed_store_refuses() {
    let test = Sqlite::make().await;
    test.store.close().await;

    let created = test.store.create(&[test.new_order(None)]).await.remove(0);
    assert!(matches!(created, Err(Error::ShuttingDown { .. })));
    let found = test.store.find(&ctx(), test.ids.order_id()).await;
    assert!(matches!(found, Err(Error::ShuttingDown { .. })));
    assert!(!test.path().with_extension("db-wal").exists());
}

/// A row that somebody spoilt by hand stops nobody but itself.
#[tokio::test]
async fn poison_row_is_isolated() {
    let test = Sqlite::make().await;
    let poison = test.new_order(None);
    create(&test.store, poison.clone()).await;
    let healthy = create(&test.store, test.new_order(None)).await;
    let by_hand = Connection::open(test.path()).expect("opens");
    by_hand
        .execute_batch("PRAGMA ignore_check_constraints = ON")
        .expect("is set");
    let n_spoilt = by_hand.execute(
        "UPDATE orders SET status = 99 WHERE id = ?1",
        [poison.id.as_uuid().as_bytes()],
    );
    assert_eq!(n_spoilt, Ok(1));

    let found = test.store.find(&ctx(), poison.id).await;
    assert!(matches!(found, Err(Error::Internal { .. })), "{found:?}");
    let answers = test
        .store
        .create(&[poison.clone(), test.new_order(Some(LEASE))])
        .await;
    assert!(matches!(&answers[..], [Err(Error::Internal { .. }), Ok(created)] if created.is_new()));
    let states = test
        .store
        .states(&[poison.id, healthy])
        .await
        .expect("answers");
    assert_eq!(states.len(), 1);
    let recent = test
        .store
        .recent_states(std::slice::from_ref(&poison.user_id), 10)
        .await
        .expect("answers");
    assert_eq!(recent.len(), 2, "the healthy one and the one stored last");
    // With room for one job only, the poison must not take the place of the healthy one
    // more than once.
    let mut claimed = Vec::new();
    for _ in 0..2 {
        claimed.extend(test.store.claim(1, LEASE).await.expect("claim answers"));
    }
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].order.id, healthy);
    let token = |order_id| JobToken {
        order_id,
        attempt: 1,
    };
    let completions = [poison.id, healthy].map(|order_id| Completion {
        took: None,
        token: token(order_id),
        verdict: Verdict::Processed,
        trace_parent: None,
    });
    test.store.complete(&completions).await;
    assert_eq!(
        status(&test.store, healthy).await,
        Some(OrderStatus::Processed)
    );
}

/// Two handles stand for two processes: SQLite gives each its own connections.
#[tokio::test]
async fn two_processes_share_a_file() {
    let test = Sqlite::make().await;
    let other = open(&test.path(), &test.clock);
    let creates = (0..40).map(|i| {
        let store = if i % 2 == 0 { &test.store } else { &other };
        create(store, test.new_order(None))
    });
    let mut ids = join_all(creates).await;

    let claims = join_all((0..20).map(|i| {
        let store = if i % 2 == 0 { &test.store } else { &other };
        store.claim(2, LEASE)
    }));
    let jobs: Vec<_> = claims
        .await
        .into_iter()
        .flat_map(|jobs| jobs.expect("claim answers"))
        .collect();

    let mut claimed: Vec<_> = jobs.iter().map(|job| job.order.id).collect();
    claimed.sort_unstable();
    ids.sort_unstable();
    assert_eq!(claimed, ids);
    // Each finishes what the other claimed: the right is in the token, not in the process.
    for job in jobs {
        processed(&other, job.order.id, 1).await;
        assert_eq!(
            status(&test.store, job.order.id).await,
            Some(OrderStatus::Processed)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_in_two_processes_is_one_order() {
    let test = Sqlite::make().await;
    let other = open(&test.path(), &test.clock);
    let creates = (0..40).map(|i| {
        let store = if i % 2 == 0 { &test.store } else { &other };
        create(store, test.keyed_order("k"))
    });

    let ids = join_all(creates).await;

    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let claimed = test.store.claim(10, LEASE).await.expect("claim answers");
    assert_eq!(claimed.len(), 1);
}

#[test]
fn processes_that_start_together_create_one_schema() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("orders.db");
    let clock = Arc::new(SimClock::new());
    thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| open(&path, &clock)))
            .collect();
        for start in starts {
            start.join().expect("the database opens");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_creates_at_once_are_few_transactions() {
    let test = Arc::new(Sqlite::make().await);
    // Another process holds the lock until everybody has queued up.
    let other = Connection::open(test.path()).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let creates = join_all((0..64).map(|_| create(&test.store, test.new_order(None))));
    tokio::pin!(creates);
    assert!(futures_util::poll!(&mut creates).is_pending());
    other.execute_batch("COMMIT").expect("unlocks");

    assert_eq!(creates.await.len(), 64);

    let stats = test.store.stats();
    assert_eq!(stats.units.get(), 64);
    // What was there when the thread woke up, and the rest.
    assert!(stats.transactions.get() <= 2, "{stats:?}");
}

#[test]
fn wrong_paths_are_named() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let clock = Arc::new(SimClock::new());
    let error = |path: &Path| match SqliteStore::open(path, Arc::clone(&clock) as _, &identity()) {
        Ok(_) => panic!("{} opens", path.display()),
        Err(error) => error,
    };

    let missing = directory.path().join("no/such/orders.db");
    let text = error(&missing).to_string();
    assert!(text.ends_with("no/such/orders.db does not exist"), "{text}");

    let text_file = directory.path().join("orders.txt");
    fs::write(
        &text_file,
        "this is not a database, but it is long enough to be looked at",
    )
    .expect("writes");
    let refused = error(&text_file);
    assert!(matches!(refused, OpenError::Open { .. }), "{refused:?}");
    assert!(refused.to_string().contains("orders.txt"), "{refused}");

    let refused = error(directory.path());
    assert!(matches!(refused, OpenError::Open { .. }), "{refused:?}");
}
