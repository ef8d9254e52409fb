//! Every process in turn is stopped in good order and started again, behind a load
//! balancer and under load: no request fails, and no watcher misses an event.

use order_testkit::server::postgres::PostgresServer;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    FleetArgs,
    balancer::{Balancer, wait_until_200},
    broker::Broker,
    fleet::{Fleet, PerKind},
    load::{Load, Plan},
    posts::Tries,
    promise::{Database, Verdict},
    scale::SETTLE_TIMEOUT,
};
use crate::system;

/// How long a process serves on while it says that it is not ready: more than the balancer
/// takes to notice. Workers have nobody to tell.
const SHUTDOWN_DELAY: &str = "2s";

/// Runs it.
pub(super) async fn run(args: FleetArgs, release: bool) -> anyhow::Result<()> {
    let programs = system::build(release)?;
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("--seed {seed}: {args:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let postgres = PostgresServer::start(&[]).await?;
    let broker = Broker::start(args).await?;
    let front = [("SHUTDOWN_DELAY", SHUTDOWN_DELAY.to_owned())];
    let mut fleet = Fleet::start(&programs, &postgres.url(), &broker.settings, &front, |_| {
        Vec::new()
    })
    .await?;
    let balancer = Balancer::start(&fleet).await?;
    let mut load = Load::start(Plan {
        http_urls: vec![balancer.http_url()],
        ws_urls: vec![balancer.ws_url()],
        tries: Tries::One,
        rate: args.rate,
        watchers: args.watchers,
        seed: random.random(),
    });

    let mut restarts = PerKind::default();
    for n in 0..fleet.members.len() {
        let member = fleet.restart(n).await?;
        wait_until_200(member.admin_port, "/readyz").await?;
        restarts.add(member.kind);
        println!("restarted {}", member.name);
        balancer.wait_until_all_up().await?;
    }
    load.stop().await?;
    let database = Database::connect(&postgres.url()).await?;
    database.settle(SETTLE_TIMEOUT).await?;
    let outcome = load.finish().await?;

    println!(
        "{} restarts: {}; every exit code was 0",
        restarts.total(),
        restarts.text()
    );
    let mut verdict = Verdict::default();
    outcome.judge(&mut verdict);
    database
        .check(&outcome.ledger.acknowledged, &mut verdict)
        .await?;
    verdict.give()?;
    fleet.stop().await
}
