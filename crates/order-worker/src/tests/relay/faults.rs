//! Relays that crash, freeze and compete, between an outbox and a sink that fail. One seed is
//! one run: `SIM_SEED=n` repeats it alone.
//!
//! Invariants: the other side gets every event at least once, and the versions of an order
//! for the first time in their order.

use std::{collections::BTreeMap, env, future::poll_fn, pin::pin, task::ready};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

const SEEDS: u64 = 60;
const RELAYS: u64 = 3;
const ORDERS: u64 = 25;
const VERSIONS_MAX: u32 = 5;

/// What happened in a run, to prove that it was one worth having.
#[derive(Debug, Default)]
struct Counts {
    repeated: usize,
    failed: usize,
    crashed: usize,
}

fn up_to(rng: &mut StdRng, max: Duration) -> Duration {
    max.mul_f64(rng.random())
}

/// Polls `running`, except that it stands still now and then, for up to three leases, as a
/// process that is suspended.
async fn freezing(running: impl Future<Output = ()>, rng: &mut StdRng) {
    let mut running = pin!(running);
    let mut thaw = None;
    poll_fn(|cx| {
        if thaw.is_none() && rng.random_bool(0.01) {
            thaw = Some(Box::pin(sleep(up_to(rng, 3 * LEASE))));
        }
        if let Some(sleep) = &mut thaw {
            ready!(sleep.as_mut().poll(cx));
            thaw = None;
        }
        running.as_mut().poll(cx)
    })
    .await;
}

/// Commits the versions of an order one after the other, each in a transaction that may take
/// long after it has drawn its position.
async fn write(outbox: Arc<FakeOutbox>, order_id: OrderId, mut rng: StdRng) {
    for version in 1..=rng.random_range(1..=VERSIONS_MAX) {
        sleep(up_to(&mut rng, LEASE)).await;
        let position = outbox.next_position();
        sleep(up_to(&mut rng, LEASE / 10)).await;
        outbox.commit(position, event(order_id, version));
    }
}

/// One process after the other: each runs a relay until it crashes.
async fn run_processes(rig: Arc<Rig>, mut rng: StdRng) -> usize {
    let mut n_crashed = 0;
    while !rig.stop.is_cancelled() {
        let life = up_to(&mut rng, 5 * LEASE);
        let running = rig.running(rig.relay());
        let running = freezing(running, &mut rng);
        n_crashed += usize::from(tokio::time::timeout(life, running).await.is_err());
    }
    n_crashed
}

/// Versions of each order in the order in which they came for the first time.
fn first_occurrences(published: &[(OrderId, u32)]) -> BTreeMap<OrderId, Vec<u32>> {
    let mut firsts = BTreeMap::<_, Vec<_>>::new();
    for (order_id, version) in published {
        let versions = firsts.entry(*order_id).or_default();
        if !versions.contains(version) {
            versions.push(*version);
        }
    }
    firsts
}

async fn run(seed: u64) -> Counts {
    let rig = Arc::new(Rig {
        outbox: Arc::new(FakeOutbox {
            faults: Faults::random(seed),
            ..FakeOutbox::default()
        }),
        sink: Arc::new(FakeSink {
            faults: Faults::random(seed + 1),
            ..FakeSink::default()
        }),
        ..Rig::new()
    });
    let dice = |n: u64| StdRng::seed_from_u64(seed * 1_000 + n);
    let mut processes = JoinSet::new();
    for n in 0..RELAYS {
        processes.spawn(run_processes(Arc::clone(&rig), dice(n)));
    }
    let mut writers = JoinSet::new();
    for n in 0..ORDERS {
        let order_id = rig.ids.order_id();
        writers.spawn(write(Arc::clone(&rig.outbox), order_id, dice(RELAYS + n)));
    }
    writers.join_all().await;
    rig.outbox.faults.heal();
    rig.sink.faults.heal();
    eventually(|| rig.outbox.len() == 0).await;
    rig.stop.cancel();
    let n_crashed = processes.join_all().await.into_iter().sum();

    let published = rig.sink.published();
    let firsts = first_occurrences(&published);
    assert_eq!(firsts.len() as u64, ORDERS);
    for (order_id, versions) in &firsts {
        assert!(versions.is_sorted(), "{order_id} came as {versions:?}");
    }
    let n_events: usize = firsts.values().map(Vec::len).sum();
    let n_committed = usize::try_from(rig.outbox.next_position() - 1).unwrap();
    assert_eq!(n_events, n_committed, "an event was lost");
    Counts {
        repeated: published.len() - n_events,
        failed: rig.outbox.faults.n_random() + rig.sink.faults.n_random(),
        crashed: n_crashed,
    }
}

#[test]
fn every_event_arrives_and_the_first_time_in_order() {
    let seed = env::var("SIM_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = seed.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let mut total = Counts::default();
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let run = std::panic::catch_unwind(|| runtime.block_on(run(seed)));
        let run = run.unwrap_or_else(|_| panic!("failed with SIM_SEED={seed}"));
        total.repeated += run.repeated;
        total.failed += run.failed;
        total.crashed += run.crashed;
    }
    let is_rough = total.repeated > 100 && total.failed > 100 && total.crashed > 100;
    assert!(is_rough || seed.is_some(), "{total:?}");
}
