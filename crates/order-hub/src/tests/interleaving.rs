//! A subscription against a store and a bus that change at every point of it.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use order_core::{EventBus, OrderId, OrderStatus, Version};
use proptest::{prelude::*, sample::Index};

use super::fake::{FakeStore, Moment, ctx, event, order_id, watch};
use crate::{CatchUp, Form, Hub, HubConfig, Inbox, lock, topics::Depth};

/// When a step of the world happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    Before,
    During(Moment),
    After,
}

#[derive(Clone, Debug)]
enum Step {
    /// The order moves, and nobody is told.
    Commit,
    /// One of the versions so far is published: on time, late, again or out of order.
    Publish(Index),
}

#[derive(Debug)]
struct World {
    hub: Arc<Hub>,
    store: Arc<FakeStore>,
    order_id: OrderId,
    version: Version,
    steps: Vec<(When, Step)>,
}

impl std::fmt::Debug for FakeStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeStore")
    }
}

impl World {
    fn run(&mut self, when: When) {
        let (due, later) = std::mem::take(&mut self.steps)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at <= when);
        self.steps = later;
        for (_, step) in due {
            self.step(&step);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit => {
                let status = status_of(self.version + 1);
                self.version = self.store.commit(self.order_id, status).version;
            }
            Step::Publish(pick) => {
                let n_versions = usize::try_from(self.version).expect("small");
                let version = Version::try_from(pick.index(n_versions) + 1).expect("small");
                self.publish(version);
            }
        }
    }

    fn publish(&self, version: Version) {
        self.hub
            .publish(&[event(self.order_id, version, status_of(version))]);
    }
}

/// Never final, so that the history may be of any length.
const fn status_of(version: Version) -> OrderStatus {
    match version % 3 {
        1 => OrderStatus::Pending,
        2 => OrderStatus::Processing,
        _ => OrderStatus::Failed,
    }
}

fn drain(inbox: &mut Inbox, seen: &mut Vec<Version>) {
    let mut deliveries = Vec::new();
    while let Some(result) = inbox.next(&mut deliveries).now_or_never() {
        result.expect("the hub is open");
        seen.extend(deliveries.drain(..).map(|d| d.event.event().version));
    }
}

fn steps() -> impl Strategy<Value = Vec<(When, Step)>> {
    let when = prop_oneof![
        Just(When::Before),
        Just(When::During(Moment::BeforeRead)),
        Just(When::During(Moment::AfterRead)),
        Just(When::After),
    ];
    let step = prop_oneof![Just(Step::Commit), any::<Index>().prop_map(Step::Publish),];
    proptest::collection::vec((when, step), 0..24).prop_map(|mut steps| {
        steps.sort_by_key(|(when, _)| *when);
        steps
    })
}

proptest! {
    #[test]
    fn no_gap_and_no_step_back(
        steps in steps(),
        since in proptest::option::of(0_u32..12),
        late in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime for the timeout of the reconcile pass");
        let _entered = runtime.enter();
        let store = FakeStore::new();
        let hub = Hub::new(HubConfig::default(), Arc::clone(&store) as Arc<_>);
        let order_id = order_id(7);
        let world = Arc::new(Mutex::new(World {
            hub: Arc::clone(&hub), store: Arc::clone(&store), order_id, version: 0, steps,
        }));
        lock(&world).step(&Step::Commit);
        lock(&world).run(When::Before);
        let (mut session, mut inbox) = hub.session().expect("room");
        let during = Arc::clone(&world);
        store.set_hook(move |moment| lock(&during).run(When::During(moment)));

        let answer = session
            .subscribe(&ctx(), watch(order_id, since), Form::Full)
            .now_or_never()
            .expect("the store answers at once")
            .expect("the order exists");
        let mut seen = match &answer.catch_up {
            CatchUp::Replay(events) => {
                let since = since.expect("a replay was asked for");
                let versions: Vec<_> = events.iter().map(|event| event.version).collect();
                prop_assert_eq!(&versions, &(since + 1..=answer.version).collect::<Vec<_>>());
                versions
            }
            CatchUp::Snapshot(event) => vec![event.version],
        };
        drain(&mut inbox, &mut seen);
        lock(&world).run(When::After);
        drain(&mut inbox, &mut seen);

        let version = lock(&world).version;
        if late {
            // Nothing was lost, only late and in the wrong order.
            for version in (1..=version).rev() {
                lock(&world).publish(version);
            }
        } else {
            hub.shared.reconcile(Depth::Redrivable).now_or_never()
                .expect("the store answers at once").expect("the store is up");
        }
        drain(&mut inbox, &mut seen);
        prop_assert!(seen.is_sorted_by(|a, b| a < b), "stepped back: {seen:?}");
        prop_assert_eq!(seen.last().copied().unwrap_or(answer.version), version);
        // The hook holds the world, and the world holds the store.
        store.set_hook(|_| {});
    }
}
