//! What a scrape of each process tells, and that it stays small whatever clients do.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use hyper::Method;
use tokio_tungstenite::connect_async;

use crate::support::{
    Engine, Http, PATIENCE, Running, Shape, System, database, run, start_gateway, wait_for,
};

/// The longest scrape, in bytes.
const SCRAPE_LEN_MAX: usize = 200_000;

pub(crate) async fn scrape(admin: SocketAddr) -> String {
    let answer = Http::new(admin).get("/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    String::from_utf8(answer.body.to_vec()).expect("UTF-8")
}

fn admin(process: &Running) -> SocketAddr {
    process.addrs.admin.expect("an admin listener")
}

/// The value of a series, without the samples of histograms.
pub(crate) fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(series)?.strip_prefix(' ')?;
        Some(rest.parse().expect("a number"))
    })
}

/// A metric as it is documented.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: Vec<String>,
}

/// Adds the metrics of a scrape to what is known.
fn read_families(text: &str, families: &mut BTreeMap<String, Family>) {
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a text");
            name.clone_into(&mut current);
            help.trim_end_matches('.')
                .clone_into(&mut families.entry(current.clone()).or_default().help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
        } else if let Some((_, rest)) = line.split_once('{') {
            let family = families.entry(current.clone()).or_default();
            let (labels, _) = rest.rsplit_once('}').expect("the end of the labels");
            // Values of our labels hold no comma.
            for label in labels
                .split(',')
                .filter_map(|label| label.split('=').next())
            {
                let is_known = family.labels.iter().any(|known| known == label);
                if !is_known && label != "le" {
                    family.labels.push(label.to_owned());
                }
            }
        }
    }
}

/// Flags with which every part has something to count; no broker is there.
pub(crate) const EVERYTHING: [&str; 16] = [
    "--queue-url",
    "redis://127.0.0.1:1",
    "--events-url",
    "redis://127.0.0.1:1",
    "--event-sink",
    "redis://127.0.0.1:1/orders",
    "--processor",
    "http",
    "--fulfilment-url",
    "http://127.0.0.1:1/",
    "--fulfilment-secret",
    "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "--fulfilment-allowed-networks",
    "127.0.0.0/8",
    "--max-attempts",
    "1",
];

#[test]
fn every_metric_is_documented() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::Split, &database, &EVERYTHING).await;
        let (mut socket, _) = connect_async(system.ws_url()).await.expect("a socket");
        socket.close(None).await.expect("a close frame");
        let http = Http::new(system.http_addr());
        let order_id = http.create_order().await;
        http.wait_for_status(&order_id, "FAILED").await;
        let service = admin(&system.service);
        let text = wait_for("everything has been counted", async || {
            let text = scrape(service).await;
            let is_whole = text.contains("ws_connections_closed_total{") && text.contains("jobs{");
            is_whole.then_some(text)
        })
        .await;

        let mut families = BTreeMap::new();
        read_families(&text, &mut families);
        let gateway = system.gateway.as_ref().expect("a gateway");
        read_families(&scrape(admin(gateway)).await, &mut families);
        system.stop().await;

        let rows = families.iter().map(|(name, family)| {
            let labels = family.labels.iter().map(|label| format!("`{label}`"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            format!(
                "| `{name}` | {} | {labels} | {} |\n",
                family.kind, family.help
            )
        });
        let table: String = rows.collect();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let page = fs::read_to_string(&path).expect("docs/metrics.md exists");
        let head = "| name | type | labels | meaning |\n|---|---|---|---|\n";
        let (before, rest) = page.split_once(head).expect("a table");
        let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
        let rendered = format!("{before}{head}{table}\n{after}");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, rendered).expect("docs can be written");
            return;
        }
        assert!(
            page == rendered,
            "run this test with UPDATE_DOCS=1 and read the difference"
        );
    });
}

/// Sends what a client may choose: ids, users, paths, methods, queries and headers.
async fn wander(http: &Http, n: usize) {
    for n in n..n + 40 {
        let body = format!(r#"{{"user_id":"user-{n}-canary","amount":100}}"#);
        let created = http.post("/orders", &body).await;
        let order_id = created.json()["order_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        http.get(&format!("/orders/{order_id}")).await;
        http.get(&format!("/orders?user_id=user-{n}-canary")).await;
        http.get(&format!("/canary-{n}/{order_id}")).await;
        let method = Method::from_bytes(format!("CANARY{n}").as_bytes()).expect("a token");
        http.send(method, "/orders", None).await;
        let key = format!("canary-{n}");
        let headers = [("idempotency-key", key.as_str()), ("x-request-id", &key)];
        http.send_with(Method::POST, "/orders", &headers, Some(&body))
            .await;
    }
}

#[test]
fn what_clients_choose_makes_no_series_and_is_in_no_label() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::Split, &database, &[]).await;
        let gateway = system.gateway.as_ref().expect("a gateway");
        let processes = [admin(&system.service), admin(gateway)];
        let http = Http::new(system.http_addr());
        let mut series = Vec::new();
        for round in 0..2 {
            wander(&http, round * 100).await;
            for process in processes {
                // Until then, figures may appear that were not read before.
                let text = wait_for("the backlog is counted", async || {
                    let text = scrape(process).await;
                    (text.contains("jobs{") || process == admin(gateway)).then_some(text)
                })
                .await;
                assert!(!text.to_lowercase().contains("canary"), "{text}");
                assert!(text.len() < SCRAPE_LEN_MAX, "{} bytes", text.len());
                series.push(text.lines().filter(|line| !line.starts_with('#')).count());
            }
        }
        assert_eq!(series[..2], series[2..]);
        system.stop().await;
    });
}

#[test]
fn figures_tell_what_happened() {
    run(async {
        let database = database!(Engine::Sqlite);
        let flags = ["--workers", "0"];
        let system = System::start(Shape::AllInOne, &database, &flags).await;
        let (http, service) = (Http::new(system.http_addr()), admin(&system.service));
        for _ in 0..3 {
            http.create_order().await;
        }
        let text = scrape(service).await;
        let created = r#"orders_status_changes_total{status="PENDING"}"#;
        assert_eq!(value(&text, created), Some(3.0));
        let calls = "http_server_request_duration_seconds_count{http_request_method=\"POST\",\
            http_route=\"/orders\",http_response_status_code=\"201\"}";
        assert_eq!(value(&text, calls), Some(3.0));
        assert_eq!(value(&text, "http_server_active_requests"), Some(0.0));
        // It has no workers, so an alert on late heartbeats must not see it.
        assert_eq!(value(&text, "jobs_last_heartbeat_seconds"), None);

        // Another process sees the same backlog, and works it off.
        let worker = Running::worker(&database, &[]).await;
        let processed = wait_for("all orders are processed", async || {
            let text = scrape(admin(&worker)).await;
            (value(&text, "jobs_processed_total") == Some(3.0)).then_some(text)
        })
        .await;
        assert_eq!(value(&processed, "jobs_claimed_total"), Some(3.0));
        worker.stop().await;
        system.stop().await;
    });
}

#[test]
fn scrape_has_the_format_that_is_asked_for() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &[]).await;
        let http = Http::new(admin(&system.service));
        let ask = async |accept: &str| {
            let headers = [("accept", accept)];
            http.send_with(Method::GET, "/metrics", &headers, None)
                .await
        };
        let open = "application/openmetrics-text; version=1.0.0";
        for (accept, expected) in [
            ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
            ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
            (
                "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ),
        ] {
            let answer = ask(accept).await;
            assert_eq!(answer.header("content-type"), Some(expected), "{accept}");
            let is_open = answer.body.ends_with(b"# EOF\n");
            assert_eq!(is_open, expected.starts_with(open), "{accept}");
        }
        assert_eq!(ask("application/json").await.status, 406);
        system.stop().await;
    });
}

#[test]
fn gateway_without_a_service_is_scraped_all_the_same() {
    run(async {
        let gateway = start_gateway("http://127.0.0.1:1").await;
        let begun_at = tokio::time::Instant::now();
        let text = scrape(admin(&gateway)).await;
        assert_eq!(
            value(&text, r#"rpc_client_addresses{state="usable"}"#),
            Some(0.0)
        );
        assert!(begun_at.elapsed() < PATIENCE);
        gateway.stop().await;
    });
}
