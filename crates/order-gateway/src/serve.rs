//! One listener for everything that speaks HTTP: the API, the WebSocket endpoint and the
//! probes. It owns the limits of a connection (how many, how slow, how idle, how big a
//! head) and the drain; it knows no route.
//!
//! Answers that come from below the router, and therefore without a problem document:
//! 400 for a request line or header that cannot be parsed, 414 for a target above 64 KiB
//! and 431 for a head above the limits. The connection is closed after each of them.

mod connection;

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use axum::Router;
use axum_server::{Handle, Server};
use socket2::SockRef;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::connection::{ConnectionAcceptor, ConnectionLimits, Stopping};
use crate::slots::Slots;

/// How long requests are still answered after the stop. A client that keeps a connection
/// busy sends its next request well within that.
const LINGER_TIME_MAX: Duration = Duration::from_millis(500);

/// Between two log lines about connections that cannot be accepted.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How often to look whether all connections are gone.
const LINGER_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The smallest read buffer hyper takes, in bytes; it panics below.
const READ_BUFFER_LEN_MIN: usize = 8 * 1024;

/// What a listener grants its connections.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Names the listener in logs.
    pub name: &'static str,
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
    /// The longest time a peer may take no byte of an answer.
    pub write_timeout: Duration,
    /// Requests at the same time on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// Between two pings on an HTTP/2 connection.
    pub http2_keepalive_interval: Duration,
    /// From a ping to the end of the connection that does not answer it.
    pub http2_keepalive_timeout: Duration,
    /// Connections at the same time; one more is closed at once.
    pub connections_max: usize,
    /// Connections at the same time from one IPv4 address or one IPv6 /64 network.
    pub connections_per_address_max: usize,
    /// From the stop to the point where what is still open is cut.
    pub drain_timeout: Duration,
    /// Whether another server goes on with the port, so that the stop must not close it.
    pub hands_port_over: bool,
}

impl ServeConfig {
    /// The limits of the API listener.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
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
            drain_timeout: Duration::from_secs(15),
            hands_port_over: false,
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

/// Serves `router` on `listener` until `stop`, then drains. No new connection is taken. For a
/// moment, requests on those that are open are still answered, each HTTP/1 answer being the
/// last on its connection: a client that was about to send finds out from an answer and
/// not from a reset. Then no new request is taken, and what is in flight may finish until
/// [`ServeConfig::drain_timeout`].
///
/// Requests carry [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo). A connection
/// that was upgraded leaves the care of this function with the upgrade: it counts against
/// the limits of the listener, but neither the idle timeout nor the drain touches it.
///
/// When accepting fails, as it does while the process is out of file descriptors, it is
/// tried again every 50 ms.
///
/// # Cancel safety
/// Dropping the future closes the listener and leaves the connections running; use `stop`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: ServeConfig,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let name = config.name;
    let failed = |source| ServeError { name, source };
    let stopping = Arc::new(Stopping::default());
    let accepting = listener.try_clone().map_err(failed)?;
    let handle = Handle::new();
    let server = build(listener, &config, &stopping)
        .map_err(failed)?
        .handle(handle.clone());
    let serving = server.serve(router.into_make_service_with_connect_info::<SocketAddr>());
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result.map_err(failed),
        () = stop.cancelled() => {}
    }
    tracing::info!(
        listener = name,
        connections = handle.connection_count(),
        "draining"
    );
    stopping.is_lingering.store(true, Ordering::Release);
    // The one way to stop accepting without telling the connections is the socket itself.
    // Where a system does not have it, connections are taken until the drain.
    if !config.hands_port_over
        && let Err(error) = SockRef::from(&accepting).shutdown(Shutdown::Both)
    {
        tracing::debug!(listener = name, %error, "accepting goes on for a moment");
    }
    let linger = LINGER_TIME_MAX.min(config.drain_timeout / 4);
    let is_empty = async {
        while handle.connection_count() > 0 {
            sleep(LINGER_LOOK_INTERVAL).await;
        }
    };
    // Whether all are gone or the time is over, the drain goes on.
    let _ = timeout(linger, is_empty).await;
    stopping.is_draining.store(true, Ordering::Release);
    handle.graceful_shutdown(Some(config.drain_timeout.saturating_sub(linger)));
    serving.await.map_err(failed)?;
    match handle.connection_count() {
        0 => tracing::info!(listener = name, "drained"),
        cut => tracing::warn!(
            listener = name,
            connections = cut,
            "connections cut at the end of the drain"
        ),
    }
    Ok(())
}

/// Accepting fails 20 times a second while the process is out of file descriptors. That is one
/// line now and then.
#[derive(Default)]
struct AcceptFailures(Mutex<(Option<Instant>, u64)>);

impl AcceptFailures {
    /// Counts a failure; how many there were since the last log line, if it is time for one.
    fn count(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (logged_at, n_failures) = &mut *state;
        *n_failures += 1;
        if logged_at.is_some_and(|logged_at| logged_at.elapsed() < ACCEPT_LOG_INTERVAL) {
            return None;
        }
        *logged_at = Some(Instant::now());
        Some(std::mem::take(n_failures))
    }
}

fn build(
    listener: TcpListener,
    config: &ServeConfig,
    stopping: &Arc<Stopping>,
) -> io::Result<Server<SocketAddr, ConnectionAcceptor>> {
    let name = config.name;
    let limits = ConnectionLimits {
        first_byte: config.first_byte_timeout,
        header: config.header_timeout,
        idle: config.idle_timeout,
        write: config.write_timeout,
    };
    let slots = Slots::new(config.connections_max, config.connections_per_address_max);
    let is_stopping = Arc::clone(stopping);
    let failures = AcceptFailures::default();
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(ConnectionAcceptor::new(limits, slots, Arc::clone(stopping)))
        .accept_error_handler(move |peer, error| {
            if let Some(peer) = peer {
                // Refusals are the limits at work; a flood of them must not fill the log.
                tracing::debug!(listener = name, %peer, %error, "connection refused");
            } else if !is_stopping.is_lingering.load(Ordering::Acquire)
                && let Some(failures) = failures.count()
            {
                tracing::warn!(listener = name, %error, failures, "cannot accept connections");
            }
        });
    let builder = server.http_builder();
    builder
        .http1()
        .max_headers(config.header_count_max)
        // A head must fit the read buffer; one that does not is answered 431.
        .max_buf_size(config.header_len_max.max(READ_BUFFER_LEN_MIN));
    builder
        .http2()
        .max_concurrent_streams(config.http2_streams_max)
        .max_header_list_size(u32::try_from(config.header_len_max).unwrap_or(u32::MAX))
        .keep_alive_interval(config.http2_keepalive_interval)
        .keep_alive_timeout(config.http2_keepalive_timeout);
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_to_accept_are_one_line_now_and_then() {
        let failures = AcceptFailures::default();
        let mut lines = Vec::new();
        // The server tries every 50 ms.
        for _ in 0..500 {
            lines.extend(failures.count());
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert_eq!(lines, [1, 200, 200]);
    }
}
