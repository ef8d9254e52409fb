//! One client at each limit that clients share, and another one that notices nothing.
//!
//! The attacker is at one address, goes to the limit and stays there. The other client is at
//! another address and uses all of the API meanwhile. `docs/operations.md` names, for each limit,
//! the tests that show it.

mod grpc;
mod http;
mod load;

use std::net::SocketAddr;

use futures_util::{StreamExt as _, future::join_all};
use h2::{
    Reason, RecvStream,
    client::{Builder, SendRequest},
};
use hyper::{Method, Request, body::Bytes};
use order_core::WatchOrder;
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};

use crate::{
    positions::Sse,
    support::{Http, PATIENCE, System, context},
    websocket::{connect, hear, say},
};

/// The address of the attacker. The other client has 127.0.0.1.
const ATTACKER: &str = "127.0.0.2:0";

/// Streams of one connection: as many as HTTP allows.
const STREAMS_PER_CONNECTION: usize = 100;

/// Opens a connection as the attacker.
async fn attacker_socket(target: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let address = ATTACKER.parse().expect("an address");
    socket.bind(address).expect("an address of this machine");
    socket.connect(target).await.expect("a connection")
}

/// An attacker that opens streams, over as many HTTP/2 connections as it takes, and holds them.
struct Attacker {
    target: SocketAddr,
    /// How much of an answer it takes.
    window: u32,
    /// Whether an answer begins at once.
    is_answered: bool,
    connections: JoinSet<()>,
    /// A stream that ends was turned away.
    streams: JoinSet<()>,
}

impl Attacker {
    /// Attacks an HTTP API.
    fn new(target: SocketAddr) -> Self {
        Self {
            target,
            window: 65_535,
            is_answered: true,
            connections: JoinSet::new(),
            streams: JoinSet::new(),
        }
    }

    /// Opens a connection.
    async fn connect(&mut self) -> SendRequest<Bytes> {
        let socket = attacker_socket(self.target).await;
        let mut handshake = Builder::new();
        handshake.initial_window_size(self.window);
        let (sender, connection) = handshake.handshake(socket).await.expect("HTTP/2");
        self.connections.spawn(async move {
            // Closed or reset.
            let _ = connection.await;
        });
        sender
    }

    /// Opens streams until one is turned away, at most `n_max`. Each sends a request with these
    /// bytes of a body, which ends with them or never.
    async fn attack(&mut self, n_max: usize, request: &Request<()>, body: (&'static [u8], bool)) {
        let mut n_open = 0;
        let mut turned_away = None;
        while n_open < n_max && turned_away.is_none() {
            let mut sender = self.connect().await;
            let mut begun = Vec::new();
            for _ in 0..STREAMS_PER_CONNECTION.min(n_max - n_open) {
                sender = timeout(PATIENCE, sender.ready())
                    .await
                    .expect("in time")
                    .expect("open");
                let (bytes, is_whole) = body;
                let is_empty = bytes.is_empty();
                let (response, mut sent) = sender
                    .send_request(request.clone(), is_empty && is_whole)
                    .expect("within the limit of a connection");
                if !is_empty {
                    sent.send_data(Bytes::from_static(bytes), is_whole)
                        .expect("open");
                }
                let (begins, has_begun) = oneshot::channel();
                begun.push(has_begun);
                self.streams.spawn(async move {
                    let _sent = sent;
                    let response = response.await;
                    // The receiver may have stopped waiting.
                    let _ = begins.send(());
                    match response {
                        Ok(response) if response.status().is_success() => {
                            read_to_end(response.into_body()).await;
                        }
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM)),
                    }
                });
                n_open += 1;
            }
            if self.is_answered {
                // One after the other, so that no other limit is reached before.
                timeout(PATIENCE, join_all(begun)).await.expect("answers");
            }
            turned_away = self.streams.try_join_next();
        }
        if turned_away.is_none() {
            let waited = timeout(PATIENCE, self.streams.join_next()).await;
            turned_away =
                waited.unwrap_or_else(|_| panic!("none of {n_open} streams was turned away"));
        }
        turned_away.expect("a stream").expect("turned away alone");
    }
}

/// Reads an answer until it ends or is reset.
async fn read_to_end(mut body: RecvStream) {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
}

/// A request for the events of an order.
fn event_stream(addr: SocketAddr, order_id: &str) -> Request<()> {
    let request = Request::get(format!("http://{addr}/orders/{order_id}/events"));
    let request = request.header("accept", "text/event-stream");
    request.body(()).expect("a request")
}

/// Uses all of the API, as a client at 127.0.0.1. Orders are not processed for as long as the test
/// takes.
async fn assert_served(system: &System) {
    let http = Http::new(system.http_addr());
    let order_id = http.create_order().await;
    let path = format!("/orders/{order_id}");
    assert_eq!(http.get(&path).await.json()["status"], "PENDING");
    let list = http.get("/orders?page_size=1000").await;
    assert_eq!(list.status, 200, "{list:?}");
    let prefer = [("prefer", "wait=1")];
    let waited = http.send_with(Method::GET, &path, &prefer, None).await;
    assert_eq!(waited.header("preference-applied"), Some("wait=1"));

    let mut events = watch(&http, &order_id).await;
    let mut socket = connect(system).await;
    say(&mut socket, subscribe(&order_id).to_string()).await;
    assert_eq!(hear(&mut socket).await["subscribed"]["version"], 1);
    let remote = system.remote();
    let watched = WatchOrder {
        order_id: order_id.parse().expect("an id"),
        since: None,
    };
    let watch = remote.watch_orders(&context(), vec![watched]).await;
    let mut watch = watch.expect("a stream");

    let path = format!("{path}/cancel");
    let cancelled = http.send(Method::POST, &path, None).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    assert_eq!(version(&mut events).await, "2");
    assert_eq!(hear(&mut socket).await["version"], 2);
    for version in 1..=2 {
        let event = timeout(PATIENCE, watch.next()).await.expect("in time");
        assert_eq!(event.expect("open").expect("no error").version, version);
    }
}

/// Opens an event stream, and waits for the first event.
async fn watch(http: &Http, order_id: &str) -> Sse {
    let path = format!("/orders/{order_id}/events");
    let headers = [("accept", "text/event-stream")];
    let response = http.open(Method::GET, &path, &headers, None).await;
    let mut events = Sse::new(response.expect("an answer"));
    assert_eq!(version(&mut events).await, "1");
    events
}

async fn version(events: &mut Sse) -> String {
    // Signs of life do not restart the timeout.
    let event = timeout(PATIENCE, events.next()).await.expect("in time");
    let event = event.expect("the stream goes on");
    event.id.expect("a version")
}

fn subscribe(order_id: &str) -> Value {
    json!({"subscribe": {"order": order_id}})
}

/// Flags with which no order moves by itself.
const UNPROCESSED: [&str; 2] = ["--processor-delay", "1h"];
