//! Event streams over a real listener: what arrives, when they end, and what they hold.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use order_core::OrderStatus;
use order_edge::{ServeConfig, ServeError, serve};
use order_web::http::HttpConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    live::LiveApi,
    support::{PATIENCE, app_over, deps_over},
};

struct Server {
    api: Arc<LiveApi>,
    address: SocketAddr,
    /// Stops the streams.
    stop: CancellationToken,
    _running: JoinSet<Result<(), ServeError>>,
}

impl Server {
    fn start(config: HttpConfig) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let api = LiveApi::new();
        let deps = deps_over(api.clone());
        let stop = deps.stop.clone();
        let mut running = JoinSet::new();
        let serve_config = ServeConfig::new("test");
        let app = app_over(deps, config);
        running.spawn(serve(listener, app, serve_config, CancellationToken::new()));
        Self {
            api,
            address,
            stop,
            _running: running,
        }
    }

    /// Opens a stream with the given lines in the head.
    async fn open(&self, headers: &str) -> Client {
        let mut connection = TcpStream::connect(self.address).await.expect("a port");
        let head = format!(
            "GET /orders/{}/events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\
                connection: close\r\n{headers}\r\n",
            self.api.order_id
        );
        connection.write_all(head.as_bytes()).await.expect("sent");
        Client {
            connection,
            received: String::new(),
        }
    }
}

struct Client {
    connection: TcpStream,
    received: String,
}

impl Client {
    /// Reads until `text` has come.
    async fn until(&mut self, text: &str) {
        while !self.received.contains(text) {
            assert!(self.read().await > 0, "no {text:?} in {}", self.received);
        }
    }

    /// Reads until the server closes: the answer without what frames its chunks.
    async fn into_rest(mut self) -> String {
        while self.read().await > 0 {}
        let is_chunk_head = |line: &&str| line.bytes().all(|c| c.is_ascii_hexdigit());
        let lines = self.received.split("\r\n");
        let lines = lines.filter(|line| line.is_empty() || !is_chunk_head(line));
        lines.collect::<Vec<_>>().join("\n")
    }

    async fn read(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let read = timeout(PATIENCE, self.connection.read(&mut bytes)).await;
        let n = read.expect("something comes").expect("no error");
        self.received += std::str::from_utf8(&bytes[..n]).expect("text");
        n
    }
}

fn ids(stream: &str) -> Vec<&str> {
    let lines = stream.lines();
    lines.filter_map(|line| line.strip_prefix("id: ")).collect()
}

#[tokio::test]
async fn stream_tells_everything_and_ends_with_the_order() {
    let server = Server::start(HttpConfig::default());
    let mut client = server.open("").await;
    client.until("id: 1").await;
    server.api.move_to(OrderStatus::Processing);
    client.until("id: 2").await;
    server.api.move_to(OrderStatus::Failed);
    // It may be retried, so this is not the end.
    client.until("id: 3").await;
    server.api.move_to(OrderStatus::Pending);
    server.api.move_to(OrderStatus::Processed);
    let text = client.into_rest().await;
    let (head, body) = text.split_once("\n\n").expect("a head");
    for line in [
        "HTTP/1.1 200 OK",
        "content-type: text/event-stream",
        "cache-control: no-store",
        "x-accel-buffering: no",
        "vary: accept",
    ] {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
    let events: String =
        body.split('\n')
            .filter(|line| !line.is_empty())
            .fold(String::new(), |mut text, line| {
                text.push_str(line);
                text.push('\n');
                text
            });
    insta::assert_snapshot!(events, @r#"
    retry: 2585
    id: 1
    event: order.status
    data: {"order_id":"00000000-0000-7000-8000-00000000beef","status":"PENDING","version":1,"at":"1970-01-01T00:00:01.000000Z"}
    id: 2
    event: order.status
    data: {"order_id":"00000000-0000-7000-8000-00000000beef","status":"PROCESSING","version":2,"at":"1970-01-01T00:00:02.000000Z"}
    id: 3
    event: order.status
    data: {"order_id":"00000000-0000-7000-8000-00000000beef","status":"FAILED","version":3,"at":"1970-01-01T00:00:03.000000Z","cause":{"code":"NO","message":"it failed"}}
    id: 4
    event: order.status
    data: {"order_id":"00000000-0000-7000-8000-00000000beef","status":"PENDING","version":4,"at":"1970-01-01T00:00:04.000000Z"}
    id: 5
    event: order.status
    data: {"order_id":"00000000-0000-7000-8000-00000000beef","status":"PROCESSED","version":5,"at":"1970-01-01T00:00:05.000000Z"}
    event: end
    data: {"order_id":"00000000-0000-7000-8000-00000000beef","status":"PROCESSED","version":5,"at":"1970-01-01T00:00:05.000000Z"}
    "#);
    server.api.until_watching(0).await;

    // A client that comes back has nothing to wait for.
    let again = server.open("last-event-id: 5\r\n").await.into_rest().await;
    assert!(again.starts_with("HTTP/1.1 204 No Content\n"), "{again}");
    assert!(!again.contains("content-length"), "{again}");
    let rest = server.open("last-event-id: 3\r\n").await.into_rest().await;
    assert_eq!(ids(&rest), ["4", "5"]);
}

#[tokio::test]
async fn watch_that_is_cut_ends_the_stream_without_an_end() {
    let server = Server::start(HttpConfig::default());
    let mut client = server.open("").await;
    client.until("id: 1").await;
    server.api.cut();
    client.until("\r\n0\r\n\r\n").await;
    assert!(!client.received.contains("event: end"));
}

/// A browser would never come back after an error.
fn assert_comes_back(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains("content-type: text/event-stream"),
        "{answer}"
    );
    let is_told = answer.contains(": 503 Service Unavailable\nretry: ");
    assert!(is_told, "{answer}");
}

#[tokio::test]
async fn stop_ends_streams_and_refuses_new_ones() {
    let server = Server::start(HttpConfig::default());
    let mut client = server.open("").await;
    client.until("id: 1").await;
    server.stop.cancel();
    client.until("\r\n0\r\n\r\n").await;
    assert!(!client.received.contains("event: end"));
    server.api.until_watching(0).await;
    let refused = server.open("").await.into_rest().await;
    assert_comes_back(&refused);
}

#[tokio::test]
async fn place_of_a_client_that_left_is_free_again() {
    let server = Server::start(HttpConfig {
        streams_max: 1,
        ..HttpConfig::default()
    });
    let mut client = server.open("").await;
    client.until("id: 1").await;
    let refused = server.open("").await.into_rest().await;
    assert_comes_back(&refused);
    drop(client);
    server.api.until_watching(0).await;
    let mut next = server.open("").await;
    next.until("id: 1").await;
}

#[tokio::test(start_paused = true)]
async fn silent_stream_says_that_it_is_there() {
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    let api = LiveApi::new();
    let app = app_over(deps_over(api.clone()), HttpConfig::default());
    let path = format!("/orders/{}/events", api.order_id);
    let request = crate::support::request("GET", &path, "");
    let request = crate::support::with(request, "accept", "text/event-stream");
    let response = app.oneshot(request).await.expect("infallible");
    let mut body = response.into_body();
    let begun = tokio::time::Instant::now();
    let mut frames = Vec::new();
    for _ in 0..4 {
        let frame = body.frame().await.expect("a frame").expect("no error");
        let data = frame.into_data().expect("data");
        let text = std::str::from_utf8(&data).expect("text");
        let first_line = text.lines().next().expect("a line");
        frames.push((begun.elapsed().as_secs(), first_line.to_owned()));
    }
    let expected = [
        (0, "retry: 2585"),
        (0, "id: 1"),
        (15, ": keep-alive"),
        (30, ": keep-alive"),
    ];
    assert_eq!(frames, expected.map(|(at, line)| (at, line.to_owned())));
    // Nobody reads for longer than that: nothing piles up.
    tokio::time::sleep(Duration::from_mins(10)).await;
    api.move_to(OrderStatus::Processed);
    let frame = body.frame().await.expect("a frame").expect("no error");
    assert!(frame.into_data().expect("data").starts_with(b"id: 2"));
}
