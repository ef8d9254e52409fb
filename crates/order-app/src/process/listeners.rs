//! What a process serves on its listeners.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use order_core::{AdminApi, OrderApi, supervisor::Supervisor};
use order_edge::{CallStats, ServeConfig, TrustedProxies, serve};
use order_rpc::{RpcServerConfig, RpcServerDeps};
use order_web::{
    console::{Console, with_pages},
    http::{self, CONSOLE_PATH, HttpConfig, HttpDeps},
    ws::{self, WsConfig, WsDeps, WsStats},
};

use super::Process;
use crate::config::{ApiConfig, ServingConfig, WebConfig};

/// Connections above the limit that are let in to be told so.
const LISTENER_SLACK: usize = 64;

impl Process {
    /// Serves the console on a listener of its own if there is one, else later with health and
    /// metrics.
    pub(super) fn serve_console(
        &mut self,
        own: Option<TcpListener>,
        admin: &TcpListener,
        system: Arc<dyn AdminApi>,
    ) -> anyhow::Result<()> {
        let deps = self.http_deps();
        let console = Console::new(deps.clone(), system);
        let task = console.task(self.stop_servers.clone());
        let reading = Supervisor::new(&self.clock).run(task);
        self.spawn_server("console", reading.map(Ok::<(), anyhow::Error>));
        let Some(listener) = own else {
            self.addrs.console = Some(admin.local_addr()?);
            self.console = Some(console);
            return Ok(());
        };
        let address = listener.local_addr()?;
        self.addrs.console = Some(address);
        let router = with_pages(http::guarded(console.router(), &deps, address));
        let config = ServeConfig {
            drain_timeout: self.drain_timeout(),
            stats: self.metrics.listener("console"),
            ..ServeConfig::new("console")
        };
        let served = serve(listener, router, config, self.stop_servers.clone());
        self.spawn_server("console", served);
        Ok(())
    }

    pub(super) fn serve_http(
        &mut self,
        listener: TcpListener,
        config: ApiConfig,
        web: WebConfig,
        console: Option<SocketAddr>,
    ) -> anyhow::Result<()> {
        self.addrs.http = Some(listener.local_addr()?);
        let deps = self.http_deps();
        let http = HttpConfig {
            request_timeout: self.request_timeout,
            docs: config.api_docs,
            in_flight_per_address_max: usize::try_from(config.http_max_connections_per_address)?,
            allowed_origins: web.allowed_origins,
            console,
            ..HttpConfig::default()
        };
        let service = http::service(deps, self.readiness.clone(), http);
        let config = ServeConfig {
            connections_max: usize::try_from(config.http_max_connections)?,
            connections_per_address_max: usize::try_from(config.http_max_connections_per_address)?,
            trusted_proxies: TrustedProxies::new(web.trusted_proxies),
            idle_timeout: config.idle_timeout,
            drain_timeout: self.drain_timeout(),
            stats: self.metrics.listener("http"),
            ..ServeConfig::new("http")
        };
        let served = serve(listener, service, config, self.stop_servers.clone());
        self.spawn_server("http", served);
        Ok(())
    }

    pub(super) fn http_deps(&self) -> HttpDeps {
        HttpDeps {
            api: self.api(),
            ids: Arc::clone(&self.ids),
            clock: Arc::clone(&self.clock),
            stop: self.stop_servers.clone(),
            calls: self.http_calls.clone(),
        }
    }

    pub(super) fn serve_ws(
        &mut self,
        listener: TcpListener,
        config: &ServingConfig,
        web: WebConfig,
    ) -> anyhow::Result<()> {
        let core = self
            .core
            .as_ref()
            .context("the WebSocket endpoint needs the core")?;
        self.addrs.ws = Some(listener.local_addr()?);
        let connections_max = usize::try_from(config.ws_max_connections)?;
        let connections_per_address_max = usize::try_from(config.ws_max_connections_per_address)?;
        let stats = WsStats::default();
        self.metrics.sockets(&stats);
        let router = ws::router(WsDeps {
            hub: Arc::clone(&core.hub),
            tickets: Arc::clone(&core.service) as _,
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
            config: WsConfig {
                allowed_origins: web.allowed_origins,
                connections_max,
                connections_per_address_max,
                drain_window: self.drain_timeout(),
                ..WsConfig::default()
            },
            tracker: self.sockets.clone(),
            stop: self.stop_servers.clone(),
            calls: self.http_calls.clone(),
            stats,
        });
        // The endpoint refuses a connection too many with an answer; the listener, which can
        // only hang up, comes in after that.
        let config = ServeConfig {
            connections_max: connections_max.saturating_add(LISTENER_SLACK),
            connections_per_address_max: connections_per_address_max.saturating_add(LISTENER_SLACK),
            trusted_proxies: TrustedProxies::new(web.trusted_proxies),
            drain_timeout: self.drain_timeout(),
            stats: self.metrics.listener("ws"),
            ..ServeConfig::new("ws")
        };
        let served = serve(listener, router, config, self.stop_servers.clone());
        self.spawn_server("ws", served);
        Ok(())
    }

    pub(super) fn serve_grpc(
        &mut self,
        listener: TcpListener,
        api: Arc<dyn OrderApi>,
        config: &ServingConfig,
    ) -> anyhow::Result<()> {
        let core = self.core.as_ref().context("gRPC needs the core")?;
        self.addrs.grpc = Some(listener.local_addr()?);
        let calls = CallStats::default();
        self.metrics.rpc(&calls);
        let deps = RpcServerDeps {
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
            admin: core.admin(),
            follow: Arc::clone(&core.hub) as _,
            workers: Some(Arc::clone(&core.remote_workers) as _),
            leaving: self.leaving.clone(),
            calls,
            connections: self.metrics.listener("grpc"),
        };
        let config = RpcServerConfig {
            reflection: config.grpc_reflection,
            deadline_default: self.request_timeout,
            drain_timeout: self.drain_timeout(),
            ..RpcServerConfig::default()
        };
        let served = order_rpc::serve(listener, api, config, deps, self.stop_servers.clone());
        self.spawn_server("grpc", served);
        Ok(())
    }

    pub(super) fn spawn_server<E: Into<anyhow::Error>>(
        &mut self,
        name: &'static str,
        served: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.servers
            .spawn(async move { (name, served.await.map_err(Into::into)) });
    }
}

/// The address of the console, as an operator on this machine opens it.
pub(super) fn url(listener: SocketAddr) -> String {
    let host = match listener.ip() {
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!(
        "http://{}{CONSOLE_PATH}",
        SocketAddr::new(host, listener.port())
    )
}

/// Binds a listener if there is an address for it.
pub(super) async fn bind_some(
    setting: &str,
    addr: Option<SocketAddr>,
) -> anyhow::Result<Option<TcpListener>> {
    match addr {
        Some(addr) => bind(setting, addr).await.map(Some),
        None => Ok(None),
    }
}

/// Binds a listener; the error names the setting to change.
pub(super) async fn bind(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = tokio::net::TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr} ({setting})"))?;
    Ok(listener.into_std()?)
}
