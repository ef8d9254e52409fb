//! `cargo xtask bench --observe`: the same load with and without logs, scrapes and traces.

use std::{convert::Infallible, path::Path, time::Duration};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1};
use hyper::{header::CONTENT_TYPE, service::service_fn};
use hyper_util::rt::TokioIo;
use order_testkit::server::postgres::PostgresServer;
use tokio::{net::TcpListener, task::JoinSet, task::spawn_blocking, time::interval};

use super::{BenchArgs, output, scale};

/// The time between two scrapes of a process: a third of what Prometheus waits by default.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(5);

/// Prints the ratios, and the cost of a scrape.
pub(super) async fn run(
    programs: &Path,
    postgres: &PostgresServer,
    args: BenchArgs,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut background = JoinSet::new();
    background.spawn(collect(listener));
    let shape = |name, settings: &[(&'static str, &str)]| scale::Shape {
        name,
        services: 1,
        has_worker: false,
        settings: settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
    };
    let traced = [
        ("RUST_LOG", "info"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
    ];
    let shapes = [
        // The harness waits for the line that says that a process is ready.
        shape("unobserved", &[("RUST_LOG", "off,order_app=info")]),
        shape("logs and scrapes", &[("RUST_LOG", "info")]),
        shape("logs, scrapes and traces", &traced),
    ];
    let mut clusters = scale::clusters(programs, postgres, shapes).await?;
    let mut scrapes = JoinSet::new();
    for cluster in clusters.iter().skip(1) {
        for port in &cluster.admin_ports {
            scrapes.spawn(scrape(*port));
        }
    }
    let measured = tokio::select! {
        measured = scale::take_turns(&mut clusters, args) => measured,
        Some(failed) = scrapes.join_next() => failed?,
    };
    measured?;
    println!("\nmedian of the ratios, and its 95 % confidence interval:");
    scale::print_ratio(&clusters, 1, 0)?;
    scale::print_ratio(&clusters, 2, 1)
}

/// Scrapes a process and prints each scrape that took longer, or was larger, than those before.
async fn scrape(port: u16) -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{port}/metrics");
    let (mut time_max, mut bytes_max) = (0.0, 0);
    let mut ticks = interval(SCRAPE_INTERVAL);
    loop {
        ticks.tick().await;
        let format = "%{time_total} %{size_download}";
        let url = url.clone();
        let scraped =
            spawn_blocking(move || output("curl", &["-sf", "-o", "/dev/null", "-w", format, &url]));
        // Now and then all processes are started again.
        let Ok(text) = scraped.await? else { continue };
        let (time, bytes) = text.split_once(' ').context("no answer of curl")?;
        let (time, bytes): (f64, u64) = (time.parse()?, bytes.parse()?);
        if time > time_max || bytes > bytes_max {
            (time_max, bytes_max) = (time.max(time_max), bytes.max(bytes_max));
            println!(
                "scrape of port {port}: at most {:.1} ms and {bytes_max} bytes",
                time_max * 1e3
            );
        }
    }
}

/// A collector of traces that takes everything.
async fn collect(listener: TcpListener) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        let answer = service_fn(|request: Request<Incoming>| async {
            let _ = request.into_body().collect().await;
            let answer = Response::builder().header(CONTENT_TYPE, "application/x-protobuf");
            Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).unwrap_or_default())
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
    }
}
