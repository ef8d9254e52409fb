//! Several replicas behind one name: who gets the calls, and what a replica that dies costs.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use order_core::{Clock, Error, OrderApi, WatchOrder};
use order_rpc::{RemoteOrderApi, Resolve, RpcClientConfig};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    calls::wait_until_ready,
    fake::{Act, FakeApi},
    support::{TestClock, TestServer, create, ctx, id, server_config, soon},
};

/// A resolver whose answers the test decides.
struct Names {
    found: Mutex<Option<Vec<SocketAddr>>>,
    n_lookups: watch::Sender<usize>,
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!((host, port), ("orders.test", 50051));
        let found = self.found.lock().expect("not poisoned").clone();
        self.n_lookups.send_modify(|n| *n += 1);
        found.ok_or_else(|| io::Error::other("the resolver is down"))
    }
}

impl Names {
    fn new(found: Option<Vec<SocketAddr>>) -> Arc<Self> {
        Arc::new(Self {
            found: Mutex::new(found),
            n_lookups: watch::Sender::default(),
        })
    }

    /// Changes the answer and waits until the client has it.
    async fn set(&self, found: Option<Vec<SocketAddr>>) {
        *self.found.lock().expect("not poisoned") = found;
        // One lookup may have begun before, and when the third begins, the second is over.
        let mut n_lookups = self.n_lookups.subscribe();
        let enough = *n_lookups.borrow() + 3;
        soon(n_lookups.wait_for(|n| *n >= enough))
            .await
            .expect("the resolver lives");
    }

    fn client(self: &Arc<Self>) -> RemoteOrderApi {
        let clock = Arc::new(TestClock) as Arc<dyn Clock>;
        let config = RpcClientConfig {
            connections: 1,
            connect_timeout: Duration::from_secs(1),
            resolve_interval: Duration::from_millis(5),
            ..RpcClientConfig::new(vec!["http://orders.test:50051".to_owned()])
        };
        let resolver = Arc::clone(self) as Arc<dyn Resolve>;
        let (remote, lanes) =
            RemoteOrderApi::with_resolver(&config, &clock, resolver).expect("a valid URL");
        let tasks = TaskTracker::new();
        for lane in lanes {
            tasks.spawn(lane);
        }
        remote
    }
}

fn names_of(servers: &[&TestServer]) -> Arc<Names> {
    let addresses = servers.iter().map(|server| server.address);
    Names::new(Some(addresses.collect()))
}

pub(crate) fn client_of(servers: &[&TestServer]) -> RemoteOrderApi {
    names_of(servers).client()
}

pub(crate) fn n_calls(server: &TestServer) -> usize {
    server.api.calls().len()
}

pub(crate) async fn get(remote: &RemoteOrderApi) {
    remote.get_order(&ctx(), id(1)).await.expect("an order");
}

/// Calls until every server has had one more call.
pub(crate) async fn call_until_used(remote: &RemoteOrderApi, servers: &[&TestServer]) {
    let before: Vec<_> = servers.iter().map(|server| n_calls(server)).collect();
    let used = async {
        while servers.iter().zip(&before).any(|(s, n)| n_calls(s) == *n) {
            get(remote).await;
        }
    };
    soon(used).await;
}

/// Calls until several calls in a row went past `server`, which two addresses in turn never
/// do.
pub(crate) async fn call_until_unused(remote: &RemoteOrderApi, server: &TestServer) {
    let unused = async {
        loop {
            let before = n_calls(server);
            for _ in 0..4 {
                get(remote).await;
            }
            if n_calls(server) == before {
                break;
            }
        }
    };
    soon(unused).await;
}

/// An address where nobody listens.
async fn dead_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("bound")
}

async fn restart(address: SocketAddr) -> TestServer {
    let listener = TcpListener::bind(address)
        .await
        .expect("the port is free again");
    TestServer::start_on(listener, FakeApi::new([]), server_config())
}

/// Somebody in between who can die as a process does: at once, with all its sockets.
struct Wire {
    address: SocketAddr,
    cut: CancellationToken,
}

impl Wire {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let cut = CancellationToken::new();
        let (tasks, end) = (TaskTracker::new(), cut.clone());
        let connections = tasks.clone();
        let accepting = async move {
            loop {
                let (mut near, _) = listener.accept().await.expect("it listens");
                let end = end.clone();
                connections.spawn(end.run_until_cancelled_owned(async move {
                    let mut far = TcpStream::connect(target).await.expect("it listens");
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }));
            }
        };
        tasks.spawn(cut.clone().run_until_cancelled_owned(async move {
            let () = accepting.await;
        }));
        Self { address, cut }
    }
}

#[tokio::test]
async fn calls_go_round_all_addresses_of_a_name() {
    let servers = [
        TestServer::start([]).await,
        TestServer::start([]).await,
        TestServer::start([]).await,
    ];
    let all: Vec<_> = servers.iter().collect();
    let remote = client_of(&all);
    call_until_used(&remote, &all).await;
    let before: Vec<_> = all.iter().map(|server| n_calls(server)).collect();
    for _ in 0..30 {
        get(&remote).await;
    }
    let shares = all
        .iter()
        .zip(before)
        .map(|(server, n)| n_calls(server) - n);
    assert_eq!(shares.collect::<Vec<_>>(), [10, 10, 10]);
}

#[tokio::test]
async fn address_that_appears_is_used_and_one_that_vanishes_ends_its_calls() {
    let (release, released) = oneshot::channel();
    let staying = TestServer::start([]).await;
    let leaving = TestServer::start([Act::Answer, Act::AnswerAfter(released)]).await;
    let names = Names::new(Some(vec![leaving.address]));
    let remote = names.client();
    get(&remote).await;
    let context = ctx();
    let call = remote.get_order(&context, id(7));
    let changing = async {
        leaving.api.wait_for_calls(2).await;
        names
            .set(Some(vec![leaving.address, staying.address]))
            .await;
        call_until_used(&remote, &[&leaving, &staying]).await;
        names.set(Some(vec![staying.address])).await;
        let before = n_calls(&leaving);
        for _ in 0..20 {
            get(&remote).await;
        }
        assert_eq!(n_calls(&leaving), before);
        release.send(()).expect("the api waits");
    };
    let (answer, ()) = soon(async { tokio::join!(call, changing) }).await;
    assert_eq!(answer.expect("an order").id, id(7));
}

#[tokio::test]
async fn lookup_that_fails_changes_nothing() {
    let server = TestServer::start([]).await;
    let names = Names::new(None);
    let remote = names.client();
    let answer = remote.get_order(&ctx(), id(1)).await;
    let Err(error @ Error::ServiceUnavailable { .. }) = answer else {
        panic!("unexpected {answer:?}");
    };
    let chain = error.chain();
    assert!(
        chain.contains("cannot resolve orders.test:50051"),
        "{chain}"
    );
    names.set(Some(vec![server.address])).await;
    get(&remote).await;
    for nothing in [None, Some(vec![])] {
        names.set(nothing).await;
        get(&remote).await;
    }
}

#[tokio::test]
async fn dead_replica_costs_no_call_and_is_used_when_it_is_back() {
    let [living, dying] = [TestServer::start([]).await, TestServer::start([]).await];
    let remote = client_of(&[&living, &dying]);
    call_until_used(&remote, &[&living, &dying]).await;
    let address = dying.address;
    dying.stop().await;
    for _ in 0..20 {
        get(&remote).await;
    }
    let watch = WatchOrder {
        order_id: id(1),
        since: None,
    };
    for _ in 0..5 {
        let events = remote.watch_orders(&ctx(), vec![watch]).await;
        let mut events = events.expect("a stream");
        assert!(soon(events.next()).await.expect("an event").is_ok());
    }
    let back = restart(address).await;
    call_until_used(&remote, &[&living, &back]).await;
}

#[tokio::test]
async fn call_that_never_left_goes_elsewhere_even_if_it_must_not_be_repeated() {
    let server = TestServer::start([]).await;
    for _ in 0..10 {
        // Each client finds the dead address itself.
        let remote = Names::new(Some(vec![dead_address().await, server.address])).client();
        let created = remote.create_order(&ctx(), create(None)).await;
        created.expect("a receipt");
    }
    assert_eq!(n_calls(&server), 10);
}

#[tokio::test]
async fn replica_killed_in_the_middle_of_a_create_is_answered_by_another() {
    // It commits, and dies before the answer is out.
    let (_commit, committing) = oneshot::channel();
    let killed = TestServer::start([Act::Answer, Act::AnswerAfter(committing)]).await;
    let wire = Wire::to(killed.address).await;
    let other = TestServer::start([]).await;
    let names = Names::new(Some(vec![wire.address]));
    let remote = names.client();
    get(&remote).await;
    let context = ctx();
    let creating = remote.create_order(&context, create(Some(id(5))));
    let killing = async {
        killed.api.wait_for_calls(2).await;
        names.set(Some(vec![wire.address, other.address])).await;
        call_until_used(&remote, &[&other]).await;
        wire.cut.cancel();
    };
    let (receipt, ()) = soon(async { tokio::join!(creating, killing) }).await;
    assert_eq!(receipt.expect("the other answers").order.id, id(5));
    let created = |server: &TestServer| server.api.created.lock().expect("not poisoned").clone();
    let attempts = [created(&killed), created(&other)].concat();
    assert_eq!(attempts.len(), 2);
    // Ids are unique where orders are stored, so both attempts are one order.
    assert_eq!(attempts.iter().collect::<BTreeSet<_>>().len(), 1);
}

#[tokio::test]
async fn without_anybody_calls_fail_at_once_and_work_again_later() {
    let addresses = [dead_address().await, dead_address().await];
    let remote = Names::new(Some(addresses.to_vec())).client();
    for _ in 0..5 {
        let answer = soon(remote.get_order(&ctx(), id(1))).await;
        assert!(
            matches!(answer, Err(Error::ServiceUnavailable { .. })),
            "{answer:?}"
        );
    }
    let server = restart(addresses[1]).await;
    let answered = async {
        while remote.get_order(&ctx(), id(1)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(answered).await;
    assert_eq!(n_calls(&server), 1);
}

#[tokio::test]
async fn replica_that_says_goodbye_is_left_alone() {
    let [going, staying] = [TestServer::start([]).await, TestServer::start([]).await];
    let remote = client_of(&[&going, &staying]);
    call_until_used(&remote, &[&going, &staying]).await;
    let goodbyes = (0..5).map(|_| Act::Fail(Error::shutting_down()));
    going.api.then(goodbyes);
    // Whoever gets the goodbye is answered by the other.
    call_until_used(&remote, &[&going]).await;
    call_until_unused(&remote, &going).await;
    // It may have been started again since.
    call_until_used(&remote, &[&going]).await;
}

#[tokio::test]
async fn replica_that_is_leaving_makes_the_service_no_less_ready() {
    let [going, staying] = [TestServer::start([]).await, TestServer::start([]).await];
    let remote = client_of(&[&going, &staying]);
    for server in [&going, &staying] {
        let alone = client_of(&[server]);
        wait_until_ready(&alone, true).await;
    }

    going.leaving.cancel();

    let alone = client_of(&[&going]);
    wait_until_ready(&alone, false).await;
    for _ in 0..20 {
        remote.check_ready(&ctx()).await.expect("one is ready");
    }
}

#[tokio::test]
async fn errors_of_the_service_are_no_fault_of_the_replica() {
    let errors = (0..50).map(|_| Act::Fail(Error::internal("a bug")));
    let failing = TestServer::start(errors).await;
    let other = TestServer::start([]).await;
    let remote = client_of(&[&failing, &other]);
    let used = async {
        while n_calls(&failing) == 0 || n_calls(&other) == 0 {
            let _ = remote.get_order(&ctx(), id(1)).await;
        }
    };
    soon(used).await;
    let before = n_calls(&failing);
    for _ in 0..20 {
        let _ = remote.get_order(&ctx(), id(1)).await;
    }
    assert_eq!(n_calls(&failing) - before, 10);
}
