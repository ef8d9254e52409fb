//! Answers that their clients do not take, on real sockets.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use order_edge::{ServeConfig, ServeError, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
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

/// An answer that the client of [`http2_stream_without_window_is_ended`] does not take.
#[derive(Clone, Copy, Debug)]
enum Unread {
    Endless,
    Long,
    Trailers,
}

#[tokio::test]
async fn http2_stream_without_window_is_ended() {
    for (unread, window) in [
        (Unread::Endless, 0),
        (Unread::Endless, 1),
        (Unread::Long, 0),
        (Unread::Long, 1),
        (Unread::Long, 70_000),
        (Unread::Trailers, 0),
    ] {
        let held = Arc::new(());
        let service = holding(&held, unread);
        let n_holders = Arc::strong_count(&held);
        let config = ServeConfig {
            write_timeout: SHORT,
            ..patient()
        };
        let (address, _running) = start(service, config);
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let mut handshake = h2::client::Builder::new();
        handshake.initial_window_size(window);
        let (sender, connection) = handshake.handshake::<_, Bytes>(tcp).await.expect("HTTP/2");
        let mut driver = JoinSet::new();
        // How it ends is seen by the calls on it.
        driver.spawn(async { drop(connection.await) });
        let mut sender = sender.ready().await.expect("open");
        let request = http::Request::get("http://x/").body(()).expect("valid");
        let (response, _) = sender.send_request(request, true).expect("sent");
        let mut body = response.await.expect("an answer").into_body();

        let ended = async { while let Some(Ok(_)) = body.data().await {} };
        timeout(PATIENCE, ended)
            .await
            .unwrap_or_else(|_| panic!("{unread:?} with a window of {window} goes on"));

        let let_go = async {
            while Arc::strong_count(&held) > n_holders {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, let_go).await.expect("the answer is gone");
        // The connection goes on.
        let sender = sender.ready().await.expect("open");
        drop(sender);
    }
}

/// Answers with a body that holds a clone of `held` until it is dropped.
fn holding(held: &Arc<()>, unread: Unread) -> Router {
    let held = Arc::clone(held);
    Router::new().fallback(async move || {
        let held = Arc::clone(&held);
        let chunk = Bytes::from(vec![b'x'; 1024 * 1024]);
        match unread {
            Unread::Endless => Body::from_stream(stream::repeat(()).map(move |()| {
                drop(Arc::clone(&held));
                Ok::<_, Infallible>(chunk.clone())
            })),
            Unread::Long => Body::from_stream(stream::iter([chunk]).map(move |chunk| {
                drop(Arc::clone(&held));
                Ok::<_, Infallible>(chunk)
            })),
            Unread::Trailers => {
                let frames = [Frame::data(chunk), Frame::trailers(HeaderMap::new())];
                let frames = stream::iter(frames).map(move |frame| {
                    drop(Arc::clone(&held));
                    Ok::<_, Infallible>(frame)
                });
                Body::new(StreamBody::new(frames))
            }
        }
    })
}

fn start(router: Router, config: ServeConfig) -> (SocketAddr, JoinSet<Result<(), ServeError>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut running = JoinSet::new();
    running.spawn(serve(listener, router, config, CancellationToken::new()));
    (address, running)
}

#[tokio::test]
async fn quiet_http2_streams_and_connections_are_left_alone() {
    let config = ServeConfig {
        header_timeout: SHORT,
        write_timeout: SHORT,
        http2_only: true,
        ..patient()
    };
    let finish = Arc::new(Notify::new());
    let finished = Arc::clone(&finish);
    let quiet = Router::new().fallback(async move || {
        let last = stream::once(async move {
            finished.notified().await;
            Ok::<_, Infallible>("last")
        });
        Body::from_stream(stream::iter([Ok("first")]).chain(last))
    });
    let (address, _running) = start(quiet, config);
    let tcp = TcpStream::connect(address).await.expect("a connection");
    let (sender, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
    let mut driver = JoinSet::new();
    driver.spawn(async { drop(connection.await) });
    let mut sender = sender.ready().await.expect("open");
    // The client has opened the connection and asks for nothing yet.
    outlast_limits(address).await;
    let request = http::Request::get("http://x/").body(()).expect("valid");
    let (response, _) = sender.send_request(request, true).expect("sent");
    let mut body = response.await.expect("an answer").into_body();
    let first = timeout(PATIENCE, body.data()).await.expect("in time");
    assert_eq!(first.expect("a part").expect("not reset"), "first");
    outlast_limits(address).await;
    finish.notify_one();
    let last = timeout(PATIENCE, body.data()).await.expect("in time");
    assert_eq!(last.expect("a part").expect("not reset"), "last");
}

/// Waits until connections whose heads do not come were closed, one after the other: three times
/// as long as the short limits grant.
async fn outlast_limits(address: SocketAddr) {
    for _ in 0..3 {
        let mut slow = TcpStream::connect(address).await.expect("a connection");
        slow.write_all(b"P").await.expect("sent");
        let closed = timeout(PATIENCE, slow.read_to_end(&mut Vec::new())).await;
        // Closed or reset.
        let _ = closed.expect("closed by its limit");
    }
}

#[tokio::test]
async fn answer_is_held_until_an_http1_client_takes_it() {
    let held = Arc::new(());
    let holder = Arc::clone(&held);
    let service = Router::new().fallback(async move || {
        // More than the sockets take.
        let long = Full::from(vec![b'x'; 32 * 1024 * 1024]);
        let held = Arc::clone(&holder);
        // Its length is known, so it could be handed over at once and dropped.
        let body = long.map_frame(move |frame| {
            drop(Arc::clone(&held));
            frame
        });
        Body::new(body)
    });
    let n_holders = Arc::strong_count(&held);
    let (address, _running) = start(service, patient());
    let mut slow = TcpStream::connect(address).await.expect("a connection");
    slow.write_all(GET).await.expect("sent");
    read_until(&mut slow, "\r\n\r\n").await;
    // The whole answer was handed over by now, if it is handed over at once.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(Arc::strong_count(&held) > n_holders);
    drop(slow);
    let let_go = async {
        while Arc::strong_count(&held) > n_holders {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, let_go).await.expect("the answer is gone");
}
