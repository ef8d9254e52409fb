//! The listener on real sockets. Each test makes the one limit short that it is about and
//! all others long, and waits until the limit has done its work.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use hyper_util::rt::TokioIo;
use order_edge::{Connection, ServeConfig, ServeError, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// A limit that never strikes within a test.
const LONG: Duration = Duration::from_mins(5);
/// A limit that strikes.
const SHORT: Duration = Duration::from_millis(100);

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HTTP2_EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn patient() -> ServeConfig {
    ServeConfig {
        first_byte_timeout: LONG,
        header_timeout: LONG,
        idle_timeout: LONG,
        write_timeout: LONG,
        http2_keepalive_interval: LONG,
        drain_timeout: LONG,
        ..ServeConfig::new("test")
    }
}

/// What the slow handler of [`app`] says and hears.
#[derive(Clone, Default)]
struct Gate {
    entered: Arc<Notify>,
    open: Arc<Notify>,
}

fn app(gate: &Gate) -> Router {
    let gate = gate.clone();
    Router::new()
        .route(
            "/",
            get(|peer: Extension<Arc<Connection>>| async move { peer.peer.to_string() }),
        )
        .route(
            "/slow",
            get(async move || {
                gate.entered.notify_one();
                gate.open.notified().await;
                "at last"
            }),
        )
        .route("/endless", get(endless))
        .route("/echo", get(upgrade_to_echo))
}

/// A body that only ends with its reader.
async fn endless() -> Body {
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    Body::from_stream(stream::repeat(Ok::<_, Infallible>(chunk)))
}

/// Leaves HTTP and returns each byte.
async fn upgrade_to_echo(mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let mut echo = JoinSet::new();
    echo.spawn(async move {
        let mut io = TokioIo::new(upgrade.await.expect("an upgrade"));
        let mut byte = [0];
        while io.read_exact(&mut byte).await.is_ok() {
            io.write_all(&byte).await.expect("a peer");
        }
    });
    echo.detach_all();
    (
        StatusCode::SWITCHING_PROTOCOLS,
        [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")],
    )
        .into_response()
}

async fn connect_from(local: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let local = local.parse().expect("an address");
    socket.bind(local).expect("an address of this machine");
    socket.connect(address).await.expect("a connection")
}

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    gate: Gate,
    running: JoinSet<Result<(), ServeError>>,
}

impl Server {
    fn start(config: ServeConfig) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, gate) = (CancellationToken::new(), Gate::default());
        let mut running = JoinSet::new();
        running.spawn(serve(listener, app(&gate), config, stop.clone()));
        Self {
            address,
            stop,
            gate,
            running,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address)
            .await
            .expect("a connection")
    }

    /// A connection on which `bytes` were sent.
    async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut connection = self.connect().await;
        connection.write_all(bytes).await.expect("sent");
        connection
    }

    async fn stopped(&mut self) {
        let ended = timeout(PATIENCE, self.running.join_next()).await;
        let result = ended.expect("the server ends").expect("it ran");
        result.expect("no panic").expect("no failure");
    }
}

/// Reads until the server closes.
async fn read_to_end(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, connection.read_to_end(&mut bytes)).await;
    // A reset is a close too.
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `end` has come.
async fn read_until(connection: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(end) {
        let read = timeout(PATIENCE, connection.read_buf(&mut bytes)).await;
        let n_read = read.expect("an answer").expect("an open connection");
        assert_ne!(
            n_read,
            0,
            "closed after {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads the answer to [`GET`], which is the address of this end.
async fn read_answer(connection: &mut TcpStream) {
    let local = connection.local_addr().expect("an address").to_string();
    read_until(connection, &local).await;
}

#[tokio::test]
async fn handlers_learn_the_address_of_the_client() {
    let server = Server::start(patient());
    let mut connection = server.send(GET).await;
    read_answer(&mut connection).await;
}

#[tokio::test]
async fn protocol_is_told_however_its_first_bytes_arrive() {
    let server = Server::start(patient());
    for (opening, answer) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200"),
        // These begin as an HTTP/2 preface does.
        ("POST / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 405"),
        ("PROPFIND / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 405"),
        // Preface and empty settings; the server sends its own, which are frames of type 4.
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            "\x04",
        ),
    ] {
        let mut whole = server.send(opening.as_bytes()).await;
        read_until(&mut whole, answer).await;
        let mut dribbled = server.connect().await;
        dribbled.set_nodelay(true).expect("a socket");
        for byte in opening.bytes() {
            dribbled.write_all(&[byte]).await.expect("sent");
            tokio::task::yield_now().await;
        }
        read_until(&mut dribbled, answer).await;
    }
}

#[tokio::test]
async fn silent_connection_is_closed() {
    let server = Server::start(ServeConfig {
        first_byte_timeout: SHORT,
        ..patient()
    });
    let mut connection = server.connect().await;
    assert_eq!(read_to_end(&mut connection).await, "");
}

#[tokio::test]
async fn dribbled_head_is_closed() {
    let server = Server::start(ServeConfig {
        header_timeout: SHORT,
        ..patient()
    });
    let (mut reader, mut writer) = server.connect().await.into_split();
    let dribble = async {
        let mut pace = tokio::time::interval(SHORT / 10);
        writer.write_all(b"GET / HTTP/1.1\r\nx: ").await?;
        loop {
            pace.tick().await;
            writer.write_all(b"x").await?;
        }
    };
    let mut bytes = Vec::new();
    let closed = async {
        tokio::select! {
            _ = reader.read_to_end(&mut bytes) => {}
            result = dribble => { let _: std::io::Result<()> = result; }
        }
    };
    timeout(PATIENCE, closed).await.expect("the server closes");
}

#[tokio::test]
async fn idle_connection_is_closed_after_the_idle_timeout() {
    for idle in [GET, HTTP2_PREFACE] {
        let server = Server::start(ServeConfig {
            header_timeout: if idle == GET { LONG } else { SHORT },
            idle_timeout: SHORT,
            ..patient()
        });
        let mut connection = server.send(idle).await;
        read_to_end(&mut connection).await;
    }
}

#[tokio::test]
async fn idle_connection_outlives_the_header_timeout() {
    let server = Server::start(ServeConfig {
        header_timeout: SHORT,
        ..patient()
    });
    let mut connection = server.send(GET).await;
    read_answer(&mut connection).await;
    let quiet = timeout(3 * SHORT, connection.read_u8()).await;
    assert!(quiet.is_err(), "nothing comes, and no end either");
    connection.write_all(GET).await.expect("sent");
    read_answer(&mut connection).await;
}

#[tokio::test]
async fn peer_that_reads_nothing_is_cut() {
    let server = Server::start(ServeConfig {
        write_timeout: SHORT,
        connections_max: 1,
        ..patient()
    });
    let _deaf = server
        .send(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    // Its place is free again once the server has let go of it.
    let free = async { while !is_served(&server).await {} };
    timeout(PATIENCE, free).await.expect("the place is free");
}

async fn is_served(server: &Server) -> bool {
    let mut connection = server.connect().await;
    let mut byte = [0];
    connection.write_all(GET).await.is_ok()
        && matches!(connection.read(&mut byte).await, Ok(n_read) if n_read > 0)
}

#[tokio::test]
async fn head_above_a_limit_is_refused() {
    let server = Server::start(ServeConfig {
        header_count_max: 8,
        header_len_max: 8 * 1024,
        ..patient()
    });
    let many = "a: b\r\n".repeat(9);
    let long = format!("a: {}\r\n", "b".repeat(9 * 1024));
    for fields in [many, long] {
        let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let mut connection = server.send(head.as_bytes()).await;
        let answer = read_to_end(&mut connection).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    }
}

#[tokio::test]
async fn connection_above_the_limit_is_closed() {
    for (connections_max, connections_per_address_max) in [(1, 10), (10, 1)] {
        let server = Server::start(ServeConfig {
            connections_max,
            connections_per_address_max,
            ..patient()
        });
        let mut first = server.send(GET).await;
        read_answer(&mut first).await;
        assert!(!is_served(&server).await);
        drop(first);
        let free = async { while !is_served(&server).await {} };
        timeout(PATIENCE, free).await.expect("the place is free");
    }
}

#[tokio::test]
async fn requests_of_one_address_are_limited_over_all_its_connections() {
    let server = Server::start(ServeConfig {
        connections_max: 4,
        connections_per_address_max: 3,
        requests_per_connection: 2,
        ..patient()
    });
    let mut drivers = JoinSet::new();
    let mut streams = FuturesUnordered::new();
    for _ in 0..2 {
        let socket = connect_from("127.0.0.2:0", server.address).await;
        let (mut sender, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
        drivers.spawn(async { drop(connection.await) });
        for _ in 0..4 {
            let request = http::Request::get("http://x/slow").body(()).expect("valid");
            sender = sender.ready().await.expect("open");
            let (response, _) = sender.send_request(request, true).expect("sent");
            streams.push(response);
        }
    }
    for _ in 0..2 {
        let refused = timeout(PATIENCE, streams.next()).await.expect("in time");
        let refused = refused.expect("a stream").expect_err("one too many");
        assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
    }
    let mut http1 = connect_from("127.0.0.2:0", server.address).await;
    http1.write_all(GET).await.expect("sent");
    assert_eq!(read_to_end(&mut http1).await, "");

    let mut other = server.send(GET).await;
    read_answer(&mut other).await;
    // The slots of requests that end are free again.
    drop((streams, drivers));
    let free = async {
        loop {
            let mut same = connect_from("127.0.0.2:0", server.address).await;
            let sent = same.write_all(GET).await;
            if sent.is_ok() && same.read_u8().await.is_ok() {
                break;
            }
        }
    };
    timeout(PATIENCE, free).await.expect("a free slot");
}

#[tokio::test]
async fn upgraded_connection_is_left_alone() {
    let mut server = Server::start(ServeConfig {
        first_byte_timeout: SHORT,
        header_timeout: SHORT,
        idle_timeout: SHORT,
        ..patient()
    });
    let mut connection = server
        .send(b"GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await;
    read_until(&mut connection, "\r\n\r\n").await;
    let quiet = timeout(3 * SHORT, connection.read_u8()).await;
    assert!(quiet.is_err(), "nothing comes, and no end either");
    server.stop.cancel();
    server.stopped().await;
    connection.write_all(b"x").await.expect("sent");
    assert_eq!(connection.read_u8().await.expect("an echo"), b'x');
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_stop() {
    let mut server = Server::start(patient());
    let mut idle_http1 = server.send(GET).await;
    read_answer(&mut idle_http1).await;
    let mut half_http2 = server.send(HTTP2_PREFACE).await;
    half_http2.readable().await.expect("settings of the server");
    let mut deaf_http2 = server.send(HTTP2_PREFACE).await;
    deaf_http2
        .write_all(HTTP2_EMPTY_SETTINGS)
        .await
        .expect("sent");
    deaf_http2.readable().await.expect("settings of the server");
    let mut half_head = server.send(b"GET / HT").await;
    let mut silent = server.connect().await;
    server.stop.cancel();
    server.stopped().await;
    for connection in [
        &mut idle_http1,
        &mut half_http2,
        &mut deaf_http2,
        &mut half_head,
        &mut silent,
    ] {
        read_to_end(connection).await;
    }
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn client_between_two_requests_learns_of_the_stop_from_an_answer() {
    let mut server = Server::start(patient());
    let mut connection = server.send(GET).await;
    read_answer(&mut connection).await;
    server.stop.cancel();
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("no new connection");
    // A server that closed idle connections at once would have done so by now.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    connection.write_all(GET).await.expect("still open");
    let answer = read_to_end(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    assert!(answer.contains("connection: close"), "{answer:?}");
    server.stopped().await;
}

#[tokio::test]
async fn request_in_flight_is_answered_during_the_drain() {
    let mut server = Server::start(patient());
    let mut connection = server.send(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    timeout(PATIENCE, server.gate.entered.notified())
        .await
        .expect("the handler runs");
    server.stop.cancel();
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("no new connection");
    server.gate.open.notify_one();
    let answer = read_to_end(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    assert!(answer.ends_with("at last"), "{answer:?}");
    server.stopped().await;
}

#[tokio::test]
async fn request_that_outlives_the_drain_is_cut() {
    let mut server = Server::start(ServeConfig {
        drain_timeout: SHORT,
        ..patient()
    });
    let mut connection = server.send(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    timeout(PATIENCE, server.gate.entered.notified())
        .await
        .expect("the handler runs");
    server.stop.cancel();
    server.stopped().await;
    assert_eq!(read_to_end(&mut connection).await, "");
}
