//! Jobs that come by way of a broker.

use async_trait::async_trait;
use order_core::{BrokerError, HintCapabilities, HintConsumer};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::HintSender;

/// A broker that can be away and forgetful.
pub(super) struct FakeBroker {
    hints: Mutex<Vec<OrderId>>,
    arrived: Notify,
    is_up: watch::Sender<bool>,
    n_sends: AtomicUsize,
    n_acknowledged: AtomicUsize,
    n_closed: AtomicUsize,
}

impl FakeBroker {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            hints: Mutex::default(),
            arrived: Notify::new(),
            is_up: watch::Sender::new(true),
            n_sends: AtomicUsize::new(0),
            n_acknowledged: AtomicUsize::new(0),
            n_closed: AtomicUsize::new(0),
        })
    }

    /// The queue of its hints.
    pub(super) fn queue(self: &Arc<Self>) -> Arc<dyn HintQueue> {
        Arc::new(Shared(Arc::clone(self)))
    }

    pub(super) async fn send(self: &Arc<Self>, order_ids: &[OrderId]) {
        self.queue().send(order_ids).await.unwrap();
    }

    /// How often a consumer has left.
    pub(super) fn n_closed(&self) -> usize {
        self.n_closed.load(Ordering::Relaxed)
    }

    /// How many hints no consumer has taken.
    pub(super) fn n_waiting(&self) -> usize {
        self.hints.lock().unwrap().len()
    }

    fn check(&self) -> Result<(), BrokerError> {
        if *self.is_up.borrow() {
            return Ok(());
        }
        Err(BrokerError::Unreachable {
            server: "fake".to_owned(),
            source: "away".into(),
        })
    }
}

/// What the broker and its consumers share.
#[derive(Clone)]
struct Shared(Arc<FakeBroker>);

#[async_trait]
impl HintQueue for Shared {
    fn capabilities(&self) -> HintCapabilities {
        HintCapabilities {
            is_shared: false,
            redelivers: false,
        }
    }

    async fn send(&self, order_ids: &[OrderId]) -> Result<(), BrokerError> {
        self.0.n_sends.fetch_add(1, Ordering::Relaxed);
        self.0.check()?;
        self.0.hints.lock().unwrap().extend(order_ids);
        self.0.arrived.notify_one();
        Ok(())
    }

    fn consumer(&self) -> Box<dyn HintConsumer> {
        Box::new(Consumer {
            broker: self.0.clone(),
            n_received: 0,
        })
    }

    fn n_foreign(&self) -> u64 {
        0
    }
}

struct Consumer {
    broker: Arc<FakeBroker>,
    n_received: usize,
}

#[async_trait]
impl HintConsumer for Consumer {
    async fn receive(&mut self, limit: usize) -> Result<Vec<OrderId>, BrokerError> {
        loop {
            self.broker.check()?;
            let received: Vec<_> = {
                let mut hints = self.broker.hints.lock().unwrap();
                let len = limit.min(hints.len());
                hints.drain(..len).collect()
            };
            if !received.is_empty() {
                self.n_received += received.len();
                return Ok(received);
            }
            let mut is_up = self.broker.is_up.subscribe();
            tokio::select! {
                () = self.broker.arrived.notified() => {}
                _ = is_up.changed() => {}
            }
        }
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        self.broker.check()?;
        let n_received = std::mem::take(&mut self.n_received);
        let n_acknowledged = &self.broker.n_acknowledged;
        n_acknowledged.fetch_add(n_received, Ordering::Relaxed);
        Ok(())
    }

    async fn close(&mut self) {
        self.broker.n_closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A pool that is fed by a broker and has taken its first look at the empty queue.
pub(super) async fn started(config: WorkerConfig) -> (Rig, Arc<FakeBroker>) {
    let broker = FakeBroker::new();
    let rig = Rig::with_hints(config, done(), Some(broker.queue()));
    rig.pool.start(&rig.tracker);
    rig.eventually(|rig| rig.pool.stats().claims.get() == 1)
        .await;
    (rig, broker)
}

#[tokio::test(start_paused = true)]
async fn hinted_job_is_claimed_at_once_and_its_hint_acknowledged() {
    let (rig, broker) = started(config()).await;
    let order_id = rig.insert_due();

    Shared(broker.clone()).send(&[order_id]).await.unwrap();
    rig.processed(1).await;

    let stats = rig.pool.stats();
    assert_eq!((stats.hints.get(), stats.idle_hints.get()), (1, 0));
    assert_eq!(stats.claimed_jobs.get(), 1);
    assert_eq!(broker.n_acknowledged.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn hints_that_follow_each_other_share_a_claim() {
    let (rig, broker) = started(config()).await;
    let queue = Shared(broker.clone());
    let claims = rig.pool.stats().claims.get();

    for _ in 0..3 {
        queue.send(&[rig.insert_due()]).await.unwrap();
        sleep(Duration::from_millis(4)).await;
    }
    // The first waits for no other.
    assert_eq!(rig.pool.stats().claims.get() - claims, 1);
    rig.processed(3).await;

    assert_eq!(rig.pool.stats().claims.get() - claims, 2);
}

#[tokio::test(start_paused = true)]
async fn hint_of_a_job_that_is_not_due_is_dropped() {
    let (rig, broker) = started(config()).await;
    let leased = rig.queue.insert(rig.order(), Some(LEASE)).order.id;
    let unknown = rig.ids.order_id();
    let due = rig.insert_due();

    let hints = [leased, unknown, due, due];
    Shared(broker.clone()).send(&hints).await.unwrap();
    rig.processed(1).await;

    let stats = rig.pool.stats();
    assert_eq!((stats.hints.get(), stats.idle_hints.get()), (4, 3));
    assert_eq!(broker.n_acknowledged.load(Ordering::Relaxed), 4);
    assert_eq!(rig.queue.processed()[0].order_id, due);
}

#[tokio::test(start_paused = true)]
async fn job_without_a_hint_is_swept_up_when_it_is_overdue() {
    let polling = WorkerConfig {
        poll_interval: Duration::from_secs(1),
        overdue: Duration::from_secs(20),
        ..config()
    };
    let (rig, _broker) = started(polling).await;
    let inserted_at = Instant::now();

    rig.insert_due();
    rig.processed(1).await;

    assert!(inserted_at.elapsed() >= polling.overdue);
    assert_eq!(rig.pool.stats().hints.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn hints_are_kept_while_the_store_is_away() {
    let (rig, broker) = started(config()).await;
    let order_id = rig.insert_due();
    rig.queue.set_away(&[Statement::Claim], true);

    Shared(broker.clone()).send(&[order_id]).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(broker.n_acknowledged.load(Ordering::Relaxed), 0);
    rig.queue.set_away(&[Statement::Claim], false);
    rig.processed(1).await;

    assert_eq!(rig.queue.processed()[0].attempt, 1);
    assert_eq!(broker.n_acknowledged.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn broker_that_comes_back_is_used_again() {
    let (rig, broker) = started(config()).await;
    broker.is_up.send_replace(false);
    sleep(Duration::from_mins(1)).await;
    let order_id = rig.insert_due();

    broker.is_up.send_replace(true);
    Shared(broker.clone()).send(&[order_id]).await.unwrap();
    rig.processed(1).await;
}

#[tokio::test(start_paused = true)]
async fn drain_leaves_the_broker_and_takes_no_hint_after() {
    let (rig, broker) = started(config()).await;

    rig.pool.drain(Duration::from_secs(1)).await;
    let order_id = rig.insert_due();
    Shared(broker.clone()).send(&[order_id]).await.unwrap();
    sleep(Duration::from_mins(1)).await;

    assert_eq!((broker.n_closed(), broker.n_waiting()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn sender_shares_statements_and_leaves_no_job_leased() {
    let broker = FakeBroker::new();
    let stop = CancellationToken::new();
    let (sender, sending) = HintSender::new(Arc::new(Shared(broker.clone())), stop.clone());
    let ids = SeededIds::new(1);
    let order_ids: Vec<_> = (0..1_000).map(|_| ids.order_id()).collect();

    assert!(sender.try_reserve().is_none());
    sender.notify_due(&order_ids);
    stop.cancel();
    supervisor().run(sending).await;

    assert_eq!(*broker.hints.lock().unwrap(), order_ids);
    assert_eq!(broker.n_sends.load(Ordering::Relaxed), 2);
    assert_eq!(sender.stats().sent.get(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn sender_outlives_its_broker_and_drops_what_does_not_fit() {
    let broker = FakeBroker::new();
    broker.is_up.send_replace(false);
    let stop = CancellationToken::new();
    let (sender, sending) = HintSender::new(Arc::new(Shared(broker.clone())), stop.clone());
    let tracker = TaskTracker::new();
    tracker.spawn(supervisor().run(sending));
    let ids = SeededIds::new(1);
    let order_ids: Vec<_> = (0..100_000).map(|_| ids.order_id()).collect();

    sender.notify_due(&order_ids);
    let n_kept = 100_000 - sender.stats().unsent.get();
    assert!(n_kept >= 1_000, "{n_kept}");
    sleep(Duration::from_mins(1)).await;
    broker.is_up.send_replace(true);
    let deadline = Instant::now() + Duration::from_mins(1);
    while sender.stats().sent.get() < n_kept {
        assert!(Instant::now() < deadline, "{:?}", sender.stats());
        sleep(Duration::from_millis(10)).await;
    }

    stop.cancel();
    tracker.close();
    tracker.wait().await;
}
