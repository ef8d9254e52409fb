//! One position everywhere: a watcher may change transport in the middle and miss nothing.

use std::{collections::VecDeque, sync::Arc};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::{Method, Response, body::Incoming};
use order_core::{
    CreateOrder, Money, OrderApi, OrderId, OrderStatus, UpdateStatus, UserId, WatchOrder,
};
use serde_json::{Value, json};

use crate::{
    support::{Engine, Http, PATIENCE, Shape, System, context, database, run},
    websocket::{Socket, connect, hear, say},
};

/// How many changes a burst has. The watcher changes transport many times within it.
const CHANGES: u32 = 120;

/// How many versions are read before the next change of transport.
const READ_AT_ONCE: usize = 4;

/// A stream of server-sent events, read event by event.
pub(crate) struct Sse {
    body: Incoming,
    text: String,
    events: VecDeque<SseEvent>,
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) data: String,
}

impl Sse {
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            text: String::new(),
            events: VecDeque::new(),
        }
    }

    /// The next event that has data; `None` once the server has ended the stream.
    pub(crate) async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame());
            let frame = frame.await.expect("in time")?.expect("no error");
            let bytes = frame.into_data().expect("data");
            self.text
                .push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
            while let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                self.events.extend(parse(&self.text));
                self.text = rest;
            }
        }
    }
}

fn parse(block: &str) -> Option<SseEvent> {
    let mut event = SseEvent::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => event.id = Some(id.to_owned()),
            Some(("event", name)) => event.name = Some(name.to_owned()),
            Some(("data", data)) => event.data.push_str(data),
            // A comment, or the time to wait before a new connection.
            _ => {}
        }
    }
    (!event.data.is_empty()).then_some(event)
}

fn version(event: &Value) -> u32 {
    let version = event["version"].as_u64().expect("a version");
    version.try_into().expect("small")
}

/// Reads a few versions over the WebSocket, from a position on.
async fn by_websocket(system: &System, order_id: OrderId, since: u32, n_wanted: usize) -> Vec<u32> {
    let mut socket = connect(system).await;
    let subscribe = json!({"id": 1, "subscribe": {"order": order_id.to_string(), "since": since}});
    say(&mut socket, subscribe.to_string()).await;
    let answer = hear(&mut socket).await;
    let subscribed = &answer["subscribed"];
    assert_eq!(subscribed["recovered"], true, "{answer}");
    let missed = subscribed["events"].as_array().expect("events");
    let mut versions: Vec<u32> = missed.iter().map(version).collect();
    while versions.len() < n_wanted && versions.last().is_none_or(|last| *last <= CHANGES) {
        versions.push(version(&hear(&mut socket).await));
    }
    versions
}

/// The same by server-sent events.
async fn by_sse(http: &Http, order_id: OrderId, since: u32, n_wanted: usize) -> Vec<u32> {
    let path = format!("/orders/{order_id}/events");
    let position = since.to_string();
    let headers = [
        ("accept", "text/event-stream"),
        ("last-event-id", position.as_str()),
    ];
    let response = http.open(Method::GET, &path, &headers, None).await;
    let mut events = Sse::new(response.expect("an answer"));
    let mut versions = Vec::new();
    while versions.len() < n_wanted && versions.last().is_none_or(|last| *last <= CHANGES) {
        let event = events.next().await.expect("open");
        assert_eq!(event.name.as_deref(), Some("order.status"));
        let data: Value = serde_json::from_str(&event.data).expect("JSON");
        assert_eq!(event.id, Some(version(&data).to_string()));
        versions.push(version(&data));
    }
    versions
}

/// The same over gRPC.
async fn by_grpc(
    api: &Arc<dyn OrderApi>,
    order_id: OrderId,
    since: u32,
    n_wanted: usize,
) -> Vec<u32> {
    let watch = vec![WatchOrder {
        order_id,
        since: Some(since),
    }];
    let mut events = api.watch_orders(&context(), watch).await.expect("a stream");
    let mut versions = Vec::new();
    while versions.len() < n_wanted && versions.last().is_none_or(|last| *last <= CHANGES) {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        let event = event.expect("in time").expect("open").expect("no error");
        versions.push(event.version);
    }
    versions
}

/// Moves an order to and fro, as fast as the system can.
async fn burst(api: Arc<dyn OrderApi>, order_id: OrderId) {
    for n in 0..CHANGES {
        let status = if n % 2 == 0 {
            OrderStatus::Failed
        } else {
            OrderStatus::Pending
        };
        let request = UpdateStatus {
            order_id,
            status,
            cause: None,
            if_match: None,
        };
        api.update_status(&context(), request).await.expect("moved");
    }
}

#[test]
fn a_watcher_that_changes_transport_sees_every_version_once() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            // No workers: nobody else moves the order.
            let system = System::start(Shape::Split, &database, &["--workers", "0"]).await;
            let api = Arc::clone(&system.service.api);
            let order = api
                .create_order(
                    &context(),
                    CreateOrder::new(
                        UserId::parse("user-1").expect("valid"),
                        Money::parse("1", "USD").expect("valid"),
                    ),
                )
                .await
                .expect("created")
                .order;
            let http = Http::new(system.http_addr());
            let remote = system.remote();
            let changes = tokio::task::spawn_local(burst(api, order.id));
            let mut seen = Vec::new();
            for turn in 0.. {
                let since = seen.last().copied().unwrap_or(0);
                if since > CHANGES {
                    break;
                }
                let versions = match turn % 3 {
                    0 => by_websocket(&system, order.id, since, READ_AT_ONCE).await,
                    1 => by_sse(&http, order.id, since, READ_AT_ONCE).await,
                    _ => by_grpc(&remote, order.id, since, READ_AT_ONCE).await,
                };
                seen.extend(versions);
            }
            changes.await.expect("no panic");
            assert_eq!(seen, (1..=CHANGES + 1).collect::<Vec<_>>());
            drop((http, remote));
            system.stop().await;
        }
    });
}

#[test]
fn watchers_see_everything_without_any_hint() {
    run(async {
        // Two processes on one database, between which nothing is passed on: whatever the
        // second one does, watchers of the first learn of it from the database alone.
        let database = database!(Engine::Postgres);
        let watched = System::start(Shape::Split, &database, &["--workers", "0"]).await;
        let working = System::start(Shape::AllInOne, &database, &[]).await;
        let http = Http::new(watched.http_addr());
        let mut socket = connect(&watched).await;
        say(&mut socket, r#"{"subscribe":{"user":"user-1"}}"#).await;
        assert_eq!(hear(&mut socket).await["subscribed"]["user"], "user-1");
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(http.create_order().await);
        }
        for id in &ids {
            let order_id = id.parse().expect("an id");
            assert_eq!(by_grpc(&watched.remote(), order_id, 1, 1).await, [2]);
            assert_eq!(by_sse(&http, order_id, 0, 2).await, [1, 2]);
        }
        let mut pushed: Vec<(String, u32)> = Vec::new();
        while pushed.len() < 2 * ids.len() {
            let event = hear(&mut socket).await;
            let id = event["order_id"].as_str().expect("an id").to_owned();
            pushed.push((id, version(&event)));
        }
        pushed.sort_unstable();
        let expected = ids.iter().flat_map(|id| [(id.clone(), 1), (id.clone(), 2)]);
        assert_eq!(pushed, expected.collect::<Vec<_>>());
        drop(socket);
        watched.stop().await;
        working.stop().await;
    });
}

#[test]
fn all_orders_of_a_user_come_to_their_end_without_any_hint() {
    run(async {
        // Three processes on one database, between which nothing is passed on.
        let database = database!(Engine::Postgres);
        let local = ["--events-url", "local"];
        let idle = ["--events-url", "local", "--workers", "0"];
        let watched = System::start(Shape::AllInOne, &database, &idle).await;
        let creating = System::start(Shape::AllInOne, &database, &idle).await;
        let mut socket = connect(&watched).await;
        assert_eq!(follow(&mut socket).await, 0);
        let http = Http::new(creating.http_addr());
        let mut ids = Vec::new();
        for _ in 0..60 {
            ids.push(http.create_order().await);
        }
        ids.sort_unstable();
        assert_eq!(pushed(&mut socket, &ids, "PENDING", 1).await, ids);
        // A new subscription whose answer has all of them: no pass looks for them as new orders.
        say(&mut socket, r#"{"unsubscribe":{"user":"user-1"}}"#).await;
        assert_eq!(hear(&mut socket).await["unsubscribed"]["user"], "user-1");
        assert_eq!(follow(&mut socket).await, ids.len());

        let working = System::start(Shape::AllInOne, &database, &local).await;
        assert_eq!(pushed(&mut socket, &ids, "PROCESSED", 2).await, ids);
        drop((socket, http));
        for system in [watched, creating, working] {
            system.stop().await;
        }
    });
}

/// Follows the user; how many orders the answer has.
async fn follow(socket: &mut Socket) -> usize {
    say(socket, r#"{"subscribe":{"user":"user-1"}}"#).await;
    let answer = hear(socket).await;
    let orders = answer["subscribed"]["orders"].as_array();
    orders.expect("a list").len()
}

/// The orders of as many pushes as there are ids, all of this status and version.
async fn pushed(
    socket: &mut Socket,
    ids: &[String],
    status: &str,
    expected_version: u32,
) -> Vec<String> {
    let mut pushed = Vec::new();
    for _ in ids {
        let event = hear(socket).await;
        let seen = (event["status"].as_str(), version(&event));
        assert_eq!(seen, (Some(status), expected_version), "{event}");
        pushed.push(event["order_id"].as_str().expect("an id").to_owned());
    }
    pushed.sort_unstable();
    pushed
}

#[test]
fn a_position_is_good_after_a_restart() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let system = System::start(Shape::AllInOne, &database, &[]).await;
            let id = Http::new(system.http_addr()).create_order().await;
            let http = Http::new(system.http_addr());
            http.wait_for_status(&id, "PROCESSED").await;
            drop(http);
            system.stop().await;
            let system = System::start(Shape::AllInOne, &database, &[]).await;
            let order_id = id.parse().expect("an id");
            assert_eq!(by_websocket(&system, order_id, 0, 2).await, [1, 2]);
            system.stop().await;
        }
    });
}

#[test]
fn a_finished_stream_ends_and_is_not_opened_again() {
    run(async {
        for shape in [Shape::AllInOne, Shape::Split] {
            let database = database!(Engine::Sqlite);
            let system = System::start(shape, &database, &["--processor-delay", "200ms"]).await;
            let http = Http::new(system.http_addr());
            let id = http.create_order().await;
            let path = format!("/orders/{id}/events");
            let stream = [("accept", "text/event-stream")];
            let response = http.open(Method::GET, &path, &stream, None).await;
            let mut events = Sse::new(response.expect("an answer"));
            let mut names = Vec::new();
            while let Some(event) = events.next().await {
                names.push((event.name.expect("a name"), event.id));
            }
            let status = |id: &str| ("order.status".to_owned(), Some(id.to_owned()));
            assert_eq!(names[..2], [status("1"), status("2")]);
            assert_eq!(names.len(), 3, "{names:?}");
            assert_eq!(names[2].0, "end");
            let again = [("accept", "text/event-stream"), ("last-event-id", "2")];
            let answer = http.send_with(Method::GET, &path, &again, None).await;
            assert_eq!((answer.status, answer.body.len()), (204, 0));
            for bad in ["3", "-1", "x"] {
                let headers = [("accept", "text/event-stream"), ("last-event-id", bad)];
                let refused = http.send_with(Method::GET, &path, &headers, None).await;
                assert_eq!(refused.status, 400, "{bad} {refused:?}");
            }
            system.stop().await;
        }
    });
}
