//! One process of the fleet is killed every second, and the broker is wiped: no order is
//! lost, doubled or stuck, and every watcher on any hub sees the final state.

use std::time::Duration;

use anyhow::ensure;
use order_testkit::server::postgres::PostgresServer;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    FleetArgs,
    broker::Broker,
    fleet::{Fleet, Kind, PerKind},
    load::{Load, Plan},
    poison::{self, Poison},
    posts::Tries,
    promise::{DOUBLED, Database, Verdict},
    sink::Sink,
};
use crate::system;

/// The time from one kill to the next.
const BETWEEN_KILLS: Duration = Duration::from_secs(1);

/// How long the last orders may take when nothing is killed any more: the lease, a
/// takeover, and time to spare on a slow machine.
pub(super) const SETTLE_TIMEOUT: Duration = Duration::from_secs(22);

/// The same while an order kills its workers: each of its attempts takes a lease.
const POISON_SETTLE_TIMEOUT: Duration = Duration::from_mins(1);

/// What was done to the fleet.
struct Faults {
    kills: PerKind,
    n_wipes: u32,
}

/// Runs it.
pub(super) async fn run(args: FleetArgs, release: bool) -> anyhow::Result<()> {
    let programs = system::build(release)?;
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("--seed {seed}: {args:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let postgres = PostgresServer::start(&[]).await?;
    let mut broker = Broker::start(args).await?;
    let sink = if args.sink {
        Some(Sink::start().await?)
    } else {
        None
    };
    let mut front = Vec::new();
    front.extend(sink.as_ref().map(|sink| ("EVENT_SINK", sink.url())));
    let mut poison = if args.poison {
        Some(Poison::start().await?)
    } else {
        None
    };
    let database_url = postgres.url();
    let settings = &broker.settings;
    let processor = |worker: &str| poison.iter().flat_map(|p| p.settings(worker)).collect();
    let mut fleet = Fleet::start(&programs, &database_url, settings, &front, processor).await?;
    let consumer = sink
        .as_ref()
        .map(|sink| sink.consume(StdRng::seed_from_u64(random.random())));
    let mut load = Load::start(Plan {
        http_urls: fleet.urls(Kind::Gateway, "http", "/orders"),
        ws_urls: fleet.urls(Kind::Service, "ws", "/ws"),
        tries: Tries::UntilAcknowledged,
        rate: args.rate,
        watchers: args.watchers,
        seed: random.random(),
    });

    let faults = storm(&mut fleet, &mut broker, &mut poison, args, &mut random).await?;
    // A process that does not come back is an error even if nobody misses it.
    fleet.wait_until_ready().await?;
    load.stop().await?;
    let database = Database::connect(&database_url).await?;
    settle(&database, &mut fleet, &mut poison).await?;
    let outcome = load.finish().await?;

    println!(
        "{} kills: {}; {} wipes",
        faults.kills.total(),
        faults.kills.text(),
        faults.n_wipes
    );
    let mut verdict = Verdict::default();
    outcome.judge(&mut verdict);
    database
        .check(&outcome.ledger.acknowledged, &mut verdict)
        .await?;
    verdict.must_be_none(database.count(DOUBLED).await?, "orders doubled");
    if let Some(poison) = &poison {
        poison.judge(&database, &mut verdict).await?;
    }
    if let (Some(sink), Some(consumer)) = (&sink, consumer) {
        sink.judge(consumer, &database, &mut verdict).await?;
    }
    ensure!(
        faults.kills.total() == args.seconds && faults.n_wipes == broker.wipes_of(args),
        "less happened than was asked for"
    );
    verdict.give()?;
    fleet.stop().await
}

/// Waits until every job is done, also that of the poisoned order, which kills on.
async fn settle(
    database: &Database,
    fleet: &mut Fleet,
    poison: &mut Option<Poison>,
) -> anyhow::Result<()> {
    let Some(poison) = poison else {
        return database.settle(SETTLE_TIMEOUT).await;
    };
    tokio::select! {
        settled = database.settle(POISON_SETTLE_TIMEOUT) => settled?,
        killed = poison.kill_all(fleet) => killed?,
    }
    fleet.wait_until_ready().await
}

/// Kills processes and wipes the broker at the same time.
async fn storm(
    fleet: &mut Fleet,
    broker: &mut Broker,
    poison: &mut Option<Poison>,
    args: FleetArgs,
    random: &mut StdRng,
) -> anyhow::Result<Faults> {
    if poison.is_some() {
        poison::post(&fleet.urls(Kind::Gateway, "http", "/orders")).await?;
    }
    let n_wipes = broker.wipes_of(args);
    let (kills, n_wipes) = tokio::try_join!(
        kill_one_after_the_other(fleet, poison, args.seconds, random),
        wipe_again_and_again(broker, n_wipes, args.seconds),
    )?;
    Ok(Faults { kills, n_wipes })
}

/// Kills one process every second: all of them, in an order of chance, then all again.
async fn kill_one_after_the_other(
    fleet: &mut Fleet,
    poison: &mut Option<Poison>,
    seconds: u32,
    random: &mut StdRng,
) -> anyhow::Result<PerKind> {
    let mut kills = PerKind::default();
    let mut victims: Vec<usize> = Vec::new();
    let mut ticks = tokio::time::interval_at(Instant::now() + BETWEEN_KILLS, BETWEEN_KILLS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while kills.total() < seconds {
        if let Some(poison) = poison {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(worker) = poison.next_victim() => {
                    poison.kill(fleet, &worker).await?;
                    continue;
                }
            }
        } else {
            ticks.tick().await;
        }
        if victims.is_empty() {
            victims.extend(0..fleet.members.len());
            victims.shuffle(random);
        }
        if let Some(victim) = victims.pop() {
            kills.add(fleet.kill(victim).await?);
        }
    }
    Ok(kills)
}

/// Wipes the broker `n` times, spread over the kills.
async fn wipe_again_and_again(broker: &mut Broker, n: u32, seconds: u32) -> anyhow::Result<u32> {
    let between = BETWEEN_KILLS * seconds / n.max(1);
    let mut ticks = tokio::time::interval_at(Instant::now() + between / 2, between);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut n_wipes = 0;
    while n_wipes < n {
        ticks.tick().await;
        broker.wipe().await?;
        n_wipes += 1;
    }
    Ok(n_wipes)
}
