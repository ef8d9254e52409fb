//! Starts the system in every shape it comes in, and speaks to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    header,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use order_adapters::system::SystemClock;
use order_app::{
    config::{GatewayConfig, ServiceConfig, SystemConfig, WorkerConfig},
    lifecycle::Exit,
    process::Process,
};
use order_core::{CallContext, Clock, Deadline, OrderApi, RequestId};
use order_rpc::{RemoteOrderApi, RpcClientConfig};
use order_testkit::server::{Backend, postgres};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything in a test may take. Generous, since a test machine may be busy; only a
/// failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Which database a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// A database of its own for a test.
pub(crate) struct Database {
    pub(crate) url: String,
    _dir: Option<TempDir>,
    _postgres: Option<postgres::TestDatabase>,
}

impl Database {
    /// A database that somebody else keeps.
    pub(crate) fn from_url(url: String) -> Self {
        Self {
            url,
            _dir: None,
            _postgres: None,
        }
    }

    /// A connection to PostgreSQL.
    pub(crate) async fn sql(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls)
            .await
            .expect("connected");
        tokio::task::spawn_local(connection);
        client
    }

    /// `Err` holds the reason why the engine can't be had here.
    pub(crate) async fn new(engine: Engine) -> Result<Self, String> {
        match engine {
            Engine::Sqlite => {
                let dir = TempDir::new().expect("a temporary directory");
                let url = format!("sqlite:{}", dir.path().join("orders.db").display());
                Ok(Self {
                    url,
                    _dir: Some(dir),
                    _postgres: None,
                })
            }
            Engine::Postgres => match postgres::shared().await {
                Backend::Available(server) => {
                    let database = postgres::database(&server).await.expect("a new database");
                    let url = database.url.clone();
                    Ok(Self {
                        url,
                        _dir: None,
                        _postgres: Some(database),
                    })
                }
                Backend::Unavailable(reason) => Err(reason),
            },
        }
    }
}

/// Makes a database, or ends the test as skipped.
macro_rules! database {
    ($engine:expr) => {
        match $crate::support::Database::new($engine).await {
            Ok(database) => database,
            Err(reason) => order_testkit::skip!("{:?}: {reason}", $engine),
        }
    };
}
pub(crate) use database;

/// How the system is cut into processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    AllInOne,
    Split,
}

/// A running system. Stop it with [`System::stop`], which checks that it ended cleanly.
pub(crate) struct System {
    pub(crate) service: Running,
    pub(crate) gateway: Option<Running>,
}

/// One process of the system, inside the test's own process.
pub(crate) struct Running {
    pub(crate) addrs: order_app::process::Addrs,
    pub(crate) api: Arc<dyn OrderApi>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Exit>,
}

impl Running {
    fn new(process: Process) -> Self {
        let (addrs, api, stop) = (process.addrs(), process.api(), CancellationToken::new());
        let ended = tokio::task::spawn_local(process.run_until(stop.clone()));
        Self {
            addrs,
            api,
            stop,
            ended,
        }
    }

    /// Starts an `order-service`.
    pub(crate) async fn service(database_url: &str) -> Self {
        Self::service_with(database_url, &[]).await
    }

    /// Starts an `order-service` with flags of its own.
    pub(crate) async fn service_with(database_url: &str, flags: &[&str]) -> Self {
        Self::service_at(database_url, LOOPBACK, flags).await
    }

    /// Starts an `order-service` that serves gRPC at `grpc`.
    pub(crate) async fn service_at(database_url: &str, grpc: &str, flags: &[&str]) -> Self {
        let args = [
            "order-service",
            "--ws-addr",
            LOOPBACK,
            "--grpc-addr",
            grpc,
            "--admin-addr",
            LOOPBACK,
            "--database-url",
            database_url,
        ];
        let config = ServiceConfig::parse_from(args.iter().chain(flags));
        Self::new(Process::start_service(config).await.expect("it starts"))
    }

    /// Starts an `order-worker`.
    pub(crate) async fn worker(database: &Database, flags: &[&str]) -> Self {
        let args = [
            "order-worker",
            "--admin-addr",
            LOOPBACK,
            "--database-url",
            &database.url,
        ];
        let config = WorkerConfig::parse_from(args.iter().chain(flags));
        Self::new(Process::start_worker(config).await.expect("it starts"))
    }

    /// Stops it as SIGTERM would.
    pub(crate) async fn stop(self) {
        self.begin_stop();
        assert_eq!(self.ended().await, Exit::Clean);
    }

    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn ended(self) -> Exit {
        tokio::time::timeout(PATIENCE, self.ended)
            .await
            .expect("it ends")
            .expect("no panic")
    }
}

const LOOPBACK: &str = "127.0.0.1:0";

impl System {
    /// Starts a system on free ports with extra flags for the process that holds the core.
    pub(crate) async fn start(shape: Shape, database: &Database, flags: &[&str]) -> Self {
        let core = [
            "--ws-addr",
            LOOPBACK,
            "--grpc-addr",
            LOOPBACK,
            "--admin-addr",
            LOOPBACK,
        ]
        .into_iter()
        .chain(["--database-url", &database.url])
        .chain(flags.iter().copied());
        match shape {
            Shape::AllInOne => {
                let args = ["order-system", "--http-addr", LOOPBACK]
                    .into_iter()
                    .chain(core);
                let config = SystemConfig::parse_from(args);
                let process = Process::start_system(config).await.expect("it starts");
                Self {
                    service: Running::new(process),
                    gateway: None,
                }
            }
            Shape::Split => {
                let config = ServiceConfig::parse_from(["order-service"].into_iter().chain(core));
                let service = Process::start_service(config).await.expect("it starts");
                let url = format!("http://{}", service.addrs().grpc.expect("gRPC"));
                let gateway = start_gateway(&url).await;
                Self {
                    service: Running::new(service),
                    gateway: Some(gateway),
                }
            }
        }
    }

    pub(crate) fn http_addr(&self) -> SocketAddr {
        let process = self.gateway.as_ref().unwrap_or(&self.service);
        process.addrs.http.expect("an HTTP API")
    }

    pub(crate) fn ws_url(&self) -> String {
        format!(
            "ws://{}/ws",
            self.service.addrs.ws.expect("a WebSocket endpoint")
        )
    }

    pub(crate) fn grpc_addr(&self) -> SocketAddr {
        self.service.addrs.grpc.expect("gRPC")
    }

    /// The service over gRPC.
    pub(crate) fn remote(&self) -> Arc<dyn OrderApi> {
        self.operator()
    }

    /// The service over gRPC, as operators see it.
    pub(crate) fn operator(&self) -> Arc<RemoteOrderApi> {
        let url = format!("http://{}", self.grpc_addr());
        let config = RpcClientConfig::new(vec![url]);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (remote, lanes) = RemoteOrderApi::new(&config, &clock).expect("a valid URL");
        for lane in lanes {
            tokio::task::spawn_local(lane);
        }
        Arc::new(remote)
    }

    /// Stops everything as SIGTERM would, gateway first.
    pub(crate) async fn stop(self) {
        for process in self.gateway.into_iter().chain([self.service]) {
            process.stop().await;
        }
    }
}

/// Starts a gateway in front of the service at `url`.
pub(crate) async fn start_gateway(url: &str) -> Running {
    start_gateway_with(url, &[]).await
}

/// Starts a gateway with flags of its own.
pub(crate) async fn start_gateway_with(url: &str, flags: &[&str]) -> Running {
    let args = [
        "api-gateway",
        "--http-addr",
        LOOPBACK,
        "--admin-addr",
        LOOPBACK,
        "--order-service-url",
        url,
    ];
    let config = GatewayConfig::parse_from(args.iter().chain(flags));
    Running::new(Process::start_gateway(config).await.expect("it starts"))
}

/// Runs a test on one thread with tasks that need not be `Send`.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// A context with time enough.
pub(crate) fn context() -> CallContext {
    let deadline = Instant::now() + PATIENCE;
    CallContext::new(
        RequestId::parse("test").expect("valid"),
        Deadline::at(deadline.into_std()),
    )
}

/// An answer of the HTTP API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: header::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("ASCII"))
    }
}

/// A client of the HTTP API.
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    addr: SocketAddr,
}

impl Http {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            addr,
        }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<&str>) -> Answer {
        self.try_send(method, path, body).await.expect("an answer")
    }

    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<&str>,
    ) -> Result<Answer, hyper_util::client::legacy::Error> {
        self.try_send_with(method, path, &[], body).await
    }

    /// Sends a request with headers of its own.
    pub(crate) async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        self.try_send_with(method, path, headers, body)
            .await
            .expect("an answer")
    }

    async fn try_send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Answer, hyper_util::client::legacy::Error> {
        let response = self.open(method, path, headers, body).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }

    /// Sends a request and leaves the body of the answer to be read bit by bit.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::from(body.unwrap_or_default().to_owned());
        self.client
            .request(request.body(body).expect("a request"))
            .await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    /// Posts the order of the README and returns its id.
    pub(crate) async fn create_order(&self) -> String {
        let answer = self
            .post("/orders", r#"{"user_id":"user-1","amount":100}"#)
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["order_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// Reads an order until it has the status.
    pub(crate) async fn wait_for_status(&self, order_id: &str, status: &str) -> Value {
        wait_for(&format!("{order_id} is {status}"), async || {
            let order = self.get(&format!("/orders/{order_id}")).await.json();
            (order["status"] == status).then_some(order)
        })
        .await
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn wait_for<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
