//! The dashboards and alerts in `deploy/`, against the real Prometheus and the real metrics.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use order_testkit::server::{
    free_port,
    process::{ChildServer, Signal},
    prometheus::{PrometheusServer, is_installed},
};
use serde_json::Value;
use tokio_tungstenite::connect_async;

use crate::{
    metrics::EVERYTHING,
    support::{Engine, Http, PATIENCE, Running, Shape, System, database, run, wait_for},
};

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Ends the test as skipped where Prometheus is not installed.
macro_rules! need_prometheus {
    () => {
        if let Err(reason) = is_installed() {
            order_testkit::skip!("Prometheus: {reason:#}");
        }
    };
}

/// The names after `- KIND:` in the rules.
fn rules(kind: &str) -> Vec<String> {
    let prefix = format!("- {kind}: ");
    let rules = read(file("deploy/prometheus/rules.yaml"));
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&prefix));
    names.map(str::to_owned).collect()
}

#[test]
fn every_alert_has_a_runbook() {
    let (rules_text, docs) = (
        read(file("deploy/prometheus/rules.yaml")),
        read(file("docs/operations.md")),
    );
    let alerts = rules("alert");
    assert!(!alerts.is_empty());
    for alert in alerts {
        let link = format!("runbook: docs/operations.md#{}\n", alert.to_lowercase());
        assert!(rules_text.contains(&link), "{link}");
        assert!(docs.contains(&format!("\n### {alert}\n")), "{alert}");
    }
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    need_prometheus!();
    for arguments in [
        ["check", "rules", "rules.yaml"],
        ["check", "config", "prometheus.yaml"],
        ["test", "rules", "rules.test.yaml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(file("deploy/prometheus"))
            .output()
            .expect("promtool runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {text} {output:?}");
    }
    let tests = read(file("deploy/prometheus/rules.test.yaml"));
    for alert in rules("alert") {
        let name = format!("alertname: {alert}\n");
        let mut cases = tests.split(&name).skip(1);
        let is_expected = |case: &str| case.trim_start().starts_with("exp_alerts:");
        assert!(cases.any(is_expected), "{alert} never fires in a test");
    }
}

/// The configuration of a Prometheus that scrapes these processes, by the name of their program,
/// every second.
fn config(processes: &[(&str, String)]) -> String {
    let rules = file("deploy/prometheus/rules.yaml");
    let rules = rules.canonicalize().expect("it is there");
    let scrapes: Vec<String> = processes
        .iter()
        .map(|(job, address)| {
            format!("{{ job_name: {job}, static_configs: [{{ targets: ['{address}'] }}] }}")
        })
        .collect();
    format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}']\n\
         scrape_configs: [{}]\n",
        rules.display(),
        scrapes.join(", ")
    )
}

/// The answer of the API of Prometheus.
async fn ask(prometheus: &Http, path: &str) -> Value {
    let answer = prometheus.get(&format!("/api/v1/{path}")).await.json();
    assert_eq!(answer["status"], "success", "{path}: {answer}");
    answer["data"].clone()
}

async fn query(prometheus: &Http, query: &str) -> Value {
    let path = query
        .bytes()
        .fold("query?query=".to_owned(), |mut path, byte| {
            write!(path, "%{byte:02X}").expect("memory");
            path
        });
    ask(prometheus, &path).await
}

fn admin(process: &Running) -> String {
    process.addrs.admin.expect("an admin listener").to_string()
}

/// The expressions of all dashboards, with the file of each.
fn panels() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(file("deploy/grafana/dashboards")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let dashboard: Value = serde_json::from_str(&read(&path)).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let expr = target["expr"].as_str().expect("an expression");
                found.push((path.clone(), expr.to_owned()));
            }
        }
    }
    found
}

/// The metrics in an expression: names that are no function, no label, no keyword.
fn metrics_in(expr: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut names = BTreeSet::new();
    let mut rest = expr;
    while let Some(start) = rest.find(|c: char| is_name(c) || "{[\"".contains(c)) {
        let found = &rest[start..];
        let end = match found.as_bytes()[0] {
            b'{' => found.find('}').expect("a closing brace") + 1,
            b'[' => found.find(']').expect("a closing bracket") + 1,
            b'"' => found[1..].find('"').expect("a closing quote") + 2,
            _ => found.find(|c| !is_name(c)).unwrap_or(found.len()),
        };
        let (word, after) = found.split_at(end);
        rest = after;
        let after = after.trim_start();
        match word {
            // The labels in parentheses are no metrics.
            "by" | "without" | "on" | "ignoring" => {
                rest = &after[after.find(')').expect("labels") + 1..];
            }
            "and" | "or" | "unless" | "offset" | "bool" => {}
            // Functions.
            _ if ["(", "by (", "by(", "without"]
                .iter()
                .any(|next| after.starts_with(next)) => {}
            _ if word.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                names.insert(word.to_owned());
            }
            _ => {}
        }
    }
    names
}

/// A metric as Prometheus knows it, without what the parts of a histogram and counters end in.
fn is_known(name: &str, known: &Value, recorded: &[String]) -> bool {
    let suffixes = ["", "_bucket", "_count", "_sum", "_total"];
    let bases = suffixes
        .iter()
        .filter_map(|suffix| name.strip_suffix(suffix));
    // Prometheus makes these two itself.
    ["up", "ALERTS"].contains(&name)
        || recorded.iter().any(|recorded| recorded == name)
        || bases.into_iter().any(|base| known.get(base).is_some())
}

#[test]
fn names_of_metrics_are_found_in_expressions() {
    let names = |expr| metrics_in(expr).into_iter().collect::<Vec<_>>();
    assert_eq!(
        names("sum by (le, x) (rate(a_bucket{b=\"c\",d!~\"e\"}[5m])) > 1 unless f offset 15m"),
        ["a_bucket", "f"]
    );
    assert_eq!(names("time() - g:h > 14.4 * 0.001 or vector(0)"), ["g:h"]);
}

/// Every panel and every alert is a query that works and asks for metrics that exist.
#[test]
fn every_query_knows_its_metrics() {
    run(async {
        need_prometheus!();
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::Split, &database, &EVERYTHING).await;
        let gateway = system.gateway.as_ref().expect("a gateway");
        let http = Http::new(system.http_addr());
        let (mut socket, _) = connect_async(system.ws_url()).await.expect("a socket");
        socket.close(None).await.expect("a close frame");
        let id = http.create_order().await;
        http.wait_for_status(&id, "FAILED").await;
        let processes = [
            ("order-service", admin(&system.service)),
            ("api-gateway", admin(gateway)),
        ];
        let server = PrometheusServer::start(&config(&processes)).await;
        let server = server.expect("it is installed");
        let prometheus = Http::new(server.address());
        let recorded = rules("record");
        let mut queries = panels();
        for group in ask(&prometheus, "rules").await["groups"]
            .as_array()
            .expect("groups")
        {
            for rule in group["rules"].as_array().expect("rules") {
                let expr = rule["query"].as_str().expect("an expression");
                queries.push(("rules.yaml".into(), expr.to_owned()));
            }
        }
        assert!(queries.len() > 50, "{}", queries.len());
        for (from, expr) in queries {
            // What Grafana puts in.
            let expr = expr.replace("$__rate_interval", "1m");
            query(&prometheus, &expr).await;
            for name in metrics_in(&expr) {
                let what = format!("{name} of {} is a metric", from.display());
                wait_for(&what, async || {
                    let known = ask(&prometheus, "metadata").await;
                    is_known(&name, &known, &recorded).then_some(())
                })
                .await;
            }
        }
        system.stop().await;
    });
}

/// The names of the alerts that fire.
async fn firing(prometheus: &Http) -> BTreeSet<String> {
    let alerts = ask(prometheus, "alerts").await;
    let alerts = alerts["alerts"].as_array().expect("alerts");
    let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
    let name = |alert: &Value| alert["labels"]["alertname"].as_str().map(str::to_owned);
    firing.filter_map(name).collect()
}

/// A service without workers, and a worker beside it that is killed.
#[test]
fn killing_all_workers_fires_the_alert_on_overdue_jobs() {
    run(async {
        need_prometheus!();
        let database = database!(Engine::Postgres);
        let system = System::start(Shape::Split, &database, &["--workers", "0"]).await;
        let worker_addr = format!("127.0.0.1:{}", free_port().expect("a port"));
        let worker = ChildServer::spawn(
            Command::new(env!("CARGO_BIN_EXE_order-worker"))
                .env("DATABASE_URL", &database.url)
                .env("ADMIN_ADDR", &worker_addr),
        )
        .expect("the binary runs");
        worker
            .wait_for_line("is ready", PATIENCE)
            .await
            .expect("ready");
        let gateway = system.gateway.as_ref().expect("a gateway");
        let processes = [
            ("order-service", admin(&system.service)),
            ("api-gateway", admin(gateway)),
            ("order-worker", worker_addr),
        ];
        let server = PrometheusServer::start(&config(&processes)).await;
        let server = server.expect("it is installed");
        let prometheus = Http::new(server.address());
        let http = Http::new(system.http_addr());
        let id = http.create_order().await;
        http.wait_for_status(&id, "PROCESSED").await;
        wait_for("the backlog is known", async || {
            let age = query(&prometheus, "max(jobs_oldest_due_age_seconds)").await;
            (!age["result"].as_array()?.is_empty()).then_some(())
        })
        .await;
        assert!(!firing(&prometheus).await.contains("JobsOverdue"));

        worker.signal(Signal::Kill).expect("it runs");
        worker.wait_for_exit(PATIENCE).await.expect("it ends");
        let id = http.create_order().await;
        // As if it had waited for two minutes.
        let aged = database
            .sql()
            .await
            .execute(
                "UPDATE jobs SET due_at = due_at - interval '2 minutes'",
                &[],
            )
            .await;
        assert_eq!(aged.expect("jobs"), 1);

        wait_for("the alert fires", async || {
            firing(&prometheus)
                .await
                .contains("JobsOverdue")
                .then_some(())
        })
        .await;
        let order = http.get(&format!("/orders/{id}")).await.json();
        assert_eq!(order["status"], "PENDING");
        system.stop().await;
    });
}
