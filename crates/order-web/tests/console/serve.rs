//! The console over a system that is made up, to look at while working on its pages:
//! `cargo run -p order-web --example console`. An argument says what the system holds: `nothing`,
//! `hostile` or `unreachable`.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a tool for developers"
)]

#[path = "fake/mod.rs"]
mod fake;

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{AdminApi, Clock, IdGen, supervisor::Supervisor};
use order_edge::{CallStats, ServeConfig, serve};
use order_testkit::clock::SeededIds;
use order_web::{
    console::{Console, with_pages},
    http::{HttpDeps, guarded},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::fake::{Content, FakeSystem};

/// The real clock, with ten minutes gone before the first page is opened.
struct RealClock;

#[async_trait]
impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[tokio::main]
async fn main() {
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let ids: Arc<dyn IdGen> = Arc::new(SeededIds::new(1));
    let system = FakeSystem::new(Arc::clone(&clock));
    let mut arguments = std::env::args().skip(1);
    system.set(match arguments.next().as_deref() {
        Some("nothing") => Content::Nothing,
        Some("hostile") => Content::Hostile,
        Some("unreachable") => Content::Unreachable,
        _ => Content::Ordinary,
    });
    let deps = HttpDeps {
        api: Arc::clone(&system) as _,
        ids,
        clock: Arc::clone(&clock),
        stop: CancellationToken::new(),
        calls: CallStats::default(),
    };
    let console = Console::new(deps.clone(), Arc::clone(&system) as Arc<dyn AdminApi>);
    let mut tasks = JoinSet::new();
    tasks.spawn(Supervisor::new(&clock).run(console.task(deps.stop.clone())));
    let port = arguments.next().unwrap_or_else(|| "9099".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    println!("http://{address}/console/");
    let router = with_pages(guarded(console.router(), &deps, address));
    serve(listener, router, ServeConfig::new("console"), deps.stop)
        .await
        .expect("a server");
}
