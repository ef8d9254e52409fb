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

/// Measures all shapes in turns and prints their median ratios to the first.
pub(super) async fn run(
    programs: &Path,
    postgres: &PostgresServer,
    args: BenchArgs,
) -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let kafka = KafkaServer::start().await?;
    // One partition for each worker process there may be: each costs the broker a record batch
    // with every send.
    let kafka_url = format!("{}/order-jobs?partitions=3", kafka.url());
    let shape = |name, services, has_worker, [queue, events]: [&str; 2]| Shape {
        name,
        services,
        has_worker,
        engines: [queue.to_owned(), events.to_owned()],
    };
    let shapes = [
        shape("one service", 1, false, ["local", "local"]),
        shape("three services, NOTIFY", 3, false, ["local", "postgres"]),
        shape("three services, Redis", 3, false, ["local", &redis.url()]),
        shape(
            "service and worker, Redis",
            1,
            true,
            [&redis.url(), &redis.url()],
        ),
        shape(
            "service and worker, Kafka",
            1,
            true,
            [&kafka_url, "postgres"],
        ),
    ];
    let names: Vec<&str> = shapes.iter().map(|shape| shape.name).collect();
    println!("| round | {}, orders/s |", names.join(", orders/s | "));
    println!("|---|{}", "---|".repeat(shapes.len()));
    let mut ratios = vec![Vec::new(); shapes.len()];
    for round in 1..=args.rounds {
        let (mut cells, mut first) = (Vec::new(), None);
        for (shape, ratios) in shapes.iter().zip(&mut ratios) {
            let cluster = Cluster::start(programs, &postgres.url(), shape).await?;
            let measured = load::measure(postgres, cluster.http_port, args.seconds).await;
            let measured = measured.with_context(|| shape.name)?;
            cluster.stop().await?;
            let base = *first.get_or_insert(measured.rate);
            ratios.push(measured.rate / base);
            cells.push(format!(
                "{:.0} ({:.2})",
                measured.rate,
                measured.rate / base
            ));
        }
        println!("| {round} | {} |", cells.join(" | "));
    }
    println!("\nmedian of the ratio to one service:");
    for (shape, ratios) in shapes.iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        let median = ratios.get(ratios.len() / 2).context("no rounds")?;
        println!("- {}: {median:.2}", shape.name);
    }
    Ok(())
}
