//! The use cases of `order-core` over the in-memory store: what requests with idempotency
//! keys, preconditions and tickets are answered, in simulated time.
#![expect(
    clippy::expect_used,
    reason = "the steps of a test are outside of its test function"
)]

mod change;
mod cluster;
mod create;
mod redrive;
mod stream;
mod traces;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use order_core::{
    CallContext, Clock, CreateOrder, Deadline, Error, EventBus, IdempotencyKey, JobDispatch, Money,
    Order, OrderApi as _, OrderEvent, OrderEventStream, OrderId, OrderService, OrderServiceConfig,
    OrderServiceDeps, OrderStatus, OrderWatch, Push, RequestId, Reservation, TraceParent,
    UpdateStatus, UserId, WatchOrder, supervisor::Supervisor,
};
use order_testkit::{
    clock::{RuntimeClock, SeededIds},
    conformance::identity,
    fault::{FaultPlan, FaultStore},
    memory::MemoryStore,
};
use tokio::task::JoinSet;
use uuid::Uuid;

/// What became of the jobs and events of a service.
#[derive(Default)]
struct Outside {
    dispatched: Mutex<Vec<OrderId>>,
    /// Where those jobs are in traces.
    traces: Mutex<Vec<Option<TraceParent>>>,
    published: Mutex<Vec<OrderEvent>>,
}

/// A worker that takes every job and never works.
struct Dispatch(Arc<Outside>);

impl JobDispatch for Dispatch {
    fn try_reserve(&self) -> Option<Reservation> {
        let outside = Arc::clone(&self.0);
        Some(Reservation::new(Duration::from_hours(1), move |job| {
            let mut dispatched = outside.dispatched.lock().expect("not poisoned");
            dispatched.push(job.order.id);
            let mut traces = outside.traces.lock().expect("not poisoned");
            traces.push(job.trace_parent);
        }))
    }

    fn notify_due(&self, _: &[OrderId]) {}
}

impl EventBus for Outside {
    fn publish(&self, events: &[OrderEvent]) {
        let mut published = self.published.lock().expect("not poisoned");
        published.extend_from_slice(events);
    }
}

/// Nobody watches here.
struct NoWatch;

#[async_trait]
impl OrderWatch for NoWatch {
    async fn watch(
        &self,
        _ctx: &CallContext,
        _orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        Err(Error::internal("nothing is watched in these tests"))
    }

    fn pushes(&self, _order_id: OrderId) -> Vec<Push> {
        Vec::new()
    }
}

/// A service whose store fails as a test wishes.
struct Rig {
    clock: Arc<RuntimeClock>,
    memory: Arc<MemoryStore>,
    store: Arc<FaultStore<MemoryStore>>,
    outside: Arc<Outside>,
    service: Arc<OrderService>,
    supervisor: Arc<Supervisor>,
    /// Ended when the rig is dropped.
    _lanes: JoinSet<()>,
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(RuntimeClock::new());
        let memory = Arc::new(MemoryStore::new(Arc::clone(&clock) as _, identity()));
        let store = FaultStore::new(Arc::clone(&memory), FaultPlan::default(), 1);
        let store = Arc::new(store);
        let outside = Arc::new(Outside::default());
        let supervisor = Supervisor::new(&(Arc::clone(&clock) as Arc<dyn Clock>));
        let (service, lanes) = OrderService::new(
            OrderServiceConfig::default(),
            OrderServiceDeps {
                process_name: None,
                store: Arc::clone(&store) as _,
                dispatch: Arc::new(Dispatch(Arc::clone(&outside))),
                bus: Arc::clone(&outside) as _,
                watch: Arc::new(NoWatch),
                clock: Arc::clone(&clock) as _,
                ids: Arc::new(SeededIds::new(1)),
                page_token_key: order_core::PageTokenKey::from_bytes([7; 32]),
                supervisor: Arc::clone(&supervisor),
            },
        );
        let mut running = JoinSet::new();
        for lane in lanes {
            running.spawn(supervisor.run(lane));
        }
        Self {
            clock,
            memory,
            store,
            outside,
            service: Arc::new(service),
            supervisor,
            _lanes: running,
        }
    }

    /// A call that may take `time`.
    fn ctx_for(&self, time: Duration) -> CallContext {
        CallContext {
            deadline: Deadline::at(self.clock.instant() + time),
            ..ctx()
        }
    }

    async fn create(&self, request: CreateOrder) -> Order {
        let receipt = self.service.create_order(&ctx(), request).await;
        let receipt = receipt.expect("is stored");
        assert!(!receipt.is_replayed);
        receipt.order
    }

    /// Stores an order and moves it along.
    async fn create_in(&self, status: OrderStatus) -> Order {
        let order = self.create(wanted(100)).await;
        self.move_to(order.id, status).await
    }

    async fn move_to(&self, order_id: OrderId, status: OrderStatus) -> Order {
        let request = UpdateStatus {
            order_id,
            status,
            cause: None,
            if_match: None,
        };
        let moved = self.service.update_status(&ctx(), request).await;
        moved.expect("the state machine has this move")
    }

    fn n_dispatched(&self) -> usize {
        self.outside.dispatched.lock().expect("not poisoned").len()
    }

    fn n_published(&self) -> usize {
        self.outside.published.lock().expect("not poisoned").len()
    }
}

fn ctx() -> CallContext {
    CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE)
}

fn user() -> UserId {
    UserId::parse("user-1").expect("valid")
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).expect("valid")
}

fn wanted(minor_units: i64) -> CreateOrder {
    let money = Money::from_minor_units(minor_units, "USD").expect("valid");
    CreateOrder::new(user(), money)
}

/// A wanted order with an idempotency key.
fn keyed(minor_units: i64, text: &str) -> CreateOrder {
    CreateOrder {
        idempotency_key: Some(key(text)),
        ..wanted(minor_units)
    }
}
