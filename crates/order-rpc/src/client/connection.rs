//! One HTTP/2 connection to the service: made when it is first needed, made anew when it is
//! lost, and without a queue of its own between the caller and HTTP/2.
//!
//! Invariants: at most one attempt to connect runs at a time for a connection; nobody waits
//! for a connection whose last attempt failed.

use std::{
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use order_core::BoxError;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;
use tonic::{Status, body::Body};
use tower::Service;

use super::config::{ConfigError, RpcClientConfig, Target, targets};
use crate::executor::TrackedExecutor;

/// The least time between two attempts to connect, so that a service that is down is not
/// dialled with every call.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// A quiet connection is asked for a sign of life this often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// A connection that gives none for this long is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Unread answer bytes of a connection. The 64 KiB of the protocol hold about 300 small
/// answers, fewer than a gateway has under way.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Unread answer bytes of a call.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// Size of the headers of one answer.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// The service does not answer at its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {host}:{port}")]
struct ConnectFailed {
    host: String,
    port: u16,
    #[source]
    source: BoxError,
}

/// The connections of a client: at least one for each URL, spread over the URLs in turn.
pub(super) fn connections(config: &RpcClientConfig) -> Result<Vec<Connection>, ConfigError> {
    let targets = targets(&config.urls)?;
    let n_connections = config.connections.max(targets.len());
    let tasks = TaskTracker::new();
    let connections = targets.iter().cycle().take(n_connections).enumerate();
    Ok(connections
        .map(|(n, target)| {
            // Connections to the same URL begin with different addresses of its name.
            let address_idx = n / targets.len();
            Connection::new(target.clone(), address_idx, config.connect_timeout, &tasks)
        })
        .collect())
}

/// A handle of the connection; clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    /// Which address of the target the next attempt begins with.
    address_idx: AtomicUsize,
    connect_timeout: Duration,
    tasks: TaskTracker,
    state: RwLock<State>,
    /// Held by the one attempt to connect.
    dialling: Arc<Mutex<()>>,
}

#[derive(Default)]
struct State {
    sender: Option<SendRequest<Body>>,
    /// The last attempt, if it failed.
    failure: Option<Failure>,
}

#[derive(Clone)]
struct Failure {
    at: Instant,
    error: Arc<ConnectFailed>,
}

impl Connection {
    fn new(
        target: Target,
        address_idx: usize,
        connect_timeout: Duration,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                target,
                address_idx: AtomicUsize::new(address_idx),
                connect_timeout,
                tasks: tasks.clone(),
                state: RwLock::default(),
                dialling: Arc::default(),
            }),
        }
    }

    /// Scheme and authority of requests.
    pub(super) fn origin(&self) -> &Uri {
        &self.shared.target.origin
    }

    /// Whether the last attempt to connect failed, so that another connection is the better
    /// choice. Being asked is what makes a failing connection try again, beside the calls.
    pub(super) fn is_failing(&self) -> bool {
        let is_due = match &self.shared.read().failure {
            None => return false,
            Some(failure) => failure.at.elapsed() >= REDIAL_PAUSE,
        };
        if is_due && let Ok(guard) = Arc::clone(&self.shared.dialling).try_lock_owned() {
            let shared = Arc::clone(&self.shared);
            self.shared.tasks.spawn(shared.dial(guard));
        }
        true
    }

    /// The open connection, after connecting if there is none.
    async fn sender(&self) -> Result<SendRequest<Body>, Status> {
        if let Some(known) = self.shared.known() {
            return known;
        }
        let guard = Arc::clone(&self.shared.dialling).lock_owned().await;
        // Whoever held the lock before has an answer for everybody who waited.
        if let Some(known) = self.shared.known() {
            return known;
        }
        // A task of its own, because the caller may lose its patience and others wait too.
        let dial = Arc::clone(&self.shared).dial(guard);
        if let Err(error) = self.shared.tasks.spawn(dial).await {
            return Err(unavailable(Arc::new(error)));
        }
        match self.shared.known() {
            Some(known) => known,
            None => Err(unavailable(Arc::new(io::Error::from(
                io::ErrorKind::ConnectionReset,
            )))),
        }
    }
}

impl Shared {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection or the reason why there is none; `None` if that is not known.
    fn known(&self) -> Option<Result<SendRequest<Body>, Status>> {
        let state = self.read();
        if let Some(failure) = &state.failure {
            let error: Arc<ConnectFailed> = Arc::clone(&failure.error);
            return Some(Err(unavailable(error)));
        }
        let sender = state.sender.as_ref()?;
        (!sender.is_closed()).then(|| Ok(sender.clone()))
    }

    /// Connects and keeps the outcome.
    async fn dial(self: Arc<Self>, _guard: OwnedMutexGuard<()>) {
        let connected = match timeout(self.connect_timeout, self.connect()).await {
            Ok(connected) => connected,
            Err(elapsed) => Err(elapsed.into()),
        };
        let state = match connected {
            Ok(sender) => State {
                sender: Some(sender),
                failure: None,
            },
            Err(source) => State {
                sender: None,
                failure: Some(Failure {
                    at: Instant::now(),
                    error: Arc::new(ConnectFailed {
                        host: self.target.host.clone(),
                        port: self.target.port,
                        source,
                    }),
                }),
            },
        };
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Resolves the name and tries its addresses, each attempt from the next one on: the
    /// replicas behind a name get their share, and a dead one costs one attempt.
    async fn connect(&self) -> Result<SendRequest<Body>, BoxError> {
        let name = (self.target.host.as_str(), self.target.port);
        let addresses: Vec<_> = lookup_host(name).await?.collect();
        let first = self.address_idx.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        let mut outcome = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for address in addresses.iter().cycle().skip(first).take(addresses.len()) {
            outcome = TcpStream::connect(address).await;
            if outcome.is_ok() {
                break;
            }
        }
        let stream = outcome?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::Builder::new(TrackedExecutor(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        self.tasks.spawn(async move {
            // Calls that it carried report the error themselves.
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection broke");
            }
        });
        Ok(sender)
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connection = self.clone();
        async move {
            let mut sender = connection.sender().await?;
            let response = sender.send_request(request).await.map_err(broken)?;
            Ok(response.map(|body| Body::new(body.map_err(broken))))
        }
        .boxed()
    }
}

/// The connection or the stream ended before the answer did; what became of the call is
/// unknown.
fn broken(error: hyper::Error) -> Status {
    unavailable(Arc::new(error))
}

fn unavailable(source: Arc<dyn std::error::Error + Send + Sync>) -> Status {
    let mut status = Status::unavailable("the connection to the order service failed");
    status.set_source(source);
    status
}
