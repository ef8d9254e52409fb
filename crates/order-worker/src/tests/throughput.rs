//! A micro check of the cost per job. It prints a rate and judges none:
//! `cargo test -p order-worker throughput -- --nocapture`.

use super::*;
use crate::AutoProcessor;

const N_JOBS: u32 = 50_000;

#[tokio::test]
async fn throughput_of_a_pool_with_nothing_to_do() {
    let queue = Arc::new(FakeQueue::new());
    let bus = Arc::new(FakeBus::default());
    let clock = Arc::new(SimClock::new());
    let deps = WorkerDeps {
        queue: queue.clone(),
        bus: bus.clone(),
        processor: Arc::new(AutoProcessor::new(Duration::ZERO)),
        hints: None,
        clock: clock.clone(),
        supervisor: supervisor(),
    };
    let pool = WorkerPool::new(WorkerConfig::default(), deps);
    let tracker = TaskTracker::new();
    let dispatch = pool.dispatch();
    let rig = Rig::new(config(), done());
    let orders: Vec<Order> = (0..N_JOBS).map(|_| rig.order()).collect();
    pool.start(&tracker);

    let begun_at = Instant::now();
    for order in orders {
        let reservation = loop {
            match dispatch.try_reserve() {
                Some(reservation) => break reservation,
                None => tokio::task::yield_now().await,
            }
        };
        let job = queue.insert(order, Some(reservation.lease()));
        reservation.dispatch(job);
    }
    while pool.stats().processed.get() < u64::from(N_JOBS) {
        tokio::task::yield_now().await;
    }
    let elapsed = begun_at.elapsed();

    let jobs_per_second = f64::from(N_JOBS) / elapsed.as_secs_f64();
    println!("{N_JOBS} born-leased jobs in {elapsed:?}: {jobs_per_second:.0} jobs/s");
    let report = pool.drain(Duration::from_secs(10)).await;
    assert_eq!(report, crate::DrainReport::default());
    assert_eq!(bus.statuses().len() as u64, u64::from(N_JOBS));
}
