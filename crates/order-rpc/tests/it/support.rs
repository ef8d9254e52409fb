//! A scripted [`OrderApi`] and a server around it.

use std::{
    collections::VecDeque,
    fmt::Debug,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use order_core::{
    CallContext, CancelOrder, Cause, Clock, CreateOrder, Deadline, Error, IdGen, ListOrders, Money,
    Order, OrderApi, OrderEventStream, OrderId, OrderPage, OrderStatus, RequestId, UpdateStatus,
    UserId, WatchOrder,
};
use order_rpc::{RemoteOrderApi, RpcClientConfig, RpcServerConfig, RpcServerDeps, serve};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// How long a test waits for anything before it fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for `future`, within reason.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("within the patience of a test")
}

pub(crate) struct TestClock;

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[derive(Default)]
pub(crate) struct TestIds(AtomicU64);

impl IdGen for TestIds {
    fn order_id(&self) -> OrderId {
        id(u128::from(self.0.fetch_add(1, Ordering::Relaxed)) + 1_000_000)
    }
}

pub(crate) fn id(n: u128) -> OrderId {
    OrderId::from_uuid(Uuid::from_u128(n))
}

pub(crate) fn ctx() -> CallContext {
    ctx_within(PATIENCE)
}

pub(crate) fn ctx_within(time: Duration) -> CallContext {
    CallContext {
        request_id: RequestId::parse("test-request").expect("valid"),
        deadline: Deadline::at(TestClock.instant() + time),
    }
}

pub(crate) fn create(order_id: Option<OrderId>) -> CreateOrder {
    CreateOrder {
        order_id,
        user_id: UserId::parse("user-1").expect("valid"),
        money: Money::parse("99.95", "USD").expect("valid"),
    }
}

pub(crate) fn order(id: OrderId) -> Order {
    let at = Timestamp::new(1_700_000_000, 123_456_789).expect("valid");
    Order {
        id,
        user_id: UserId::parse("user-1").expect("valid"),
        money: Money::parse("99.95", "USD").expect("valid"),
        status: OrderStatus::Failed,
        version: 3,
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

/// What the api does with one call.
pub(crate) enum Act {
    Answer,
    Fail(Error),
    Panic,
    Hang,
    AnswerAfter(oneshot::Receiver<()>),
}

/// Acts by its script, and answers plausibly when the script is over.
pub(crate) struct FakeApi {
    script: Mutex<VecDeque<Act>>,
    /// Streams for watches, in turn; without one a watch never has an event.
    pub(crate) streams: Mutex<VecDeque<OrderEventStream>>,
    pub(crate) is_ready: AtomicBool,
    calls: watch::Sender<Vec<CallContext>>,
}

impl FakeApi {
    pub(crate) fn new(script: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            streams: Mutex::default(),
            is_ready: AtomicBool::new(true),
            calls: watch::Sender::default(),
        })
    }

    pub(crate) fn calls(&self) -> Vec<CallContext> {
        self.calls.borrow().clone()
    }

    pub(crate) async fn wait_for_calls(&self, n: usize) {
        let mut calls = self.calls.subscribe();
        soon(calls.wait_for(|calls| calls.len() >= n))
            .await
            .expect("the api lives");
    }

    async fn act(&self, ctx: &CallContext) -> Result<(), Error> {
        self.calls.send_modify(|calls| calls.push(ctx.clone()));
        let act = self.script.lock().expect("not poisoned").pop_front();
        match act.unwrap_or(Act::Answer) {
            Act::Answer => Ok(()),
            Act::Fail(error) => Err(error),
            Act::Panic => panic!("a bug in the api"),
            Act::Hang => std::future::pending().await,
            Act::AnswerAfter(signal) => {
                let _ = signal.await;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl OrderApi for FakeApi {
    async fn create_order(&self, ctx: &CallContext, request: CreateOrder) -> Result<Order, Error> {
        self.act(ctx).await?;
        Ok(Order {
            user_id: request.user_id,
            money: request.money,
            ..order(request.order_id.unwrap_or(id(1)))
        })
    }

    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Order, Error>>, Error> {
        self.act(ctx).await?;
        // Every third order fails on its own.
        let answer = |(n, request): (usize, CreateOrder)| {
            let order_id = request.order_id.unwrap_or(id(1));
            if n % 3 == 1 {
                Err(Error::OrderAlreadyExists { order_id })
            } else {
                Ok(order(order_id))
            }
        };
        Ok(requests.into_iter().enumerate().map(answer).collect())
    }

    async fn get_order(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        self.act(ctx).await?;
        Ok(order(order_id))
    }

    async fn list_orders(
        &self,
        ctx: &CallContext,
        request: ListOrders,
    ) -> Result<OrderPage, Error> {
        self.act(ctx).await?;
        let n_orders = u128::from(request.page_size.get());
        Ok(OrderPage {
            orders: (0..n_orders).map(|n| order(id(n))).collect(),
            next_page_token: request.page_token,
        })
    }

    async fn cancel_order(&self, ctx: &CallContext, request: CancelOrder) -> Result<Order, Error> {
        if let Some(reason) = &request.reason {
            Cause::check_message("reason", reason)?;
        }
        self.act(ctx).await?;
        let failure = request.reason.map(|reason| Cause::new("REASON", reason));
        Ok(Order {
            failure,
            ..order(request.order_id)
        })
    }

    async fn update_status(
        &self,
        ctx: &CallContext,
        request: UpdateStatus,
    ) -> Result<Order, Error> {
        self.act(ctx).await?;
        Ok(Order {
            status: request.status,
            failure: request.cause,
            ..order(request.order_id)
        })
    }

    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        self.act(ctx).await?;
        if let Some(stream) = self.streams.lock().expect("not poisoned").pop_front() {
            return Ok(stream);
        }
        let first = orders.into_iter().map(|watch| {
            let mut event = order(watch.order_id).last_event();
            event.version = watch.since.unwrap_or(0) + 1;
            Ok(event)
        });
        let first: Vec<_> = first.collect();
        Ok(stream::iter(first).chain(stream::pending()).boxed())
    }

    async fn check_ready(&self, _: &CallContext) -> Result<(), Error> {
        if self.is_ready.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Error::store_unavailable("down"))
        }
    }
}

/// A running server.
pub(crate) struct TestServer {
    pub(crate) api: Arc<FakeApi>,
    pub(crate) address: SocketAddr,
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
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let deps = RpcServerDeps {
            clock: Arc::new(TestClock),
            ids: Arc::new(TestIds::default()),
        };
        let serving = serve(listener, Arc::clone(&api) as _, config, deps, stop.clone());
        let task = TaskTracker::new().spawn(async move {
            serving.await.expect("the listener works");
        });
        Self {
            api,
            address,
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
