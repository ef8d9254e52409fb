//! Processing outside the system, with the examples as they are: a worker in Python over gRPC,
//! and an endpoint that orders are posted to. Both, and the system itself, are killed on the way.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use order_testkit::server::{
    Backend, free_port,
    process::{ChildServer, Signal},
    python,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    processes::{Ports, start},
    support::{Engine, Http, PATIENCE, database, run, wait_for},
};

/// Enough that a kill comes in the middle.
const ORDERS: usize = 60;

/// Short, so that what died is taken over soon.
const LEASE: (&str, &str) = ("LEASE", "2s");

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(name)
}

fn http(ports: &Ports) -> Http {
    Http::new(([127, 0, 0, 1], ports.http).into())
}

async fn create_orders(http: &Http) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..ORDERS {
        ids.push(http.create_order().await);
    }
    ids
}

async fn kill(process: ChildServer) {
    process.signal(Signal::Kill).expect("running");
    process.wait_for_exit(PATIENCE).await.expect("it died");
}

async fn terminate(process: ChildServer) {
    process.signal(Signal::Terminate).expect("running");
    let status = process.wait_for_exit(PATIENCE).await.expect("it stops");
    assert!(status.success(), "{status}\n{}", process.output());
}

/// Waits until every order is PROCESSED, and checks that each went there by way of
/// PROCESSING, once.
async fn check_all_processed(http: &Http, ids: &[String]) {
    for id in ids {
        http.wait_for_status(id, "PROCESSED").await;
        let history = http.get(&format!("/orders/{id}/events")).await.json();
        let statuses: Vec<&Value> = history["events"]
            .as_array()
            .expect("events")
            .iter()
            .map(|event| &event["status"])
            .collect();
        assert_eq!(statuses, ["PENDING", "PROCESSING", "PROCESSED"], "{id}");
    }
}

async fn n_processed(http: &Http) -> usize {
    let page = http.get("/orders?status=PROCESSED&page_size=1000").await;
    page.json()["orders"].as_array().expect("orders").len()
}

fn worker(venv: &Path, ports: &Ports) -> ChildServer {
    let mut command = Command::new(venv.join("bin/python"));
    command
        .arg(example("worker.py"))
        .args(["--server", &format!("127.0.0.1:{}", ports.grpc)])
        .args(["--limit", "7", "--lease", "2"]);
    ChildServer::spawn(&mut command).expect("Python runs")
}

#[test]
fn a_worker_in_python_processes_orders_whatever_is_killed() {
    run(async {
        let venv = match python::venv().await {
            Backend::Available(venv) => venv,
            Backend::Unavailable(reason) => order_testkit::skip!("Python: {reason}"),
        };
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let ports = Ports::free();
            let system = start(&database, &ports, &[("WORKERS", "0")]).await;
            let ids = create_orders(&http(&ports)).await;
            let first = worker(&venv, &ports);
            first
                .wait_for_line(" USD", PATIENCE)
                .await
                .expect("it works");
            kill(first).await;
            let second = worker(&venv, &ports);
            wait_for("some more orders are processed", async || {
                (n_processed(&http(&ports)).await >= 10).then_some(())
            })
            .await;
            kill(system).await;
            let system = start(&database, &ports, &[("WORKERS", "0")]).await;
            let more = create_orders(&http(&ports)).await;
            check_all_processed(&http(&ports), &[ids, more].concat()).await;
            terminate(second).await;
            terminate(system).await;
        }
    });
}

/// The endpoint with its own database, on a port of its own.
struct Endpoint {
    dir: TempDir,
    port: u16,
}

impl Endpoint {
    const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    async fn start(&self) -> ChildServer {
        let mut command = Command::new("python3");
        command
            .arg(example("fulfilment_endpoint.py"))
            .args(["--port", &self.port.to_string()])
            .args(["--secret", Self::SECRET, "--fail-rate", "0.2"])
            .arg("--database")
            .arg(self.database());
        let endpoint = ChildServer::spawn(&mut command).expect("Python runs");
        wait_for("the endpoint listens", async || {
            let addr = ("127.0.0.1", self.port);
            tokio::net::TcpStream::connect(addr).await.ok()
        })
        .await;
        endpoint
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("fulfilment.db")
    }

    /// What the endpoint has shipped, in order of the ids.
    fn shipped(&self) -> Vec<String> {
        let code = "import sqlite3, sys\n\
            for row in sqlite3.connect(sys.argv[1]).execute('SELECT order_id FROM shipments'):\n\
            \x20   print(row[0])";
        let output = Command::new("python3")
            .args(["-c", code])
            .arg(self.database())
            .output()
            .expect("Python runs");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let mut ids: Vec<String> = text.lines().map(str::to_owned).collect();
        ids.sort_unstable();
        ids
    }
}

#[test]
fn an_endpoint_ships_every_order_once_whatever_is_killed() {
    run(async {
        if Command::new("python3").arg("--version").output().is_err() {
            order_testkit::skip!("Python: there is no python3");
        }
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let ports = Ports::free();
            let endpoint = Endpoint {
                dir: TempDir::new().expect("a temporary directory"),
                port: free_port().expect("a port"),
            };
            let url = format!("http://127.0.0.1:{}/orders", endpoint.port);
            let settings = [
                LEASE,
                ("PROCESSOR", "http"),
                ("FULFILMENT_URL", url.as_str()),
                ("FULFILMENT_SECRET", Endpoint::SECRET),
                ("FULFILMENT_ALLOWED_NETWORKS", "127.0.0.0/8"),
                ("MAX_ATTEMPTS", "50"),
            ];
            let first = endpoint.start().await;
            let system = start(&database, &ports, &settings).await;
            let mut ids = create_orders(&http(&ports)).await;
            kill(first).await;
            ids.extend(create_orders(&http(&ports)).await);
            kill(system).await;
            let second = endpoint.start().await;
            let system = start(&database, &ports, &settings).await;
            ids.extend(create_orders(&http(&ports)).await);
            check_all_processed(&http(&ports), &ids).await;
            ids.sort_unstable();
            assert_eq!(endpoint.shipped(), ids, "each order is shipped once");
            terminate(system).await;
            kill(second).await;
        }
    });
}
