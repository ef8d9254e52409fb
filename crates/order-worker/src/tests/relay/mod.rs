//! The relay of events, on paused time.

mod fake;
mod faults;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::BoxFuture;
use order_core::{
    IdGen as _, Order, OrderEvent, OrderId,
    supervisor::{STEP_TIME_MAX, Task},
};
use order_testkit::clock::{SeededIds, SimClock};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::fake::{FakeOutbox, FakeSink, Faults};
use super::supervisor;
use crate::{EventRelay, EventRelayConfig, EventRelayDeps};

const LEASE: Duration = Duration::from_secs(10);

/// Relays on one outbox and one sink.
struct Rig {
    outbox: Arc<FakeOutbox>,
    sink: Arc<FakeSink>,
    ids: SeededIds,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Rig {
    fn new() -> Self {
        Self {
            outbox: Arc::default(),
            sink: Arc::default(),
            ids: SeededIds::new(1),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        }
    }

    fn relay(&self) -> Arc<EventRelay> {
        let config = EventRelayConfig { lease: LEASE };
        let deps = EventRelayDeps {
            outbox: Arc::clone(&self.outbox) as _,
            sink: Arc::clone(&self.sink) as _,
        };
        Arc::new(EventRelay::new(config, deps))
    }

    fn start(&mut self) -> Arc<EventRelay> {
        let relay = self.relay();
        let running = self.running(Arc::clone(&relay));
        self.tasks.spawn(running);
        relay
    }

    /// The task of a relay.
    fn running(&self, relay: Arc<EventRelay>) -> BoxFuture<'static, ()> {
        let stop = self.stop.clone();
        supervisor().run(Task::new("relay", STEP_TIME_MAX, move |beat| {
            Arc::clone(&relay).run(stop.clone(), beat)
        }))
    }

    /// Commits version 1 of as many orders.
    fn commit(&self, n_orders: usize) {
        for _ in 0..n_orders {
            let event = event(self.ids.order_id(), 1);
            self.outbox.commit(self.outbox.next_position(), event);
        }
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

fn event(order_id: OrderId, version: u32) -> OrderEvent {
    let order = Order {
        id: order_id,
        version,
        ..super::new_order(&SeededIds::new(1), &SimClock::new())
    };
    order.last_event()
}

/// Waits until `is_true`, in simulated time.
async fn eventually(is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(30);
    while !is_true() {
        assert!(Instant::now() < deadline, "condition was never met");
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn backlog_is_published_in_batches_and_removed() {
    let mut rig = Rig::new();
    rig.commit(1_100);
    let relay = rig.start();

    eventually(|| rig.outbox.len() == 0).await;

    let mut published = rig.sink.published();
    assert_eq!(rig.sink.n_calls.load(Relaxed), 3);
    assert!(published.is_sorted(), "ids rise with positions");
    published.dedup();
    assert_eq!(published.len(), 1_100);
    assert_eq!(relay.stats().published.get(), 1_100);
    assert_eq!(relay.stats().failures.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn entries_without_their_events_are_removed_and_hold_up_no_others() {
    let mut rig = Rig::new();
    rig.commit(3);
    rig.outbox.lose_events();
    rig.commit(2);
    let relay = rig.start();

    eventually(|| rig.outbox.len() == 0).await;

    assert_eq!(rig.sink.published().len(), 2);
    assert_eq!(relay.stats().failures.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn idle_relay_looks_twice_a_second() {
    let mut rig = Rig::new();
    rig.start();

    sleep(Duration::from_mins(1)).await;

    let n_reads = rig.outbox.n_reads.load(Relaxed);
    assert!((100..150).contains(&n_reads), "{n_reads} reads");
    let committed = Instant::now();
    rig.commit(1);
    eventually(|| rig.outbox.len() == 0).await;
    assert!(committed.elapsed() < Duration::from_millis(510));
}

#[tokio::test(start_paused = true)]
async fn relay_that_stands_by_takes_over_from_a_dead_one() {
    let mut rig = Rig::new();
    rig.start();
    eventually(|| rig.outbox.holder().is_some()).await;
    let first = rig.outbox.holder();
    let other = rig.relay();
    let stands_by = rig.running(Arc::clone(&other));
    let mut others = JoinSet::new();
    others.spawn(stands_by);
    rig.commit(1);
    sleep(10 * LEASE).await;
    assert_eq!((rig.outbox.holder(), rig.outbox.len()), (first, 0));
    assert_eq!(other.stats().published.get(), 0);

    rig.tasks.shutdown().await;
    rig.commit(1);
    sleep(LEASE * 3 / 2).await;

    assert_ne!(rig.outbox.holder(), first);
    assert_eq!(other.stats().published.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn batch_is_repeated_until_the_sink_takes_it() {
    let mut rig = Rig::new();
    rig.sink.faults.is_down.store(true, Relaxed);
    rig.commit(3);
    let relay = rig.start();

    sleep(Duration::from_mins(10)).await;
    let n_failures = relay.stats().failures.get();
    assert!((300..2_000).contains(&n_failures), "{n_failures} failures");
    assert_eq!(rig.outbox.len(), 3);
    rig.sink.faults.is_down.store(false, Relaxed);

    eventually(|| rig.outbox.len() == 0).await;
    assert_eq!(rig.sink.published().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn batch_that_cannot_be_removed_is_not_published_again() {
    let mut rig = Rig::new();
    rig.outbox.keeps_all.store(true, Relaxed);
    rig.commit(3);
    rig.start();
    sleep(Duration::from_mins(10)).await;
    rig.commit(1);
    rig.outbox.keeps_all.store(false, Relaxed);

    eventually(|| rig.outbox.len() == 0).await;

    assert_eq!(rig.sink.published().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn stop_finishes_the_batch_under_way_and_gives_the_right_back() {
    let mut rig = Rig::new();
    *rig.sink.delay.lock().unwrap() = Duration::from_secs(5);
    rig.commit(3);
    rig.start();
    eventually(|| rig.sink.n_calls.load(Relaxed) == 1).await;
    rig.commit(1);

    rig.stop().await;

    assert_eq!(rig.sink.published().len(), 3);
    assert_eq!((rig.outbox.len(), rig.outbox.holder()), (1, None));
}

#[tokio::test(start_paused = true)]
async fn slow_sink_costs_nobody_the_right() {
    let mut rig = Rig::new();
    *rig.sink.delay.lock().unwrap() = 2 * LEASE;
    rig.commit(3);
    let relays = [rig.start(), rig.start()];

    eventually(|| rig.outbox.len() == 0).await;

    assert_eq!(rig.sink.n_calls.load(Relaxed), 1);
    let published = relays.map(|relay| relay.stats().published.get());
    assert_eq!(published.iter().sum::<u64>(), 3);
}

#[tokio::test(start_paused = true)]
async fn sink_that_never_answers_is_asked_again() {
    let mut rig = Rig::new();
    *rig.sink.delay.lock().unwrap() = Duration::from_hours(1);
    rig.commit(1);
    rig.start();
    eventually(|| rig.sink.n_calls.load(Relaxed) == 1).await;
    *rig.sink.delay.lock().unwrap() = Duration::ZERO;

    eventually(|| rig.outbox.len() == 0).await;
}

/// By the time another relay may have the right, nothing is published here any more.
#[tokio::test(start_paused = true)]
async fn relay_that_cannot_renew_stops_before_its_lease_ends() {
    let mut rig = Rig::new();
    rig.commit(3);
    rig.start();
    eventually(|| rig.outbox.len() == 0).await;
    *rig.sink.delay.lock().unwrap() = LEASE;
    rig.commit(1);
    eventually(|| rig.sink.n_calls.load(Relaxed) == 2).await;

    rig.outbox.faults.is_down.store(true, Relaxed);
    sleep(10 * LEASE).await;

    assert_eq!(rig.sink.n_calls.load(Relaxed), 2);
    assert_eq!(rig.sink.published().len(), 3);
    *rig.sink.delay.lock().unwrap() = Duration::ZERO;
    rig.outbox.faults.is_down.store(false, Relaxed);
    eventually(|| rig.outbox.len() == 0).await;
    assert_eq!(rig.sink.published().len(), 4);
}
