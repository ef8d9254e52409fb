//! Replicas that are sick and not dead: frozen, silent, without their database. Others serve,
//! and no call fails.

use std::{convert::Infallible, net::SocketAddr, sync::atomic::Ordering};

use futures_util::future::{join_all, try_join_all};
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use order_core::{Error, OrderApi};
use order_rpc::{RemoteOrderApi, RpcClientConfig};
use order_testkit::server::forward::Forwarder;
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_util::task::TaskTracker;

use crate::{
    endpoints::{call_until_unused, call_until_used, client_of, get, n_calls},
    fake::Act,
    support::{TestServer, create, ctx, id, remote, soon},
};

/// Calls at the same time, and one after the other in each lane.
const LANES: usize = 8;
const CALLS_PER_LANE: usize = 100;

/// Reads and creates, none of which fails.
async fn load(remote: &RemoteOrderApi) {
    let lane = async |lane: usize| -> Result<(), Error> {
        for n in 0..CALLS_PER_LANE {
            let order_id = id(u128::try_from(lane * CALLS_PER_LANE + n).expect("fits") + 1);
            if n % 2 == 0 {
                remote.get_order(&ctx(), order_id).await?;
            } else {
                let order = create(Some(order_id));
                match remote.create_order(&ctx(), order).await {
                    // Those of a batch are answered with this by turns.
                    Ok(_) | Err(Error::OrderAlreadyExists { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    };
    let lanes = try_join_all((0..LANES).map(lane)).await;
    lanes.expect("no call fails");
}

fn client_at(addresses: &[SocketAddr]) -> RemoteOrderApi {
    let urls = addresses.iter().map(|address| format!("http://{address}"));
    remote(&RpcClientConfig {
        connections: 1,
        ..RpcClientConfig::new(urls.collect())
    })
}

#[tokio::test]
async fn frozen_replica_fails_no_call_and_is_used_when_it_goes_on() {
    let [frozen, other] = [TestServer::start([]).await, TestServer::start([]).await];
    let forwarder = Forwarder::start(frozen.address).await.expect("a free port");
    let remote = client_at(&[forwarder.address(), other.address]);
    call_until_used(&remote, &[&frozen, &other]).await;

    forwarder.freeze(true);

    load(&remote).await;
    call_until_unused(&remote, &frozen).await;
    forwarder.freeze(false);
    call_until_used(&remote, &[&frozen, &other]).await;
}

#[tokio::test]
async fn address_that_accepts_and_is_silent_gets_no_call() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let server = TestServer::start([]).await;
    let remote = client_at(&[silent.local_addr().expect("bound"), server.address]);

    load(&remote).await;

    // All calls came here, each once.
    assert!(n_calls(&server) <= LANES * CALLS_PER_LANE);
}

#[tokio::test]
async fn address_in_trouble_is_probed_by_one_connection_at_a_time_and_by_no_call() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let server = TestServer::start([]).await;
    let addresses = [silent.local_addr().expect("bound"), server.address];
    let urls = addresses.map(|address| format!("http://{address}"));
    let remote = remote(&RpcClientConfig {
        connections: 8,
        ..RpcClientConfig::new(urls.to_vec())
    });
    load(&remote).await;
    for _ in 0..2 {
        let (mut probe, _) = soon(silent.accept()).await.expect("a connection");
        let mut sent = Vec::new();
        tokio::select! {
            ended = soon(probe.read_to_end(&mut sent)) => {
                ended.expect("the client closes it");
            }
            _ = silent.accept() => panic!("two probes at a time"),
        }
        assert_eq!(n_requests(&sent), 1, "the health service is asked");
    }
}

/// How many requests a client began on an HTTP/2 connection.
fn n_requests(mut sent: &[u8]) -> usize {
    const PREFACE_LEN: usize = 24;
    const HEADERS: u8 = 1;
    sent = &sent[PREFACE_LEN..];
    let mut n = 0;
    while let [a, b, c, kind, rest @ ..] = sent {
        let len = u32::from_be_bytes([0, *a, *b, *c]);
        n += usize::from(*kind == HEADERS);
        // Flags and the number of the stream come before the payload.
        sent = &rest[5 + usize::try_from(len).expect("fits")..];
    }
    n
}

#[tokio::test]
async fn only_address_that_is_silent_fails_calls_before_their_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let remote = client_at(&[silent.local_addr().expect("bound")]);
    let answer = soon(remote.get_order(&ctx(), id(1))).await;
    assert!(
        matches!(answer, Err(Error::ServiceUnavailable { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn replica_that_says_that_it_does_not_serve_gets_no_calls_until_it_does() {
    let [sick, other] = [TestServer::start([]).await, TestServer::start([]).await];
    let remote = client_of(&[&sick, &other]);
    call_until_used(&remote, &[&sick, &other]).await;

    sick.api.is_ready.store(false, Ordering::Relaxed);

    call_until_unused(&remote, &sick).await;
    let before = n_calls(&sick);
    for _ in 0..50 {
        get(&remote).await;
    }
    assert_eq!(n_calls(&sick), before);
    sick.api.is_ready.store(true, Ordering::Relaxed);
    call_until_used(&remote, &[&sick, &other]).await;
}

#[tokio::test]
async fn replica_whose_database_is_away_fails_no_call() {
    let [sick, first, second] = [
        TestServer::start([]).await,
        TestServer::start([]).await,
        TestServer::start([]).await,
    ];
    let remote = client_of(&[&sick, &first, &second]);
    call_until_used(&remote, &[&sick, &first, &second]).await;

    // Its health is not known to be bad, so this is about the answers.
    sick.api.is_down.store(true, Ordering::Relaxed);

    load(&remote).await;
    sick.api.is_down.store(false, Ordering::Relaxed);
    call_until_used(&remote, &[&sick, &first, &second]).await;
}

/// The call succeeds there, and each order in it fails.
#[tokio::test]
async fn replica_whose_database_is_away_fails_no_order_of_a_batch() {
    let [sick, other] = [TestServer::start([]).await, TestServer::start([]).await];
    let remote = client_of(&[&sick, &other]);
    call_until_used(&remote, &[&sick, &other]).await;

    sick.api.is_down.store(true, Ordering::Relaxed);

    for _ in 0..10 {
        let orders = (1..=2).map(|n| create(Some(id(n)))).collect();
        let answers = soon(remote.create_orders(&ctx(), orders)).await;
        for answer in answers.expect("answers") {
            assert!(
                !matches!(answer, Err(Error::StoreUnavailable { .. })),
                "{answer:?}"
            );
        }
    }
    call_until_unused(&remote, &sick).await;
}

#[tokio::test]
async fn database_that_is_away_for_all_ejects_no_address() {
    let servers = [TestServer::start([]).await, TestServer::start([]).await];
    let all: Vec<_> = servers.iter().collect();
    let remote = client_of(&all);
    call_until_used(&remote, &all).await;
    let set_down = |is_down| {
        for server in &servers {
            server.api.is_down.store(is_down, Ordering::Relaxed);
        }
    };

    set_down(true);
    for _ in 0..50 {
        let answer = remote.get_order(&ctx(), id(1)).await;
        assert!(
            matches!(answer, Err(Error::StoreUnavailable { .. })),
            "{answer:?}"
        );
    }
    set_down(false);

    let before: Vec<_> = all.iter().map(|server| n_calls(server)).collect();
    for _ in 0..20 {
        get(&remote).await;
    }
    let shares = all
        .iter()
        .zip(before)
        .map(|(server, n)| n_calls(server) - n);
    assert_eq!(shares.collect::<Vec<_>>(), [10, 10]);
}

#[tokio::test]
async fn call_that_hangs_at_one_replica_is_answered_by_another() {
    let [hanging, other] = [TestServer::start([]).await, TestServer::start([]).await];
    let remote = client_of(&[&hanging, &other]);
    call_until_used(&remote, &[&hanging, &other]).await;

    hanging.api.then((0..LANES).map(|_| Act::Hang));

    // Twice as many calls as hang, so that all of those are used up.
    let context = ctx();
    let calls = (0..2 * LANES).map(|_| remote.get_order(&context, id(1)));
    for answer in soon(join_all(calls)).await {
        answer.expect("an order");
    }
}

#[tokio::test]
async fn service_without_health_counts_as_healthy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let _serving = serve_unimplemented(listener);
    let remote = client_at(&[address]);
    soon(remote.check_ready(&ctx())).await.expect("ready");
}

/// Answers every call with UNIMPLEMENTED.
fn serve_unimplemented(listener: TcpListener) -> TaskTracker {
    let tasks = TaskTracker::new();
    let connections = tasks.clone();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("it listens");
            let answer = async |_: Request<Incoming>| {
                let response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "12")
                    .body(Empty::<bytes::Bytes>::new());
                Ok::<_, Infallible>(response.expect("valid"))
            };
            let http = http2::Builder::new(TokioExecutor::new());
            let serving = http.serve_connection(TokioIo::new(stream), service_fn(answer));
            connections.spawn(async move {
                let _ = serving.await;
            });
        }
    });
    tasks
}
