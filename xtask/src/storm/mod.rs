//! `cargo xtask storm`: proves what is promised while processes die, on real processes and
//! a real database.
//!
//! - [`crash`]: one order service is killed again and again under load.
//! - [`scale`]: of several services, workers and gateways one is killed every second, and
//!   the broker is wiped.
//! - [`failover`]: the primary database is lost again and again, and its standby takes over.
//! - [`streams`]: ten thousand clients follow orders at one gateway under load; nothing dies.
//! - [`rolling`]: behind a load balancer every process in turn is stopped in good order.
//!
//! What clients saw is compared with what the database holds, and every line of the report
//! is a number, so that a storm in which nothing happened can be told from a good one.

mod balancer;
mod broker;
mod crash;
mod failover;
mod fleet;
mod load;
mod poison;
mod posts;
mod promise;
mod rolling;
mod scale;
mod sink;
mod streams;
mod watchers;

/// What to do.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct StormArgs {
    /// Orders to have acknowledged.
    #[arg(long, default_value_t = 10_000)]
    orders: usize,
    /// How often the order service is killed.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Clients that post at the same time.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Run optimised binaries.
    #[arg(long)]
    release: bool,
    /// Kill one of three services, three workers and two gateways every second instead.
    #[arg(long, conflicts_with_all = ["rolling", "failover"])]
    scale: bool,
    /// Restart all of them in turn, in good order and behind `HAProxy`, instead.
    #[arg(long, conflicts_with = "failover")]
    rolling: bool,
    /// Follow this many orders at one gateway, each over an event stream, under load instead.
    #[arg(long, conflicts_with_all = ["scale", "rolling", "failover"])]
    streams: Option<u32>,
    #[command(flatten)]
    failover: failover::FailoverArgs,
    #[command(flatten)]
    fleet: FleetArgs,
}

/// What `--scale`, `--rolling` and `--failover` run on.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "With --scale, --rolling and --failover")]
struct FleetArgs {
    /// What carries hints about jobs to the workers.
    #[arg(long, default_value = "local")]
    queue: broker::Queue,
    /// What carries events to the hubs.
    #[arg(long, default_value = "postgres")]
    events: broker::Events,
    /// Orders offered per second, whatever becomes of those before.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Orders that are watched at any time, each over a WebSocket.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=900))]
    watchers: u32,
    /// How long to kill, one process every second; --scale only.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// How often the broker is wiped meanwhile, if there is one; --scale only.
    #[arg(long, default_value_t = 5)]
    wipes: u32,
    /// Publish events to a Redis stream, and kill its consumer at random; --scale only.
    #[arg(long)]
    sink: bool,
    /// Post an order that kills each worker that works on it, too; --scale only.
    #[arg(long)]
    poison: bool,
    /// Which processes are killed; printed, so that a run can be had again.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the storm; fails if a promise was broken or less happened than was asked for.
pub(crate) async fn run(args: StormArgs) -> anyhow::Result<()> {
    if let Some(n) = args.streams {
        streams::run(n, args.release).await
    } else if args.scale {
        scale::run(args.fleet, args.release).await
    } else if args.rolling {
        rolling::run(args.fleet, args.release).await
    } else if args.failover.failover {
        failover::run(args.failover, args.fleet, args.release).await
    } else {
        crash::run(args).await
    }
}
