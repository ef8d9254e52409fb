//! `cargo xtask bench --scale`: the same load on other shapes of the system, beside one
//! service with its workers on the same PostgreSQL in the same run.
//!
//! All shapes are up all the time, each on a database of its own, and take short turns: a
//! shared machine becomes faster and slower within seconds, and only what was measured close
//! together can be compared.

use std::{fmt, path::Path};

use anyhow::Context as _;
use order_testkit::server::{
    free_port,
    kafka::KafkaServer,
    postgres::{PostgresServer, SharedPostgres, TestDatabase, database},
    redis::RedisServer,
};

use super::{
    BenchArgs, QUIET,
    load::{self, Load},
};
use crate::system::{Process, loopback};

/// A shape of the system.
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// How many order services there are.
    pub(super) services: usize,
    /// Whether the services only serve and one `order-worker` works.
    pub(super) has_worker: bool,
    /// Settings of all processes, beside those of every benchmark.
    pub(super) settings: Vec<(&'static str, String)>,
}

/// The processes of a shape, on a database of their own, and what was measured.
pub(super) struct Cluster {
    pub(super) name: &'static str,
    /// In the order in which they start.
    processes: Vec<Process>,
    /// The admin listeners of the processes.
    pub(super) admin_ports: Vec<u16>,
    http_port: u16,
    database: TestDatabase,
    pub(super) rounds: Vec<load::Round>,
}

impl Cluster {
    /// Makes everything ready to start.
    fn new(programs: &Path, database: TestDatabase, shape: &Shape) -> anyhow::Result<Self> {
        let mut admin_ports = Vec::new();
        let mut core = || -> anyhow::Result<_> {
            let admin_port = free_port()?;
            admin_ports.push(admin_port);
            let quiet = QUIET.iter();
            let quiet = quiet.map(|(name, value)| (*name, (*value).to_owned()));
            let own = [
                ("DATABASE_URL", database.url.clone()),
                ("ADMIN_ADDR", loopback(admin_port)),
            ];
            Ok(quiet
                .chain(own)
                .chain(shape.settings.clone())
                .collect::<Vec<_>>())
        };
        let (mut processes, mut urls) = (Vec::new(), Vec::new());
        for _ in 0..shape.services {
            let grpc = loopback(free_port()?);
            urls.push(format!("http://{grpc}"));
            let mut settings = core()?;
            settings.extend([("GRPC_ADDR", grpc), ("WS_ADDR", loopback(0))]);
            if shape.has_worker {
                settings.push(("WORKERS", "0".to_owned()));
            }
            processes.push(Process::new(programs.join("order-service"), settings));
        }
        if shape.has_worker {
            processes.push(Process::new(programs.join("order-worker"), core()?));
        }
        let http_port = free_port()?;
        let mut settings = core()?;
        settings.extend([
            ("HTTP_ADDR", loopback(http_port)),
            ("ORDER_SERVICE_URL", urls.join(",")),
        ]);
        processes.push(Process::new(programs.join("api-gateway"), settings));
        Ok(Self {
            name: shape.name,
            processes,
            admin_ports,
            http_port,
            database,
            rounds: Vec::new(),
        })
    }

    async fn start(&mut self, load: Load) -> anyhow::Result<()> {
        for process in &mut self.processes {
            process.start().await?;
        }
        let warm_up = Load {
            seconds: WARM_UP_SECONDS,
            ..load
        };
        self.measure(warm_up).await?;
        Ok(())
    }

    async fn measure(&self, load: Load) -> anyhow::Result<load::Round> {
        load::measure(&self.database.url, self.http_port, load)
            .await
            .context(self.name)
    }

    /// Stops everything, gateway first.
    async fn stop(&mut self) -> anyhow::Result<()> {
        for process in self.processes.iter_mut().rev() {
            process.stop().await?;
        }
        Ok(())
    }
}

/// How long each shape is loaded after a start, before it counts: connections are opened, and the
/// broker, which is compiled while it runs, has done the same for a while.
const WARM_UP_SECONDS: u32 = 2;

/// How many rounds are measured until everything is started again. Where the parts of a
/// process happen to lie in memory makes some percent, for as long as it runs.
const ROUNDS_OF_A_START: u32 = 5;

/// Measures several processes and brokers, and prints the median ratios to one service.
pub(super) async fn run(
    programs: &Path,
    postgres: &PostgresServer,
    args: BenchArgs,
) -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let kafka = KafkaServer::start().await?;
    let shapes = shapes(&redis.url(), &format!("{}/order-jobs", kafka.url()));
    let mut clusters = clusters(programs, postgres, shapes).await?;
    take_turns(&mut clusters, args).await?;
    print_medians(&clusters)?;
    print_counters(&clusters).await
}

/// Makes the processes of each shape ready to start, on a database of its own.
pub(super) async fn clusters(
    programs: &Path,
    postgres: &PostgresServer,
    shapes: impl IntoIterator<Item = Shape>,
) -> anyhow::Result<Vec<Cluster>> {
    let mut clusters = Vec::new();
    let url = postgres.url();
    let postgres = SharedPostgres { url };
    for shape in shapes {
        let database = database(&postgres).await?;
        clusters.push(Cluster::new(programs, database, &shape)?);
    }
    Ok(clusters)
}

/// Measures all shapes in turns. Each round begins with another shape, and every other round goes
/// backwards, so that none is always measured after the same one.
pub(super) async fn take_turns(clusters: &mut [Cluster], args: BenchArgs) -> anyhow::Result<()> {
    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name).collect();
    println!("{} connections; orders/s:\n", args.connections);
    println!("| round | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for round in 0..args.rounds {
        if round % ROUNDS_OF_A_START == 0 {
            for cluster in &mut *clusters {
                if round > 0 {
                    cluster.stop().await?;
                }
                cluster.start(args.load()).await?;
            }
        }
        let mut turns: Vec<_> = clusters.iter_mut().collect();
        let n_turns = turns.len();
        turns.rotate_left(round as usize % n_turns);
        if round % 2 == 1 {
            turns.reverse();
        }
        for cluster in turns {
            let measured = cluster.measure(args.load()).await?;
            cluster.rounds.push(measured);
        }
        let last = clusters.iter().filter_map(|cluster| cluster.rounds.last());
        let cells: Vec<_> = last.map(|round| format!("{:.0}", round.rate)).collect();
        println!("| {} | {} |", round + 1, cells.join(" | "));
    }
    for cluster in clusters {
        cluster.stop().await?;
    }
    Ok(())
}

fn shapes(redis: &str, kafka: &str) -> [Shape; 8] {
    let shape = |name, services, has_worker, [queue, events]: [&str; 2]| Shape {
        name,
        services,
        has_worker,
        settings: vec![
            ("QUEUE_URL", queue.to_owned()),
            ("EVENTS_URL", events.to_owned()),
        ],
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

/// The median of some ratios, and an interval in which the true one lies with 95 %
/// confidence: the order statistics that a binomial distribution with p = 1/2 gives, by its
/// normal approximation. Of a few ratios it is all of them.
struct Median {
    value: f64,
    from: f64,
    to: f64,
}

impl Median {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "of at most 99 rounds"
    )]
    fn of(mut ratios: Vec<f64>) -> Option<Self> {
        ratios.sort_by(f64::total_cmp);
        let n = ratios.len() as f64;
        let n_outside = (n / 2.0 - 0.98 * n.sqrt()).max(0.0) as usize;
        Some(Self {
            value: *ratios.get(ratios.len() / 2)?,
            from: *ratios.get(n_outside)?,
            to: *ratios.iter().rev().nth(n_outside)?,
        })
    }
}

impl fmt::Display for Median {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, from, to } = self;
        write!(f, "{value:.2} ({from:.2} to {to:.2})")
    }
}

/// The medians of the ratios of rates of the same round.
fn print_medians(clusters: &[Cluster]) -> anyhow::Result<()> {
    println!("\nmedian of the ratio to one service, and its 95 % confidence interval:");
    for idx in 1..clusters.len() {
        print_ratio(clusters, idx, 0)?;
    }
    println!("\nof three services to one with the same settings:");
    for (three, one) in [(1, 0), (3, 2), (5, 4)] {
        print_ratio(clusters, three, one)?;
    }
    Ok(())
}

/// Prints the median of the ratios of two shapes, by their positions.
pub(super) fn print_ratio(clusters: &[Cluster], of: usize, to: usize) -> anyhow::Result<()> {
    let pair = clusters.get(of).zip(clusters.get(to));
    let (of, to) = pair.context("no such shape")?;
    let pairs = of.rounds.iter().zip(&to.rounds);
    let ratio = Median::of(pairs.map(|(a, b)| a.rate / b.rate).collect()).context("no rounds")?;
    println!("- {} to {}: {ratio}", of.name, to.name);
    Ok(())
}

async fn print_counters(clusters: &[Cluster]) -> anyhow::Result<()> {
    println!("\ncounters of the last round:");
    for cluster in clusters {
        let counters = load::counters(&cluster.database.url).await?;
        let latency = cluster.rounds.last().map_or("", |round| &round.latency);
        println!("\n{}:\n{counters}{latency}", cluster.name);
    }
    Ok(())
}
