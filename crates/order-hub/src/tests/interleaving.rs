//! A subscription against a store and a bus that change at every point of it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt;
use order_core::{EventBus, OrderId, OrderStatus, Version};
use proptest::{prelude::*, sample::Index};

use super::fake::{FakeStore, Moment, clock, ctx, event, order_id, watch};
use crate::{CatchUp, Form, Hub, HubConfig, Inbox, lock, unsettled::Depth};

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
    /// The reader comes once; only when the subscription stands.
    Read,
    /// The reconcile pass comes by; only when the subscription stands.
    Reconcile,
}

#[derive(Debug)]
struct World {
    hub: Arc<Hub>,
    store: Arc<FakeStore>,
    order_id: OrderId,
    version: Version,
    steps: VecDeque<(When, Step)>,
}

impl std::fmt::Debug for FakeStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeStore")
    }
}

impl World {
    /// Does all that is due by then; one step for each read of the history.
    fn run(&mut self, when: When) {
        let len_max = if when >= When::During(Moment::BeforeHistory) {
            1
        } else {
            usize::MAX
        };
        let n_due = self.steps.iter().take_while(|(at, _)| *at <= when).count();
        for (_, step) in self.steps.drain(..n_due.min(len_max)).collect::<Vec<_>>() {
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
            Step::Read | Step::Reconcile => {}
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

/// Has the reader come once.
fn read(inbox: &mut Inbox, seen: &mut Vec<Version>) -> bool {
    let mut deliveries = Vec::new();
    let result = inbox.next(&mut deliveries).now_or_never();
    seen.extend(deliveries.iter().map(|d| d.event.event().version));
    result.is_some_and(|result| {
        result.expect("the hub is open");
        true
    })
}

fn reconcile(hub: &Hub) {
    let pass = hub.shared.reconcile(Depth::Redrivable).now_or_never();
    pass.expect("the store answers at once")
        .expect("the store is up");
}

fn steps() -> impl Strategy<Value = VecDeque<(When, Step)>> {
    let when = prop_oneof![
        Just(When::Before),
        Just(When::During(Moment::BeforeRead)),
        Just(When::During(Moment::AfterRead)),
        Just(When::During(Moment::BeforeHistory)),
        Just(When::During(Moment::AfterHistory)),
        Just(When::After),
        Just(When::After),
    ];
    let step = prop_oneof![
        3 => Just(Step::Commit),
        3 => any::<Index>().prop_map(Step::Publish),
        1 => Just(Step::Read),
        1 => Just(Step::Reconcile),
    ];
    proptest::collection::vec((when, step), 0..32).prop_map(|mut steps| {
        steps.sort_by_key(|(when, _)| *when);
        steps.into()
    })
}

proptest! {
    #[test]
    fn every_version_comes_once_and_in_order(
        steps in steps(),
        since in proptest::option::of(0_u32..12),
        late in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime for the timeouts of reads");
        let _entered = runtime.enter();
        let store = FakeStore::new();
        let hub = Hub::new(HubConfig::default(), Arc::clone(&store) as Arc<_>, clock());
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
        let (first, mut seen) = match &answer.catch_up {
            CatchUp::Replay(events) => {
                let versions: Vec<_> = events.iter().map(|event| event.version).collect();
                (since.expect("a replay was asked for") + 1, versions)
            }
            CatchUp::Snapshot(event) => (event.version, vec![event.version]),
        };
        let next_step = || lock(&world).steps.pop_front();
        // The reader and the pass run the hook, which takes the lock.
        while let Some((_, step)) = next_step() {
            match step {
                Step::Read => { read(&mut inbox, &mut seen); }
                Step::Reconcile => reconcile(&hub),
                Step::Commit | Step::Publish(_) => lock(&world).step(&step),
            }
        }
        let version = lock(&world).version;
        if late {
            // Nothing was lost, only late and in the wrong order.
            for version in (1..=version).rev() {
                lock(&world).publish(version);
            }
        } else {
            reconcile(&hub);
        }
        while read(&mut inbox, &mut seen) {}
        prop_assert_eq!(seen, (first..=version).collect::<Vec<_>>());
        // The hook holds the world, and the world holds the store.
        store.set_hook(|_| {});
    }
}
