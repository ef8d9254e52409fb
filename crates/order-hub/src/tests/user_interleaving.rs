//! A session that follows a user, and some orders by themselves, while orders are made and
//! moved, and events are published late, again, out of order or never.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use futures_util::FutureExt;
use order_core::{EventBus, OrderEvent, OrderId, OrderStatus, Version};
use proptest::{prelude::*, sample::Index};

use super::fake::{FakeStore, clock, ctx, order_id, user, watch};
use crate::{Form, Hub, HubConfig, Inbox, Session, lock, unsettled::Depth};

/// Orders 0 to 2 are of user-1, the last one is somebody else's.
const N_ORDERS: u128 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// An order is made or moves, and nobody is told.
    Commit(u128),
    /// One event so far is published.
    Publish(Index),
    /// The reader comes once.
    Read,
    Reconcile,
    SubscribeUser,
    Subscribe(u128),
    SubscribeBare(u128),
    Unsubscribe(u128),
}

/// What changes by itself, also while the store is being read.
struct World {
    hub: Arc<Hub>,
    store: Arc<FakeStore>,
    events: Vec<OrderEvent>,
    /// Steps that happen while the store is being read, one at each moment.
    during: VecDeque<Step>,
}

impl World {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(n) => {
                let user_id = if *n + 1 < N_ORDERS {
                    "user-1"
                } else {
                    "user-2"
                };
                let status = OrderStatus::Failed;
                let event = self.store.commit_of(user_id, order_id(*n), status);
                self.events.push(event);
            }
            Step::Publish(pick) if !self.events.is_empty() => {
                let event = pick.get(&self.events).clone();
                self.hub.publish(&[event]);
            }
            _ => {}
        }
    }
}

/// What a client knows, and what it may expect.
struct Client {
    session: Session,
    inbox: Inbox,
    /// The version of each order that the last answer or push named.
    known: HashMap<OrderId, Version>,
    /// Orders that are followed by themselves in full form.
    own: HashSet<OrderId>,
    /// Orders that are followed in bare form, and the version of each that came last.
    bare: HashMap<OrderId, Version>,
    follows_user: bool,
}

impl Client {
    fn read(&mut self) -> Result<bool, TestCaseError> {
        let mut deliveries = Vec::new();
        let result = self.inbox.next(&mut deliveries).now_or_never();
        for delivery in deliveries {
            let event = delivery.event.event();
            if delivery.form == Form::Bare {
                let known = self.bare.insert(event.order_id, event.version);
                prop_assert!(
                    known.is_some_and(|known| known < event.version),
                    "{event:?}"
                );
                continue;
            }
            let known = self.known.insert(event.order_id, event.version);
            prop_assert_eq!(event.version, known.unwrap_or(0) + 1, "{:?}", event);
            let is_followed = self.own.contains(&event.order_id)
                || self.follows_user && event.user_id == user("user-1");
            prop_assert!(is_followed, "{:?}", event);
        }
        Ok(result.is_some_and(|result| {
            result.expect("the hub is open");
            true
        }))
    }

    fn subscribe_user(&mut self) {
        let answer = self.session.subscribe_user(user("user-1"));
        let answer = answer.now_or_never().expect("at once").expect("up");
        self.follows_user = true;
        for event in answer.orders {
            self.know(&event);
        }
    }

    fn subscribe(&mut self, n: u128) {
        let ctx = ctx();
        let order = watch(order_id(n), None);
        let answer = self.session.subscribe(&ctx, order, Form::Full);
        let Ok(answer) = answer.now_or_never().expect("at once") else {
            return;
        };
        self.own.insert(order_id(n));
        for event in answer.into_events() {
            self.know(&event);
        }
    }

    fn subscribe_bare(&mut self, n: u128) {
        let ctx = ctx();
        let order = watch(order_id(n), None);
        let answer = self.session.subscribe(&ctx, order, Form::Bare);
        if let Ok(answer) = answer.now_or_never().expect("at once") {
            self.bare.insert(order_id(n), answer.version);
        }
    }

    /// Takes an answer, which never steps back.
    fn know(&mut self, event: &OrderEvent) {
        let known = self.known.insert(event.order_id, event.version);
        assert!(
            known.is_none_or(|known| known <= event.version),
            "{event:?}"
        );
    }

    fn step(&mut self, step: &Step, hub: &Hub) -> Result<(), TestCaseError> {
        match step {
            Step::Read => {
                self.read()?;
            }
            Step::Reconcile => reconcile(hub),
            Step::SubscribeUser => self.subscribe_user(),
            Step::Subscribe(n) => self.subscribe(*n),
            Step::SubscribeBare(n) => self.subscribe_bare(*n),
            Step::Unsubscribe(n) => {
                self.own.remove(&order_id(*n));
                self.bare.remove(&order_id(*n));
                self.session.unsubscribe(order_id(*n));
            }
            Step::Commit(_) | Step::Publish(_) => {}
        }
        Ok(())
    }
}

fn reconcile(hub: &Hub) {
    let pass = hub.shared.reconcile(Depth::Redrivable).now_or_never();
    pass.expect("at once").expect("the store is up");
}

fn change() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..N_ORDERS).prop_map(Step::Commit),
        any::<Index>().prop_map(Step::Publish),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => change(),
        2 => Just(Step::Read),
        1 => Just(Step::Reconcile),
        1 => Just(Step::SubscribeUser),
        1 => (0..N_ORDERS).prop_map(Step::Subscribe),
        1 => (0..N_ORDERS).prop_map(Step::SubscribeBare),
        1 => (0..N_ORDERS).prop_map(Step::Unsubscribe),
    ]
}

proptest! {
    #[test]
    fn every_version_of_every_order_comes_once_and_in_order(
        steps in proptest::collection::vec(step(), 0..48),
        during in proptest::collection::vec(change(), 0..16),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime for the timeouts of reads");
        let _entered = runtime.enter();
        let store = FakeStore::new();
        let hub = Hub::new(HubConfig::default(), Arc::clone(&store) as Arc<_>, clock());
        let (session, inbox) = hub.session().expect("room");
        let mut client = Client {
            session, inbox, known: HashMap::new(), own: HashSet::new(),
            bare: HashMap::new(), follows_user: false,
        };
        let world = Arc::new(Mutex::new(World {
            hub: Arc::clone(&hub), store: Arc::clone(&store), events: Vec::new(),
            during: during.into(),
        }));
        let hooked = Arc::clone(&world);
        store.set_hook(move |_| {
            let mut world = lock(&hooked);
            if let Some(step) = world.during.pop_front() {
                world.step(&step);
            }
        });
        for step in steps {
            lock(&world).step(&step);
            client.step(&step, &hub)?;
        }
        lock(&world).during.clear();
        if !client.follows_user {
            client.subscribe_user();
        }
        reconcile(&hub);
        while client.read()? {}
        for event in &lock(&world).events {
            if let Some(known) = client.bare.get(&event.order_id) {
                prop_assert!(*known >= event.version, "bare {:?}", event);
            }
            if event.user_id == user("user-1") {
                let known = client.known.get(&event.order_id);
                prop_assert!(known.is_some_and(|known| *known >= event.version), "{:?}", event);
            }
        }
        // The hook holds the world, and the world holds the store.
        store.set_hook(|_| {});
    }
}
