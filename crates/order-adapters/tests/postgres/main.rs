//! The PostgreSQL store against the contracts of its ports, and what only it promises:
//! round trips, isolation of bad rows, repeats after broken connections, cancelled reads.
//!
//! Each test has a database of its own on a real server.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests panic like the tests themselves"
)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use order_adapters::postgres::{ConnectError, PostgresConfig, PostgresStore};
use order_core::{
    AdminStore, CallContext, Cause, Change, Committed, Completed, Completion, Created, Deadline,
    Error, EventOutbox, Extended, ExternalId, Fingerprint, IdempotencyKey, Identity, Insertion,
    Job, JobEffect, JobQueue, JobToken, KeyClaim, KeyOperation, Money, NewOrder, NewTicket,
    OrderId, OrderReads, OrderStatus, OrderStore, Reason, RequestId, Start, Started, TicketGrant,
    UserId, Verdict,
};
use order_testkit::{
    conformance::{Subject, identity},
    server::{
        Backend,
        postgres::{self, PostgresServer, TestDatabase},
        report_skip,
    },
    skip,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// The value, or the end of the test as skipped.
macro_rules! available {
    ($value:expr) => {
        match $value.await {
            Ok(value) => value,
            Err(reason) => skip!("PostgreSQL: {reason}"),
        }
    };
}

mod attempts;
mod events;
mod failover;
mod faults;
mod keys;
mod outbox;
mod pages;
mod plans;
mod records;
mod repeats;
mod snapshot;
mod stall;
mod start;

/// How long a condition may take to become true. Only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(20);

/// The connections that the store of a fresh fixture holds: the one of its check.
const N_FIXTURE_CONNECTIONS: i64 = 1;

/// A lease nobody outlives.
const LEASE: Duration = Duration::from_hours(1);

/// A store on a database of its own, and a connection beside it.
struct Fixture {
    store: Arc<PostgresStore>,
    sql: Client,
    _connection: JoinSet<()>,
    // Dropped last: it drops the database.
    database: TestDatabase,
}

#[async_trait]
impl Subject for Fixture {
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
        let secs = age.as_secs_f64();
        let sql = format!("UPDATE processes SET seen_at = seen_at - interval '{secs} s'");
        self.run(&sql).await;
    }

    async fn write_figures(&self, json: &str) -> bool {
        let sql = format!("UPDATE processes SET figures = '{json}'");
        self.run(&sql).await;
        true
    }

    async fn forget_record(&self, order_id: OrderId) -> bool {
        self.run(&format!(
            "UPDATE orders SET request_id = NULL, gateway = NULL WHERE id = '{order_id}';
            UPDATE jobs SET claim_id = gen_random_uuid()
                WHERE order_id = '{order_id}' AND claim_id IS NOT NULL;
            UPDATE order_events SET worker = NULL, begun_at = NULL WHERE order_id = '{order_id}'"
        ))
        .await;
        true
    }

    async fn expire_leases(&self) {
        self.run("UPDATE jobs SET due_at = now() WHERE due_at < 'infinity'")
            .await;
    }

    async fn break_order(&self, order_id: OrderId) -> bool {
        let sql = format!("UPDATE orders SET currency = '?1?' WHERE id = '{order_id}'");
        self.run(&sql).await;
        true
    }

    async fn break_trace(&self, order_id: OrderId) -> bool {
        let sql = format!("UPDATE orders SET trace_parent = 'none' WHERE id = '{order_id}'");
        self.run(&sql).await;
        true
    }

    async fn remove_order(&self, order_id: OrderId) -> bool {
        self.run(&format!(
            "DELETE FROM order_events WHERE order_id = '{order_id}';
            DELETE FROM orders WHERE id = '{order_id}'"
        ))
        .await;
        true
    }

    async fn another_store(&self) -> Option<Arc<dyn OrderStore>> {
        Some(self.connect().await as _)
    }

    async fn queue_of(&self, identity: Identity) -> Option<Arc<dyn JobQueue>> {
        let config = PostgresConfig::new(&self.database.url);
        let store = PostgresStore::connect(config, identity).await;
        Some(Arc::new(store.expect("the database can be used")))
    }
}

impl Fixture {
    /// A store as another process would open it.
    async fn connect(&self) -> Arc<PostgresStore> {
        let config = PostgresConfig::new(&self.database.url);
        let store = PostgresStore::connect(config, identity()).await;
        Arc::new(store.expect("the database can be used"))
    }

    async fn run(&self, sql: &str) {
        self.sql
            .batch_execute(sql)
            .await
            .expect("the test's own SQL is right");
    }

    async fn number(&self, sql: &str) -> i64 {
        let row = self.sql.query_one(sql, &[]).await;
        row.expect("the test's own SQL is right").get(0)
    }

    /// Waits until a query counts `expected`.
    async fn wait_for(&self, sql: &str, expected: i64) {
        wait_for(&self.sql, sql, expected).await;
    }
}

/// An order whose job is due at once.
fn due(id: u128) -> NewOrder {
    NewOrder {
        lease: None,
        ..order(id, 100)
    }
}

/// Waits until a query counts `expected`.
async fn wait_for(client: &Client, sql: &str, expected: i64) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let row = client.query_one(sql, &[]).await;
        let number: i64 = row.expect("the test's own SQL is right").get(0);
        if number == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{sql}: {number}, not {expected}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A connection without a store, and the task that drives it.
async fn raw_connection(url: &str) -> (Client, JoinSet<()>) {
    let connected = tokio_postgres::connect(url, NoTls).await;
    let (client, connection) = connected.expect("the server answers");
    let mut connections = JoinSet::new();
    connections.spawn(async { connection.await.unwrap_or_default() });
    (client, connections)
}

/// Has commits wait for standby `name`, and returns when they do; an empty one ends that. `probes`
/// owns the commits that it is tried with.
async fn wait_for_standby(sql: &Client, url: &str, name: &str, probes: &mut JoinSet<()>) {
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
    sql.batch_execute(&set).await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let (probe, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    probes.spawn(async { connection.await.unwrap_or_default() });
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "the setting was not reloaded");
        let commit = probe.batch_execute("SELECT pg_logical_emit_message(true, 'probe', '')");
        // The checkpointer takes the setting over some time after the reload.
        let does_wait = tokio::time::timeout(Duration::from_millis(500), commit)
            .await
            .is_err();
        if does_wait != name.is_empty() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn empty_database() -> Result<TestDatabase, String> {
    match postgres::shared().await {
        Backend::Available(server) => Ok(postgres::database(&server)
            .await
            .expect("a server that answers makes a database")),
        Backend::Unavailable(reason) => Err(reason),
    }
}

async fn fixture() -> Result<Fixture, String> {
    Ok(fixture_on(empty_database().await?).await)
}

async fn fixture_on(database: TestDatabase) -> Fixture {
    let store = PostgresStore::connect(PostgresConfig::new(&database.url), identity()).await;
    let (sql, connections) = raw_connection(&database.url).await;
    Fixture {
        store: Arc::new(store.expect("an empty database can be used")),
        sql,
        _connection: connections,
        database,
    }
}

async fn conforming() -> Option<Fixture> {
    match fixture().await {
        Ok(fixture) => Some(fixture),
        Err(reason) => {
            report_skip(module_path!(), format_args!("PostgreSQL: {reason}"));
            None
        }
    }
}

order_testkit::store_conformance!(conforming);

#[test]
fn lease_protocol_holds_under_random_histories() {
    order_testkit::conformance::lease::check_lease_protocol(16, conforming);
}

fn ctx() -> CallContext {
    CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE)
}

fn order(id: u128, minor_units: i64) -> NewOrder {
    let id = OrderId::from_uuid(Uuid::from_u128(id));
    let money = Money::from_minor_units(minor_units, "EUR").unwrap();
    NewOrder {
        lease: Some(LEASE),
        ..NewOrder::new(id, UserId::parse("ada").unwrap(), money)
    }
}

/// An order with a key, which came with a request for `content`.
fn keyed(id: u128, key: &str, content: u8) -> NewOrder {
    let order = order(id, 100);
    NewOrder {
        key: Some(key_claim(KeyOperation::CreateOrder, key, content)),
        ..order
    }
}

fn key_claim(operation: KeyOperation, key: &str, content: u8) -> KeyClaim {
    KeyClaim {
        owner: UserId::parse("ada").unwrap(),
        operation,
        key: IdempotencyKey::parse(key).unwrap(),
        fingerprint: Fingerprint::from_bytes([content; 32]),
        retention: LEASE,
    }
}

fn orders(n_orders: u128) -> Vec<NewOrder> {
    (1..=n_orders).map(|id| order(id, 100)).collect()
}

fn tokens(orders: &[NewOrder]) -> Vec<JobToken> {
    let token = |order: &NewOrder| JobToken {
        order_id: order.id,
        attempt: 1,
    };
    orders.iter().map(token).collect()
}

/// The marks of tokens before an effect outside.
fn starts(tokens: &[JobToken]) -> Vec<Start> {
    let start = |token: &JobToken| Start {
        token: *token,
        moves_order: true,
        counts: true,
        trace_parent: None,
    };
    tokens.iter().map(start).collect()
}

fn is_new(created: &Result<Created, Error>) -> bool {
    created.as_ref().is_ok_and(Created::is_new)
}
