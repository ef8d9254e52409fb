//! Traces of real processes, at a real collector.

pub(crate) mod collector;
mod outages;
mod streams;

use std::{process::Command, sync::Arc, sync::Mutex};

use axum::{Router, http::HeaderMap, http::StatusCode, routing::post};
use order_testkit::server::{Backend, free_port, process::ChildServer, process::Signal, redis};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_tungstenite::connect_async;

use self::collector::{Collector, Seen};
use crate::{
    support::{Database, Engine, Http, PATIENCE, database, run, wait_for},
    websocket::{hear, say},
};

/// What an order for 13.00 gets: a refusal. Any other fails once and is then fulfilled.
const REFUSED_AMOUNT: &str = "13";

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// An endpoint for orders, and the positions in traces that it was sent.
struct Fulfilment {
    url: String,
    positions: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<std::io::Result<()>>,
}

impl Fulfilment {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let positions = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&positions);
        let answer = move |headers: HeaderMap, body: String| async move {
            let position = headers.get("traceparent").map(|value| {
                let text = value.to_str().expect("ASCII");
                text.to_owned()
            });
            let mut seen = seen.lock().expect("not poisoned");
            seen.push(position.unwrap_or_default());
            let order: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            if order
                .to_string()
                .contains(&format!("\"amount\":{REFUSED_AMOUNT}"))
            {
                StatusCode::UNPROCESSABLE_ENTITY
            } else if seen.len() == 1 {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::OK
            }
        };
        let router = Router::new().route("/", post(answer));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            positions,
            _server: server,
        }
    }
}

/// A gateway, a service and a worker, each a process.
struct Fleet {
    gateway: ChildServer,
    service: ChildServer,
    worker: ChildServer,
    http: Http,
    ws_url: String,
}

/// Starts a program whose traces go to the collector.
async fn start(program: &str, collector: &str, settings: &[(&str, &str)]) -> ChildServer {
    let mut command = Command::new(program);
    command
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .env("LOG_FORMAT", "json")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .envs(settings.iter().copied());
    let process = ChildServer::spawn(&mut command).expect("the binary runs");
    let ready = process.wait_for_line("is ready", PATIENCE).await;
    ready.expect("ready");
    process
}

impl Fleet {
    async fn start(
        database: &Database,
        collector: &str,
        fulfilment: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let addr = || format!("127.0.0.1:{}", free_port().expect("a port"));
        let (http, grpc, ws) = (addr(), addr(), addr());
        let shared = [("DATABASE_URL", &*database.url), ("EVENTS_URL", "postgres")];
        let shared = [&shared[..], settings].concat();
        let own = [("GRPC_ADDR", &*grpc), ("WS_ADDR", &*ws), ("WORKERS", "0")];
        let settings = [&own[..], &shared].concat();
        let service = start(env!("CARGO_BIN_EXE_order-service"), collector, &settings).await;
        let own = [
            ("PROCESSOR", "http"),
            ("FULFILMENT_URL", fulfilment),
            ("FULFILMENT_SECRET", SECRET),
            ("FULFILMENT_ALLOWED_NETWORKS", "127.0.0.0/8"),
        ];
        let settings = [&own[..], &shared].concat();
        let worker = start(env!("CARGO_BIN_EXE_order-worker"), collector, &settings).await;
        let url = format!("http://{grpc}");
        let settings = [("ORDER_SERVICE_URL", &*url), ("HTTP_ADDR", &*http)];
        let gateway = start(env!("CARGO_BIN_EXE_api-gateway"), collector, &settings).await;
        Self {
            gateway,
            service,
            worker,
            http: Http::new(http.parse().expect("an address")),
            ws_url: format!("ws://{ws}/ws"),
        }
    }

    async fn stop(self) {
        for process in [&self.gateway, &self.worker, &self.service] {
            process.signal(Signal::Terminate).expect("it runs");
            let status = process.wait_for_exit(PATIENCE).await.expect("it ends");
            assert!(status.success(), "{status}\n{}", process.output());
        }
    }
}

/// Waits until a process hears of the events of others.
async fn wait_for_listener(database: &Database) {
    let sql = database.sql().await;
    let lock = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1869767781 AND granted \
        AND mode = 'ShareLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_for("a listener", async || {
        let rows = sql.query(lock, &[]).await.expect("an answer");
        (!rows.is_empty()).then_some(())
    })
    .await;
}

/// The only span of this name.
fn only<'a>(spans: &'a [Seen], name: &str, service: &str) -> &'a Seen {
    let mut found = spans
        .iter()
        .filter(|span| span.name == name && span.service == service);
    let first = found.next();
    let first = first.unwrap_or_else(|| panic!("no {name} of {service} in {spans:#?}"));
    assert!(
        found.next().is_none(),
        "two {name} of {service} in {spans:#?}"
    );
    first
}

const CREATE: &str = "order.v1.OrderService/CreateOrder";
const PUSH: &str = "push order event";
const PUBLISH: &str = "publish order event";
const PROCESS: &str = "process order";

/// What happens to an order that is retried once, and how often.
const HOPS: [(&str, usize); 8] = [
    (CREATE, 2),
    ("commit orders", 1),
    (PROCESS, 2),
    ("commit starts", 1),
    ("POST", 2),
    ("commit results", 2),
    (PUSH, 3),
    (PUBLISH, 3),
];

#[test]
fn one_trace_has_all_hops_of_an_order() {
    run(async {
        let database = database!(Engine::Postgres);
        let redis = match redis::shared().await {
            Backend::Available(server) => server.url.clone(),
            Backend::Unavailable(reason) => order_testkit::skip!("Redis: {reason}"),
        };
        let stream = format!("{redis}/traces-{:016x}", rand::random::<u64>());
        let (collector, fulfilment) = (Collector::start(), Fulfilment::start().await);
        let sink = [("EVENT_SINK", stream.as_str())];
        let fleet = Fleet::start(&database, &collector.url(), &fulfilment.url, &sink).await;
        let (mut socket, _) = connect_async(&fleet.ws_url).await.expect("a WebSocket");
        say(&mut socket, r#"{"subscribe":{"user":"user-1"}}"#).await;
        hear(&mut socket).await;
        wait_for_listener(&database).await;

        let order_id = fleet.http.create_order().await;
        fleet.http.wait_for_status(&order_id, "PROCESSED").await;
        for status in ["PENDING", "PROCESSING", "PROCESSED"] {
            assert_eq!(hear(&mut socket).await["status"], status);
        }

        let root = wait_for("the request", async || {
            let spans = collector.spans();
            spans.into_iter().find(|span| span.name == "POST /orders")
        });
        let root = root.await;
        assert_eq!(
            (root.service.as_str(), root.parent_id.as_str()),
            ("api-gateway", "")
        );
        assert_eq!(root.attribute("http.response.status_code"), "201");
        let spans = collector.trace(&root.trace_id, &HOPS).await;
        check_hops(&root, &spans, &order_id);
        let calls = spans.iter().filter(|span| span.name == "POST");
        let mut calls: Vec<_> = calls
            .map(|call| format!("00-{}-{}-01", root.trace_id, call.id))
            .collect();
        let mut positions = fulfilment.positions.lock().expect("not poisoned").clone();
        calls.sort_unstable();
        positions.sort_unstable();
        assert_eq!(positions, calls, "the endpoint continues the trace");
        for (process, text) in [
            (&fleet.gateway, "http_access"),
            (&fleet.service, "call finished"),
        ] {
            let line = format!(r#""trace.id":"{}""#, root.trace_id);
            wait_for(&format!("{text} with {line}"), async || {
                let output = process.output();
                let mut lines = output.lines();
                let is_named = lines.any(|l| l.contains(text) && l.contains(&line));
                is_named.then_some(())
            })
            .await;
        }
        log_lines_and_problems_name_their_trace(&fleet, &collector).await;
        fleet.stop().await;
    });
}

/// Each hop is the child of what caused it.
fn check_hops(root: &Seen, spans: &[Seen], order_id: &str) {
    let client = only(spans, CREATE, "api-gateway");
    assert_eq!(client.parent_id, root.id);
    let server = only(spans, CREATE, "order-service");
    assert_eq!(server.parent_id, client.id);
    assert_eq!(server.attribute("rpc.response.status_code"), "OK");
    assert_eq!(
        only(spans, "commit orders", "order-service").parent_id,
        server.id
    );
    let named = |name: &str| -> Vec<&Seen> {
        let found = spans.iter().filter(|span| span.name == name);
        found.collect()
    };
    let mut attempts = named(PROCESS);
    attempts.sort_by_key(|attempt| attempt.attribute("job.attempt"));
    let outcomes = attempts.iter().map(|attempt| {
        assert_eq!(
            (attempt.service.as_str(), &attempt.parent_id),
            ("order-worker", &server.id)
        );
        assert_eq!(attempt.attribute("order.id"), order_id);
        attempt.attribute("job.outcome")
    });
    assert_eq!(outcomes.collect::<Vec<_>>(), ["retry", "processed"]);
    let [first, second] = attempts[..] else {
        panic!("{attempts:?}");
    };
    for (name, n) in [("POST", 2), ("commit results", 2)] {
        let found = named(name);
        assert_eq!(found.len(), n, "{spans:#?}");
        let parents = found.iter().map(|span| &span.parent_id);
        let mut parents: Vec<_> = parents.collect();
        parents.sort_unstable_by_key(|parent| **parent != first.id);
        assert_eq!(parents, [&first.id, &second.id], "{name}");
    }
    let pushed = named(PUSH).into_iter().map(|push| {
        assert_eq!(push.service, "order-service");
        (push.attribute("order.version"), push.parent_id.clone())
    });
    let mut pushed: Vec<_> = pushed.collect();
    pushed.sort_unstable();
    let causes = [&server.id, &first.id, &second.id];
    let expected = ["1", "2", "3"].into_iter().zip(causes);
    let expected: Vec<_> = expected.map(|(v, id)| (v.to_owned(), id.clone())).collect();
    assert_eq!(pushed, expected);
    for published in named(PUBLISH) {
        assert_eq!(published.parent_id, server.id);
    }
}

/// Also where the client takes part in no trace.
async fn log_lines_and_problems_name_their_trace(fleet: &Fleet, collector: &Collector) {
    let missing = "/orders/0198c5a0-5d5c-7abc-8def-0123456789ab";
    let problem = fleet.http.get(missing).await.json();
    let trace_id = problem["trace_id"].as_str().expect("a trace").to_owned();
    let name = "GET /orders/{order_id}";
    let spans = collector.trace(&trace_id, &[(name, 1)]).await;
    let answered = only(&spans, name, "api-gateway").attribute("http.response.status_code");
    assert_eq!(answered, "404");

    let body = format!(r#"{{"user_id":"user-1","amount":{REFUSED_AMOUNT}}}"#);
    let order = fleet.http.post("/orders", &body).await.json();
    let order_id = order["order_id"].as_str().expect("an id");
    let failed = fleet.worker.wait_for_line("order failed", PATIENCE).await;
    let failed: serde_json::Value = serde_json::from_str(&failed.expect("a line")).expect("JSON");
    assert_eq!(failed["order.id"], order_id);
    let trace_id = failed["trace.id"].as_str().expect("a trace");
    let spans = collector.trace(trace_id, &[(PROCESS, 1)]).await;
    assert_eq!(
        only(&spans, PROCESS, "order-worker").attribute("order.id"),
        order_id
    );
}
