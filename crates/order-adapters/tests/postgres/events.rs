//! Events between processes through `NOTIFY`: the contract of the transport, and what only
//! this one promises.

use std::sync::atomic::{AtomicUsize, Ordering};

use order_adapters::postgres::PostgresEventTransport;
use order_core::{BrokerError, EventReceiver, EventTransport, OrderEvent, Topic, TopicChange};
use order_testkit::conformance::events::EventSubject;
use tokio::{sync::watch, time::timeout};

use super::*;

/// Counts the connections of the transports on the database of the test.
const N_CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'order-system events'";

pub(super) fn transport_to(url: &str) -> Arc<PostgresEventTransport> {
    let transport = PostgresEventTransport::new(&PostgresConfig::new(url));
    Arc::new(transport.expect("the url is valid"))
}

#[async_trait]
impl EventSubject for Fixture {
    async fn transport(&self) -> Arc<dyn EventTransport> {
        transport_to(&self.database.url)
    }

    async fn send_foreign(&self) {
        self.run("NOTIFY order_events, 'what is this'").await;
    }

    async fn cut(&self) {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'order-system events'";
        assert!(self.number(cut).await > 0, "nobody is connected");
    }
}

order_testkit::event_conformance!(conforming);

/// A receiver that counts, and watches from when it is told to.
#[derive(Default)]
pub(super) struct Counter {
    pub(super) is_watched: watch::Sender<bool>,
    pub(super) n_received: AtomicUsize,
    n_resyncs: AtomicUsize,
}

#[async_trait]
impl EventReceiver for Counter {
    fn is_watched(&self) -> bool {
        *self.is_watched.borrow()
    }

    async fn until_watched(&self) {
        let mut is_watched = self.is_watched.subscribe();
        let _open = is_watched.wait_for(|&is_watched| is_watched).await;
    }

    fn receive(&self, events: &[OrderEvent]) {
        self.n_received.fetch_add(events.len(), Ordering::SeqCst);
    }

    fn watched(&self) -> Vec<Topic> {
        Vec::new()
    }

    async fn topic_changes(&self) -> Vec<TopicChange> {
        std::future::pending().await
    }

    fn heard(&self, _topics: &[Topic]) {}

    fn resync(&self) {
        self.n_resyncs.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counter {
    async fn wait_until(&self, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(DEADLINE, wait).await.expect("it becomes so");
    }
}

/// Has `transport` listen until the end of the test, as soon as anybody watches.
fn listen(transport: &Arc<PostgresEventTransport>) -> (Arc<Counter>, JoinSet<()>) {
    let counter = Arc::new(Counter::default());
    let mut tasks = JoinSet::new();
    let (transport, receiver) = (Arc::clone(transport), Arc::clone(&counter));
    tasks.spawn(async move {
        let Err(error) = transport.listen(receiver).await;
        panic!("{error}");
    });
    (counter, tasks)
}

/// The same, and somebody watches.
async fn listening(transport: &Arc<PostgresEventTransport>) -> (Arc<Counter>, JoinSet<()>) {
    let (counter, tasks) = listen(transport);
    counter.is_watched.send_replace(true);
    counter
        .wait_until(|c| c.n_resyncs.load(Ordering::SeqCst) == 1)
        .await;
    (counter, tasks)
}

pub(super) fn events(n_events: u128) -> Vec<OrderEvent> {
    let event = |order: NewOrder| OrderEvent {
        order_id: order.id,
        user_id: order.user_id,
        version: 1,
        status: OrderStatus::Pending,
        at: jiff::Timestamp::UNIX_EPOCH,
        cause: None,
        trace_parent: None,
    };
    orders(n_events).into_iter().map(event).collect()
}

#[tokio::test]
async fn batch_is_one_statement_and_none_while_nobody_listens() {
    let fixture = available!(fixture());
    let extension = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s \
        JOIN pg_database d ON d.oid = s.dbid \
        WHERE d.datname = current_database() AND query LIKE 'SELECT pg_notify(%'";
    if fixture.sql.batch_execute(extension).await.is_err()
        || fixture.sql.query(calls, &[]).await.is_err()
    {
        skip!("pg_stat_statements");
    }
    let transport = transport_to(&fixture.database.url);
    transport.publish(&events(1_000)).await.unwrap();
    assert_eq!(fixture.number(calls).await, 0);
    assert_eq!(fixture.number(N_CONNECTIONS).await, 1);

    let other = transport_to(&fixture.database.url);
    let (counter, tasks) = listening(&other).await;
    transport.publish(&events(1_000)).await.unwrap();
    counter
        .wait_until(|c| c.n_received.load(Ordering::SeqCst) == 1_000)
        .await;
    assert_eq!(fixture.number(calls).await, 1);

    // The lock goes with the connection.
    drop(tasks);
    fixture.wait_for(N_CONNECTIONS, 1).await;
    transport.publish(&events(1_000)).await.unwrap();
    assert_eq!(fixture.number(calls).await, 1);
}

#[tokio::test]
async fn own_events_are_skipped_and_foreign_messages_counted() {
    let fixture = available!(fixture());
    let (own, other) = (
        transport_to(&fixture.database.url),
        transport_to(&fixture.database.url),
    );
    let (counter, _tasks) = listening(&own).await;

    own.publish(&events(100)).await.unwrap();
    fixture.send_foreign().await;
    other.publish(&events(3)).await.unwrap();

    counter
        .wait_until(|c| c.n_received.load(Ordering::SeqCst) >= 3)
        .await;
    assert_eq!(counter.n_received.load(Ordering::SeqCst), 3);
    assert_eq!(own.n_foreign(), 1);
}

#[tokio::test]
async fn broken_connection_is_replaced_and_nothing_lost() {
    let fixture = available!(fixture());
    let transport = transport_to(&fixture.database.url);
    transport.publish(&events(1)).await.unwrap();
    fixture.cut().await;
    fixture.wait_for(N_CONNECTIONS, 0).await;
    let other = transport_to(&fixture.database.url);
    let (counter, _tasks) = listening(&other).await;

    transport.publish(&events(3)).await.unwrap();

    counter
        .wait_until(|c| c.n_received.load(Ordering::SeqCst) == 3)
        .await;
}

#[tokio::test]
async fn process_in_which_nobody_watches_does_not_listen() {
    let fixture = available!(fixture());
    let transport = transport_to(&fixture.database.url);
    let (counter, _tasks) = listen(&transport);
    transport.publish(&events(1)).await.unwrap();
    assert_eq!(fixture.number(N_CONNECTIONS).await, 1);

    // Whoever begins to watch reads the store after this, so that nothing is missed.
    counter.is_watched.send_replace(true);
    counter
        .wait_until(|c| c.n_resyncs.load(Ordering::SeqCst) == 1)
        .await;
    assert_eq!(fixture.number(N_CONNECTIONS).await, 2);

    counter.is_watched.send_replace(false);
    fixture.wait_for(N_CONNECTIONS, 1).await;
}

#[tokio::test]
async fn whoever_stops_leaves_no_connection_behind() {
    let fixture = available!(fixture());
    let transport = transport_to(&fixture.database.url);
    let (_counter, tasks) = listening(&transport).await;
    transport.publish(&events(1)).await.unwrap();
    fixture.wait_for(N_CONNECTIONS, 2).await;

    drop(tasks);
    fixture.wait_for(N_CONNECTIONS, 1).await;

    drop(transport);
    fixture.wait_for(N_CONNECTIONS, 0).await;
}

#[tokio::test]
async fn wrong_password_is_refused_and_never_told() {
    let file = tempfile::Builder::new()
        .prefix("order-hba-")
        .tempfile()
        .unwrap();
    let rules = "host all locked 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(file.path(), rules).unwrap();
    // The server runs under another account.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(file.path(), readable).unwrap();
    let settings = [
        ("hba_file", file.path().to_str().unwrap()),
        ("fsync", "off"),
    ];
    let Ok(server) = PostgresServer::start(&settings).await else {
        skip!("a PostgreSQL of its own");
    };
    let (sql, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(async { connection.await.unwrap_or_default() });
    let role = "CREATE ROLE locked LOGIN PASSWORD 'right'";
    sql.batch_execute(role).await.unwrap();
    let url = |password: &str| {
        let user = format!("//locked:{password}@");
        server.url().replace("//postgres@", &user)
    };
    let right = transport_to(&url("right"));
    right.publish(&events(1)).await.unwrap();

    let wrong = transport_to(&url("secret"));

    let receiver = Arc::new(Counter::default());
    receiver.is_watched.send_replace(true);
    let Err(not_heard) = wrong.listen(receiver).await;
    let not_published = wrong.publish(&events(1)).await.unwrap_err();
    for error in [not_heard, not_published] {
        assert!(matches!(error, BrokerError::Refused { .. }), "{error:?}");
        assert!(error.chain().contains("127.0.0.1"), "{}", error.chain());
        assert!(!format!("{error:?} {}", error.chain()).contains("secret"));
    }
}

#[tokio::test]
async fn absent_server_is_unreachable() {
    let port = order_testkit::server::free_port().unwrap();
    let transport = transport_to(&format!("postgres://u:secret@127.0.0.1:{port}/orders"));

    let error = transport.publish(&events(1)).await.unwrap_err();

    assert!(
        matches!(error, BrokerError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(!format!("{error:?} {}", error.chain()).contains("secret"));
}
