//! The WebSocket endpoint, `/ws`: follows orders over one socket.
//!
//! # Messages
//! | client sends | server answers | and pushes on each change |
//! |---|---|---|
//! | an order id, bare or as a JSON string | nothing while the order is PENDING, else `{"order_id","status"}` | `{"order_id","status"}` |
//! | `{"id":1,"subscribe":{"order":"…","since":3}}` | `{"id":1,"subscribed":{"order","version","recovered","events","snapshot"?}}` | `{"order_id","status","version","at"}` |
//! | `{"id":1,"subscribe":{"orders":[{"order":"…","since":3}, …]}}` | the same for each order, in turn | the same |
//! | `{"id":1,"subscribe":{"user":"…"}}` | `{"id":1,"subscribed":{"user","orders":[{"order_id","status","version","at"}…]}}` | `{"order_id","status","version","at"}` |
//! | `{"id":2,"unsubscribe":{"order":"…"}}` or `{"user":"…"}` | `{"id":2,"unsubscribed":{…}}`, the same | |
//! | `{"id":3,"ping":true}` | `{"id":3,"pong":true}` | |
//! | `{"id":4,"authenticate":{"ticket":"…"}}` | `{"id":4,"authenticated":{"user":"…"}}` | |
//! | anything else | `{"id"?,"error":{"code","message","order_id"?,"errors"?}}` | |
//!
//! `id` is an integer that the client chooses; it may be left out, and is then left out of
//! the answer. `since` is the last version the client has seen: with `recovered: true` the
//! list `events` holds all that it missed, else `snapshot` says where the order stands and
//! the client starts over from there. After that every version of the order is pushed, each
//! once and in order, however slow the client reads; what a bare order id has asked for is
//! only the newest. An order that is subscribed twice is pushed once, in the form asked for
//! last. After an error the socket stays open; what ends it is listed, with the codes, in
//! [`close`].
//!
//! The answer to the subscription of a user holds the 100 newest orders, newest first. From
//! then on every version of every order of the user is pushed, new orders from version 1
//! on. An order that is also subscribed by itself is pushed once, in its own form.
//!
//! # Tickets
//! A browser cannot send credentials with a WebSocket. It asks the REST API for a ticket
//! and shows it in the URL, `/ws?ticket=…`, or in an `authenticate` message before its first
//! subscription. The socket may then follow only the user of the ticket and the orders of
//! that user; those of others do not exist for it. A ticket is worth nothing once it has
//! been shown. A socket that shows none may follow everything, for as long as the server
//! has no authentication.
//!
//! # Before the upgrade
//! A web page of another origin (403), a query that is not understood (400), a request that
//! is no handshake (426), a ticket that is not valid (401) and a client beyond the limits
//! (429, 503) get a problem document instead of a socket.

mod admission;
pub mod close;
mod command;
mod connection;
mod end;
mod frame;
mod handshake;
mod lookup;
mod rate;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use order_core::{
    CallContext, Clock, Deadline, Error, IdGen, RequestId, TicketOffice, UserId,
    metrics::{Counter, Family, Gauge},
};
use order_edge::CallStats;
use order_hub::Hub;
use prometheus_client::encoding::EncodeLabelSet;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{admission::Admission, command::Ticket};
use crate::{
    http::{
        HttpLabels,
        operation::{self, Frame, Operation},
    },
    origin::Origin,
};

/// What the endpoint stands on.
pub struct WsDeps {
    /// Subscriptions and fan-out.
    pub hub: Arc<Hub>,
    /// Takes the tickets of clients.
    pub tickets: Arc<dyn TicketOffice>,
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
    /// Counters of handshakes.
    pub calls: CallStats<HttpLabels>,
    /// Counters of sockets.
    pub stats: WsStats,
}

/// Counters of sockets.
#[derive(Clone, Debug, Default)]
pub struct WsStats {
    /// Sockets that are open.
    pub open: Gauge,
    /// Sockets that were closed.
    pub closed: Family<CloseLabels, Counter>,
    /// Messages from clients, control frames included.
    pub received: Counter,
    /// Messages to clients, control frames included.
    pub sent: Counter,
}

/// The labels of sockets that were closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    /// The close code: ours, 1000 if the client left, 1006 if its connection is lost.
    pub(crate) code: u16,
}

/// What the endpoint allows. How many orders one socket follows is a matter of the hub.
#[derive(Clone, Debug)]
pub struct WsConfig {
    /// Origins of the web pages that may connect besides those on the host that serves the
    /// socket, on any port.
    pub allowed_origins: Vec<Origin>,
    /// Sockets at the same time.
    pub connections_max: usize,
    /// Sockets at the same time from one IPv4 address or one IPv6 /64 network.
    pub connections_per_address_max: usize,
    /// Sockets at the same time that showed a ticket of one user.
    pub connections_per_user_max: usize,
    /// Messages of one client that are read per second, control frames included; twice as many
    /// are read at once. A client that sends faster is held back by TCP.
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
            connections_per_user_max: 20,
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
    tickets: Arc<dyn TicketOffice>,
    clock: Arc<dyn Clock>,
    config: WsConfig,
    tracker: TaskTracker,
    stop: CancellationToken,
    admission: Arc<Admission>,
    stats: WsStats,
}

/// How long the store may take for an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

impl Shared {
    /// A read that begins now.
    fn context(&self, request_id: &RequestId) -> CallContext {
        let deadline = Deadline::at(self.clock.instant() + READ_TIMEOUT);
        CallContext::new(request_id.clone(), deadline)
    }

    /// Takes a ticket, and says whose it is.
    async fn redeem(&self, ctx: &CallContext, ticket: &Ticket) -> Result<UserId, Error> {
        let grant = self.tickets.redeem_ticket(ctx, ticket.as_str());
        let grant = timeout(READ_TIMEOUT, grant)
            .await
            .unwrap_or(Err(Error::DeadlineExceeded))?;
        Ok(grant.user_id)
    }
}

/// The endpoint as a router. The address of a client is taken from
/// [`Connection`](order_edge::Connection).
pub fn router(deps: WsDeps) -> Router {
    let WsDeps {
        hub,
        tickets,
        clock,
        ids,
        config,
        tracker,
        stop,
        calls,
        stats,
    } = deps;
    let frame = Frame::recorded(&ids, &clock, calls);
    let shared = Arc::new(Shared {
        admission: Admission::new(&config, &stats),
        hub,
        tickets,
        clock,
        config,
        tracker,
        stop,
        stats,
    });
    let upgrade = Operation::new(
        ("open_websocket", "/ws"),
        &frame,
        &shared,
        handshake::upgrade,
    );
    Router::new()
        .route("/ws", get(upgrade))
        .fallback(operation::route_not_found(&frame))
        .method_not_allowed_fallback(operation::method_not_allowed(&frame))
}
