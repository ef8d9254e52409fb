//! The store and the event transport during a failover.

use std::{net::SocketAddr, sync::atomic::Ordering};

use order_core::EventTransport as _;
use order_testkit::server::{
    forward::Forwarder,
    postgres::{Loss, PostgresPair},
};

use tokio::net::TcpListener;

use super::{
    events::{Counter, events, transport_to},
    *,
};

/// How long a condition may take to become true: every other connection that is opened may try
/// a silent server first, for seconds.
const DEADLINE: Duration = Duration::from_mins(1);

/// Repeats until it succeeds. Only a failing test does so for long.
async fn until_ok<T, E: std::fmt::Debug>(mut run: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match run().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Listens at `url`, again and again.
fn listen(url: &str) -> (Arc<Counter>, JoinSet<()>) {
    let counter = Arc::new(Counter::default());
    counter.is_watched.send_replace(true);
    let (transport, receiver) = (transport_to(url), Arc::clone(&counter));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let Err(_) = transport.listen(Arc::clone(&receiver) as _).await;
            sleep(Duration::from_millis(5)).await;
        }
    });
    (counter, tasks)
}

/// Creates an order with each pool in use, and checks that events arrive.
async fn works(store: &PostgresStore, url: &str, counter: &Counter, id: u128) {
    until_ok(async || store.check(&ctx()).await).await;
    let order = [order(id, 100)];
    until_ok(async || store.create(&order).await.remove(0)).await;
    until_ok(async || store.claim(1, LEASE).await).await;
    // A connection that learns only now that its server was demoted answers from the past, once.
    until_ok(async || {
        let states = store.states(&[order[0].id]).await;
        states.map_or(Err("an error"), |states| {
            states.first().map(drop).ok_or("an old answer")
        })
    })
    .await;

    let n_before = counter.n_received.load(Ordering::SeqCst);
    let publisher = transport_to(url);
    let deadline = Instant::now() + DEADLINE;
    while counter.n_received.load(Ordering::SeqCst) == n_before {
        assert!(Instant::now() < deadline, "no event arrives");
        until_ok(async || publisher.publish(&events(1)).await).await;
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn store_follows_the_primary_and_finds_everything_there() {
    let Ok(mut pair) = PostgresPair::start(&[("fsync", "off")]).await else {
        skip!("a PostgreSQL of its own");
    };
    let url = pair.url();
    let store = PostgresStore::connect(PostgresConfig::new(&url), identity()).await;
    let store = store.unwrap();
    let (counter, _tasks) = listen(&url);
    for (id, loss) in [(1, Loss::Killed), (2, Loss::Hanging)] {
        pair.make_synchronous().await.unwrap();
        works(&store, &url, &counter, id).await;

        pair.fail_over(loss).await.unwrap();

        works(&store, &url, &counter, id + 100).await;
        for id in [id, id + 100] {
            let found = store.find(&ctx(), order(id, 100).id).await.unwrap();
            assert!(found.is_some(), "order {id}");
        }
        // The old primary takes no writes, and no connection goes there.
        pair.rejoin().await.unwrap();
    }
}

/// As a server does whose machine is cut off after it has accepted a connection.
#[tokio::test]
async fn host_that_accepts_and_says_nothing_takes_no_attempt() {
    let database = available!(empty_database());
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_host = format!("@{},", silent.local_addr().unwrap());
    let url = database.url.replace('@', &silent_host);

    for _ in 0..6 {
        transport_to(&url).publish(&events(1)).await.unwrap();
    }
}

/// Behind one name, a server that was demoted may keep its connections.
#[tokio::test]
async fn connections_to_a_server_that_turned_read_only_are_replaced() {
    let (Ok(old), Ok(new)) = tokio::join!(
        PostgresServer::start(&[("fsync", "off")]),
        PostgresServer::start(&[("fsync", "off")])
    ) else {
        skip!("a PostgreSQL of its own");
    };
    let address = |server: &PostgresServer| -> SocketAddr {
        let url = server.url();
        let address = url.split(['@', '/']).nth(3);
        address.unwrap().parse().unwrap()
    };
    PostgresStore::migrate(PostgresConfig::new(new.url()))
        .await
        .unwrap();
    let name = Forwarder::start(address(&old)).await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", name.address());
    let store = PostgresStore::connect(PostgresConfig::new(&url), identity()).await;
    let store = store.unwrap();
    let (counter, _tasks) = listen(&url);
    works(&store, &url, &counter, 1).await;

    let (sql, _connection) = raw_connection(&old.url()).await;
    let demote = "ALTER SYSTEM SET default_transaction_read_only = on";
    sql.batch_execute(demote).await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    name.retarget(address(&new));

    works(&store, &url, &counter, 2).await;
}

/// The settings of two servers may differ.
#[tokio::test]
async fn commits_wait_for_the_standby_whatever_the_next_server_has_as_its_default() {
    let Ok(server) = PostgresServer::start(&[("fsync", "off")]).await else {
        skip!("a PostgreSQL of its own");
    };
    let store = PostgresStore::connect(PostgresConfig::new(server.url()), identity()).await;
    let store = Arc::new(store.unwrap());
    let (sql, mut connections) = raw_connection(&server.url()).await;
    wait_for_standby(&sql, &server.url(), "gone", &mut connections).await;
    for weaken in [
        "SET synchronous_commit = local",
        "ALTER DATABASE postgres SET synchronous_commit = local",
    ] {
        sql.batch_execute(weaken).await.unwrap();
    }
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE application_name LIKE 'order-system %' OR wait_event = 'SyncRep'";
    sql.batch_execute(cut).await.unwrap();

    let creating = Arc::clone(&store);
    connections.spawn(async move {
        let created = creating.create(&[order(1, 100)]).await;
        assert!(!is_new(&created[0]), "a commit did not wait");
    });

    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
        AND application_name = 'order-system requests'";
    wait_for(&sql, waiting, 1).await;
}
