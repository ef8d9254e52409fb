//! Clients that watch orders over WebSockets and check every version they are sent.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// How long a watcher waits for the final state of an order: a lease, time for takeovers
/// that are killed as well, and time to spare on a slow machine.
const FINAL_TIMEOUT: Duration = Duration::from_secs(40);

/// How long an order is watched after its final state, which nothing may follow.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a watcher waits before it connects again.
const PAUSE: Duration = Duration::from_millis(50);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What the watchers saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Sightings {
    /// Orders that were watched to the end.
    pub(super) n_finals: u64,
    /// Versions that came by themselves.
    pub(super) n_pushed: u64,
    /// Versions that were in the answer to a subscription.
    pub(super) n_recovered: u64,
    /// Sockets that were cut or closed.
    pub(super) n_cut: u64,
    /// Connections that could not be made, and subscriptions refused for now.
    pub(super) n_refused: u64,
    /// Orders whose final state was never seen.
    pub(super) n_without_final: u64,
    /// Versions that were skipped.
    pub(super) n_missed: u64,
    /// Versions that came twice, or after a later one.
    pub(super) n_backwards: u64,
    /// Acknowledged orders that the hub did not know, with the first answer.
    pub(super) n_unknown: u64,
    /// What went wrong first, in words.
    pub(super) first_breach: Option<String>,
}

/// Watchers of orders that come through a channel.
pub(super) struct Watchers {
    urls: Vec<String>,
    orders: tokio::sync::Mutex<mpsc::Receiver<String>>,
    sightings: Mutex<Sightings>,
}

/// One order, as far as a watcher has seen it.
struct Watch {
    order_id: String,
    version: u64,
    /// When the watch ends: some time after the final state, or too late.
    until: Instant,
    is_final: bool,
}

/// How a connection ended.
enum End {
    /// The order was watched to the end, and the socket can be used again.
    Done,
    /// The socket is gone.
    Cut,
}

impl Watchers {
    /// Watchers that connect to any of these hubs.
    pub(super) fn new(urls: Vec<String>, orders: mpsc::Receiver<String>) -> Self {
        Self {
            urls,
            orders: tokio::sync::Mutex::new(orders),
            sightings: Mutex::default(),
        }
    }

    /// What was seen so far.
    pub(super) fn sightings(&self) -> MutexGuard<'_, Sightings> {
        self.sightings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one order after the other until there are no more.
    pub(super) async fn watch(&self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut socket = None;
        loop {
            let order = self.orders.lock().await.recv().await;
            let Some(order_id) = order else { return };
            let mut watch = Watch {
                order_id,
                // Its creation was acknowledged, so the first version is known.
                version: 1,
                until: Instant::now() + FINAL_TIMEOUT,
                is_final: false,
            };
            while Instant::now() < watch.until {
                let hub = random.random_range(0..self.urls.len());
                let Some(connected) = self.connected(&mut socket, hub).await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                match self.follow(connected, &mut watch).await {
                    End::Done => break,
                    End::Cut => socket = None,
                }
            }
            let mut sightings = self.sightings();
            if watch.is_final {
                sightings.n_finals += 1;
            } else {
                sightings.n_without_final += 1;
                let Watch {
                    order_id, version, ..
                } = watch;
                let breach = format!("{order_id} stayed at version {version}");
                sightings.first_breach.get_or_insert(breach);
            }
        }
    }

    async fn connected<'a>(
        &self,
        socket: &'a mut Option<Socket>,
        hub: usize,
    ) -> Option<&'a mut Socket> {
        if socket.is_none() {
            let url = self.urls.get(hub)?;
            match timeout(CONNECT_TIMEOUT, connect_async(url)).await {
                Ok(Ok((connected, _))) => *socket = Some(connected),
                Ok(Err(_)) | Err(_) => self.sightings().n_refused += 1,
            }
        }
        socket.as_mut()
    }

    /// Subscribes from the last version on and reads until the watch ends or the socket.
    async fn follow(&self, socket: &mut Socket, watch: &mut Watch) -> End {
        let order_id = watch.order_id.clone();
        let subscribe = json!({"id": 1, "subscribe": {"order": &order_id, "since": watch.version}});
        if socket
            .send(Message::text(subscribe.to_string()))
            .await
            .is_err()
        {
            self.sightings().n_cut += 1;
            return End::Cut;
        }
        loop {
            let message = match timeout_at(watch.until, socket.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(_)) | None) => {
                    self.sightings().n_cut += 1;
                    return End::Cut;
                }
                Err(_) => {
                    let unsubscribe = json!({"id": 2, "unsubscribe": {"order": &order_id}});
                    return match socket.send(Message::text(unsubscribe.to_string())).await {
                        Ok(()) => End::Done,
                        Err(_) => End::Cut,
                    };
                }
            };
            let Message::Text(text) = message else {
                continue;
            };
            let Ok(frame) = serde_json::from_str::<Value>(&text) else {
                self.breach(watch, &text, |sightings| &mut sightings.n_missed);
                continue;
            };
            if let Some(error) = frame.get("error") {
                if error.get("code").and_then(Value::as_str) == Some("ORDER_NOT_FOUND") {
                    self.breach(watch, &text, |sightings| &mut sightings.n_unknown);
                } else {
                    self.sightings().n_refused += 1;
                }
                tokio::time::sleep(PAUSE).await;
                return End::Cut;
            }
            self.take(watch, &frame, &text);
        }
    }

    /// Checks what a frame says about the order.
    fn take(&self, watch: &mut Watch, frame: &Value, text: &str) {
        let Some(answer) = frame.get("subscribed") else {
            if frame.get("order_id").and_then(Value::as_str) == Some(&watch.order_id) {
                self.sightings().n_pushed += 1;
                self.take_event(watch, frame, text);
            }
            return;
        };
        if answer.get("order").and_then(Value::as_str) != Some(&watch.order_id) {
            return;
        }
        // Without a position that the server has lost, everything since must be there.
        if answer.get("recovered") != Some(&Value::Bool(true)) {
            self.breach(watch, text, |sightings| &mut sightings.n_missed);
        }
        for event in answer
            .get("events")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            self.sightings().n_recovered += 1;
            self.take_event(watch, event, text);
        }
        if answer.get("version").and_then(Value::as_u64) != Some(watch.version) {
            self.breach(watch, text, |sightings| &mut sightings.n_missed);
        }
    }

    fn take_event(&self, watch: &mut Watch, event: &Value, text: &str) {
        let version = event
            .get("version")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        if version <= watch.version {
            self.breach(watch, text, |sightings| &mut sightings.n_backwards);
            return;
        }
        if version > watch.version + 1 {
            self.breach(watch, text, |sightings| &mut sightings.n_missed);
        }
        watch.version = version;
        if event.get("status").and_then(Value::as_str) == Some("PROCESSED") {
            watch.is_final = true;
            watch.until = Instant::now() + AFTERWARDS;
        }
    }

    fn breach(&self, watch: &Watch, text: &str, which: fn(&mut Sightings) -> &mut u64) {
        let mut sightings = self.sightings();
        *which(&mut sightings) += 1;
        let breach = format!("{} at version {} got {text}", watch.order_id, watch.version);
        sightings.first_breach.get_or_insert(breach);
    }
}
