//! One server loop for every listener: the API, WebSockets, gRPC and the probes. It owns the
//! limits of a connection (how many, how slow, how idle, how old, how big a head) and the drain;
//! it knows no route.
//!
//! Answers that come from below the service, and therefore without a document that says why:
//! 400 for a request line or header that cannot be parsed, 414 for a target above 64 KiB
//! and 431 for a head above the limits. The connection is closed after each of them.

mod connection;
mod socket;
mod stall;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, TcpListener},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::TokioTimer;
use order_core::BoxError;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

pub use self::connection::{Connection, ConnectionAge, client_address};
pub(crate) use self::connection::{UNKNOWN_ADDRESS, find_client};
use self::{
    connection::{Listener, serve_connection},
    socket::{ConnectionLimits, Stopping, WatchedStream},
    stall::StreamExecutor,
};
use crate::{
    proxies::TrustedProxies,
    slots::{Full, Slot, Slots},
    stats::ConnectionStats,
};

/// How long requests are still answered after the stop. A client that keeps a connection
/// busy sends its next request well within that.
const LINGER_TIME_MAX: Duration = Duration::from_millis(500);

/// Between two log lines about connections that cannot be accepted.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a failed accept pauses the loop: mostly out of file descriptors, which only time and
/// the ends of other connections cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long calls get to notice that their connection is gone after the hard end.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The smallest read buffer hyper takes, in bytes; it panics below.
const READ_BUFFER_LEN_MIN: usize = 8 * 1024;

/// What a listener grants its connections.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Names the listener in logs.
    pub name: &'static str,
    /// Counters of its connections.
    pub stats: ConnectionStats,
    /// From the accept to the first byte.
    pub first_byte_timeout: Duration,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// The longest head of a request, in bytes; at least 8 KiB.
    pub header_len_max: usize,
    /// The most fields of an HTTP/1 head. In HTTP/2 each field counts 32 bytes against
    /// [`ServeConfig::header_len_max`] instead.
    pub header_count_max: usize,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// The longest time a peer may take no byte of an answer. It ends the connection if the
    /// socket is blocked, and the stream if only that is: an HTTP/2 peer that grants no window.
    pub write_timeout: Duration,
    /// Requests at the same time on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// Between two pings on an HTTP/2 connection.
    pub http2_keepalive_interval: Duration,
    /// From a ping to the end of the connection that does not answer it.
    pub http2_keepalive_timeout: Duration,
    /// Connections at the same time; one more is closed at once.
    pub connections_max: usize,
    /// Connections at the same time from one IPv4 address or one IPv6 /64 network. Those of a
    /// trusted proxy, which carry many clients, only count against
    /// [`ServeConfig::connections_max`].
    pub connections_per_address_max: usize,
    /// The proxies that are trusted to name the clients of their requests.
    pub trusted_proxies: TrustedProxies,
    /// How many requests may be open for each connection that may be, in all and from one address:
    /// streams, bodies that do not come and answers that are not taken included, over all
    /// connections. One more HTTP/2 stream is reset with `REFUSED_STREAM`, one more HTTP/1 connection
    /// is closed. The service, which can say why it refuses a request, should do so before that.
    pub requests_per_connection: usize,
    /// From the stop to the point where what is still open is cut.
    pub drain_timeout: Duration,
    /// How old connections get; `None` for as old as they like.
    pub age: Option<ConnectionAge>,
    /// HTTP/2 without a detection of the protocol: what begins otherwise is closed. Answers carry
    /// no `Date`, which gRPC has no use for.
    pub http2_only: bool,
    /// Unread request bytes of one HTTP/2 connection; `None` for hyper's default.
    pub http2_connection_window: Option<u32>,
    /// Unread request bytes of one HTTP/2 stream; `None` for hyper's default.
    pub http2_stream_window: Option<u32>,
}

impl ServeConfig {
    /// The limits of the API listener.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            stats: ConnectionStats::default(),
            first_byte_timeout: Duration::from_secs(3),
            header_timeout: Duration::from_secs(5),
            header_len_max: 16 * 1024,
            header_count_max: 64,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_mins(1),
            http2_streams_max: 100,
            http2_keepalive_interval: Duration::from_secs(20),
            http2_keepalive_timeout: Duration::from_secs(10),
            connections_max: 10_000,
            connections_per_address_max: 1_000,
            trusted_proxies: TrustedProxies::default(),
            requests_per_connection: 4,
            drain_timeout: Duration::from_secs(15),
            age: None,
            http2_only: false,
            http2_connection_window: None,
            http2_stream_window: None,
        }
    }
}

/// A listener could not be served.
#[derive(Debug, thiserror::Error)]
#[error("the {name} listener failed")]
pub struct ServeError {
    /// The listener.
    pub name: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Serves `service` on `listener` until `stop`, then drains. No new connection is taken. For a
/// moment, requests on those that are open are still answered, each HTTP/1 answer being the
/// last on its connection: a client that was about to send finds out from an answer and
/// not from a reset. (HTTP/2 has GOAWAY for that, so an HTTP/2 listener skips that moment.) Then
/// no new request is taken, and what is in flight may finish until
/// [`ServeConfig::drain_timeout`]. The port stays open if the caller kept a clone of `listener`.
///
/// Requests carry an `Arc` of [`Connection`] as an extension. A connection that was upgraded
/// leaves the care of this function with the upgrade: it counts against the limits of the
/// listener, but neither the idle timeout nor the drain touches it.
///
/// When accepting fails, as it does while the process is out of file descriptors, it is
/// tried again every 50 ms.
///
/// Every task spawned here has ended when this returns, or is past the hard end and has lost its
/// connection.
///
/// # Cancel safety
/// Dropping the future closes the listener and all connections at once; use `stop`.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    config: ServeConfig,
    stop: CancellationToken,
) -> Result<(), ServeError>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let name = config.name;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(listener))
        .map_err(|source| ServeError { name, source })?;
    let limits = limits(&config);
    let slots = Slots::new(config.connections_max, config.connections_per_address_max);
    let (tasks, draining) = (TaskTracker::new(), CancellationToken::new());
    let shared = Arc::new(configure(&config, service, &tasks));
    let stopping = Arc::new(Stopping::default());
    let mut failures = AcceptFailures::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let Ok(slot) = take_slot(&slots, &config, peer.ip()) else {
                    // The limits at work; a flood of these must not fill the log.
                    config.stats.refused.inc();
                    tracing::debug!(listener = name, %peer, "too many connections");
                    continue;
                };
                // Small answers wait for nothing to be joined with.
                if tcp.set_nodelay(true).is_err() {
                    continue;
                }
                let held = (slot, config.stats.open());
                let stream = Box::new(WatchedStream::new(tcp, held, limits, &stopping));
                let draining = draining.child_token();
                let connection = Connection { peer, draining };
                connections.spawn(serve_connection(Arc::clone(&shared), stream, connection));
            }
            Err(error) => {
                if let Some(failures) = failures.count() {
                    tracing::warn!(listener = name, %error, failures, "cannot accept connections");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    drain(connections, &config, &stopping, &draining).await;
    end_calls(&tasks, name).await;
    Ok(())
}

/// Takes a slot for a connection.
fn take_slot(slots: &Slots, config: &ServeConfig, peer: IpAddr) -> Result<Slot, Full> {
    if config.trusted_proxies.contains(peer) {
        slots.try_take_for_all()
    } else {
        slots.try_take(peer)
    }
}

fn request_slots(config: &ServeConfig) -> Slots {
    let for_each_of = |n: usize| n.saturating_mul(config.requests_per_connection);
    Slots::new(
        for_each_of(config.connections_max),
        for_each_of(config.connections_per_address_max),
    )
}

const fn limits(config: &ServeConfig) -> ConnectionLimits {
    ConnectionLimits {
        first_byte: config.first_byte_timeout,
        header: config.header_timeout,
        idle: config.idle_timeout,
        write: config.write_timeout,
        is_http2_only: config.http2_only,
    }
}

/// Waits for the calls of connections that are gone.
async fn end_calls(tasks: &TaskTracker, name: &'static str) {
    tasks.close();
    // Calls end by themselves when their connection is gone; one that does not is blocked,
    // and waiting for it would only hide that.
    if timeout(ABORT_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!(
            listener = name,
            n_calls = tasks.len(),
            "calls outlived their connections"
        );
    }
}

/// Waits for the connections to end by themselves, then ends them.
async fn drain(
    mut connections: JoinSet<()>,
    config: &ServeConfig,
    stopping: &Stopping,
    draining: &CancellationToken,
) {
    let name = config.name;
    let hard_end = Instant::now() + config.drain_timeout;
    tracing::info!(listener = name, connections = connections.len(), "draining");
    stopping.is_lingering.store(true, Ordering::Release);
    let mut all_ended = async || while connections.join_next().await.is_some() {};
    if !config.http2_only {
        let linger = LINGER_TIME_MAX.min(config.drain_timeout / 4);
        // Whether all are gone or the time is over, the drain goes on.
        let _ = timeout(linger, all_ended()).await;
    }
    stopping.is_draining.store(true, Ordering::Release);
    draining.cancel();
    if timeout_at(hard_end, all_ended()).await.is_ok() {
        tracing::info!(listener = name, "drained");
        return;
    }
    tracing::warn!(
        listener = name,
        connections = connections.len(),
        "connections cut at the end of the drain"
    );
    connections.shutdown().await;
}

fn configure<S>(config: &ServeConfig, service: S, tasks: &TaskTracker) -> Listener<S> {
    let mut http1 = http1::Builder::new();
    http1
        // hyper's also runs between requests; ours does not.
        .header_read_timeout(None)
        .max_headers(config.header_count_max)
        // A head must fit the read buffer; one that does not is answered 431.
        .max_buf_size(config.header_len_max.max(READ_BUFFER_LEN_MIN));
    let mut http2 = http2::Builder::new(StreamExecutor {
        tasks: tasks.clone(),
        write_timeout: config.write_timeout,
    });
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.http2_streams_max)
        .max_header_list_size(u32::try_from(config.header_len_max).unwrap_or(u32::MAX))
        .initial_connection_window_size(config.http2_connection_window)
        .initial_stream_window_size(config.http2_stream_window)
        .keep_alive_interval(config.http2_keepalive_interval)
        .keep_alive_timeout(config.http2_keepalive_timeout)
        .auto_date_header(!config.http2_only);
    Listener {
        http1,
        http2,
        service,
        requests: request_slots(config),
        trusted_proxies: config.trusted_proxies.clone(),
        age: config.age,
    }
}

/// Accepting fails 20 times a second while the process is out of file descriptors. That is one
/// line now and then.
#[derive(Default)]
struct AcceptFailures {
    logged_at: Option<Instant>,
    n_failures: u64,
}

impl AcceptFailures {
    /// Counts a failure; how many there were since the last log line, if it is time for one.
    fn count(&mut self) -> Option<u64> {
        self.n_failures += 1;
        let is_recent = |at: Instant| at.elapsed() < ACCEPT_LOG_INTERVAL;
        if self.logged_at.is_some_and(is_recent) {
            return None;
        }
        self.logged_at = Some(Instant::now());
        Some(std::mem::take(&mut self.n_failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_to_accept_are_one_line_now_and_then() {
        let mut failures = AcceptFailures::default();
        let mut lines = Vec::new();
        // The server tries every 50 ms.
        for _ in 0..500 {
            lines.extend(failures.count());
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert_eq!(lines, [1, 200, 200]);
    }
}
