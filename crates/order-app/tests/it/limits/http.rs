//! The limits of the HTTP API and of WebSockets.

use futures_util::future::join_all;
use hyper::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::client_async;

use super::{Attacker, UNPROCESSED, assert_served, attacker_socket, event_stream, timeout};
use crate::support::{Engine, Http, PATIENCE, Shape, System, database, run};

/// Attacks the HTTP API of a system, and sees that the other client is served.
fn attack(
    n_max: usize,
    path: &'static str,
    headers: &[(&'static str, &'static str)],
    limited: impl Fn(Attacker) -> Attacker,
) {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &UNPROCESSED).await;
        let addr = system.http_addr();
        let order_id = Http::new(addr).create_order().await;
        let path = path.replace("ORDER", &order_id);
        let mut request = Request::get(format!("http://{addr}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut attacker = limited(Attacker::new(addr));
        let request = request.body(()).expect("a request");
        attacker.attack(n_max, &request, (b"", true)).await;
        assert_served(&system).await;
        drop(attacker);
        system.stop().await;
    });
}

#[test]
fn event_streams_of_one_address_keep_out_no_other() {
    let headers = [("accept", "text/event-stream")];
    attack(10_001, "/orders/ORDER/events", &headers, |attacker| {
        attacker
    });
}

#[test]
fn requests_of_one_address_that_wait_keep_out_no_other() {
    let headers = [("prefer", "wait=30")];
    attack(1_100, "/orders/ORDER", &headers, |attacker| Attacker {
        is_answered: false,
        ..attacker
    });
}

#[test]
fn answers_of_one_address_that_are_not_taken_keep_out_no_other() {
    // Probes take no slot of requests.
    attack(10_000, "/livez", &[], |attacker| Attacker {
        window: 0,
        ..attacker
    });
}

#[test]
fn pages_of_one_address_that_are_not_taken_keep_out_no_other() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &UNPROCESSED).await;
        let addr = system.http_addr();
        let http = Http::new(addr);
        let metadata = (0..30).map(|n| (n.to_string(), json!("\u{10ffff}".repeat(500))));
        let metadata = Value::Object(metadata.collect());
        let order = json!({"user_id": "attacker", "amount": 1, "metadata": metadata}).to_string();
        for _ in 0..70 {
            assert_eq!(http.post("/orders", &order).await.status, 201);
        }
        // About 4 MiB.
        let request = Request::get(format!("http://{addr}/orders?page_size=1000"));
        let request = request.body(()).expect("a request");
        let mut attacker = Attacker {
            window: 0,
            ..Attacker::new(addr)
        };
        let mut sender = attacker.connect().await;
        let mut held = Vec::new();
        loop {
            sender = sender.ready().await.expect("open");
            let (response, _) = sender.send_request(request.clone(), true).expect("open");
            let response = timeout(PATIENCE, response).await.expect("in time");
            let response = response.expect("an answer");
            if response.status() != 200 {
                break;
            }
            held.push(response);
        }
        assert_served(&system).await;
        drop((held, attacker));
        system.stop().await;
    });
}

#[test]
fn bodies_of_one_address_that_do_not_come_keep_out_no_other() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &UNPROCESSED).await;
        let addr = system.http_addr();
        let request = Request::post(format!("http://{addr}/orders"));
        let request = request.header("content-type", "application/json");
        let request = request.body(()).expect("a request");
        let mut attacker = Attacker {
            is_answered: false,
            ..Attacker::new(addr)
        };
        attacker.attack(4_200, &request, (b"{", false)).await;
        assert_served(&system).await;
        drop(attacker);
        system.stop().await;
    });
}

#[test]
fn connections_of_one_address_keep_out_no_other() {
    run(async {
        let database = database!(Engine::Sqlite);
        let limits = [
            "--http-max-connections=30",
            "--http-max-connections-per-address=20",
        ];
        let flags = [&UNPROCESSED[..], &limits].concat();
        let system = System::start(Shape::AllInOne, &database, &flags).await;
        let addr = system.http_addr();
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(livez(addr).await.expect("within the limit"));
        }
        assert!(livez(addr).await.is_none());
        assert_served(&system).await;
        drop(held);
        system.stop().await;
    });
}

/// A connection of the attacker on which a request was answered, if it was.
async fn livez(addr: std::net::SocketAddr) -> Option<tokio::net::TcpStream> {
    let mut socket = attacker_socket(addr).await;
    let request = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    socket.write_all(request).await.ok()?;
    let read = timeout(PATIENCE, socket.read_u8()).await.expect("in time");
    read.is_ok().then_some(socket)
}

#[test]
fn sockets_of_one_address_keep_out_no_other() {
    run(async {
        let database = database!(Engine::Sqlite);
        let limits = [
            "--ws-max-connections=30",
            "--ws-max-connections-per-address=20",
        ];
        let flags = [&UNPROCESSED[..], &limits].concat();
        let system = System::start(Shape::AllInOne, &database, &flags).await;
        let url = system.ws_url();
        let addr = system.service.addrs.ws.expect("a WebSocket endpoint");
        let open = async || client_async(&url, attacker_socket(addr).await).await;
        let held = join_all((0..20).map(|_| open())).await;
        assert!(held.iter().all(Result::is_ok));
        let refused = open().await.expect_err("one too many").to_string();
        assert!(refused.contains("429"), "{refused}");
        // Watchers of other transports take no sockets, and sockets none of theirs.
        let order_id = Http::new(system.http_addr()).create_order().await;
        let mut attacker = Attacker::new(system.http_addr());
        let request = event_stream(system.http_addr(), &order_id);
        attacker.attack(1_100, &request, (b"", true)).await;
        assert_served(&system).await;
        drop((held, attacker));
        system.stop().await;
    });
}
