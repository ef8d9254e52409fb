//! One connection, from its first byte to its end.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::TokioIo;
use order_core::BoxError;
use tokio::{
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::RpcServerConfig;
use crate::{executor::TrackedExecutor, interceptor::Connection};

/// How long a new connection may stay silent. Without it a connection that never speaks
/// would hold its place until the stop: keepalive begins only with HTTP/2 itself.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(3);

/// How far the ages of connections are apart, as a part of the configured one: ± 10 %.
const AGE_SPREAD: f64 = 0.2;

/// How old a connection may get.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionAge {
    max: Duration,
    grace: Duration,
}

impl ConnectionAge {
    /// Draws an age for one connection.
    pub(super) fn new(config: &RpcServerConfig) -> Self {
        let factor = 1.0 + AGE_SPREAD * (rand::random::<f64>() - 0.5);
        Self {
            max: config.connection_age_max.mul_f64(factor),
            grace: config.connection_grace,
        }
    }
}

/// The interceptors and services, with what calls know of this connection.
pub(super) struct ConnectionStack<S> {
    stack: S,
    connection: Arc<Connection>,
}

impl<S> ConnectionStack<S> {
    /// `None` if the other end is already gone.
    pub(super) fn new(stack: S, stream: &TcpStream, draining: &CancellationToken) -> Option<Self> {
        let peer = stream.peer_addr().ok()?;
        Some(Self {
            stack,
            connection: Arc::new(Connection {
                peer,
                draining: draining.child_token(),
            }),
        })
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for ConnectionStack<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request
            .extensions_mut()
            .insert(Arc::clone(&self.connection));
        // The whole stack is always ready, see the interceptors.
        self.stack.clone().call(request)
    }
}

/// Serves a connection until it is closed, has reached its age or is draining, then lets it
/// finish what it has begun.
pub(super) async fn serve_connection<S, B>(
    http: http2::Builder<TrackedExecutor>,
    stream: TcpStream,
    stack: ConnectionStack<S>,
    age: ConnectionAge,
    _place: OwnedSemaphorePermit,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let Connection { peer, draining } = &*stack.connection;
    let (peer, draining) = (*peer, draining.clone());
    // Small answers wait for nothing to be joined with.
    let mut first_byte = [0];
    let speaks = stream.set_nodelay(true).is_ok()
        && tokio::select! {
            () = draining.cancelled() => false,
            n = timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut first_byte)) => {
                matches!(n, Ok(Ok(1)))
            }
        };
    if !speaks {
        return;
    }
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), stack));
    let grace = tokio::select! {
        result = connection.as_mut() => return log_end(peer, result),
        () = sleep(age.max) => Some(age.grace),
        // The server ends the drain of all connections at once.
        () = draining.cancelled() => None,
    };
    draining.cancel();
    connection.as_mut().graceful_shutdown();
    match grace {
        None => log_end(peer, connection.await),
        Some(grace) => {
            if let Ok(result) = timeout(grace, connection).await {
                log_end(peer, result);
            }
        }
    }
}

fn log_end(peer: SocketAddr, result: Result<(), hyper::Error>) {
    // How connections break is the business of their clients.
    if let Err(error) = result {
        tracing::debug!(
            network.peer.address = %peer,
            error = &error as &dyn std::error::Error,
            "connection broke"
        );
    }
}
