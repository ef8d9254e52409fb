//! What the endpoint refuses, before and after the upgrade.

use std::time::Duration;

use futures_util::SinkExt as _;
use http::{HeaderName, HeaderValue, StatusCode};
use order_hub::HubConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::{SOON, Server, no_drain};
use crate::ws::WsConfig;

async fn closed_after(message: Message) -> (u16, String) {
    let server = Server::with_defaults().await;
    let mut client = server.connect().await;
    client.send(message).await;
    let frame = client.close_frame().await;
    server.shut_down().await;
    frame
}

#[tokio::test]
async fn binary_message_closes_with_1003() {
    let (code, _) = closed_after(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(code, 1003);
}

#[tokio::test]
async fn message_above_the_limit_closes_with_1009() {
    let (code, _) = closed_after(Message::text("x".repeat(16 * 1024 + 1))).await;
    assert_eq!(code, 1009);
}

#[tokio::test]
async fn client_in_the_midst_of_a_big_message_is_not_reset() {
    let server = Server::start(WsConfig::default(), HubConfig::default()).await;
    let mut client = server.connect().await;
    let tcp = client.socket.get_mut();
    // A masked text frame that promises 1 MiB, and about half of it.
    let head = [0x81, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4];
    tcp.write_all(&head).await.expect("sent");
    tcp.write_all(&vec![0; 500 * 1024]).await.expect("sent");
    let mut frame = Vec::new();
    timeout(SOON, tcp.read_to_end(&mut frame))
        .await
        .expect("an end")
        .expect("no reset");
    assert_eq!(frame[2..4], 1009_u16.to_be_bytes());
    drop(client);
    server.shut_down().await;
}

#[tokio::test]
async fn message_at_the_limit_is_answered() {
    let server = Server::with_defaults().await;
    let mut client = server.connect().await;
    let answer = client.ask("x".repeat(16 * 1024)).await;
    assert!(answer.contains("INVALID_ARGUMENT"), "{answer}");
    server.shut_down().await;
}

#[tokio::test]
async fn fragments_above_the_limit_close_with_1009() {
    let server = Server::with_defaults().await;
    let mut client = server.connect().await;
    let part = "x".repeat(10 * 1024);
    let text = OpCode::Data(Data::Text);
    let rest = OpCode::Data(Data::Continue);
    for (opcode, is_final) in [(text, false), (rest, true)] {
        let frame = Frame::message(part.clone(), opcode, is_final);
        client.send(Message::Frame(frame)).await;
    }
    assert_eq!(client.close_frame().await.0, 1009);
    server.shut_down().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_closes_with_1007() {
    let frame = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    assert_eq!(closed_after(Message::Frame(frame)).await.0, 1007);
}

#[tokio::test]
async fn broken_frame_closes_with_1002() {
    let server = Server::with_defaults().await;
    let mut client = server.connect().await;
    // A text frame without the mask that clients must apply.
    let tcp = client.socket.get_mut();
    tcp.write_all(&[0x81, 0x02, b'h', b'i'])
        .await
        .expect("sent");
    assert_eq!(client.close_frame().await.0, 1002);
    server.shut_down().await;
}

#[tokio::test]
async fn flood_is_held_back() {
    for message in [
        Message::text(r#"{"ping":true}"#),
        Message::Ping(bytes::Bytes::new()),
    ] {
        let server = Server::with_defaults().await;
        let mut client = server.connect().await;
        let start = Instant::now();
        for _ in 0..60 {
            client.socket.feed(message.clone()).await.expect("open");
        }
        client.socket.flush().await.expect("open");
        let mut n_pongs = 0;
        while n_pongs < 60 {
            match client.next().await {
                Message::Text(text) if text == r#"{"pong":true}"# => n_pongs += 1,
                Message::Pong(_) => n_pongs += 1,
                // The server asks for signs of life meanwhile.
                Message::Ping(_) => {}
                other => panic!("not a pong: {other:?}"),
            }
        }
        // 40 at once, 20 a second after that.
        let elapsed = start.elapsed();
        assert!(
            elapsed >= Duration::from_millis(900),
            "{message:?}: {elapsed:?}"
        );
        client.check_silent().await;
        server.shut_down().await;
    }
}

#[tokio::test]
async fn foreign_page_gets_no_socket() {
    let config = WsConfig {
        allowed_origins: vec!["https://shop.example".parse().expect("an origin")],
        ..no_drain()
    };
    let server = Server::start(config, HubConfig::default()).await;
    for (origin, is_allowed) in [
        ("https://shop.example", true),
        // Another port of the host that serves the socket.
        ("http://127.0.0.1:3000", true),
        ("https://evil.example", false),
        ("null", false),
    ] {
        let mut request = server.request();
        let value = HeaderValue::from_static(origin);
        request.headers_mut().insert(http::header::ORIGIN, value);
        match server.try_connect(request).await {
            Ok(_) => assert!(is_allowed, "{origin}"),
            Err(response) => {
                assert!(!is_allowed, "{origin}");
                check_problem(&response, StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED");
            }
        }
    }
    server.shut_down().await;
}

pub(super) fn check_problem(
    response: &http::Response<Option<Vec<u8>>>,
    status: StatusCode,
    code: &str,
) {
    assert_eq!(response.status(), status);
    assert_eq!(
        response.headers()[http::header::CONTENT_TYPE],
        "application/problem+json"
    );
    let body = response.body().as_deref().unwrap_or_default();
    // The client may have stopped reading within the body.
    let body = String::from_utf8_lossy(body);
    if !body.is_empty() {
        assert!(body.contains(code), "{body}");
    }
}

#[tokio::test]
async fn subprotocol_is_optional() {
    let server = Server::with_defaults().await;
    for (offered, expected) in [
        (None, None),
        (Some("orders.v1"), Some("orders.v1")),
        (Some("chat, orders.v1"), Some("orders.v1")),
    ] {
        let mut request = server.request();
        let name = HeaderName::from_static("sec-websocket-protocol");
        if let Some(offered) = offered {
            let value = HeaderValue::from_static(offered);
            request.headers_mut().insert(&name, value);
        }
        let (_client, headers) = server.try_connect(request).await.expect("a socket");
        let chosen = headers
            .get(&name)
            .map(|value| value.to_str().expect("text"));
        assert_eq!(chosen, expected, "{offered:?}");
    }
    server.shut_down().await;
}

#[tokio::test]
async fn one_socket_too_many_is_refused_before_the_upgrade() {
    let limits = [
        (1, 9, StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
        (9, 1, StatusCode::TOO_MANY_REQUESTS, "LIMIT_EXCEEDED"),
    ];
    for (connections_max, connections_per_address_max, status, code) in limits {
        let config = WsConfig {
            connections_max,
            connections_per_address_max,
            ..no_drain()
        };
        let server = Server::start(config, HubConfig::default()).await;
        let mut first = server.connect().await;
        let refused = server.try_connect(server.request()).await.err();
        let refused = refused.expect("one too many");
        check_problem(&refused, status, code);
        assert!(refused.headers().contains_key(http::header::RETRY_AFTER));
        // The place is free again once the first has left.
        first.socket.close(None).await.expect("open");
        let freed = async {
            while server.try_connect(server.request()).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, freed).await.expect("the place is given back");
        server.shut_down().await;
    }
}

#[tokio::test]
async fn stopping_server_opens_no_socket() {
    let server = Server::with_defaults().await;
    server.world.stop.cancel();
    let refused = server.try_connect(server.request()).await.err();
    let refused = refused.expect("stopping");
    check_problem(&refused, StatusCode::SERVICE_UNAVAILABLE, "SHUTTING_DOWN");
    server.shut_down().await;
}

/// Sends a request by hand and returns the whole answer.
async fn exchange(server: &Server, head: &str) -> String {
    let mut tcp = TcpStream::connect(server.address).await.expect("open");
    let request = format!("{head}\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(SOON, tcp.read_to_string(&mut answer))
        .await
        .expect("an answer")
        .expect("text");
    answer
}

#[tokio::test]
async fn connection_may_be_said_in_two_lines() {
    let server = Server::with_defaults().await;
    let mut tcp = TcpStream::connect(server.address).await.expect("open");
    let request = "GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive\r\n\
        connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    tcp.write_all(request.as_bytes()).await.expect("sent");
    let mut status = [0; 12];
    let read = timeout(SOON, tcp.read_exact(&mut status)).await;
    read.expect("an answer").expect("open");

    assert_eq!(&status, b"HTTP/1.1 101");
    drop(tcp);
    server.shut_down().await;
}

#[tokio::test]
async fn request_that_is_no_handshake_gets_a_problem() {
    let server = Server::with_defaults().await;
    for (head, status, code) in [
        ("GET /ws HTTP/1.1", "426", "UPGRADE_REQUIRED"),
        ("POST /ws HTTP/1.1", "405", "METHOD_NOT_ALLOWED"),
        ("GET /elsewhere HTTP/1.1", "404", "ROUTE_NOT_FOUND"),
        (
            "GET /ws HTTP/1.1\r\nupgrade: websocket\r\nsec-websocket-version: 12",
            "426",
            "UPGRADE_REQUIRED",
        ),
    ] {
        let answer = exchange(&server, head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(answer.contains(code), "{answer}");
        let names_version = answer.contains("sec-websocket-version: 13");
        assert_eq!(names_version, status == "426", "{answer}");
    }
    server.shut_down().await;
}
