//! What an operator sees of the log, and changes about it while a process runs.

use std::cell::RefCell;
use std::process::{Command, Output, Stdio};

use hyper::Method;
use order_testkit::server::process::{ChildServer, Signal};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    processes::{self, Ports},
    support::{Database, Engine, Http, PATIENCE, database, run, wait_for},
};

/// `orderctl admin log-level` for the process with this admin port.
fn log_level(admin: u16, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderctl"));
    command
        .args(["admin", "log-level"])
        .args(args)
        .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
        .stdin(Stdio::null());
    command
}

/// Its output; the program ends by itself.
async fn output(mut command: Command) -> Output {
    let ended = tokio::task::spawn_blocking(move || command.output());
    ended.await.expect("no panic").expect("the binary runs")
}

/// What it printed after it succeeded.
async fn printed(admin: u16, args: &[&str]) -> String {
    let output = output(log_level(admin, args)).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A running `order-system` that logs JSON, with its HTTP API and its admin port.
async fn start(database: &Database, filter: &str) -> (ChildServer, Http, u16) {
    let admin = order_testkit::server::free_port().expect("a port");
    let admin_addr = format!("127.0.0.1:{admin}");
    let ports = Ports::free();
    let settings = [
        ("ADMIN_ADDR", admin_addr.as_str()),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", filter),
    ];
    let process = processes::start(database, &ports, &settings).await;
    let http = Http::new(([127, 0, 0, 1], ports.http).into());
    (process, http, admin)
}

#[test]
fn log_level_is_changed_while_the_process_runs() {
    run(async {
        let database = database!(Engine::Sqlite);
        let (process, http, admin) = start(&database, "info,http_access=warn").await;
        assert_eq!(printed(admin, &[]).await, "http_access=warn,info\n");
        http.get("/orders/first").await;

        let filter = "info,http_access=warn,order_web=debug";
        let set = printed(admin, &[filter]).await;

        assert_eq!(set, "http_access=warn,order_web=debug,info\n");
        let line = process.wait_for_line("the log level was changed", PATIENCE);
        let line: Value = serde_json::from_str(&line.await.expect("it is told")).expect("JSON");
        assert_eq!(line["log.filter"], filter);
        assert_eq!(line["log.filter_before"], "http_access=warn,info");
        assert_eq!(line["client.address"], "127.0.0.1");
        http.get("/orders/second").await;
        let refused = process.wait_for_line("request refused", PATIENCE).await;
        refused.expect("lines at debug are written now");
        let n_refused = process.output().matches("request refused").count();
        assert_eq!(n_refused, 1, "{}", process.output());
    });
}

#[test]
fn log_level_is_set_back_when_the_wait_is_interrupted() {
    run(async {
        let database = database!(Engine::Sqlite);
        let (process, _, admin) = start(&database, "off").await;
        let mut command = log_level(admin, &["debug", "--for", "1h"]);
        let waiting = ChildServer::spawn(&mut command).expect("the binary runs");
        waiting.wait_for_line("debug", PATIENCE).await.expect("set");
        let line = process.wait_for_line("the log level was changed", PATIENCE);
        line.await
            .expect("told, although nothing was logged before");

        waiting.signal(Signal::Interrupt).expect("it runs");

        let exit = waiting.wait_for_exit(PATIENCE).await.expect("it ends");
        assert_eq!(exit.code(), Some(130));
        assert_eq!(printed(admin, &[]).await, "off\n");
    });
}

#[test]
fn log_level_that_is_none_is_refused_with_the_rule() {
    run(async {
        let database = database!(Engine::Sqlite);
        let (_process, _, admin) = start(&database, "info").await;
        for (filter, status, words) in [
            ("debgu", 2, "info,order_worker=debug"),
            (&*"x".repeat(1025), 1, "1024 bytes"),
        ] {
            let output = output(log_level(admin, &[filter])).await;
            assert_eq!(output.status.code(), Some(status), "{output:?}");
            let text = String::from_utf8(output.stderr).expect("UTF-8");
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(printed(admin, &[]).await, "info\n");
        let nobody = order_testkit::server::free_port().expect("a port");
        let output = output(log_level(nobody, &[])).await;
        assert_eq!(output.status.code(), Some(4), "{output:?}");
    });
}

#[test]
fn filter_at_start_that_is_none_is_told_and_ignored() {
    run(async {
        let database = database!(Engine::Sqlite);
        // Taken for a target it would leave nothing of the log.
        let (process, _, admin) = start(&database, "debgu").await;
        let line = process.wait_for_line("RUST_LOG is ignored", PATIENCE).await;
        assert!(line.expect("it is told").contains("debgu"));
        assert_eq!(printed(admin, &[]).await, "refinery_core=warn,info\n");
    });
}

/// Each line is an object of plain values, and those of requests about an order name it.
#[test]
fn lines_in_json_are_flat_and_name_the_order() {
    run(async {
        let database = database!(Engine::Sqlite);
        let (process, http, _) = start(&database, "info").await;
        let id = http.create_order().await;
        http.get(&format!("/orders/{id}/events")).await;
        process
            .wait_for_line("list_events", PATIENCE)
            .await
            .expect("it is logged");
        let output = process.output();
        let lines = output.lines().filter(|line| line.starts_with('{'));
        let lines: Vec<Value> = lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let is_plain = |value: &Value| !value.is_object() && !value.is_array();
        for line in &lines {
            let fields = line.as_object().expect("an object");
            assert!(fields.values().all(is_plain), "{line}");
        }
        for operation in ["create_order", "list_events"] {
            let is_access = |line: &&Value| line["http.operation"] == operation;
            let line = lines.iter().find(is_access).expect("a line");
            assert_eq!(line["order.id"], id, "{line}");
        }
    });
}

/// A collector of logs that is stuck: the pipe behind standard error is full.
#[test]
fn log_that_is_not_read_delays_nothing() {
    run(async {
        let database = database!(Engine::Sqlite);
        let ports = Ports::free();
        let admin = order_testkit::server::free_port().expect("a port");
        let mut command = processes::command(&database, &ports, &[]);
        command
            .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .env("RUST_LOG", "trace")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().expect("the binary runs");
        // Open, and never read.
        let log = process.stderr.take();
        let process = RefCell::new(process);
        let http = Http::new(([127, 0, 0, 1], ports.http).into());
        wait_for("the process", async || {
            let ready = http.try_send(Method::GET, "/readyz", None).await.ok();
            ready.filter(|answer| answer.status == 200)
        })
        .await;
        let metrics = Http::new(([127, 0, 0, 1], admin).into());
        let requests = wait_for("more lines than wait", async || {
            for _ in 0..200 {
                http.get("/orders?page_size=1").await;
            }
            let metrics = metrics.get("/metrics").await;
            let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
            let mut lines = metrics.lines();
            let dropped = lines.find_map(|line| line.strip_prefix("logs_lines_dropped_total "));
            let dropped: f64 = dropped.expect("a counter").parse().expect("a number");
            (dropped > 0.0).then_some(())
        });
        timeout(PATIENCE, requests).await.expect("answers");
        let order_id = http.create_order().await;
        http.wait_for_status(&order_id, "PROCESSED").await;
        let stop = Command::new("kill")
            .arg(process.borrow().id().to_string())
            .status();
        assert!(stop.expect("kill runs").success());
        let status = wait_for("the end", async || {
            process.borrow_mut().try_wait().expect("a child")
        });
        let status = status.await;
        assert!(status.success(), "{status}");
        drop(log);
    });
}

#[test]
fn panics_are_lines_of_the_log() {
    const IS_CHILD: &str = "PANICS_ARE_LINES_OF_THE_LOG";
    if std::env::var_os(IS_CHILD).is_some() {
        order_app::telemetry::init(order_app::config::LogFormat::Json);
        let worker = std::thread::Builder::new().name("worker".to_owned());
        let worker = worker.spawn(|| panic!("bad \u{202e}order\n{{}}"));
        worker.expect("a thread").join().expect_err("it panics");
        order_app::telemetry::flush();
        return;
    }
    let this = std::env::current_exe().expect("a program");
    let ended = Command::new(this)
        .args([
            "--exact",
            "logs::panics_are_lines_of_the_log",
            "--no-capture",
        ])
        .env_remove("RUST_LOG")
        .envs([("RUST_BACKTRACE", "0"), (IS_CHILD, "1")])
        .output()
        .expect("it runs");
    let log = String::from_utf8(ended.stderr).expect("UTF-8");
    let [line] = log.lines().collect::<Vec<_>>()[..] else {
        panic!("one line in {log}");
    };
    assert!(line.is_ascii(), "{line}");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["message"], "panicked");
    assert_eq!(line["panic"], "bad \u{202e}order\n{}");
    assert_eq!(line["thread"], "worker");
    let location = line["panic.location"].as_str().expect("a place");
    assert!(location.contains("logs.rs"), "{location}");
}
