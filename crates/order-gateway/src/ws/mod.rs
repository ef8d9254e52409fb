//! The WebSocket endpoint, `/ws`: follows orders over one socket.
//!
//! # Messages
//! | client sends | server answers | and pushes on each change |
//! |---|---|---|
//! | an order id, bare or as a JSON string | nothing while the order is PENDING, else `{"order_id","status"}` | `{"order_id","status"}` |
//! | `{"id":1,"subscribe":{"order":"…","since":3}}` | `{"id":1,"subscribed":{"order","version","recovered","events","snapshot"?}}` | `{"order_id","status","version","at"}` |
//! | `{"id":2,"unsubscribe":{"order":"…"}}` | `{"id":2,"unsubscribed":{"order":"…"}}` | |
//! | `{"id":3,"ping":true}` | `{"id":3,"pong":true}` | |
//! | anything else | `{"id"?,"error":{"code","message","order_id"?,"errors"?}}` | |
//!
//! `id` is an integer that the client chooses; it may be left out, and is then left out of
//! the answer. `since` is the last version the client has seen: with `recovered: true` the
//! list `events` holds all that it missed, else `snapshot` says where the order stands and
//! the client starts over from there. An order that is subscribed twice is pushed once, in
//! the form asked for last. After an error the socket stays open; what ends it is listed,
//! with the codes, in [`close`].
//!
//! # Before the upgrade
//! A web page of another origin (403), a request that is no handshake (426) and a
//! client beyond the limits (429, 503) get a problem document instead of a socket.

mod admission;
pub mod close;
mod command;
mod connection;
mod frame;
mod handshake;
mod origin;
mod rate;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use order_core::{Clock, IdGen};
use order_hub::Hub;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::admission::Admission;

/// What the endpoint stands on.
pub struct WsDeps {
    /// Subscriptions and fan-out.
    pub hub: Arc<Hub>,
    /// Time, for the deadlines of reads.
    pub clock: Arc<dyn Clock>,
    /// Ids for requests that come without one.
    pub ids: Arc<dyn IdGen>,
    /// How much is allowed.
    pub config: WsConfig,
    /// Waits for the sockets at shutdown; they end by themselves within
    /// [`WsConfig::drain_window`] after `stop`.
    pub tracker: TaskTracker,
    /// Says goodbye to every socket and refuses new ones.
    pub stop: CancellationToken,
}

/// What the endpoint allows. How many orders one socket follows is a matter of the hub.
#[derive(Clone, Debug)]
pub struct WsConfig {
    /// Origins of the web pages that may connect, like `https://shop.example`. Empty: pages
    /// on the host that serves the socket, on any port.
    pub allowed_origins: Vec<String>,
    /// Sockets at the same time.
    pub connections_max: usize,
    /// Sockets at the same time from one IPv4 address or one IPv6 /64 network.
    pub connections_per_address_max: usize,
    /// Messages of one client per second, control frames included; twice as many may come
    /// at once.
    pub messages_per_second_max: u32,
    /// The longest message, in bytes.
    pub message_len_max: usize,
    /// From the answer to one ping to the next ping.
    pub ping_interval: Duration,
    /// From a ping to the end of a socket that gives no sign of life.
    pub pong_timeout: Duration,
    /// How long a client may take no bytes.
    pub write_timeout: Duration,
    /// The time over which sockets are closed when the server stops, and after which none
    /// is left.
    pub drain_window: Duration,
    /// The time between two closes when the server stops, on average: how fast clients may
    /// come back somewhere else. More sockets than the window has room for come faster.
    pub goodbye_spacing: Duration,
}

impl Default for WsConfig {
    fn default() -> Self {
        Self {
            allowed_origins: Vec::new(),
            connections_max: 50_000,
            connections_per_address_max: 1_000,
            messages_per_second_max: 20,
            message_len_max: 16 * 1024,
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(8),
            write_timeout: Duration::from_secs(10),
            drain_window: Duration::from_secs(10),
            goodbye_spacing: Duration::from_millis(1),
        }
    }
}

/// What all sockets share.
struct Shared {
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    config: WsConfig,
    tracker: TaskTracker,
    stop: CancellationToken,
    admission: Arc<Admission>,
}

/// The endpoint as a router. The address of a client is taken from
/// [`ConnectInfo`](axum::extract::ConnectInfo); without it only the total is limited.
pub fn router(deps: WsDeps) -> Router {
    let WsDeps {
        hub,
        clock,
        ids,
        config,
        tracker,
        stop,
    } = deps;
    let admission = Admission::new(config.connections_max, config.connections_per_address_max);
    let shared = Arc::new(Shared {
        hub,
        clock,
        ids,
        config,
        tracker,
        stop,
        admission,
    });
    Router::new()
        .route("/ws", get(handshake::upgrade))
        .fallback(handshake::route_not_found)
        .method_not_allowed_fallback(handshake::method_not_allowed)
        .with_state(shared)
}
