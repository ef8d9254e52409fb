//! `cargo xtask bench --scale`: the same load on other shapes of the system, beside one
//! service with its workers on the same PostgreSQL in the same run.

use std::path::Path;

use anyhow::Context as _;
use order_testkit::server::{
    free_port, kafka::KafkaServer, postgres::PostgresServer, redis::RedisServer,
};

use super::{BenchArgs, QUIET, load};
use crate::system::{Process, loopback};

/// A shape of the system.
struct Shape {
    name: &'static str,
    /// How many order services there are.
    services: usize,
    /// Whether the services only serve and one `order-worker` works.
    has_worker: bool,
    /// `QUEUE_URL` and `EVENTS_URL`.
    engines: [String; 2],
}

/// The processes of a shape.
struct Cluster {
    processes: Vec<Process>,
    http_port: u16,
}

impl Cluster {
    async fn start(programs: &Path, database_url: &str, shape: &Shape) -> anyhow::Result<Self> {
        let [queue_url, events_url] = shape.engines.clone();
        let core = || {
            let mut settings: Vec<_> = QUIET
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect();
            settings.extend([
                ("DATABASE_URL", database_url.to_owned()),
                ("QUEUE_URL", queue_url.clone()),
                ("EVENTS_URL", events_url.clone()),
                ("ADMIN_ADDR", loopback(0)),
            ]);
            settings
        };
        let (mut processes, mut urls) = (Vec::new(), Vec::new());
        for _ in 0..shape.services {
            let grpc = loopback(free_port()?);
            urls.push(format!("http://{grpc}"));
            let mut settings = core();
            settings.extend([("GRPC_ADDR", grpc), ("WS_ADDR", loopback(0))]);
            if shape.has_worker {
                settings.push(("WORKERS", "0".to_owned()));
            }
            processes.push(Process::new(programs.join("order-service"), settings));
        }
        if shape.has_worker {
            processes.push(Process::new(programs.join("order-worker"), core()));
        }
        let http_port = free_port()?;
        let mut settings = core();
        settings.extend([
            ("HTTP_ADDR", loopback(http_port)),
            ("ORDER_SERVICE_URL", urls.join(",")),
        ]);
        processes.push(Process::new(programs.join("api-gateway"), settings));
        for process in &mut processes {
            process.start().await?;
        }
        Ok(Self {
            processes,
            http_port,
        })
    }

    /// Stops everything, gateway first.
    async fn stop(mut self) -> anyhow::Result<()> {
        while let Some(mut process) = self.processes.pop() {
            process.stop().await?;
        }
        Ok(())
    }
}

/// How long each shape is loaded before it is measured: connections are opened, and the broker,
/// which is compiled while it runs, has done the same for a while.
const WARM_UP_SECONDS: u32 = 2;

/// Measures all shapes in turns and prints their median ratios to the first. Each round
/// begins with another shape, and every other round goes backwards, so that none is always
/// measured after the same one.
pub(super) async fn run(
    programs: &Path,
    postgres: &PostgresServer,
    args: BenchArgs,
) -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let kafka = KafkaServer::start().await?;
    let shapes = shapes(&redis.url(), &format!("{}/order-jobs", kafka.url()));
    let names: Vec<&str> = shapes.iter().map(|shape| shape.name).collect();
    println!("orders/s, and the ratio to the first column:\n");
    println!("| round | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(shapes.len()));
    let mut results: Vec<Vec<load::Round>> = shapes.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        let mut turns: Vec<_> = shapes.iter().zip(&mut results).collect();
        let n_turns = turns.len();
        turns.rotate_left(round as usize % n_turns);
        if round % 2 == 0 {
            turns.reverse();
        }
        for (shape, results) in turns {
            let cluster = Cluster::start(programs, &postgres.url(), shape).await?;
            let seconds = [WARM_UP_SECONDS, args.seconds];
            let measured = load::measure(postgres, cluster.http_port, seconds).await;
            results.push(measured.with_context(|| shape.name)?);
            cluster.stop().await?;
        }
        let last = results.iter().filter_map(|results| results.last());
        let rates: Vec<f64> = last.map(|result| result.rate).collect();
        let base = rates.first().context("no shapes")?;
        let cell = |rate: &f64| format!("{rate:.0} ({:.2})", rate / base);
        let cells: Vec<_> = rates.iter().map(cell).collect();
        println!("| {round} | {} |", cells.join(" | "));
    }
    print_medians(&shapes, &results)
}

fn shapes(redis: &str, kafka: &str) -> [Shape; 8] {
    let shape = |name, services, has_worker, [queue, events]: [&str; 2]| Shape {
        name,
        services,
        has_worker,
        engines: [queue.to_owned(), events.to_owned()],
    };
    [
        shape("one service", 1, false, ["local", "local"]),
        shape("three services", 3, false, ["local", "local"]),
        shape("one, NOTIFY", 1, false, ["local", "postgres"]),
        shape("three, NOTIFY", 3, false, ["local", "postgres"]),
        shape("one, Redis", 1, false, ["local", redis]),
        shape("three, Redis", 3, false, ["local", redis]),
        shape("service and worker, Redis", 1, true, [redis, redis]),
        shape("service and worker, Kafka", 1, true, [kafka, "postgres"]),
    ]
}

/// The median ratios of rates of the same round, and what the database counted in the last.
fn print_medians(shapes: &[Shape], results: &[Vec<load::Round>]) -> anyhow::Result<()> {
    let median = |of: usize, to: usize| {
        let (of, to) = (results.get(of)?, results.get(to)?);
        let mut ratios: Vec<f64> = of.iter().zip(to).map(|(a, b)| a.rate / b.rate).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    };
    println!("\nmedian of the ratio to one service:");
    for (idx, shape) in shapes.iter().enumerate() {
        let ratio = median(idx, 0).context("no rounds")?;
        println!("- {}: {ratio:.2}", shape.name);
    }
    println!("\nmedian of three services to one with the same settings:");
    for (three, one) in [(1, 0), (3, 2), (5, 4)] {
        let name = shapes.get(three).map_or("", |shape| shape.name);
        let ratio = median(three, one).context("no rounds")?;
        println!("- {name}: {ratio:.2}");
    }
    println!("\ncounters of the last round:");
    for (shape, results) in shapes.iter().zip(results) {
        let counters = results.last().map_or("", |result| &result.counters);
        println!("\n{}:\n{counters}", shape.name);
    }
    Ok(())
}
