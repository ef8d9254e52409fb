//! One HTTP/2 connection to one address of the service, kept by a task of its own: made,
//! watched through the health service of the other side (gRFC A17), and made again when it is
//! lost.
//!
//! Invariants: a connection carries calls only after the health service has answered on it,
//! which proves that the other side speaks HTTP/2 and runs; an address is dialled by one
//! connection at a time and never by a call.

use std::{
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use order_core::{
    BoxError,
    supervisor::{STEP_TIME_MAX, Supervisor, Task},
};
use tokio::{
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{Code, Status, body::Body};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tower::Service;

use super::endpoint::{ConnectFailed, Endpoint};
use crate::{SERVICE_NAME, executor::TrackedExecutor};

/// The least time between two attempts to connect. It doubles with each failure.
const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause before an address is dialled again; one attempt costs little.
const REDIAL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A PING is sent after this much silence. It is short because a frozen replica is found by it:
/// its kernel still acknowledges everything.
const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(250);

/// A connection whose PING is not answered for this long is closed, and its calls go elsewhere.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Unread answer bytes of a connection. The 64 KiB of the protocol hold about 300 small
/// answers, fewer than a gateway has under way.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Unread answer bytes of a call.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// Size of the headers of one answer.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// The health service ended its stream before its first answer.
#[derive(Debug, thiserror::Error)]
#[error("the health service gave no answer")]
struct NoHealth;

/// The connection ended before it took the call.
#[derive(Debug, thiserror::Error)]
#[error("the call was not sent")]
struct NotSent(#[source] hyper::Error);

/// Whether the service cannot have seen the call, so that repeating it is always harmless
/// (the transparent retry of gRFC A6).
pub(super) fn is_unsent(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(<dyn std::error::Error>::is::<NotSent>)
}

/// What the connections of a client share.
pub(super) struct Dialler {
    /// For an attempt to connect, from TCP to the first answer of the health service.
    pub(super) connect_timeout: Duration,
    pub(super) supervisor: Arc<Supervisor>,
    pub(super) tasks: TaskTracker,
    /// Notifies waiting calls when a connection has changed.
    pub(super) changed: Notify,
    /// Notifies the resolver when a call or an attempt to connect has failed.
    pub(super) failed: Notify,
}

/// What a call meets on a connection; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It is open, and the service says that it serves.
    Serving,
    /// It is open, and the service says that it does not serve.
    NotServing,
    /// It is being made.
    Pending,
    /// The last attempt to reach the address has failed.
    Failed,
}

/// A connection and the task that keeps it. Dropping it ends the task; calls under way on the
/// connection are finished.
pub(super) struct Connection {
    link: Arc<Link>,
    _stop: DropGuard,
}

impl Connection {
    /// Starts to connect, in a task of its own.
    pub(super) fn start(endpoint: &Arc<Endpoint>, dialler: &Arc<Dialler>) -> Arc<Self> {
        let link = Arc::new(Link {
            endpoint: Arc::clone(endpoint),
            dialler: Arc::clone(dialler),
            open: RwLock::default(),
        });
        let stop = CancellationToken::new();
        let (kept, stopped) = (Arc::clone(&link), stop.clone());
        let keep = Task::new("connection", STEP_TIME_MAX, move |_| {
            let (link, stopped) = (Arc::clone(&kept), stopped.clone());
            async move {
                stopped.run_until_cancelled(link.keep()).await;
            }
        });
        dialler.tasks.spawn(dialler.supervisor.run(keep));
        Arc::new(Self {
            link,
            _stop: stop.drop_guard(),
        })
    }

    /// What a call would meet now.
    pub(super) fn phase(&self) -> Phase {
        match &*self
            .link
            .open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some(open) if open.channel.sender.is_closed() => Phase::Pending,
            Some(open) if open.is_serving => Phase::Serving,
            Some(_) => Phase::NotServing,
            None => Phase::Pending,
        }
    }

    /// The open connection, if there is one.
    pub(super) fn channel(&self) -> Option<Channel> {
        let open = self.link.open.read();
        let open = open.unwrap_or_else(PoisonError::into_inner);
        let channel = &open.as_ref()?.channel;
        (!channel.sender.is_closed()).then(|| channel.clone())
    }
}

/// An open connection.
struct Open {
    channel: Channel,
    is_serving: bool,
}

/// A new connection, with the first answer of the health service.
struct Opened {
    channel: Channel,
    is_serving: bool,
    /// What the health service says from then on.
    statuses: BoxStream<'static, bool>,
    /// Moves the connection and ends with it.
    driver: JoinHandle<()>,
}

struct Link {
    endpoint: Arc<Endpoint>,
    dialler: Arc<Dialler>,
    open: RwLock<Option<Open>>,
}

impl Link {
    /// Connects, follows the health of the service and connects again, forever.
    async fn keep(&self) {
        self.set(None);
        loop {
            // One at a time: the attempt is also the probe of an address in trouble.
            let mut n_failures = self.endpoint.dialling.lock().await;
            if *n_failures > 0 {
                sleep(redial_pause(*n_failures)).await;
            }
            let dialled_at = Instant::now();
            let opened = timeout(self.dialler.connect_timeout, self.open()).await;
            match opened.unwrap_or_else(|elapsed| Err(elapsed.into())) {
                Ok(opened) => {
                    *n_failures = 0;
                    drop(n_failures);
                    self.endpoint.note(None);
                    self.follow(opened).await;
                    self.set(None);
                }
                Err(source) => {
                    *n_failures = n_failures.saturating_add(1);
                    let address = self.endpoint.address;
                    self.endpoint.note(Some(ConnectFailed { address, source }));
                    self.dialler.changed.notify_waiters();
                    self.dialler.failed.notify_one();
                }
            }
            sleep_until(dialled_at + REDIAL_PAUSE_MIN).await;
        }
    }

    /// Passes on what the health service says, until it stops or the connection is lost.
    async fn follow(&self, opened: Opened) {
        let Opened {
            channel,
            mut is_serving,
            mut statuses,
            mut driver,
        } = opened;
        let mut was_serving = true;
        loop {
            let address = self.endpoint.address;
            match (was_serving, is_serving) {
                (true, false) => tracing::warn!(
                    network.peer.address = %address,
                    "order service says that it does not serve"
                ),
                (false, true) => tracing::info!(
                    network.peer.address = %address,
                    "order service says that it serves again"
                ),
                (true, true) | (false, false) => {}
            }
            was_serving = is_serving;
            self.set(Some(Open {
                channel: channel.clone(),
                is_serving,
            }));
            is_serving = tokio::select! {
                _ = &mut driver => return,
                status = statuses.next() => match status {
                    Some(is_serving) => is_serving,
                    None => return,
                },
            };
        }
    }

    fn set(&self, open: Option<Open>) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = open;
        self.dialler.changed.notify_waiters();
    }

    /// Connects and waits for the first answer of the health service.
    async fn open(&self) -> Result<Opened, BoxError> {
        let (channel, driver) = self.connect().await?;
        let origin = self.endpoint.origin.clone();
        let mut health = HealthClient::with_origin(channel.clone(), origin);
        let service = SERVICE_NAME.to_owned();
        let watch = async {
            let statuses = health.watch(HealthCheckRequest { service }).await?;
            let mut statuses = statuses.into_inner();
            let first = statuses.message().await?;
            Ok((first, statuses))
        };
        let (first, statuses) = match watch.await {
            Ok((first, statuses)) => {
                // A stream that fails ends the connection, as gRFC A17 has it.
                let statuses = statuses
                    .take_while(|status| std::future::ready(status.is_ok()))
                    .filter_map(async |status| Some(is_serving(status.ok()?)));
                (first.ok_or(NoHealth)?, statuses.boxed())
            }
            // A service without a health service is healthy while it is connected.
            Err(status) if Status::code(&status) == Code::Unimplemented => {
                let mut serving = HealthCheckResponse::default();
                serving.set_status(ServingStatus::Serving);
                (serving, stream::pending().boxed())
            }
            Err(status) => return Err(status.into()),
        };
        Ok(Opened {
            channel,
            is_serving: is_serving(first),
            statuses,
            driver,
        })
    }

    async fn connect(&self) -> Result<(Channel, JoinHandle<()>), BoxError> {
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
        let driver = self.dialler.tasks.spawn(async move {
            // Calls that it carried report the error themselves.
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection broke");
            }
        });
        Ok((Channel { sender }, driver))
    }
}

fn is_serving(response: HealthCheckResponse) -> bool {
    response.status() == ServingStatus::Serving
}

/// The pause before the next attempt after `n_failures` in a row, ± 20 %.
fn redial_pause(n_failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(n_failures - 1);
    let pause = REDIAL_PAUSE_MIN
        .saturating_mul(factor)
        .min(REDIAL_PAUSE_MAX);
    pause.mul_f64(0.8 + 0.4 * rand::random::<f64>())
}

/// Carries calls over an open connection; clones share it.
#[derive(Clone)]
pub(super) struct Channel {
    sender: SendRequest<Body>,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut sender = self.sender.clone();
        async move {
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
