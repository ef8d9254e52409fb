//! A gateway in front of replicas of which one is sick: soon no request fails.

use std::time::Duration;

use futures_util::future::join_all;
use order_testkit::server::{forward::Forwarder, process::Signal};
use tokio::time::Instant;

use crate::{
    processes::{self, Ports},
    support::{Database, Engine, Http, PATIENCE, Running, database, run, start_gateway},
};

/// Clients at the same time.
const CLIENTS: usize = 8;

/// Longer than it takes until everything about a sick replica is known, and than the deadline
/// of a request.
const LOAD_TIME: Duration = Duration::from_secs(7);

/// Creates and reads orders for a while. Returns how many requests there were and the answers
/// that were no success.
async fn load(gateway: &Running, time: Duration) -> (usize, Vec<String>) {
    let http = Http::new(gateway.addrs.http.expect("an HTTP API"));
    let answer = http
        .post("/orders", r#"{"user_id":"sick","amount":1}"#)
        .await;
    if answer.status != 201 {
        return (1, vec![format!("{} {:?}", answer.status, answer.body)]);
    }
    let order_id = answer.json()["order_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let end = Instant::now() + time;
    let client = async || {
        let (mut n, mut failures) = (0, Vec::new());
        while Instant::now() < end {
            let answer = if n % 4 == 0 {
                http.post("/orders", r#"{"user_id":"sick","amount":1}"#)
                    .await
            } else {
                let path = format!("/orders/{order_id}");
                http.get(&path).await
            };
            n += 1;
            if !(200..300).contains(&answer.status) {
                failures.push(format!("{} {:?}", answer.status, answer.body));
            }
        }
        (n, failures)
    };
    let clients = join_all((0..CLIENTS).map(|_| client())).await;
    let (n, failures): (Vec<usize>, Vec<_>) = clients.into_iter().unzip();
    (n.into_iter().sum(), failures.concat())
}

/// No request fails once a second has passed without a failure, which is soon: on a busy machine
/// the first calls to a sick replica may exhaust what may be repeated.
async fn check_load(gateway: &Running, sick: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !load(gateway, Duration::from_secs(1)).await.1.is_empty() {
        assert!(Instant::now() < deadline, "{sick}: requests still fail");
    }
    let (n, failures) = load(gateway, LOAD_TIME).await;
    let first = failures.first();
    assert!(
        failures.is_empty(),
        "{sick}: {} of {n} requests failed: {first:?}",
        failures.len()
    );
}

/// A database behind a forwarder.
async fn behind(database: &Database) -> (Forwarder, String) {
    let (scheme, rest) = database.url.split_once('@').expect("a user");
    let (host, path) = rest.split_once('/').expect("a database");
    let target = tokio::net::lookup_host(host)
        .await
        .expect("an address")
        .next();
    let forwarder = Forwarder::start(target.expect("an address")).await;
    let forwarder = forwarder.expect("a free port");
    let url = format!("{scheme}@{}/{path}", forwarder.address());
    (forwarder, url)
}

fn urls<'a>(services: impl IntoIterator<Item = &'a Running>) -> String {
    let url = |service: &Running| format!("http://{}", service.addrs.grpc.expect("gRPC"));
    services.into_iter().map(url).collect::<Vec<_>>().join(",")
}

#[test]
fn service_without_its_database_fails_no_request() {
    run(async {
        for is_frozen in [false, true] {
            let database = database!(Engine::Postgres);
            let (forwarder, url) = behind(&database).await;
            let services = [
                Running::service(&url).await,
                Running::service(&database.url).await,
                Running::service(&database.url).await,
            ];
            let gateway = start_gateway(&urls(&services)).await;
            check_load(&gateway, "none").await;

            // Kept until the end, because dropping it closes what is frozen.
            let _frozen = is_frozen.then(|| {
                forwarder.freeze(true);
                forwarder
            });

            check_load(&gateway, "one of three without its database").await;
            gateway.stop().await;
            for service in services {
                service.begin_stop();
                // The sick one cannot end in good order.
                service.ended().await;
            }
        }
    });
}

#[test]
fn frozen_service_fails_no_request() {
    run(async {
        let database = database!(Engine::Postgres);
        let ports = [Ports::free(), Ports::free()];
        let frozen = processes::start(&database, &ports[0], &[]).await;
        let other = processes::start(&database, &ports[1], &[]).await;
        let urls = ports.map(|ports| format!("http://127.0.0.1:{}", ports.grpc));
        let gateway = start_gateway(&urls.join(",")).await;
        check_load(&gateway, "none").await;

        frozen.signal(Signal::Stop).expect("running");

        check_load(&gateway, "one of two frozen").await;
        gateway.stop().await;
        other.signal(Signal::Terminate).expect("running");
        other.wait_for_exit(PATIENCE).await.expect("it stops");
    });
}

#[test]
fn address_that_accepts_and_is_silent_fails_no_request() {
    run(async {
        let database = database!(Engine::Postgres);
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let silent = silent.expect("a free port");
        let service = Running::service(&database.url).await;
        let address = silent.local_addr().expect("bound");
        let urls = format!("http://{address},{}", urls([&service]));
        let gateway = start_gateway(&urls).await;

        check_load(&gateway, "a silent address").await;

        gateway.stop().await;
        service.stop().await;
    });
}
