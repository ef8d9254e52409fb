mod limits;
mod protocol;
mod tickets;
mod time;
mod users;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::extract::ConnectInfo;
use futures_util::{SinkExt as _, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use order_core::{
    CallContext, Cause, Error, EventBus, Metadata, Money, Order, OrderEvent, OrderId, OrderReads,
    OrderState, OrderStatus, TicketGrant, TicketOffice, UserId, Version,
};
use order_hub::{Hub, HubConfig};
use order_testkit::clock::{SeededIds, SimClock};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest as _, handshake::client::Request},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::MapRequestLayer;

use order_edge::CallStats;

use super::{WsConfig, WsDeps, WsStats, router};

/// A wait that is longer has failed.
const SOON: Duration = Duration::from_mins(1);

#[derive(Default)]
struct FakeStore {
    histories: Mutex<HashMap<OrderId, Vec<OrderEvent>>>,
    is_down: AtomicBool,
    is_hanging: AtomicBool,
}

impl FakeStore {
    fn history(&self, order_id: OrderId) -> Vec<OrderEvent> {
        let histories = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        histories.get(&order_id).cloned().unwrap_or_default()
    }

    async fn check_up(&self) -> Result<(), Error> {
        if self.is_hanging.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.is_down.load(Ordering::Relaxed) {
            return Err(Error::store_unavailable("down"));
        }
        Ok(())
    }
}

#[async_trait]
impl OrderReads for FakeStore {
    async fn find(&self, _ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error> {
        self.check_up().await?;
        Ok(self.history(order_id).pop().map(|event| Order {
            id: event.order_id,
            user_id: event.user_id,
            money: Money::parse("100", "USD").expect("valid"),
            status: event.status,
            version: event.version,
            metadata: Metadata::NONE,
            external_id: None,
            failure: event.cause,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: event.at,
        }))
    }

    async fn events(
        &self,
        _ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error> {
        self.check_up().await?;
        let mut events = self.history(order_id);
        events.retain(|event| event.version > after);
        events.truncate(limit);
        Ok(events)
    }

    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error> {
        self.check_up().await?;
        let last = |order_id: &OrderId| self.history(*order_id).pop();
        Ok(order_ids.iter().filter_map(last).map(state).collect())
    }

    async fn recent_states(
        &self,
        user_ids: &[UserId],
        limit_per_user: usize,
    ) -> Result<Vec<OrderState>, Error> {
        self.check_up().await?;
        let [user_id] = user_ids else {
            unreachable!("no reconcile pass runs");
        };
        let histories = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let newest = histories.values().filter_map(|history| history.last());
        let mut states: Vec<_> = newest
            .filter(|event| event.user_id == *user_id)
            .cloned()
            .map(state)
            .collect();
        states.sort_by_key(|state| std::cmp::Reverse(state.order_id));
        states.truncate(limit_per_user);
        Ok(states)
    }
}

/// Takes `ticket-of-NAME-N` once, as a ticket of `NAME`.
#[derive(Default)]
struct FakeOffice {
    redeemed: Mutex<HashSet<String>>,
    is_down: AtomicBool,
}

#[async_trait]
impl TicketOffice for FakeOffice {
    async fn redeem_ticket(&self, _ctx: &CallContext, text: &str) -> Result<TicketGrant, Error> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(Error::store_unavailable("down"));
        }
        let user_id = text
            .strip_prefix("ticket-of-")
            .and_then(|text| text.rsplit_once('-'))
            .map(|(user_id, _)| user(user_id))
            .ok_or(Error::TicketInvalid)?;
        let mut redeemed = self.redeemed.lock().unwrap_or_else(PoisonError::into_inner);
        if !redeemed.insert(text.to_owned()) {
            return Err(Error::TicketInvalid);
        }
        Ok(TicketGrant { user_id })
    }
}

fn state(event: OrderEvent) -> OrderState {
    OrderState {
        order_id: event.order_id,
        user_id: event.user_id,
        version: event.version,
        status: event.status,
        updated_at: event.at,
        cause: event.cause,
    }
}

fn user(text: &str) -> UserId {
    UserId::parse(text).expect("valid")
}

fn order_id(n: u128) -> OrderId {
    OrderId::from_uuid(uuid::Uuid::from_u128(n))
}

/// The endpoint over a store and a hub, without a listener.
struct World {
    store: Arc<FakeStore>,
    office: Arc<FakeOffice>,
    hub: Arc<Hub>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl World {
    fn new(hub_config: HubConfig) -> Self {
        let store = Arc::new(FakeStore::default());
        Self {
            hub: Hub::new(
                hub_config,
                Arc::clone(&store) as Arc<_>,
                Arc::new(SimClock::new()),
            ),
            store,
            office: Arc::default(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    fn deps(&self, config: WsConfig) -> WsDeps {
        WsDeps {
            hub: Arc::clone(&self.hub),
            tickets: Arc::clone(&self.office) as _,
            clock: Arc::new(SimClock::new()),
            ids: Arc::new(SeededIds::new(7)),
            config,
            tracker: self.tracker.clone(),
            stop: self.stop.clone(),
            calls: CallStats::default(),
            stats: WsStats::default(),
        }
    }

    /// Moves the order in the store, without telling anybody.
    fn commit(&self, n: u128, status: OrderStatus) -> OrderEvent {
        self.commit_of("user-1", n, status)
    }

    /// Does the same, for this reason.
    fn commit_because(&self, n: u128, status: OrderStatus, cause: &Cause) {
        self.append("user-1", n, status, Some(cause.clone()));
    }

    /// Does the same for an order of the named user; one that fails has a cause.
    fn commit_of(&self, user_id: &str, n: u128, status: OrderStatus) -> OrderEvent {
        let cause = Cause::new("OUT_OF_STOCK", "none left");
        let cause = Some(cause).filter(|_| status == OrderStatus::Failed);
        self.append(user_id, n, status, cause)
    }

    fn append(
        &self,
        user_id: &str,
        n: u128,
        status: OrderStatus,
        cause: Option<Cause>,
    ) -> OrderEvent {
        let order_id = order_id(n);
        let mut histories = self
            .store
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let history = histories.entry(order_id).or_default();
        let version = history.last().map_or(1, |last| last.version + 1);
        let event = OrderEvent {
            order_id,
            user_id: user(user_id),
            version,
            status,
            at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(version)),
            cause,
            trace_parent: None,
        };
        history.push(event.clone());
        event
    }

    /// Moves the order and tells the hub.
    fn publish(&self, n: u128, status: OrderStatus) {
        self.publish_of("user-1", n, status);
    }

    /// Does the same for an order of the named user.
    fn publish_of(&self, user_id: &str, n: u128, status: OrderStatus) {
        let event = self.commit_of(user_id, n, status);
        self.hub.publish(&[event]);
    }
}

/// The defaults, but for a server whose end nobody waits for.
fn no_drain() -> WsConfig {
    WsConfig {
        drain_window: Duration::ZERO,
        ..WsConfig::default()
    }
}

/// The endpoint behind a listener on a free port of the loopback interface.
struct Server {
    world: World,
    address: SocketAddr,
    accepting: TaskTracker,
    stop_accepting: CancellationToken,
}

/// Tells a request where it comes from, as the server loop does.
fn tell_peer(mut request: axum::extract::Request) -> axum::extract::Request {
    let extensions = request.extensions_mut();
    if let Some(ConnectInfo(peer)) = extensions.get().copied() {
        let draining = CancellationToken::new();
        extensions.insert(Arc::new(order_edge::Connection { peer, draining }));
    }
    request
}

impl Server {
    async fn start(config: WsConfig, hub_config: HubConfig) -> Self {
        let world = World::new(hub_config);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let service = router(world.deps(config))
            .layer(MapRequestLayer::new(tell_peer))
            .into_make_service_with_connect_info::<SocketAddr>();
        let (accepting, stop_accepting) = (TaskTracker::new(), CancellationToken::new());
        let stopped = stop_accepting.clone();
        accepting.spawn(async move {
            stopped
                .run_until_cancelled(async { axum::serve(listener, service).await })
                .await
        });
        Self {
            world,
            address,
            accepting,
            stop_accepting,
        }
    }

    async fn with_defaults() -> Self {
        Self::start(no_drain(), HubConfig::default()).await
    }

    fn request(&self) -> Request {
        self.request_with("")
    }

    /// A request with this query, the question mark included.
    fn request_with(&self, query: &str) -> Request {
        format!("ws://{}/ws{query}", self.address)
            .into_client_request()
            .expect("a valid URL")
    }

    async fn connect(&self) -> Client<TcpStream> {
        self.try_connect(self.request())
            .await
            .map(|(client, _)| client)
            .expect("a socket")
    }

    async fn try_connect(
        &self,
        request: Request,
    ) -> Result<(Client<TcpStream>, http::HeaderMap), Box<http::Response<Option<Vec<u8>>>>> {
        let tcp = TcpStream::connect(self.address)
            .await
            .expect("a connection");
        match tokio_tungstenite::client_async(request, tcp).await {
            Ok((socket, response)) => Ok((Client { socket }, response.headers().clone())),
            Err(tungstenite::Error::Http(response)) => Err(response),
            Err(other) => panic!("no answer: {other}"),
        }
    }

    async fn shut_down(self) {
        self.stop_accepting.cancel();
        self.accepting.close();
        timeout(SOON, self.accepting.wait()).await.expect("ends");
        self.world.stop.cancel();
        self.world.tracker.close();
        timeout(SOON, self.world.tracker.wait())
            .await
            .expect("ends");
        assert_eq!(self.world.hub.n_sessions(), 0);
    }
}

struct Client<S> {
    socket: WebSocketStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, message: impl Into<Message>) {
        self.socket.send(message.into()).await.expect("sent");
    }

    async fn send_order(&mut self, n: u128) {
        self.send(order_id(n).to_string()).await;
    }

    async fn next(&mut self) -> Message {
        timeout(SOON, self.socket.next())
            .await
            .expect("a message comes")
            .expect("the socket is open")
            .expect("the socket is sound")
    }

    /// The next text, past pings.
    async fn text(&mut self) -> String {
        let text = async {
            loop {
                match self.next().await {
                    Message::Text(text) => return text.as_str().to_owned(),
                    Message::Ping(_) => {}
                    other => panic!("no text: {other:?}"),
                }
            }
        };
        timeout(SOON, text).await.expect("a text comes")
    }

    /// Sends `text` and returns the next text.
    async fn ask(&mut self, text: impl Into<String>) -> String {
        self.send(text.into()).await;
        self.text().await
    }

    /// The next two texts, the shorter one first.
    async fn both_forms(&mut self) -> [String; 2] {
        let mut texts = [self.text().await, self.text().await];
        texts.sort_by_key(String::len);
        texts
    }

    /// Shows that the socket is open and that nothing waits before the answer.
    async fn check_silent(&mut self) {
        assert_eq!(self.ask(r#"{"ping":true}"#).await, r#"{"pong":true}"#);
    }

    /// Reads up to the close frame, past everything else.
    async fn close_frame(&mut self) -> (u16, String) {
        let close_frame = async {
            loop {
                if let Message::Close(Some(frame)) = self.next().await {
                    return (frame.code.into(), frame.reason.as_str().to_owned());
                }
            }
        };
        timeout(SOON, close_frame).await.expect("a close frame")
    }
}
