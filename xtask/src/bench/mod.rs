//! `cargo xtask bench`: orders per second from POST to PROCESSED, beside the naive design on
//! the same PostgreSQL in the same run, and the memory of idle WebSockets and event
//! streams.
//!
//! Only ratios within one run mean anything on a shared machine, so the two sides take
//! turns, and the median of the rounds is reported.

mod cpu;
mod idle;
mod load;
mod naive;
mod observe;
mod scale;

use std::path::Path;

use anyhow::Context as _;
use order_testkit::server::postgres::PostgresServer;

use crate::system;

/// What to measure.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Length of each round, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// Rounds of each side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Connections of the load generator, each with one request under way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub(crate) connections: u32,
    /// Idle connections of each kind; 0 leaves that part out.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) idle: u32,
    /// Compare several processes and brokers with one service instead.
    #[arg(long)]
    pub(crate) scale: bool,
    /// Measure the cost of logs, metrics and traces instead.
    #[arg(long, conflicts_with = "scale")]
    pub(crate) observe: bool,
}

impl BenchArgs {
    fn load(self) -> load::Load {
        load::Load {
            connections: self.connections,
            seconds: self.seconds,
        }
    }
}

/// Settings of the database, the same for both sides. Durability is untouched.
const POSTGRES_SETTINGS: [(&str, &str); 7] = [
    // Every shape of the system at the same time.
    ("max_connections", "500"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "30min"),
    ("jit", "off"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
];

/// One line per request would measure the log.
const QUIET: [(&str, &str); 2] = [
    ("RUST_LOG", "warn,order_app=info"),
    ("QUEUE_CAPACITY", "4096"),
];

/// Runs everything and prints a report in Markdown.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let programs = system::build(true)?;
    let postgres = PostgresServer::start(&POSTGRES_SETTINGS).await?;
    print_machine()?;
    if args.scale {
        return scale::run(&programs, &postgres, args).await;
    }
    if args.observe {
        return observe::run(&programs, &postgres, args).await;
    }
    println!(
        "| round | naive, orders/s | split on PostgreSQL, orders/s | ratio | all in one on SQLite, orders/s |"
    );
    println!("|---|---|---|---|---|");
    let (mut ratios, mut counters) = (Vec::new(), None);
    for round in 1..=args.rounds {
        let naive = naive::rate(&postgres, args.seconds).await?;
        let (split, counted) = load::split_on_postgres(&programs, &postgres, args.load()).await?;
        let sqlite = load::all_in_one_on_sqlite(&programs, args.load()).await?;
        let ratio = split / naive;
        println!("| {round} | {naive:.0} | {split:.0} | {ratio:.2} | {sqlite:.0} |");
        ratios.push(ratio);
        counters = Some(counted);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).context("no rounds")?;
    println!("\nmedian ratio {median:.2}");
    if let Some(counters) = counters {
        println!("\ncounters of the last round on PostgreSQL:\n{counters}");
    }
    if args.idle > 0 {
        idle::measure(&programs, args.idle).await?;
    }
    Ok(())
}

fn print_machine() -> anyhow::Result<()> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown");
    let n_cpus = std::thread::available_parallelism()?;
    let commit = output("git", &["rev-parse", "--short", "HEAD"])?;
    println!(
        "machine: {n_cpus} × {}",
        model.trim_start_matches(['\t', ':', ' '])
    );
    println!("commit: {}", commit.trim());
    println!("{}\n", output("rustc", &["--version"])?.trim());
    Ok(())
}

/// What a program prints; an error if it cannot be run or fails.
fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = std::process::Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes a script for a load generator.
fn script(dir: &Path, name: &str, text: &str) -> anyhow::Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, text)?;
    path.into_os_string()
        .into_string()
        .map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))
}
