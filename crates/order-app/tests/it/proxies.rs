//! Clients behind proxies: the limits of one address, the access log and traces go by the client.

use hyper::Method;
use serde_json::Value;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::{
    positions::Sse,
    processes::{self, Ports},
    support::{Database, Engine, Http, PATIENCE, Shape, System, database, run},
    traces::collector::Collector,
    websocket::Socket,
};

/// Trusted, and the one that the requests of tests come from.
const THIS: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.2";

const ONE_CLIENT: &str = "203.0.113.1";
const OTHER_CLIENT: &str = "203.0.113.2";

async fn start(database: &Database, trusted: &str) -> System {
    let flags = [
        "--processor-delay=1h",
        "--http-max-connections-per-address=2",
        "--ws-max-connections-per-address=1",
        "--trusted-proxies",
        trusted,
    ];
    System::start(Shape::AllInOne, database, &flags).await
}

/// Opens an event stream over a connection of its own, as a proxy for `client`. `None` if the
/// stream or its connection is refused.
async fn watch(system: &System, order_id: &str, client: &str) -> Option<Sse> {
    let http = Http::new(system.http_addr());
    let path = format!("/orders/{order_id}/events");
    let headers = [("accept", "text/event-stream"), ("x-forwarded-for", client)];
    let response = http.open(Method::GET, &path, &headers, None).await.ok()?;
    let mut events = Sse::new(response);
    let event = tokio::time::timeout(PATIENCE, events.next()).await;
    event.expect("in time")?.id?;
    Some(events)
}

/// Opens a WebSocket as a proxy for `client`.
async fn open(url: &str, client: &'static str) -> Result<Socket, Error> {
    let mut request = url.into_client_request().expect("a URL");
    let headers = request.headers_mut();
    headers.insert("x-forwarded-for", HeaderValue::from_static(client));
    Ok(connect_async(request).await?.0)
}

#[test]
fn client_behind_a_proxy_keeps_out_no_other_client_behind_it() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = start(&database, THIS).await;
        let order_id = Http::new(system.http_addr()).create_order().await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let events = watch(&system, &order_id, ONE_CLIENT).await;
            held.push(events.expect("within the limit"));
        }
        assert!(watch(&system, &order_id, ONE_CLIENT).await.is_none());
        for _ in 0..2 {
            let events = watch(&system, &order_id, OTHER_CLIENT).await;
            held.push(events.expect("the other client is served"));
        }

        let url = system.ws_url();
        let _socket = open(&url, ONE_CLIENT).await.expect("within the limit");
        let refused = open(&url, ONE_CLIENT).await.expect_err("one too many");
        assert!(refused.to_string().contains("429"), "{refused}");
        let other = open(&url, OTHER_CLIENT).await;
        drop(other.expect("the other client is served"));
        drop(held);
        system.stop().await;
    });
}

#[test]
fn client_that_forges_an_address_has_its_own_limits() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = start(&database, OTHER).await;
        let order_id = Http::new(system.http_addr()).create_order().await;
        let mut held = Vec::new();
        for client in [ONE_CLIENT, OTHER_CLIENT] {
            let events = watch(&system, &order_id, client).await;
            held.push(events.expect("within the limit"));
        }
        assert!(watch(&system, &order_id, "203.0.113.3").await.is_none());

        let url = system.ws_url();
        let _socket = open(&url, ONE_CLIENT).await.expect("within the limit");
        let refused = open(&url, OTHER_CLIENT).await.expect_err("one too many");
        assert!(refused.to_string().contains("429"), "{refused}");
        drop(held);
        system.stop().await;
    });
}

#[test]
fn log_and_traces_name_the_client_behind_a_trusted_proxy_only() {
    run(async {
        for (trusted, client) in [(THIS, ONE_CLIENT), (OTHER, THIS)] {
            let database = database!(Engine::Sqlite);
            let (ports, collector) = (Ports::free(), Collector::start());
            let url = collector.url();
            let settings = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                ("OTEL_BSP_SCHEDULE_DELAY", "50"),
                ("LOG_FORMAT", "json"),
                ("RUST_LOG", "info"),
                ("TRUSTED_PROXIES", trusted),
            ];
            let process = processes::start(&database, &ports, &settings).await;
            let http = Http::new(([127, 0, 0, 1], ports.http).into());
            let headers = [("forwarded", "for=\"203.0.113.1:80\"")];
            http.send_with(Method::GET, "/orders", &headers, None).await;
            let url = format!("ws://127.0.0.1:{}/ws", ports.ws);
            drop(open(&url, ONE_CLIENT).await.expect("a WebSocket"));
            for (operation, span) in [
                ("list_orders", "GET /orders"),
                ("open_websocket", "GET /ws"),
            ] {
                let line = process.wait_for_line(operation, PATIENCE).await;
                let line: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
                assert_eq!(line["client.address"], client, "{line}");
                let peer = line["network.peer.address"].as_str().expect("a peer");
                assert!(peer.starts_with("127.0.0.1:"), "{line}");
                let trace_id = line["trace.id"].as_str().expect("a trace");
                let spans = collector.trace(trace_id, &[(span, 1)]).await;
                let span = spans.iter().find(|seen| seen.name == span);
                let span = span.expect("it is there");
                assert_eq!(span.attribute("client.address"), client);
                assert_eq!(span.attribute("network.peer.address"), THIS);
            }
        }
    });
}
