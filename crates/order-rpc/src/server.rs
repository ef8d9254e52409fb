//! Puts an [`OrderApi`], and a [`WorkerApi`] if there is one, on a socket.
//!
//! Owns the services, those for health and reflection among them, and the way all of it ends.
//! The loop below is that of [`order_edge`].

mod admin;
mod batch;
mod call;
mod config;
mod dispatch;
mod exchange;
mod follow;
mod handler;
mod health;
mod reflection;
mod watch;
mod worker;

use std::{net::TcpListener, sync::Arc};

use order_core::{AdminApi, Clock, IdGen, OrderApi, OrderFollow, WorkerApi};
use order_edge::{CallStats, ConnectionStats, ServeConfig};
use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};

pub use config::RpcServerConfig;
pub use exchange::RpcLabels;

use crate::{
    REQUEST_BYTES_MAX,
    proto::{
        admin_service_server::AdminServiceServer, order_service_server::OrderServiceServer,
        worker_service_server::WorkerServiceServer,
    },
};
use admin::AdminRpc;
use dispatch::Dispatch;
use exchange::{Guarded, pipeline};
use handler::OrderRpc;
use health::Health;
use reflection::add_reflection;
use worker::WorkerRpc;

/// What [`serve`] stands on.
pub struct RpcServerDeps {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids for requests that come without one.
    pub ids: Arc<dyn IdGen>,
    /// What operators call.
    pub admin: Arc<dyn AdminApi>,
    /// Follows orders for gateways.
    pub follow: Arc<dyn OrderFollow>,
    /// What workers outside call; `None` leaves their service out.
    pub workers: Option<Arc<dyn WorkerApi>>,
    /// Cancelled when the process is about to stop: health says `NOT_SERVING` from then on,
    /// while everything is served, so that whoever goes by it sends new calls elsewhere.
    pub leaving: CancellationToken,
    /// Counters of calls.
    pub calls: CallStats<RpcLabels>,
    /// Counters of connections.
    pub connections: ConnectionStats,
}

/// The server cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be served.
    #[error(transparent)]
    Listener(#[from] order_edge::ServeError),
    /// The descriptors made by the build cannot be served.
    #[error("the descriptors of the contract are not valid")]
    Descriptors(#[source] tonic_reflection::server::Error),
}

/// Serves `api` on `listener` until `stop` is cancelled.
///
/// A stop runs in this order: health turns to `NOT_SERVING`, if [`RpcServerDeps::leaving`] has
/// not had it say so already, the listener closes, watches are
/// cut with `SHUTTING_DOWN` and waiting workers answered with no job, connections get
/// GOAWAY, calls under way are finished. What is
/// not finished after [`RpcServerConfig::drain_timeout`], an idle connection that will not
/// leave included, is aborted.
///
/// # Errors
/// [`ServeError::Listener`] and [`ServeError::Descriptors`], both at once.
///
/// # Cancel safety
/// Dropping the future aborts every connection at once.
pub async fn serve(
    listener: TcpListener,
    api: Arc<dyn OrderApi>,
    config: RpcServerConfig,
    deps: RpcServerDeps,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let RpcServerDeps {
        clock,
        ids,
        admin,
        follow,
        workers,
        leaving,
        calls,
        connections,
    } = deps;
    let (health, health_service) = Health::new(Arc::clone(&clock), workers.is_some());
    let orders = OrderRpc::new(Arc::clone(&api), follow, Arc::clone(&clock), &config);
    let guarded = Guarded {
        services: services((orders, admin), &clock, workers, health_service, &config)?,
        pipeline: Arc::new(pipeline(&config, clock, ids, calls)),
    };
    let stop_listener = CancellationToken::new();
    let listening = ServeConfig {
        stats: connections,
        ..config.listener()
    };
    let serving = order_edge::serve(listener, guarded, listening, stop_listener.clone());
    tokio::pin!(serving);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        never = health.follow(api, config.readiness_interval, leaving) => match never {},
        result = &mut serving => return Ok(result?),
    }
    health.stop().await;
    stop_listener.cancel();
    Ok(serving.await?)
}

/// What is served, behind its paths.
fn services(
    (orders, admin): (OrderRpc, Arc<dyn AdminApi>),
    clock: &Arc<dyn Clock>,
    workers: Option<Arc<dyn WorkerApi>>,
    health: HealthServer<impl HealthApi>,
    config: &RpcServerConfig,
) -> Result<Dispatch, ServeError> {
    let mut others = Routes::new(health);
    if config.reflection {
        others = add_reflection(others, workers.is_some()).map_err(ServeError::Descriptors)?;
    }
    others = others.add_service(
        AdminServiceServer::new(AdminRpc::new(orders.clone(), admin))
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip),
    );
    if let Some(workers) = workers {
        let workers = WorkerServiceServer::new(WorkerRpc::new(workers, Arc::clone(clock)));
        others = others.add_service(
            workers
                .max_decoding_message_size(REQUEST_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        );
    }
    let orders = OrderServiceServer::new(orders)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Ok(Dispatch { orders, others })
}
