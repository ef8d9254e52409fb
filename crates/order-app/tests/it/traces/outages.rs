//! Collectors that are of no use, and traces that nobody wants: orders go on.

use std::net::SocketAddr;

use order_testkit::server::{free_port, process::ChildServer, process::Signal};
use tokio::net::TcpListener;

use super::collector::{Collector, Seen};
use crate::{
    processes::{Ports, command},
    support::{Database, Engine, Http, PATIENCE, database, run},
};

/// Starts `order-system` with a collector.
async fn start(
    database: &Database,
    collector: &str,
    settings: &[(&str, &str)],
) -> (ChildServer, Http) {
    let ports = Ports::free();
    let traced = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ];
    let settings = [&traced, settings].concat();
    let mut command = command(database, &ports, &settings);
    let process = ChildServer::spawn(&mut command).expect("the binary runs");
    let ready = process.wait_for_line("is ready", PATIENCE).await;
    ready.expect("ready");
    let http = SocketAddr::from(([127, 0, 0, 1], ports.http));
    (process, Http::new(http))
}

async fn process_an_order(http: &Http) {
    let order_id = http.create_order().await;
    http.wait_for_status(&order_id, "PROCESSED").await;
}

/// Stops it, and counts the lines of its log with a text.
async fn stop(process: ChildServer, text: &str) -> usize {
    process.signal(Signal::Terminate).expect("it runs");
    let status = process.wait_for_exit(PATIENCE).await.expect("it ends");
    let output = process.output();
    assert!(status.success(), "{status}\n{output}");
    output.lines().filter(|line| line.contains(text)).count()
}

const FAILED: &str = "exporting traces failed";

#[test]
fn collector_that_refuses_costs_one_line() {
    run(async {
        let database = database!(Engine::Sqlite);
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port().expect("a port")));
        let (process, http) = start(&database, &format!("http://{addr}"), &[]).await;
        process_an_order(&http).await;
        let failed = process.wait_for_line(FAILED, PATIENCE).await;
        failed.expect("a line");
        process_an_order(&http).await;
        // Once there is a collector, it gets what comes then.
        let collector = Collector::start_at(addr);
        crate::support::wait_for("spans", async || {
            process_an_order(&http).await;
            (!collector.spans().is_empty()).then_some(())
        })
        .await;
        let again = process.wait_for_line("exporting traces works again", PATIENCE);
        again.await.expect("a line");
        assert_eq!(stop(process, FAILED).await, 1);
    });
}

#[test]
fn collector_that_is_silent_holds_up_nothing() {
    run(async {
        let database = database!(Engine::Sqlite);
        // Accepts connections by the kernel and never reads.
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", silent.local_addr().expect("bound"));
        let small = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
            // Exports never end by themselves before the process does.
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "60000"),
        ];
        let (process, http) = start(&database, &url, &small).await;
        for _ in 0..10 {
            process_an_order(&http).await;
        }
        let ended = process.output();
        assert!(!ended.contains(FAILED), "{ended}");
        process.signal(Signal::Terminate).expect("it runs");
        let line = process.wait_for_line("export of traces ended", PATIENCE);
        let line = line.await.expect("a line");
        let n_dropped = line.split("spans.dropped=").nth(1).expect("a count");
        let n_dropped: u64 = n_dropped
            .chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .expect("a number");
        assert!(n_dropped >= 10, "{line}");
        let status = process.wait_for_exit(PATIENCE).await.expect("it ends");
        assert!(status.success(), "{status}\n{}", process.output());
    });
}

#[test]
fn trace_that_is_not_sampled_leaves_nothing_behind() {
    run(async {
        let database = database!(Engine::Postgres);
        let collector = Collector::start();
        let never = [
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ];
        let (process, http) = start(&database, &collector.url(), &never).await;
        process_an_order(&http).await;
        // The position of a sampled trace is kept, and only that.
        let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let sampled = format!("00-{trace_id}-00f067aa0ba902b7-01");
        let answer = http
            .send_with(
                hyper::Method::POST,
                "/orders",
                &[("traceparent", &sampled)],
                Some(r#"{"user_id":"sampled","amount":1}"#),
            )
            .await;
        assert_eq!(answer.status, 201);
        collector
            .trace(trace_id, &[("POST /orders", 1), ("process order", 1)])
            .await;
        assert_eq!(stop(process, FAILED).await, 0);
        let spans = collector.spans();
        assert!(
            spans.iter().all(|span| span.trace_id == trace_id),
            "{spans:#?}"
        );
        let sql = database.sql().await;
        let stored = "SELECT user_id FROM orders WHERE trace_parent IS NOT NULL";
        let rows = sql.query(stored, &[]).await.expect("an answer");
        let users: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(users, ["sampled"]);
    });
}

#[test]
fn traces_go_over_http_as_well() {
    run(async {
        let database = database!(Engine::Sqlite);
        let collector = Collector::start_http().await;
        let named = [
            // The standard's default.
            ("OTEL_EXPORTER_OTLP_PROTOCOL", ""),
            ("OTEL_SERVICE_NAME", "orders-of-ours"),
            // What is left is exported at the end.
            ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ];
        let (process, http) = start(&database, &collector.url(), &named).await;
        process_an_order(&http).await;
        assert_eq!(stop(process, FAILED).await, 0);
        let spans = collector.spans();
        let mut created = spans.iter().filter(|span| span.name == "POST /orders");
        let created = created.next().expect("the request");
        assert_eq!(created.service, "orders-of-ours");
        let is_attempt = |span: &&Seen| span.name == "process order";
        let attempt = spans.iter().find(is_attempt).expect("the attempt");
        assert_eq!(
            (&attempt.trace_id, &attempt.parent_id),
            (&created.trace_id, &created.id)
        );
    });
}

#[test]
fn orders_of_one_commit_are_linked() {
    run(async {
        const ORDERS: usize = 100;
        let database = database!(Engine::Sqlite);
        let collector = Collector::start();
        let (process, http) = start(&database, &collector.url(), &[]).await;
        let created = (0..ORDERS).map(|_| http.create_order());
        futures_util::future::join_all(created).await;
        stop(process, FAILED).await;
        let spans = collector.spans();
        let named = |name: &str| -> Vec<&Seen> {
            let found = spans.iter().filter(|span| span.name == name);
            found.collect()
        };
        let commits = named("commit orders");
        let requests = named("POST /orders");
        assert_eq!(requests.len(), ORDERS);
        for request in requests {
            let is_own = |commit: &&&Seen| commit.trace_id == request.trace_id;
            let own = commits.iter().find(is_own).expect("a commit");
            assert_eq!(own.parent_id, request.id);
        }
        let mut n_linked = 0;
        for link in commits.iter().flat_map(|commit| &commit.links) {
            n_linked += 1;
            // A span of the same commit, or the request of a member.
            let is_linked = |span: &&Seen| span.id == *link;
            let linked = spans.iter().find(is_linked).expect("a span");
            assert!(["commit orders", "POST /orders"].contains(&&*linked.name));
        }
        assert!(n_linked > 0, "{commits:#?}");
    });
}

#[test]
fn settings_that_are_not_understood_are_ignored_or_refused() {
    run(async {
        let database = database!(Engine::Sqlite);
        let collector = Collector::start();
        let wrong = [
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ];
        let (process, http) = start(&database, &collector.url(), &wrong).await;
        process_an_order(&http).await;
        for (name, rule) in [
            ("OTEL_TRACES_SAMPLER", "must be one of always_on"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "must be a number from 1 to"),
        ] {
            let line = process.wait_for_line(name, PATIENCE).await;
            let line = line.expect("it is told");
            assert!(line.contains(rule), "{line}");
        }
        assert_eq!(stop(process, "setting is ignored").await, 2);

        let ports = Ports::free();
        let bad = [("OTEL_EXPORTER_OTLP_ENDPOINT", "no url")];
        let mut command = command(&database, &ports, &bad);
        let process = ChildServer::spawn(&mut command).expect("the binary runs");
        let status = process.wait_for_exit(PATIENCE).await.expect("it ends");
        let output = process.output();
        assert!(!status.success(), "{output}");
        assert!(
            output.contains("error: OTEL_EXPORTER_OTLP_ENDPOINT cannot be used"),
            "{output}"
        );
    });
}
