//! The limits of a server.

use std::time::Duration;

use order_core::OrderServiceConfig;
use order_edge::{ServeConfig, serve::ConnectionAge, slots::share_of_one_address};

/// How long a client may send nothing but pings: longer than a connection lives.
const IDLE_TIMEOUT: Duration = Duration::from_hours(24);

/// A gateway has a few connections with thousands of calls. This makes room for all the calls and
/// streams that the limits below allow, and for those that watch the health of the server.
const REQUESTS_PER_CONNECTION: usize = 24;

/// The limits of a server. The defaults suit a service behind a gateway that sends all its
/// traffic over a few connections. Where a limit counts calls, streams, connections or bytes, one
/// address has at most three quarters: all clients of a gateway come from its address, and what
/// one address does must not keep out another.
#[derive(Clone, Copy, Debug)]
pub struct RpcServerConfig {
    /// Calls and streams open at the same time on one connection. A gateway multiplexes
    /// thousands of clients over a handful of connections, so this is far above the 100
    /// that suit a connection of one browser.
    pub streams_per_connection_max: u32,
    /// Calls that wait for their answer, over all connections; one more is shed with
    /// `OVERLOADED`.
    pub in_flight_max: usize,
    /// Orders that are being created, by one call each or by batches: as many as wait in the service.
    /// A call with one more is refused with `OVERLOADED`.
    pub creates_max: usize,
    /// Calls of workers that wait for a job; one more is refused with `OVERLOADED`. They are
    /// not counted among the calls above.
    pub leases_max: usize,
    /// Connections; one more is closed at once.
    pub connections_max: usize,
    /// Watch streams; one more is refused with `OVERLOADED`.
    pub watches_max: usize,
    /// Streams that follow many orders, one for each gateway; one more is refused with
    /// `OVERLOADED`.
    pub follows_max: usize,
    /// Size of the header list of one request, in bytes as HTTP/2 counts them.
    pub header_bytes_max: u32,
    /// Unread request bytes of one connection. The 64 KiB of the protocol hold about 300
    /// small requests and throttle a multiplexing gateway.
    pub connection_window_bytes: u32,
    /// Unread request bytes of one call.
    pub stream_window_bytes: u32,
    /// A connection is asked for a sign of life this often.
    pub keepalive_interval: Duration,
    /// A connection that gives none for this long is closed.
    pub keepalive_timeout: Duration,
    /// A connection is told to leave at this age, ±10 % so that they do not leave together:
    /// its client resolves names anew and finds new replicas.
    pub connection_age_max: Duration,
    /// How long calls on an aged connection get to finish.
    pub connection_grace: Duration,
    /// The time of a call that names none.
    pub deadline_default: Duration,
    /// The longest time a call gets, whatever it names. Streams that have begun are not
    /// concerned. A worker that would wait longer for a job is answered before that.
    pub deadline_max: Duration,
    /// How often health asks the API whether it is ready.
    pub readiness_interval: Duration,
    /// Whether clients may ask for the contract (gRPC reflection v1).
    pub reflection: bool,
    /// How long a stop waits for calls before it aborts connections.
    pub drain_timeout: Duration,
}

impl Default for RpcServerConfig {
    fn default() -> Self {
        Self {
            streams_per_connection_max: 1024,
            in_flight_max: 4096,
            creates_max: OrderServiceConfig::default().creates.queue_len_max,
            leases_max: 256,
            connections_max: 1024,
            watches_max: 10_000,
            follows_max: 256,
            header_bytes_max: 16 * 1024,
            connection_window_bytes: 4 * 1024 * 1024,
            stream_window_bytes: 256 * 1024,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            connection_age_max: Duration::from_mins(30),
            connection_grace: Duration::from_secs(30),
            deadline_default: Duration::from_secs(5),
            deadline_max: Duration::from_secs(30),
            readiness_interval: Duration::from_secs(1),
            reflection: true,
            drain_timeout: Duration::from_secs(15),
        }
    }
}

impl RpcServerConfig {
    pub(super) fn listener(&self) -> ServeConfig {
        ServeConfig {
            header_len_max: usize::try_from(self.header_bytes_max).unwrap_or(usize::MAX),
            idle_timeout: IDLE_TIMEOUT,
            http2_streams_max: self.streams_per_connection_max,
            http2_keepalive_interval: self.keepalive_interval,
            http2_keepalive_timeout: self.keepalive_timeout,
            connections_max: self.connections_max,
            connections_per_address_max: share_of_one_address(self.connections_max),
            requests_per_connection: REQUESTS_PER_CONNECTION,
            drain_timeout: self.drain_timeout,
            age: Some(ConnectionAge {
                max: self.connection_age_max,
                grace: self.connection_grace,
            }),
            http2_only: true,
            http2_connection_window: Some(self.connection_window_bytes),
            http2_stream_window: Some(self.stream_window_bytes),
            ..ServeConfig::new("grpc")
        }
    }
}
