//! One HTTP/2 connection to one address of the service: made when it is first needed, made
//! anew when it is lost, and without a queue of its own between the caller and HTTP/2.
//!
//! Invariants: at most one attempt to connect runs at a time for a connection; nobody waits
//! for a connection whose last attempt failed.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering},
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
    net::TcpStream,
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;
use tonic::{Status, body::Body};
use tower::Service;

use super::endpoints::Endpoint;
use crate::executor::TrackedExecutor;

/// The least time between two attempts to connect beside the calls, so that a service that
/// is down is not dialled with every call.
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
#[error("cannot connect to {address}")]
struct ConnectFailed {
    address: SocketAddr,
    #[source]
    source: BoxError,
}

/// The connection ended before it took the call.
#[derive(Debug, thiserror::Error)]
#[error("the call did not leave")]
struct NotSent(#[source] hyper::Error);

/// Whether the service cannot have seen the call, so that repeating it is always harmless
/// (the transparent retry of gRFC A6).
pub(super) fn is_unsent(status: &Status) -> bool {
    let source = std::error::Error::source(status);
    source.is_some_and(|source| source.is::<ConnectFailed>() || source.is::<NotSent>())
}

/// How connections are made.
#[derive(Clone)]
pub(super) struct Dialler {
    connect_timeout: Duration,
    tasks: TaskTracker,
}

impl Dialler {
    /// Attempts may take as long as `connect_timeout`.
    pub(super) fn new(connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            tasks: TaskTracker::new(),
        }
    }
}

/// A handle of the connection; clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Arc<Endpoint>,
    dialler: Dialler,
    /// That of `state`, for those who only choose.
    phase: AtomicU8,
    state: RwLock<State>,
    /// Held by the one attempt to connect.
    dialling: Arc<Mutex<()>>,
}

/// What a call would meet; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// An open connection.
    Open,
    /// None yet, or none any more.
    Idle,
    /// The failure of the last attempt.
    Failed,
}

#[derive(Default)]
struct State {
    sender: Option<SendRequest<Body>>,
    /// Why the last attempt failed, if it did.
    failure: Option<Arc<ConnectFailed>>,
    /// The end of the last attempt.
    dialled_at: Option<Instant>,
    /// Counts the attempts.
    n_dials: u64,
}

impl Connection {
    /// Makes none yet.
    pub(super) fn new(endpoint: Arc<Endpoint>, dialler: Dialler) -> Self {
        Self {
            shared: Arc::new(Shared {
                endpoint,
                dialler,
                phase: AtomicU8::new(Phase::Idle as u8),
                state: RwLock::default(),
                dialling: Arc::default(),
            }),
        }
    }

    /// The other end.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Scheme and authority of requests.
    pub(super) fn origin(&self) -> &Uri {
        &self.shared.endpoint.origin
    }

    /// What a call would meet now.
    pub(super) fn phase(&self) -> Phase {
        const OPEN: u8 = Phase::Open as u8;
        const IDLE: u8 = Phase::Idle as u8;
        match self.shared.phase.load(Ordering::Relaxed) {
            OPEN => Phase::Open,
            IDLE => Phase::Idle,
            _ => Phase::Failed,
        }
    }

    /// Whether a call would leave at once.
    pub(super) fn is_open(&self) -> bool {
        self.phase() == Phase::Open
    }

    /// Begins to connect, beside the calls, unless the connection is open, being made, or
    /// was tried just now. Whether it did.
    pub(super) fn nudge(&self) -> bool {
        if self.is_open() {
            return false;
        }
        let is_due = |at: Instant| at.elapsed() >= REDIAL_PAUSE;
        if !self.shared.read().dialled_at.is_none_or(is_due) {
            return false;
        }
        match Arc::clone(&self.shared.dialling).try_lock_owned() {
            Ok(guard) => {
                let shared = Arc::clone(&self.shared);
                self.shared.dialler.tasks.spawn(shared.dial(guard));
                true
            }
            Err(_) => false,
        }
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
        if let Err(error) = self.shared.dialler.tasks.spawn(dial).await {
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
            let error: Arc<ConnectFailed> = Arc::clone(failure);
            return Some(Err(unavailable(error)));
        }
        let sender = state.sender.as_ref()?;
        (!sender.is_closed()).then(|| Ok(sender.clone()))
    }

    /// Connects, keeps the outcome and tells the endpoint.
    async fn dial(self: Arc<Self>, _guard: OwnedMutexGuard<()>) {
        let connected = match timeout(self.dialler.connect_timeout, self.connect()).await {
            Ok(connected) => connected,
            Err(elapsed) => Err(elapsed.into()),
        };
        match connected {
            Ok((sender, driver)) => {
                let n_dials = self.keep(Ok(sender));
                self.endpoint.dial_succeeded();
                let shared = Arc::clone(&self);
                self.dialler.tasks.spawn(async move {
                    driver.await;
                    shared.lose(n_dials);
                });
            }
            Err(source) => {
                let address = self.endpoint.address;
                self.keep(Err(Arc::new(ConnectFailed { address, source })));
                self.endpoint.dial_failed();
            }
        }
    }

    /// Keeps the outcome of an attempt. Returns which one it was.
    fn keep(&self, outcome: Result<SendRequest<Body>, Arc<ConnectFailed>>) -> u64 {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let phase = if outcome.is_ok() {
            Phase::Open
        } else {
            Phase::Failed
        };
        let (sender, failure) = match outcome {
            Ok(sender) => (Some(sender), None),
            Err(failure) => (None, Some(failure)),
        };
        let n_dials = state.n_dials + 1;
        *state = State {
            sender,
            failure,
            dialled_at: Some(Instant::now()),
            n_dials,
        };
        self.phase.store(phase as u8, Ordering::Relaxed);
        n_dials
    }

    /// Notes that a connection has ended, unless there is a newer one.
    fn lose(&self, n_dials: u64) {
        let state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.n_dials == n_dials {
            self.phase.store(Phase::Idle as u8, Ordering::Relaxed);
        }
    }

    /// The connection, and what has to run for it to move.
    async fn connect(&self) -> Result<(SendRequest<Body>, BoxFuture<'static, ()>), BoxError> {
        let stream = TcpStream::connect(self.endpoint.address).await?;
        stream.set_nodelay(true)?;
        let executor = TrackedExecutor(self.dialler.tasks.clone());
        let (sender, connection) = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = async move {
            // Calls that it carried report the error themselves.
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection broke");
            }
        };
        Ok((sender, driver.boxed()))
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
            match sender.try_send_request(request).await {
                Ok(response) => Ok(response.map(|body| Body::new(body.map_err(broken)))),
                // The request came back, so it never left.
                Err(error) if error.message().is_some() => {
                    Err(unavailable(Arc::new(NotSent(error.into_error()))))
                }
                Err(error) => Err(broken(error.into_error())),
            }
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
