//! The queue in front of a broker and the listener behind it. Time is paused.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use order_core::{BrokerError, EventBus, EventReceiver, EventTransport, OrderEvent, OrderStatus};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    fake::{FakeStore, SOON, event, order_id, supervisor},
    hub, subscribe, waiting,
};
use crate::{Fanout, Outlet, lock, run_inlet};

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ok,
    Fails,
    Hangs,
}

/// A broker that does as it is told.
struct FakeTransport {
    /// What calls of `publish` come to; `Ok` when there is nothing.
    answers: Mutex<VecDeque<Answer>>,
    /// What the others come to.
    otherwise: Mutex<Answer>,
    /// One for each call of `publish` that may go on.
    turns: Semaphore,
    /// When each batch was taken or refused, and how large it was.
    calls: Mutex<Vec<(Instant, usize)>>,
    published: Mutex<Vec<OrderEvent>>,
    /// How long each connection of `listen` is to hold.
    holds: Mutex<VecDeque<Duration>>,
    /// When each connection began.
    listens: Mutex<Vec<Instant>>,
    changed: Notify,
}

fn down() -> BrokerError {
    BrokerError::Unreachable {
        server: "fake://broker".to_owned(),
        source: "nobody there".into(),
    }
}

impl FakeTransport {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::default(),
            otherwise: Mutex::new(Answer::Ok),
            turns: Semaphore::new(Semaphore::MAX_PERMITS),
            calls: Mutex::default(),
            published: Mutex::default(),
            holds: Mutex::default(),
            listens: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// The sizes of the batches so far.
    fn batches(&self) -> Vec<usize> {
        lock(&self.calls).iter().map(|(_, len)| *len).collect()
    }

    async fn wait_until(&self, mut is_so: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                self.changed.notified().await;
            }
        };
        timeout(SOON, wait).await.expect("it becomes so");
    }
}

#[async_trait]
impl EventTransport for FakeTransport {
    async fn publish(&self, events: &[OrderEvent]) -> Result<(), BrokerError> {
        self.turns.acquire().await.expect("open").forget();
        let answer = lock(&self.answers).pop_front();
        let answer = answer.unwrap_or_else(|| *lock(&self.otherwise));
        lock(&self.calls).push((Instant::now(), events.len()));
        self.changed.notify_one();
        match answer {
            Answer::Ok => {
                lock(&self.published).extend_from_slice(events);
                Ok(())
            }
            Answer::Fails => Err(down()),
            Answer::Hangs => std::future::pending().await,
        }
    }

    async fn listen(&self, receiver: Arc<dyn EventReceiver>) -> Result<Infallible, BrokerError> {
        lock(&self.listens).push(Instant::now());
        self.changed.notify_one();
        let hold = lock(&self.holds).pop_front();
        let Some(hold) = hold else {
            return std::future::pending().await;
        };
        if !hold.is_zero() {
            receiver.resync();
            tokio::time::sleep(hold).await;
        }
        Err(down())
    }
}

fn events(n_events: u128) -> Vec<OrderEvent> {
    (1..=n_events)
        .map(|n| event(order_id(n), 1, OrderStatus::Pending))
        .collect()
}

struct Running {
    transport: Arc<FakeTransport>,
    outlet: Arc<Outlet>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    fn start() -> Self {
        let transport = FakeTransport::new();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (outlet, run) = Outlet::new(Arc::clone(&transport) as _, stop.clone());
        tracker.spawn(supervisor().run(run));
        tracker.close();
        Self {
            transport,
            outlet,
            tracker,
            stop,
        }
    }

    /// Stops and returns how long that took.
    async fn stop(&self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        timeout(SOON, self.tracker.wait()).await.expect("it ends");
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn lone_event_is_published_at_once() {
    let running = Running::start();
    let began = Instant::now();
    running.outlet.publish(&events(1));
    running.transport.wait_until(|t| t.batches() == [1]).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(*lock(&running.transport.published), events(1));
}

#[tokio::test(start_paused = true)]
async fn what_gathers_meanwhile_is_one_batch_of_bounded_size() {
    let running = Running::start();
    let Running {
        transport, outlet, ..
    } = &running;
    transport.turns.forget_permits(Semaphore::MAX_PERMITS);
    for event in events(2_500) {
        outlet.publish(&[event]);
    }
    transport.turns.add_permits(10);
    transport.wait_until(|t| t.batches().len() == 3).await;
    assert_eq!(transport.batches(), [1_024, 1_024, 452]);
    assert_eq!(*lock(&transport.published), events(2_500), "in order");
}

#[tokio::test(start_paused = true)]
async fn queue_is_bounded_and_what_does_not_fit_is_dropped() {
    let running = Running::start();
    let Running {
        transport, outlet, ..
    } = &running;
    transport.turns.forget_permits(Semaphore::MAX_PERMITS);
    for _ in 0..10 {
        outlet.publish(&events(2_000));
    }
    assert_eq!(outlet.n_queued(), 16_384);
    assert_eq!(outlet.stats().dropped.get(), 20_000 - 16_384);
    transport.turns.add_permits(100);
    transport
        .wait_until(|t| lock(&t.published).len() == 16_384)
        .await;
}

#[tokio::test(start_paused = true)]
async fn failing_broker_is_left_alone_for_longer_and_longer_up_to_a_limit() {
    let running = Running::start();
    let Running {
        transport, outlet, ..
    } = &running;
    *lock(&transport.otherwise) = Answer::Fails;
    for n_calls in 1..=60 {
        outlet.publish(&events(1));
        transport.wait_until(|t| t.batches().len() == n_calls).await;
    }
    let calls = lock(&transport.calls).clone();
    let pauses: Vec<_> = calls.windows(2).map(|w| w[1].0 - w[0].0).collect();
    for (pause, limit) in pauses.iter().zip([100, 200, 400, 800, 1_600, 3_200]) {
        // The timer counts whole milliseconds.
        assert!(*pause <= Duration::from_millis(limit + 1), "{pauses:?}");
    }
    let longest = pauses.iter().max().expect("there are some");
    assert!(*longest <= Duration::from_millis(5_001), "{pauses:?}");
    let total: Duration = pauses.iter().sum();
    assert!(total > Duration::from_mins(1), "{pauses:?}");

    *lock(&transport.otherwise) = Answer::Ok;
    outlet.publish(&events(1));
    transport
        .wait_until(|t| lock(&t.published).len() == 1)
        .await;
    assert_eq!(outlet.stats().dropped.get(), 60);
    // The next outage begins with short pauses again.
    lock(&transport.answers).push_back(Answer::Fails);
    outlet.publish(&events(1));
    transport.wait_until(|t| t.batches().len() == 62).await;
    let began = Instant::now();
    outlet.publish(&events(1));
    transport.wait_until(|t| t.batches().len() == 63).await;
    assert!(began.elapsed() <= Duration::from_millis(101));
}

#[tokio::test(start_paused = true)]
async fn hanging_broker_loses_the_batch_and_nothing_else() {
    let running = Running::start();
    let Running {
        transport, outlet, ..
    } = &running;
    lock(&transport.answers).push_back(Answer::Hangs);
    outlet.publish(&events(2));
    transport.wait_until(|t| t.batches().len() == 1).await;
    outlet.publish(&events(3));
    transport.wait_until(|t| t.batches().len() == 2).await;
    let stats = outlet.stats();
    assert_eq!((stats.sent.get(), stats.dropped.get()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn end_publishes_what_is_queued() {
    let running = Running::start();
    running.outlet.publish(&events(1_500));
    running.stop().await;
    assert_eq!(*lock(&running.transport.published), events(1_500));
    running.outlet.publish(&events(1));
    let stats = running.outlet.stats();
    assert_eq!((stats.sent.get(), stats.dropped.get()), (1_500, 1));
}

#[tokio::test(start_paused = true)]
async fn end_waits_for_no_broker_for_more_than_a_second() {
    for answer in [Answer::Hangs, Answer::Fails] {
        let running = Running::start();
        *lock(&running.transport.otherwise) = answer;
        running.outlet.publish(&events(1_500));
        let elapsed = running.stop().await;
        assert!(elapsed <= Duration::from_millis(1_001), "{elapsed:?}");
        let stats = running.outlet.stats();
        assert_eq!(
            (stats.sent.get(), stats.dropped.get()),
            (0, 1_500),
            "{answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn hub_of_this_process_hears_first() {
    let store = FakeStore::new();
    let hub = hub(&store);
    store.commit(order_id(1), OrderStatus::Pending);
    let (mut session, mut inbox) = hub.session().expect("room");
    subscribe(&mut session, 1).await;
    let running = Running::start();
    let fanout = Fanout::new(vec![hub, Arc::clone(&running.outlet) as _]);

    let processed = event(order_id(1), 2, OrderStatus::Processed);
    fanout.publish(std::slice::from_ref(&processed));
    assert_eq!(waiting(&mut inbox), [(1, 2)]);
    running.stop().await;
    assert_eq!(*lock(&running.transport.published), [processed]);
}

#[tokio::test(start_paused = true)]
async fn inlet_listens_again_and_rests_after_failures() {
    let transport = FakeTransport::new();
    let minute = Duration::from_mins(1);
    // Connections that fail at once, or soon; one that holds; one that fails; one for good.
    let holds = [Duration::ZERO, Duration::from_millis(1)];
    lock(&transport.holds).extend(holds.repeat(10));
    lock(&transport.holds).extend([minute, Duration::ZERO]);
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    tracker.spawn(run_inlet(
        Arc::clone(&transport) as _,
        hub(&FakeStore::new()),
        stop.clone(),
    ));
    tracker.close();

    transport.wait_until(|t| lock(&t.listens).len() == 23).await;
    let listens = lock(&transport.listens).clone();
    let pauses: Vec<_> = listens.windows(2).map(|w| w[1] - w[0]).collect();
    let unsteady: Duration = pauses[..20].iter().sum();
    assert!(unsteady > Duration::from_secs(10), "no rest: {pauses:?}");
    assert!(
        pauses[..20]
            .iter()
            .all(|p| *p < Duration::from_millis(5_010))
    );
    // After the one that held, pauses are short again.
    assert!(
        pauses[20] <= minute + Duration::from_millis(101),
        "{pauses:?}"
    );
    assert!(pauses[21] <= Duration::from_millis(201), "{pauses:?}");
    stop.cancel();
    timeout(SOON, tracker.wait()).await.expect("it ends");
}
