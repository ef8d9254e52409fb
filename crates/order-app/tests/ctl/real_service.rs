//! The program itself against `order-system`, both as real processes.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use order_app::ctl::ExitStatus;
use order_testkit::server::{
    free_port,
    process::{ChildServer, Signal},
};
use tempfile::TempDir;
use tokio::time::Instant;

/// How long anything may take; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service that can be stopped and started again, with its database.
struct Service {
    dir: TempDir,
    http: u16,
    grpc: u16,
}

impl Service {
    fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a directory"),
            http: free_port().expect("a port"),
            grpc: free_port().expect("a port"),
        }
    }

    async fn start(&self, processor_delay: &str) -> ChildServer {
        let database = self.dir.path().join("orders.db");
        let addr = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-system"));
        command
            .env("DATABASE_URL", format!("sqlite:{}", database.display()))
            .env("HTTP_ADDR", addr(self.http))
            .env("GRPC_ADDR", addr(self.grpc))
            .env("WS_ADDR", addr(0))
            .env("ADMIN_ADDR", addr(0))
            .env("PROCESSOR_DELAY", processor_delay)
            .env("RUST_LOG", "info");
        let process = ChildServer::spawn(&mut command).expect("the binary runs");
        let ready = process.wait_for_line("is ready", PATIENCE).await;
        ready.expect("ready");
        process
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orderctl"));
        command
            .env(
                "ORDER_SERVICE_URL",
                format!("http://127.0.0.1:{}", self.grpc),
            )
            .env_remove("RUST_LOG")
            .args(args);
        command
    }

    /// Runs `orderctl` to its end.
    fn orderctl(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Writes a file beside the database.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

fn assert_status(output: &Output, status: ExitStatus) {
    let code = Some(i32::from(status.code()));
    assert_eq!(output.status.code(), code, "{output:?}");
}

/// Creates an order and returns its id.
fn create(service: &Service) -> String {
    let created = service.orderctl(&[
        "create",
        "--user=user-1",
        "--amount=99.95",
        "--metadata=colour=red",
        "--external-id=x-1",
        "--output=json",
    ]);
    assert_status(&created, ExitStatus::Ok);
    let order: serde_json::Value = serde_json::from_slice(&created.stdout).expect("JSON");
    order["order_id"].as_str().expect("an id").to_owned()
}

async fn http_get(service: &Service, path: &str) -> Bytes {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://127.0.0.1:{}{path}", service.http);
    let answer = client.get(uri.parse().expect("valid")).await;
    let body = answer.expect("an answer").into_body().collect().await;
    body.expect("a whole body").to_bytes()
}

#[tokio::test]
async fn an_order_is_printed_as_the_http_api_has_it() {
    let service = Service::new();
    let _process = service.start("1h").await;
    let id = create(&service);
    let cancelled = service.orderctl(&["cancel", &id, "--reason=changed my mind"]);
    assert_status(&cancelled, ExitStatus::Ok);
    let shown = service.orderctl(&["get", &id, "--output=json"]);
    let body = http_get(&service, &format!("/orders/{id}")).await;
    assert_eq!(out(&shown).trim_end().as_bytes(), body, "{shown:?}");

    let events = service.orderctl(&["events", &id, "--output=json"]);
    let body = http_get(&service, &format!("/orders/{id}/events")).await;
    let page: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    let lines: Vec<serde_json::Value> = out(&events)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(page["events"], serde_json::Value::Array(lines));
}

#[tokio::test]
async fn a_file_is_imported_once() {
    let service = Service::new();
    let process = service.start("0s").await;
    let good = |n: usize| format!("{{\"user_id\":\"user-{n}\",\"amount\":\"{n}.50\"}}\n");
    let mut text: String = (1..=1_000).map(good).collect::<Vec<_>>().concat();
    text.push_str("{\"user_id\":\"\",\"amount\":1}\nnonsense\n");
    let path = service.write("orders.jsonl", &text);

    let imported = service.orderctl(&["import", &path, "--batch=100"]);
    assert_status(&imported, ExitStatus::FailedLines);
    assert_eq!(out(&imported), "created 1000, already there 0, failed 2\n");
    let told = "line 1001: user_id: must not be empty\nline 1002: is not JSON at column 2";
    assert!(err(&imported).contains(told), "{imported:?}");

    // Nothing is sent, so the service is not even needed.
    process.signal(Signal::Terminate).expect("running");
    process.wait_for_exit(PATIENCE).await.expect("stopped");
    let again = service.orderctl(&["import", &path]);
    assert_status(&again, ExitStatus::FailedLines);
    assert_eq!(out(&again), out(&imported));

    // Without a journal everything is sent, and nothing is created.
    let _process = service.start("0s").await;
    fs::remove_file(format!("{path}.progress")).expect("there");
    let sent = service.orderctl(&["import", &path]);
    assert_eq!(out(&sent), "created 0, already there 1000, failed 2\n");
    let listed = service.orderctl(&["list", "--all", "--output=json"]);
    assert_eq!(out(&listed).lines().count(), 1_000);
}

#[tokio::test]
async fn a_watch_outlives_a_restart_of_the_service() {
    let service = Service::new();
    let process = service.start("1h").await;
    let id = create(&service);
    let args = ["watch", &id, "--until-final", "--output=json"];
    let watch = ChildServer::spawn(&mut service.command(&args)).expect("the binary runs");
    let first = watch.wait_for_line("PENDING", PATIENCE).await;
    first.expect("the current state");

    process.signal(Signal::Terminate).expect("running");
    process.wait_for_exit(PATIENCE).await.expect("stopped");
    let lost = watch.wait_for_line("watching again", PATIENCE).await;
    lost.expect("told that the service is gone");
    let _process = service.start("0s").await;

    let ended = watch.wait_for_exit(PATIENCE).await.expect("ended");
    assert_eq!(ended.code(), Some(0), "{}", watch.output());
    let settled = r#""status":"PROCESSED","version":2"#;
    // The last line may still be in the pipe.
    let deadline = Instant::now() + PATIENCE;
    while !watch.output().contains(settled) {
        assert!(Instant::now() < deadline, "{}", watch.output());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_interrupt_is_an_exit_code_of_its_own() {
    let service = Service::new();
    let _process = service.start("1h").await;
    let id = create(&service);
    let mut command = service.command(&["watch", &id]);
    let watch = ChildServer::spawn(&mut command).expect("the binary runs");
    let first = watch.wait_for_line("PENDING", PATIENCE).await;
    first.expect("the current state");
    watch.signal(Signal::Interrupt).expect("running");
    let ended = watch.wait_for_exit(PATIENCE).await.expect("ended");
    assert_eq!(
        ended.code(),
        Some(i32::from(ExitStatus::Interrupted.code()))
    );
}

#[test]
fn a_service_that_is_not_there_is_an_exit_code_of_its_own() {
    let service = Service::new();
    let listed = service.orderctl(&["list"]);
    assert_status(&listed, ExitStatus::Unavailable);
    let start = "error: SERVICE_UNAVAILABLE: the order service is unavailable: cannot connect to";
    assert!(err(&listed).starts_with(start), "{listed:?}");
    let wrong = service.orderctl(&["list", "--server=ftp://nowhere"]);
    assert_status(&wrong, ExitStatus::Usage);
}
