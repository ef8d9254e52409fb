//! The primary database is lost again and again, and its standby takes over: no order is
//! lost, doubled, stuck or FAILED, and creates succeed again within seconds.
//!
//! The harness does what Patroni does with `synchronous_mode: true`: commits wait for the
//! standby while there is one. A server is only lost when commits wait.

use std::time::Duration;

use anyhow::ensure;
use order_testkit::server::postgres::{Loss, PostgresPair};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    FleetArgs,
    broker::Broker,
    fleet::{Fleet, Kind},
    load::{Load, Plan},
    posts::Tries,
    promise::{DOUBLED, Database, Verdict},
    scale::SETTLE_TIMEOUT,
};
use crate::system::{self, Sql};

/// One failover: the standby receives nothing for a while, then the primary is lost.
struct Failover {
    /// For how long new orders are offered.
    offering: Duration,
    /// For how long clients only repeat after that.
    repeating: Duration,
    loss: Loss,
}

/// In turn. With the first, commits still wait when the primary is killed. The second is longer
/// than sessions wait for an answer: commits are given up, are on the primary only, and clients
/// that repeat their requests find them there. It has few orders, since a repetition that shares
/// a batch with a new order waits with it. With the third no connection breaks, and the old
/// primary goes on accepting new ones.
const FAILOVERS: [Failover; 3] = [
    Failover {
        offering: Duration::from_secs(1),
        repeating: Duration::ZERO,
        loss: Loss::Killed,
    },
    Failover {
        offering: Duration::from_millis(50),
        repeating: Duration::from_secs(10),
        loss: Loss::Killed,
    },
    Failover {
        offering: Duration::from_secs(1),
        repeating: Duration::ZERO,
        loss: Loss::Hanging,
    },
];

/// Orders created before the next failover.
const ORDERS_BETWEEN: u64 = 300;

/// How soon after a promotion every create must succeed again.
const RECOVERY_MAX: Duration = Duration::from_secs(15);

/// For how long no create may fail until they count as succeeding again.
const QUIET: Duration = Duration::from_secs(1);

/// How long a step of the storm may take.
const STEP_TIMEOUT: Duration = Duration::from_mins(1);

/// The time between two looks at what clients were told.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Sessions set `synchronous_commit` themselves, so only a trigger can undo it.
const LOCAL_COMMITS: &str =
    "CREATE FUNCTION commit_locally() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('synchronous_commit', 'local', true);
        RETURN NULL;
    END $$;
    CREATE TRIGGER commit_locally BEFORE INSERT ON orders EXECUTE FUNCTION commit_locally()";

/// What to do to the database.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "With --failover")]
pub(super) struct FailoverArgs {
    /// Kill or stop the primary of two PostgreSQL servers and promote the other one instead.
    #[arg(long)]
    pub(super) failover: bool,
    /// How often.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    failovers: u32,
    /// Orders are committed with `synchronous_commit = local`. The storm must report lost orders:
    /// a check of the checks.
    #[arg(long, requires = "failover")]
    local_commits: bool,
}

/// Runs it.
pub(super) async fn run(
    args: FailoverArgs,
    fleet_args: FleetArgs,
    release: bool,
) -> anyhow::Result<()> {
    let programs = system::build(release)?;
    let seed = fleet_args.seed.unwrap_or_else(rand::random);
    println!("--seed {seed}: {args:?} {fleet_args:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut servers = PostgresPair::start(&[]).await?;
    let broker = Broker::start(fleet_args).await?;
    let fleet = Fleet::start(&programs, &servers.url(), &broker.settings, &[], |_| {
        Vec::new()
    })
    .await?;
    if args.local_commits {
        let sql = Sql::connect(&servers.url()).await?;
        sql.batch_execute(LOCAL_COMMITS).await?;
    }
    let mut load = Load::start(Plan {
        http_urls: fleet.urls(Kind::Gateway, "http", "/orders"),
        ws_urls: fleet.urls(Kind::Service, "ws", "/ws"),
        tries: Tries::UntilAcknowledged,
        rate: fleet_args.rate,
        watchers: fleet_args.watchers,
        seed: random.random(),
    });

    let mut verdict = Verdict::default();
    let mut n_late = 0;
    for (n, failover) in (1..=args.failovers).zip(FAILOVERS.iter().cycle()) {
        servers.make_synchronous().await?;
        let n_before = load.ledger().n_created;
        wait_until(&load, |load| {
            load.ledger().n_created >= n_before + ORDERS_BETWEEN
        })
        .await?;
        servers.stop_replication()?;
        sleep(failover.offering).await;
        load.pause(true);
        sleep(failover.repeating).await;
        let promoting = servers.fail_over(failover.loss).await?;
        load.pause(false);
        let recovered = recover(&load, Instant::now()).await?;
        n_late += u64::from(recovered.last > RECOVERY_MAX);
        println!(
            "failover {n}: standby {:?} behind, primary {:?}, standby promoted {:.1} s later; since then the first \
             order was created after {:.1} s, the last create failed after {:.1} s",
            failover.offering + failover.repeating,
            failover.loss,
            promoting.as_secs_f32(),
            recovered.first.as_secs_f32(),
            recovered.last.as_secs_f32(),
        );
        servers.rejoin().await?;
    }
    load.stop().await?;
    let database = Database::connect(&servers.url()).await?;
    database.settle(SETTLE_TIMEOUT).await?;
    let outcome = load.finish().await?;

    outcome.judge(&mut verdict);
    database
        .check(&outcome.ledger.acknowledged, &mut verdict)
        .await?;
    verdict.must_be_none(database.count(DOUBLED).await?, "orders doubled");
    verdict.must_be_none(n_late, "failovers with creates failing for too long");
    verdict.give()?;
    fleet.stop().await
}

/// When creates succeeded again after a promotion.
struct Recovered {
    /// The first one that did.
    first: Duration,
    /// The last one that did not.
    last: Duration,
}

/// Waits until creates succeed and none has failed for a while.
async fn recover(load: &Load, promoted: Instant) -> anyhow::Result<Recovered> {
    let since = |at: Option<Instant>| at.unwrap_or(promoted).saturating_duration_since(promoted);
    let mut first = None;
    wait_until(load, |load| {
        let ledger = load.ledger();
        let created = ledger.created_at.filter(|at| *at > promoted);
        first = first.or(created);
        let is_quiet = |at: Instant| at.max(promoted).elapsed() >= QUIET;
        created.is_some_and(|at| at.elapsed() < QUIET) && ledger.refused_at.is_none_or(is_quiet)
    })
    .await?;
    Ok(Recovered {
        first: since(first),
        last: since(load.ledger().refused_at),
    })
}

async fn wait_until(load: &Load, mut is_so: impl FnMut(&Load) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while !is_so(load) {
        ensure!(
            Instant::now() < deadline,
            "creates do not succeed: {:?}",
            load.ledger().refusals
        );
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
