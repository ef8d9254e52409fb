//! One object for start and stop: the listeners of a process and the core behind them.
//!
//! Stopping goes from the outside in, so that whatever was accepted still finds what it
//! needs: not ready → no new jobs → (`SHUTDOWN_DELAY`) → no new connections → requests, streams and sockets end
//! → jobs end or are released → commits end → the database closes. Each step has its share
//! of SHUTDOWN_TIMEOUT; what is not done by then is cut, and the exit code says so.

mod listeners;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use order_core::{
    Clock, IdGen, Identity, OrderApi,
    metrics::{Counter, Registry},
};
use order_edge::{CallStats, ServeConfig, serve};
use order_rpc::{RemoteOrderApi, RpcClientConfig};
use order_web::{
    admin::{self, Readiness},
    console::{Console, with_pages},
    http::{self, HttpDeps, HttpLabels},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::listeners::{bind, bind_some, url};
use crate::{
    config::{GatewayConfig, ProcessConfig, ServiceConfig, SystemConfig, WorkerConfig},
    lifecycle::Exit,
    metrics::Metrics,
    presence::Presence,
    starting::Starting,
    telemetry,
    wire::{self, Core, Remote, system_ports},
};

/// Where a process listens; port 0 in the configuration has become a real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addrs {
    /// The HTTP API.
    pub http: Option<SocketAddr>,
    /// The gRPC API.
    pub grpc: Option<SocketAddr>,
    /// The WebSocket endpoint.
    pub ws: Option<SocketAddr>,
    /// Health and metrics.
    pub admin: Option<SocketAddr>,
    /// The console, which may be on the same listener.
    pub console: Option<SocketAddr>,
}

/// A running process.
pub struct Process {
    addrs: Addrs,
    shutdown_delay: Duration,
    shutdown_timeout: Duration,
    request_timeout: Duration,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    api: Arc<dyn OrderApi>,
    readiness: Readiness,
    metrics: Metrics,
    identity: Identity,
    http_calls: CallStats<HttpLabels>,
    core: Option<Core>,
    remote: Option<Remote>,
    servers: JoinSet<(&'static str, anyhow::Result<()>)>,
    /// Told to whoever asks for the health of the process, before anything stops.
    leaving: CancellationToken,
    stop_servers: CancellationToken,
    /// WebSocket connections, which outlive the HTTP request they began as.
    sockets: TaskTracker,
    /// The admin listener answers until the end, so that it can say "draining".
    stop_admin: CancellationToken,
    /// The console, if it is on that listener.
    console: Option<Console>,
    admin_server: JoinSet<anyhow::Result<()>>,
}

impl Process {
    /// Starts `order-system`: an `order-service` with the HTTP API in the same process.
    pub async fn start_system(config: SystemConfig) -> anyhow::Result<Self> {
        let http = bind("HTTP_ADDR", config.http_addr).await?;
        let console = bind_some("CONSOLE_ADDR", config.console_addr).await?;
        let api_config = config.api;
        let service = ServiceConfig {
            command: None,
            grpc_addr: config.grpc_addr,
            ws_addr: config.ws_addr,
            admin_addr: config.admin_addr,
            database_url: config.database_url,
            core: config.core,
            serving: config.serving,
            web: config.web.clone(),
            process: config.process,
        };
        let (mut process, admin) = Self::start_core("order-system", service, Some(&http)).await?;
        let core = process.core.as_ref();
        let system = core.context("the console needs the core")?.admin();
        process.serve_console(console, &admin, system)?;
        let console = process.addrs.console;
        process.serve_http(http, api_config, config.web, console)?;
        process.finish_start("order-system", admin)
    }

    /// Starts `order-service`: everything but the HTTP API.
    pub async fn start_service(config: ServiceConfig) -> anyhow::Result<Self> {
        let (process, admin) = Self::start_core("order-service", config, None).await?;
        process.finish_start("order-service", admin)
    }

    /// Starts everything but the HTTP API and the admin listener, which is returned.
    async fn start_core(
        program: &'static str,
        config: ServiceConfig,
        http: Option<&TcpListener>,
    ) -> anyhow::Result<(Self, TcpListener)> {
        let grpc = bind("GRPC_ADDR", config.grpc_addr).await?;
        let ws = bind("WS_ADDR", config.ws_addr).await?;
        let admin = bind("ADMIN_ADDR", config.admin_addr).await?;
        let (clock, ids) = system_ports();
        let serving = &config.serving;
        let listeners: Vec<_> = [&ws, &admin].into_iter().chain(http).collect();
        let starting = Starting::serve(&listeners, Some(&grpc), (&clock, &ids))?;
        let mut metrics = Metrics::new(program);
        let identity = wire::identity(program);
        let core = Core::start(
            &config.database_url,
            &config.core,
            Some(serving),
            (&clock, &ids),
            identity.clone(),
            &mut metrics,
        )
        .await?;
        starting.end().await;
        let api = Arc::clone(&core.service) as Arc<dyn OrderApi>;
        let ports = (clock, ids);
        let mut process = Self::new(&config.process, ports, identity, Arc::clone(&api), metrics);
        process.core = Some(core);
        process.serve_grpc(grpc, api, serving)?;
        process.serve_ws(ws, serving, config.web)?;
        Ok((process, admin))
    }

    /// Starts `order-worker`: the core without anybody to serve.
    pub async fn start_worker(config: WorkerConfig) -> anyhow::Result<Self> {
        let admin = bind("ADMIN_ADDR", config.admin_addr).await?;
        let (clock, ids) = system_ports();
        let starting = Starting::serve(&[&admin], None, (&clock, &ids))?;
        let (mut metrics, url) = (Metrics::new("order-worker"), &config.database_url);
        let identity = wire::identity("order-worker");
        let ports = (&clock, &ids);
        let named = identity.clone();
        let core = Core::start(url, &config.core, None, ports, named, &mut metrics).await?;
        starting.end().await;
        let api = Arc::clone(&core.service) as Arc<dyn OrderApi>;
        let mut process = Self::new(&config.process, (clock, ids), identity, api, metrics);
        process.core = Some(core);
        process.finish_start("order-worker", admin)
    }

    /// Starts `api-gateway`: the HTTP API in front of an order service.
    pub async fn start_gateway(config: GatewayConfig) -> anyhow::Result<Self> {
        let http = bind("HTTP_ADDR", config.http_addr).await?;
        let admin = bind("ADMIN_ADDR", config.admin_addr).await?;
        let console = bind_some("CONSOLE_ADDR", config.console_addr).await?;
        let (clock, ids) = system_ports();
        let identity = wire::identity("api-gateway");
        let client = RpcClientConfig {
            gateway: Some(identity.name()),
            ..RpcClientConfig::new(config.order_service_url)
        };
        let remote = Remote::start(RemoteOrderApi::new(&client, &clock)?, &clock);
        let api = Arc::clone(&remote.api) as Arc<dyn OrderApi>;
        let mut metrics = Metrics::new("api-gateway");
        metrics.client(&remote.api);
        metrics.hub(&remote.hub);
        let system = Arc::clone(&remote.api);
        let ports = (clock, ids);
        let mut process = Self::new(&config.process, ports, identity, Arc::clone(&api), metrics);
        process.remote = Some(remote);
        process.serve_console(console, &admin, system)?;
        process.serve_http(http, config.api, config.web, None)?;
        process.finish_start("api-gateway", admin)
    }

    /// What the listeners speak to: the service in this process, or the one behind gRPC.
    pub fn api(&self) -> Arc<dyn OrderApi> {
        Arc::clone(&self.api)
    }

    /// Where the process listens.
    pub fn addrs(&self) -> Addrs {
        self.addrs
    }

    /// Serves until `stop` is cancelled or a listener fails, then stops.
    pub async fn run_until(mut self, stop: CancellationToken) -> Exit {
        let exit = tokio::select! {
            () = stop.cancelled() => Exit::Clean,
            Some(ended) = self.servers.join_next() => {
                Exit::of_listener(ended);
                Exit::Unclean
            }
        };
        exit.and(self.stop().await)
    }

    fn new(
        config: &ProcessConfig,
        (clock, ids): (Arc<dyn Clock>, Arc<dyn IdGen>),
        identity: Identity,
        api: Arc<dyn OrderApi>,
        mut metrics: Metrics,
    ) -> Self {
        let stop_servers = CancellationToken::new();
        let http_calls = CallStats::default();
        metrics.http(&http_calls);
        Self {
            addrs: Addrs::default(),
            shutdown_delay: config.shutdown_delay,
            shutdown_timeout: config.shutdown_timeout,
            request_timeout: config.request_timeout,
            readiness: Readiness::new(HttpDeps {
                api: Arc::clone(&api),
                ids: Arc::clone(&ids),
                clock: Arc::clone(&clock),
                stop: stop_servers.clone(),
                calls: http_calls.clone(),
            }),
            metrics,
            identity,
            http_calls,
            api,
            clock,
            ids,
            core: None,
            remote: None,
            servers: JoinSet::new(),
            leaving: CancellationToken::new(),
            stop_servers,
            sockets: TaskTracker::new(),
            stop_admin: CancellationToken::new(),
            console: None,
            admin_server: JoinSet::new(),
        }
    }

    /// Serves health and metrics, which know all parts by now.
    fn finish_start(mut self, name: &'static str, admin: TcpListener) -> anyhow::Result<Self> {
        self.addrs.admin = Some(admin.local_addr()?);
        let stats = self.metrics.listener("admin");
        let failures = self.metrics.presence();
        let registry = self.metrics.finish();
        let router = admin::router(
            self.readiness.clone(),
            &registry,
            Arc::new(telemetry::Filter),
        );
        self.start_presence(registry, failures);
        let console = self.console.as_ref().map(Console::routes);
        let has_console = console.is_some();
        let router = router.merge(console.unwrap_or_default());
        let mut router = http::guarded(router, &self.http_deps(), admin.local_addr()?);
        if has_console {
            router = with_pages(router);
        }
        let config = ServeConfig {
            drain_timeout: Duration::ZERO,
            stats,
            ..ServeConfig::new("admin")
        };
        let stop = self.stop_admin.clone();
        self.admin_server
            .spawn(async move { serve(admin, router, config, stop).await.map_err(Into::into) });
        self.log_start(name);
        Ok(self)
    }

    /// Has the process report itself from now on.
    fn start_presence(&self, registry: Arc<Registry>, failures: Counter) {
        let presence = Presence {
            identity: self.identity.clone(),
            started_at: self.clock.now(),
            registry,
            failures,
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
        };
        if let Some(core) = &self.core {
            core.run_presence(presence);
        } else if let Some(remote) = &self.remote {
            remote.run_presence(presence);
        }
    }

    fn log_start(&self, name: &'static str) {
        let Addrs {
            http,
            grpc,
            ws,
            admin,
            console,
        } = self.addrs;
        tracing::info!(
            http = http.map(display),
            grpc = grpc.map(display),
            ws = ws.map(display),
            admin = admin.map(display),
            console = console.map(url),
            version = env!("CARGO_PKG_VERSION"),
            "{name} is ready"
        );
    }

    /// The share of the shutdown time in which requests, streams and sockets end.
    fn drain_timeout(&self) -> Duration {
        self.shutdown_timeout / 2
    }

    async fn stop(mut self) -> Exit {
        self.readiness.drain();
        self.leaving.cancel();
        if let Some(core) = &self.core {
            core.stop_claiming();
        }
        tokio::time::sleep(self.shutdown_delay).await;
        let drain_timeout = self.drain_timeout();
        let drain_end = Instant::now() + drain_timeout + CUT_TIMEOUT;
        self.stop_servers.cancel();
        let mut exit = self.end_servers(drain_end).await;
        self.sockets.close();
        if timeout_at(drain_end, self.sockets.wait()).await.is_err() {
            tracing::error!(n_sockets = self.sockets.len(), "sockets had to be cut");
            exit = Exit::Unclean;
        }
        if let Some(core) = self.core.take() {
            // A quarter for the jobs; the last quarter is shared by commits and the database.
            exit = exit.and(core.stop(drain_timeout / 2, drain_timeout / 4).await);
        }
        if let Some(remote) = self.remote.take() {
            exit = exit.and(remote.stop().await);
        }
        self.stop_admin.cancel();
        let admin = timeout(CUT_TIMEOUT, self.admin_server.join_next()).await;
        if !matches!(admin, Ok(Some(Ok(Ok(()))))) {
            tracing::error!("the admin listener did not end by itself");
            exit = Exit::Unclean;
        }
        tracing::info!(?exit, "stopped");
        exit
    }

    async fn end_servers(&mut self, drain_end: Instant) -> Exit {
        let mut exit = Exit::Clean;
        let ended = timeout_at(drain_end, async {
            while let Some(ended) = self.servers.join_next().await {
                exit = exit.and(Exit::of_listener(ended));
            }
        });
        if ended.await.is_err() {
            tracing::error!(n_servers = self.servers.len(), "listeners had to be cut");
            exit = Exit::Unclean;
        }
        exit
    }
}

/// How long a part may take to end after its own deadline has passed.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);
