//! How fast `orderctl import` is, beside calling `BatchCreateOrders` directly with the same
//! orders against the same system, in turns; and how much memory it takes.
//!
//! `cargo bench --package order-app --bench import`; run it on an otherwise idle machine.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on has failed, and prints what it found"
)]

use std::{
    fmt::Write as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use order_adapters::system::SystemClock;
use order_core::{
    CallContext, Clock, CreateOrder, Deadline, IdempotencyKey, Metadata, Money, OrderApi,
    RequestId, UserId,
};
use order_rpc::{RemoteOrderApi, RpcClientConfig};
use order_testkit::server::free_port;
use tempfile::TempDir;
use tokio::task::JoinSet;

const ORDERS: usize = 100_000;
const ROUNDS: usize = 3;

/// What `orderctl import` does without being told otherwise.
const BATCH_LEN: usize = 500;
const CONCURRENCY: usize = 4;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    println!(
        "| round | direct, without keys | direct, with keys | import | import / direct with keys | peak |"
    );
    println!("|---|---|---|---|---|---|");
    for round in 1..=ROUNDS {
        let keyless = System::start().await.direct(false).await;
        let keyed = System::start().await.direct(true).await;
        let (import, peak_kib) = System::start().await.import();
        println!(
            "| {round} | {keyless:.0}/s | {keyed:.0}/s | {import:.0}/s | {:.2} | {} MiB |",
            import / keyed,
            peak_kib / 1024
        );
    }
}

/// `order-system` on a new SQLite database, for one measurement. It only stores: workers
/// would share the cores.
struct System {
    process: Child,
    url: String,
    api: RemoteOrderApi,
    /// The lanes of the client, which end with this.
    _lanes: JoinSet<()>,
    dir: TempDir,
}

impl System {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port().expect("a port");
        let process = Command::new(env!("CARGO_BIN_EXE_order-system"))
            .env(
                "DATABASE_URL",
                format!("sqlite:{}", dir.path().join("orders.db").display()),
            )
            .env("GRPC_ADDR", format!("127.0.0.1:{port}"))
            .env("HTTP_ADDR", "127.0.0.1:0")
            .env("WS_ADDR", "127.0.0.1:0")
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .env("WORKERS", "0")
            .env("RUST_LOG", "error")
            .stdout(Stdio::null())
            .spawn()
            .expect("order-system runs");
        let url = format!("http://127.0.0.1:{port}");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let config = RpcClientConfig::new(vec![url.clone()]);
        let (api, lanes) = RemoteOrderApi::new(&config, &clock).expect("a URL");
        let deadline = SystemClock.instant() + Duration::from_secs(20);
        let system = Self {
            process,
            url,
            api,
            _lanes: lanes.into_iter().collect(),
            dir,
        };
        while system.api.check_ready(&context()).await.is_err() {
            let is_late = SystemClock.instant() > deadline;
            assert!(!is_late, "order-system does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        system
    }

    /// Orders per second of the calls alone.
    async fn direct(self, is_keyed: bool) -> f64 {
        let orders: Vec<CreateOrder> = (0..ORDERS).map(|n| order(n, is_keyed)).collect();
        let started = SystemClock.instant();
        stream::iter(orders.chunks(BATCH_LEN))
            .map(async |batch| {
                let answers = self.api.create_orders(&context(), batch.to_vec()).await;
                assert!(answers.expect("answers").iter().all(Result::is_ok));
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<Vec<()>>()
            .await;
        rate(started)
    }

    /// Orders per second of the whole program, from its start to its end, and its largest
    /// resident size in KiB.
    fn import(self) -> (f64, u64) {
        let file = self.dir.path().join("orders.jsonl");
        let mut lines = String::new();
        for n in 0..ORDERS {
            let user = n % 1_000;
            writeln!(
                lines,
                r#"{{"user_id":"user-{user}","amount":99.95,"metadata":{{"n":"{n}"}}}}"#
            )
            .expect("memory");
        }
        std::fs::write(&file, lines).expect("written");
        let started = SystemClock.instant();
        let mut child = Command::new(env!("CARGO_BIN_EXE_orderctl"))
            .args(["--server", &self.url, "--quiet", "import"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("orderctl runs");
        let mut peak_kib = 0;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            peak_kib = peak_kib.max(peak_rss_kib(child.id()).unwrap_or(0));
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{status}");
        (rate(started), peak_kib)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.process.kill().expect("running");
        self.process.wait().expect("ended");
    }
}

/// The same orders as in the file of the import.
fn order(n: usize, is_keyed: bool) -> CreateOrder {
    let metadata = [("n".to_owned(), n.to_string())];
    CreateOrder {
        metadata: Metadata::new(metadata).expect("valid"),
        // As long and as random as the keys of an import.
        idempotency_key: is_keyed.then(|| {
            let key = format!("orderctl-{:032x}-1", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            IdempotencyKey::parse(&key).expect("valid")
        }),
        ..CreateOrder::new(
            UserId::parse(&format!("user-{}", n % 1_000)).expect("valid"),
            Money::parse("99.95", "USD").expect("valid"),
        )
    }
}

fn context() -> CallContext {
    let deadline = Deadline::at(SystemClock.instant() + Duration::from_secs(20));
    CallContext::new(RequestId::parse("bench").expect("valid"), deadline)
}

fn rate(started: Instant) -> f64 {
    let elapsed = SystemClock.instant().duration_since(started);
    f64::from(u32::try_from(ORDERS).expect("small")) / elapsed.as_secs_f64()
}

fn peak_rss_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
