//! Puts an [`OrderApi`], and a [`WorkerApi`] if there is one, on a socket.
//!
//! Owns the accept loop, the limits of connections and calls, the services for health and
//! reflection and the way all of it ends. The loop is ours, over hyper, because the ready-made one has no
//! hard end of a graceful stop, no limit of connections and one age for all of them.
//!
//! Invariants: every task spawned here has ended when [`serve`] returns, or is past the
//! hard end and has lost its connection; nothing is accepted after the stop.

mod batch;
mod call;
mod config;
mod connection;
mod dispatch;
mod handler;
mod health;
mod reflection;
mod watch;
mod worker;

use std::{io, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use order_core::{Clock, IdGen, OrderApi, WorkerApi};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tower::ServiceBuilder;

pub use config::RpcServerConfig;

use crate::{
    REQUEST_BYTES_MAX,
    executor::TrackedExecutor,
    interceptor::{
        access_log::AccessLogLayer, correlation::CorrelationLayer, deadline::DeadlineLayer,
        overload::OverloadLayer, recover::RecoverLayer,
    },
    proto::{order_service_server::OrderServiceServer, worker_service_server::WorkerServiceServer},
};
use connection::{ConnectionAge, ConnectionStack, serve_connection};
use dispatch::Dispatch;
use handler::OrderRpc;
use health::Health;
use reflection::add_reflection;
use worker::WorkerRpc;

/// How long a failed accept pauses the loop: out of file descriptors, mostly, which nothing
/// but time and other connections' ends will cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Failed accepts in a row, 10 s of them, after which the listener is given up.
const ACCEPT_FAILURES_MAX: u32 = 100;

/// How long calls get to notice that their connection is gone after the hard end.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// What [`serve`] stands on.
pub struct RpcServerDeps {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids for requests that come without one.
    pub ids: Arc<dyn IdGen>,
    /// What workers outside call; `None` leaves their service out.
    pub workers: Option<Arc<dyn WorkerApi>>,
    /// Cancelled when the process is about to stop: health says `NOT_SERVING` from then on,
    /// while everything is served, so that whoever goes by it sends new calls elsewhere.
    pub leaving: CancellationToken,
}

/// The server cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener accepts no more connections.
    #[error("the gRPC listener accepts no connections")]
    Accept(#[source] io::Error),
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
/// [`ServeError::Accept`] when accepting has failed for 10 s without a break;
/// [`ServeError::Descriptors`] at once.
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
    let tasks = TaskTracker::new();
    let draining = CancellationToken::new();
    let RpcServerDeps {
        clock,
        ids,
        workers,
        leaving,
    } = deps;
    let (health, health_service) = Health::new(Arc::clone(&clock), workers.is_some());
    let services = services(&api, &clock, workers, health_service, &config)?;
    let stack = ServiceBuilder::new()
        .layer(CorrelationLayer::new(ids))
        .layer(AccessLogLayer)
        .layer(RecoverLayer)
        .layer(DeadlineLayer::new(
            clock,
            config.deadline_default,
            config.deadline_max,
        ))
        .layer(OverloadLayer::new(config.in_flight_max, config.leases_max))
        .service(services);
    let http = http_builder(&config, tasks.clone());

    let mut connections = JoinSet::new();
    let mut acceptor = Acceptor::new(listener, config.connections_max);
    let result = {
        let readiness = health.follow(api, config.readiness_interval, leaving);
        tokio::pin!(readiness);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                never = &mut readiness => match never {},
                Some(_) = connections.join_next() => {}
                accepted = acceptor.accept() => match accepted {
                    Ok((stream, place)) => {
                        let stack = ConnectionStack::new(stack.clone(), &stream, &draining);
                        let Some(stack) = stack else { continue };
                        let age = ConnectionAge::new(&config);
                        connections.spawn(serve_connection(
                            http.clone(), stream, stack, age, place,
                        ));
                    }
                    Err(error) => break Err(ServeError::Accept(error)),
                },
            }
        }
    };

    health.stop().await;
    drop(acceptor);
    draining.cancel();
    drain(connections, config.drain_timeout).await;
    tasks.close();
    // Calls end by themselves when their connection is gone; one that does not is blocked,
    // and waiting for it would only hide that.
    if timeout(ABORT_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!(n_calls = tasks.len(), "calls outlived their connections");
    }
    result
}

/// What is served, behind its paths.
fn services(
    api: &Arc<dyn OrderApi>,
    clock: &Arc<dyn Clock>,
    workers: Option<Arc<dyn WorkerApi>>,
    health: HealthServer<impl HealthApi>,
    config: &RpcServerConfig,
) -> Result<Dispatch<OrderServiceServer<OrderRpc>>, ServeError> {
    let mut others = Routes::new(health);
    if config.reflection {
        others = add_reflection(others, workers.is_some()).map_err(ServeError::Descriptors)?;
    }
    if let Some(workers) = workers {
        let workers = WorkerServiceServer::new(WorkerRpc::new(workers, Arc::clone(clock)));
        others = others.add_service(
            workers
                .max_decoding_message_size(REQUEST_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        );
    }
    let orders = OrderRpc::new(Arc::clone(api), Arc::clone(clock), config.watches_max);
    let orders = OrderServiceServer::new(orders)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Ok(Dispatch::new(orders, others))
}

/// Waits for the connections to end by themselves, then ends them.
async fn drain(mut connections: JoinSet<()>, drain_timeout: Duration) {
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(drain_timeout, all_ended).await.is_err() {
        tracing::warn!(
            n_connections = connections.len(),
            "drain timed out, connections are aborted"
        );
        connections.shutdown().await;
    }
}

/// Takes connections from the listener, as many as there are places for.
struct Acceptor {
    listener: TcpListener,
    places: Arc<Semaphore>,
    n_failures: u32,
}

impl Acceptor {
    fn new(listener: TcpListener, connections_max: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(connections_max)),
            n_failures: 0,
        }
    }

    /// Waits for a place, then for a connection; meanwhile others wait in the backlog of
    /// the operating system. Cancel safe.
    async fn accept(&mut self) -> Result<(TcpStream, OwnedSemaphorePermit), io::Error> {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.n_failures = 0;
                    return Ok((stream, place));
                }
                Err(error) if self.n_failures >= ACCEPT_FAILURES_MAX => return Err(error),
                Err(error) => {
                    self.n_failures += 1;
                    tracing::warn!(error = error.to_string(), "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn http_builder(config: &RpcServerConfig, tasks: TaskTracker) -> http2::Builder<TrackedExecutor> {
    let mut http = http2::Builder::new(TrackedExecutor(tasks));
    http.timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_per_connection_max)
        .max_header_list_size(config.header_bytes_max)
        .initial_connection_window_size(config.connection_window_bytes)
        .initial_stream_window_size(config.stream_window_bytes)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        // The date is for caches, which gRPC has none of.
        .auto_date_header(false);
    http
}
