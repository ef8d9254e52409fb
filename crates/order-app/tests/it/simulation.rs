//! The core of several processes on one simulated store that fails, with time under the
//! test's control. One seed is one run: `SIM_SEED=n` repeats it alone, `SIM_SEEDS=n` runs
//! more.
//!
//! Invariants: an acknowledged order is never lost; a create repeated by id or key makes one
//! order; every order settles once faults stop; its history has no gap and at most one terminal
//! event; a watcher sees every version exactly once, and the final state.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use order_core::{
    Attempt, CallContext, CancelOrder, Cause, Clock, CreateOrder, Deadline, Effects, Error, IdGen,
    IdempotencyKey, Money, Order, OrderApi, OrderId, OrderQuery, OrderReads, OrderService,
    OrderServiceConfig, OrderServiceDeps, OrderStatus, OrderStore, Outcome, PageTokenKey,
    Processor, RequestId, RetryPolicy, UserId, WatchOrder,
    supervisor::{STEP_TIME_MAX, Supervisor, Task},
};
use order_hub::{Hub, HubConfig};
use order_testkit::{
    clock::SeededIds,
    conformance::identity,
    fault::{FaultPlan, FaultStore},
    memory::MemoryStore,
};
use order_worker::{WorkerConfig, WorkerDeps, WorkerPool};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Runs of the ordinary test.
const SEEDS_DEFAULT: u64 = 100;
const PROCESSES: usize = 3;
const CLIENTS: usize = 6;
const ORDERS_PER_CLIENT: usize = 5;
const LEASE: Duration = Duration::from_secs(2);

/// Simulated time in which everything must settle after the last fault: a lease, the longest
/// backoff for each attempt, and slow processors.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(5);

/// The paused clock of tokio as the system's clock.
struct PausedClock(tokio::time::Instant);

#[async_trait]
impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.0.elapsed().as_micros()).expect("a short run");
        Timestamp::from_microsecond(elapsed).expect("in range")
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Works, fails, panics or takes longer than its lease, as the dice fall.
struct Moody {
    rng: Mutex<StdRng>,
    effects: Effects,
}

#[async_trait]
impl Processor for Moody {
    fn effects(&self) -> Effects {
        self.effects
    }

    async fn process(&self, _order: &Order, _attempt: Attempt) -> Outcome {
        let (dice, share) = {
            let mut rng = self.rng.lock().expect("not poisoned");
            (rng.random_range(0..20), rng.random::<f64>())
        };
        tokio::time::sleep(LEASE.mul_f64(share * if dice == 0 { 5.0 } else { 0.2 })).await;
        match dice {
            1 => Outcome::Fail(Cause::new("NO_STOCK", "sold out")),
            2..=5 => Outcome::Retry {
                error: "not now".to_owned(),
                after: None,
            },
            6 => panic!("a defect of the processor"),
            _ => Outcome::Done,
        }
    }
}

const FAULTS: FaultPlan = FaultPlan {
    before: 0.05,
    after: 0.05,
    delay_max: Duration::from_millis(100),
};

struct Process {
    store: Arc<FaultStore<MemoryStore>>,
    service: Arc<OrderService>,
    pool: WorkerPool,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Process {
    fn start(memory: &Arc<MemoryStore>, clock: &Arc<dyn Clock>, seed: u64) -> Self {
        let store = Arc::new(FaultStore::new(Arc::clone(memory), FAULTS, seed));
        let supervisor = Supervisor::new(clock);
        let reads = Arc::clone(&store) as _;
        let hub = Hub::new(HubConfig::default(), reads, Arc::clone(clock));
        let effects = if seed.is_multiple_of(2) {
            Effects::None
        } else {
            Effects::Outside
        };
        let pool = WorkerPool::new(
            WorkerConfig {
                workers: 2,
                queue_len_max: 4,
                lease: LEASE,
                retry: RetryPolicy {
                    attempts_max: 8,
                    ..RetryPolicy::default()
                },
                ..WorkerConfig::default()
            },
            WorkerDeps {
                queue: Arc::clone(&store) as _,
                bus: Arc::clone(&hub) as _,
                processor: Arc::new(Moody {
                    rng: Mutex::new(StdRng::seed_from_u64(seed)),
                    effects,
                }),
                hints: None,
                clock: Arc::clone(clock),
                supervisor: Arc::clone(&supervisor),
            },
        );
        let (service, lanes) = OrderService::new(
            OrderServiceConfig::default(),
            OrderServiceDeps {
                process_name: None,
                store: Arc::clone(&store) as _,
                dispatch: pool.dispatch(),
                bus: Arc::clone(&hub) as _,
                watch: Arc::clone(&hub) as _,
                clock: Arc::clone(clock),
                // Never the ids that clients make.
                ids: Arc::new(SeededIds::new(!seed)),
                page_token_key: PageTokenKey::from_bytes([0; 32]),
                supervisor: Arc::clone(&supervisor),
            },
        );
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        for lane in lanes {
            tasks.spawn(supervisor.run(lane));
        }
        pool.start(&tasks);
        let stopped = stop.clone();
        let reconcile = Task::new("reconcile", STEP_TIME_MAX, move |beat| {
            Arc::clone(&hub).run_reconcile(stopped.clone(), beat)
        });
        tasks.spawn(supervisor.run(reconcile));
        Self {
            store,
            service: Arc::new(service),
            pool,
            tasks,
            stop,
        }
    }

    async fn stop(self) {
        self.pool.drain(Duration::from_secs(1)).await;
        self.service.close();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn context() -> CallContext {
    CallContext::new(RequestId::parse("sim").expect("valid"), Deadline::NONE)
}

/// Creates an order through any process until one acknowledges it, by its id or by a key,
/// watches it from another, and now and then cancels it. Returns the ids.
async fn client(
    services: Vec<Arc<OrderService>>,
    ids: Arc<SeededIds>,
    seed: u64,
    watchers: Arc<Mutex<JoinSet<()>>>,
) -> Vec<OrderId> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut acknowledged = Vec::new();
    let user_id = UserId::parse(&format!("sim-{seed}")).expect("valid");
    for n in 0..ORDERS_PER_CLIENT {
        let is_keyed = rng.random_bool(0.5);
        let id = ids.order_id();
        let mut any = || {
            services
                .get(rng.random_range(0..services.len()))
                .expect("one")
                .clone()
        };
        let key = IdempotencyKey::parse(&n.to_string()).expect("valid");
        let id = loop {
            let request = CreateOrder {
                order_id: (!is_keyed).then_some(id),
                idempotency_key: is_keyed.then(|| key.clone()),
                ..CreateOrder::new(user_id.clone(), Money::parse("1", "USD").expect("valid"))
            };
            match any().create_order(&context(), request).await {
                Ok(receipt) if is_keyed => break receipt.order.id,
                Ok(receipt) => {
                    assert_eq!(receipt.order.id, id);
                    break id;
                }
                Err(Error::StoreUnavailable { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        };
        acknowledged.push(id);
        watchers
            .lock()
            .expect("not poisoned")
            .spawn(watcher(any(), id));
        if rng.random_bool(0.2) {
            let service = services
                .get(rng.random_range(0..services.len()))
                .expect("one");
            // Refused, unavailable or done: whatever the answer, the order must stay consistent.
            let cancel = CancelOrder {
                order_id: id,
                reason: None,
                if_match: None,
                idempotency_key: is_keyed.then_some(key),
            };
            let _ = service.cancel_order(&context(), cancel).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
    }
    acknowledged
}

/// Follows an order to its end, reconnecting where it was: every version, each once.
async fn watcher(service: Arc<OrderService>, order_id: OrderId) {
    let mut seen = 0;
    loop {
        let watch = vec![WatchOrder {
            order_id,
            since: Some(seen),
        }];
        if let Ok(mut events) = service.watch_orders(&context(), watch).await {
            while let Some(Ok(event)) = events.next().await {
                assert_eq!(event.version, seen + 1, "{order_id} after {seen}");
                seen = event.version;
                if event.status.is_settled() {
                    return;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn simulate(seed: u64) {
    let clock: Arc<dyn Clock> = Arc::new(PausedClock(tokio::time::Instant::now()));
    let memory = Arc::new(MemoryStore::new(Arc::clone(&clock), identity()));
    let processes: Vec<_> = (0..PROCESSES)
        .map(|n| {
            Process::start(
                &memory,
                &clock,
                seed.wrapping_mul(31).wrapping_add(n as u64),
            )
        })
        .collect();
    let services: Vec<_> = processes
        .iter()
        .map(|process| Arc::clone(&process.service))
        .collect();
    let ids = Arc::new(SeededIds::new(seed));
    let watchers = Arc::new(Mutex::new(JoinSet::new()));
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let seed = seed.wrapping_mul(97).wrapping_add(n as u64);
        clients.spawn(client(
            services.clone(),
            Arc::clone(&ids),
            seed,
            Arc::clone(&watchers),
        ));
    }
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..4 {
        // A process loses the store for longer than its leases, and comes back as a zombie.
        let victim = processes
            .get(rng.random_range(0..processes.len()))
            .expect("one");
        victim.store.set_partitioned(true);
        tokio::time::sleep(LEASE.mul_f64(rng.random_range(0.5..3.0))).await;
        victim.store.set_partitioned(false);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let acknowledged: Vec<OrderId> = clients.join_all().await.into_iter().flatten().collect();
    assert!(
        processes.iter().all(|process| process.store.n_faults() > 0),
        "no fault happened"
    );
    for process in &processes {
        process.store.heal();
    }
    let mut watchers = std::mem::take(&mut *watchers.lock().expect("not poisoned"));
    let converged = tokio::time::timeout(SETTLE_TIMEOUT, async {
        while let Some(watcher) = watchers.join_next().await {
            watcher.expect("no watcher saw a step back");
        }
    });
    converged.await.expect("every watcher sees the final state");
    assert_eq!(acknowledged.len(), CLIENTS * ORDERS_PER_CLIENT);
    // A create that was repeated by its key made one order.
    let query = OrderQuery {
        limit: 1_000,
        ..OrderQuery::default()
    };
    let all = memory.list(&context(), &query).await.expect("memory");
    assert_eq!(all.len(), acknowledged.len());
    for order_id in acknowledged {
        check_history(&memory, order_id).await;
    }
    for process in processes {
        process.stop().await;
    }
}

async fn check_history(memory: &MemoryStore, order_id: OrderId) {
    let order = memory
        .find(&context(), order_id)
        .await
        .expect("memory")
        .expect("not lost");
    assert!(
        order.status.is_settled(),
        "{order_id} is stuck in {}",
        order.status
    );
    let events = memory
        .events(&context(), order_id, 0, 100)
        .await
        .expect("memory");
    let versions: Vec<_> = events.iter().map(|event| event.version).collect();
    assert_eq!(
        versions,
        (1..=order.version).collect::<Vec<_>>(),
        "{order_id} has a gap"
    );
    let n_ends = events
        .iter()
        .filter(|event| event.status.is_settled())
        .count();
    assert_eq!(n_ends, 1, "{order_id} ended {n_ends} times");
    assert_eq!(events.last().map(|event| event.status), Some(order.status));
    assert_eq!(
        events.first().map(|event| event.status),
        Some(OrderStatus::Pending)
    );
}

#[test]
fn every_order_settles_once_whatever_fails() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|n| n.parse().expect("a number"))
    };
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime")
                .block_on(simulate(seed));
        });
        assert!(run.is_ok(), "failed; repeat it with SIM_SEED={seed}");
    }
}
