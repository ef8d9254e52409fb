//! What a process answers while it waits for its database or a migration: that it lives, and
//! that it is not ready. Every port that is bound answers from then on.

use std::{net::TcpListener, sync::Arc, time::Duration};

use async_trait::async_trait;
use order_core::{
    AdminApi, CallContext, CancelOrder, Clock, ClusterState, Completed, CreateOrder,
    DeadLetterGroup, Directive, Error, EventPage, Follower, IdGen, JobReport, JobToken, LeaseJobs,
    LeasedJob, ListEvents, ListOrders, Order, OrderApi, OrderEventStream, OrderFollow, OrderId,
    OrderPage, OrderRecord, ProcessId, ProcessReport, Receipt, Redrive, RedriveStream, RetryOrder,
    StreamTicket, TicketGrant, UpdateStatus, WatchOrder, WorkerApi,
};
use order_edge::{CallStats, ConnectionStats, ServeConfig, serve};
use order_rpc::{RpcServerConfig, RpcServerDeps};
use order_web::{
    admin::{self, Readiness},
    http::HttpDeps,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The API of a process whose core has not started.
struct NotStarted;

fn not_started<T>() -> Result<T, Error> {
    Err(Error::store_unavailable(
        "the process is starting: it waits for the database or a migration",
    ))
}

#[async_trait]
impl OrderApi for NotStarted {
    async fn create_order(&self, _: &CallContext, _: CreateOrder) -> Result<Receipt, Error> {
        not_started()
    }

    async fn create_orders(
        &self,
        _: &CallContext,
        _: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        not_started()
    }

    async fn get_order(&self, _: &CallContext, _: OrderId) -> Result<Order, Error> {
        not_started()
    }

    async fn list_orders(&self, _: &CallContext, _: ListOrders) -> Result<OrderPage, Error> {
        not_started()
    }

    async fn cancel_order(&self, _: &CallContext, _: CancelOrder) -> Result<Receipt, Error> {
        not_started()
    }

    async fn retry_order(&self, _: &CallContext, _: RetryOrder) -> Result<Order, Error> {
        not_started()
    }

    async fn update_status(&self, _: &CallContext, _: UpdateStatus) -> Result<Order, Error> {
        not_started()
    }

    async fn list_events(&self, _: &CallContext, _: ListEvents) -> Result<EventPage, Error> {
        not_started()
    }

    async fn create_ticket(&self, _: &CallContext, _: TicketGrant) -> Result<StreamTicket, Error> {
        not_started()
    }

    async fn watch_orders(
        &self,
        _: &CallContext,
        _: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        not_started()
    }

    async fn check_ready(&self, _: &CallContext) -> Result<(), Error> {
        not_started()
    }
}

#[async_trait]
impl AdminApi for NotStarted {
    async fn dead_letters(&self, _: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        not_started()
    }

    async fn redrive(&self, _: &CallContext, _: Redrive) -> Result<RedriveStream, Error> {
        not_started()
    }

    async fn record(&self, _: &CallContext, _: OrderId) -> Result<OrderRecord, Error> {
        not_started()
    }

    async fn cluster(&self, _: &CallContext) -> Result<ClusterState, Error> {
        not_started()
    }

    async fn report(&self, _: &CallContext, _: ProcessReport) -> Result<Directive, Error> {
        not_started()
    }

    async fn set_paused(
        &self,
        _: &CallContext,
        _: Option<ProcessId>,
        _: bool,
    ) -> Result<(), Error> {
        not_started()
    }
}

impl OrderFollow for NotStarted {
    fn follow(&self) -> Result<(Box<dyn Follower>, OrderEventStream), Error> {
        not_started()
    }
}

/// Without it, calls of workers would be UNIMPLEMENTED, which no worker repeats.
#[async_trait]
impl WorkerApi for NotStarted {
    async fn lease(&self, _: &CallContext, _: LeaseJobs) -> Result<Vec<LeasedJob>, Error> {
        not_started()
    }

    async fn heartbeat(
        &self,
        _: &CallContext,
        _: Vec<JobToken>,
        _: Duration,
    ) -> Result<Vec<JobToken>, Error> {
        not_started()
    }

    async fn report(
        &self,
        _: &CallContext,
        _: Vec<JobReport>,
    ) -> Result<Vec<Result<Completed, Error>>, Error> {
        not_started()
    }

    async fn release(&self, _: &CallContext, _: Vec<JobToken>) -> Result<usize, Error> {
        not_started()
    }
}

/// The servers of a process that is starting. Dropping it cuts their connections; the ports
/// stay bound.
pub(crate) struct Starting {
    servers: JoinSet<()>,
    stop: CancellationToken,
}

impl Starting {
    /// Answers on the ports of HTTP, WebSocket and health, and on that of gRPC if there is one.
    pub(crate) fn serve(
        http: &[&TcpListener],
        grpc: Option<&TcpListener>,
        (clock, ids): (&Arc<dyn Clock>, &Arc<dyn IdGen>),
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let mut servers = JoinSet::new();
        let readiness = Readiness::new(HttpDeps {
            api: Arc::new(NotStarted),
            ids: Arc::clone(ids),
            clock: Arc::clone(clock),
            stop: stop.clone(),
            calls: CallStats::default(),
        });
        for listener in http {
            let listener = listener.try_clone()?;
            let router = admin::starting_router(readiness.clone());
            let config = ServeConfig {
                drain_timeout: Duration::ZERO,
                ..ServeConfig::new("starting")
            };
            let stop = stop.clone();
            servers.spawn(async move {
                if let Err(error) = serve(listener, router, config, stop).await {
                    tracing::warn!(%error, "a port does not answer while the process starts");
                }
            });
        }
        if let Some(listener) = grpc {
            let listener = listener.try_clone()?;
            let deps = RpcServerDeps {
                clock: Arc::clone(clock),
                ids: Arc::clone(ids),
                admin: Arc::new(NotStarted),
                follow: Arc::new(NotStarted),
                workers: Some(Arc::new(NotStarted)),
                leaving: CancellationToken::new(),
                calls: CallStats::default(),
                connections: ConnectionStats::default(),
            };
            let config = RpcServerConfig {
                drain_timeout: Duration::ZERO,
                ..RpcServerConfig::default()
            };
            let serving =
                order_rpc::serve(listener, Arc::new(NotStarted), config, deps, stop.clone());
            servers.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::warn!(%error, "gRPC does not answer while the process starts");
                }
            });
        }
        Ok(Self { servers, stop })
    }

    /// Ends the servers and cuts their connections, so that those of the started process take
    /// over.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        while self.servers.join_next().await.is_some() {}
    }
}
