//! A server around a scripted api, clients of it, and what they speak about.

use std::{
    fmt::Debug,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    CallContext, Cause, Clock, CreateOrder, Deadline, Error, ExternalId, IdGen, IdempotencyKey,
    Metadata, Money, Order, OrderId, OrderStatus, RequestId, UserId, WorkerApi,
};
use order_edge::{CallStats, ConnectionStats};
use order_rpc::{RemoteOrderApi, RpcClientConfig, RpcServerConfig, RpcServerDeps, serve};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::fake::{Act, FakeApi};

/// How long a test waits for anything before it fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for `future`, within reason.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("within the patience of a test")
}

pub(crate) struct TestClock;

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[derive(Default)]
pub(crate) struct TestIds(AtomicU64);

impl IdGen for TestIds {
    fn order_id(&self) -> OrderId {
        id(u128::from(self.0.fetch_add(1, Ordering::Relaxed)) + 1_000_000)
    }

    fn secret(&self) -> [u8; 32] {
        [7; 32]
    }
}

pub(crate) fn id(n: u128) -> OrderId {
    OrderId::from_uuid(Uuid::from_u128(n))
}

pub(crate) fn ctx() -> CallContext {
    ctx_within(PATIENCE)
}

pub(crate) fn ctx_within(time: Duration) -> CallContext {
    let request_id = RequestId::parse("test-request").expect("valid");
    CallContext::new(request_id, Deadline::at(TestClock.instant() + time))
}

pub(crate) fn user() -> UserId {
    UserId::parse("user-1").expect("valid")
}

pub(crate) fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).expect("valid")
}

pub(crate) fn create(order_id: Option<OrderId>) -> CreateOrder {
    let money = Money::parse("99.95", "USD").expect("valid");
    CreateOrder {
        order_id,
        ..CreateOrder::new(user(), money)
    }
}

pub(crate) fn order(id: OrderId) -> Order {
    let at = Timestamp::new(1_700_000_000, 123_456_789).expect("valid");
    Order {
        id,
        user_id: user(),
        money: Money::parse("99.95", "USD").expect("valid"),
        status: OrderStatus::Failed,
        version: 3,
        metadata: Metadata::new([("colour".to_owned(), "blue".to_owned())]).expect("valid"),
        external_id: Some(ExternalId::parse("cart-7").expect("valid")),
        failure: Some(Cause::new("NO_STOCK", "none left")),
        created_at: at,
        updated_at: at,
    }
}

/// Errors have no equality because of their sources; their text has.
pub(crate) fn text<T: Debug>(result: &Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?}", error.without_source()),
    }
}

/// A running server.
pub(crate) struct TestServer {
    pub(crate) api: Arc<FakeApi>,
    pub(crate) address: SocketAddr,
    pub(crate) leaving: CancellationToken,
    pub(crate) stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Limits that let a test see the end of things.
pub(crate) fn server_config() -> RpcServerConfig {
    RpcServerConfig {
        readiness_interval: Duration::from_millis(10),
        drain_timeout: Duration::from_millis(300),
        ..RpcServerConfig::default()
    }
}

impl TestServer {
    pub(crate) async fn start(script: impl IntoIterator<Item = Act>) -> Self {
        Self::start_with(script, server_config()).await
    }

    pub(crate) async fn start_with(
        script: impl IntoIterator<Item = Act>,
        config: RpcServerConfig,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_on(listener, FakeApi::new(script), config)
    }

    pub(crate) fn start_on(
        listener: TcpListener,
        api: Arc<FakeApi>,
        config: RpcServerConfig,
    ) -> Self {
        Self::start_all(listener, api, None, config)
    }

    /// With the service for workers.
    pub(crate) async fn start_with_workers(
        workers: Arc<dyn WorkerApi>,
        config: RpcServerConfig,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_all(listener, FakeApi::new([]), Some(workers), config)
    }

    fn start_all(
        listener: TcpListener,
        api: Arc<FakeApi>,
        workers: Option<Arc<dyn WorkerApi>>,
        config: RpcServerConfig,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let (leaving, stop) = (CancellationToken::new(), CancellationToken::new());
        let deps = RpcServerDeps {
            clock: Arc::new(TestClock),
            ids: Arc::new(TestIds::default()),
            admin: Arc::clone(&api) as _,
            follow: Arc::clone(&api) as _,
            workers,
            leaving: leaving.clone(),
            calls: CallStats::default(),
            connections: ConnectionStats::default(),
        };
        let listener = listener.into_std().expect("a socket");
        let serving = serve(listener, Arc::clone(&api) as _, config, deps, stop.clone());
        let task = TaskTracker::new().spawn(async move {
            serving.await.expect("the listener works");
        });
        Self {
            api,
            address,
            leaving,
            stop,
            task,
        }
    }

    /// A client with one connection, so that tests know what happens on it.
    pub(crate) fn client(&self) -> RemoteOrderApi {
        client_of(self.address)
    }

    /// Stops the server and waits for its end.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        soon(self.task).await.expect("the server does not panic");
    }
}

pub(crate) fn client_of(address: SocketAddr) -> RemoteOrderApi {
    let config = RpcClientConfig {
        connections: 1,
        ..RpcClientConfig::new(vec![format!("http://{address}")])
    };
    remote(&config)
}

pub(crate) fn remote(config: &RpcClientConfig) -> RemoteOrderApi {
    let clock: Arc<dyn Clock> = Arc::new(TestClock);
    let (remote, lanes) = RemoteOrderApi::new(config, &clock).expect("valid URLs");
    let tasks = TaskTracker::new();
    for lane in lanes {
        tasks.spawn(lane);
    }
    remote
}
