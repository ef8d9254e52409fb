//! Group commit: what is batched, what is refused, and what a caller that hangs up loses.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use order_core::{
    Clock, Deadline, Error,
    contention::{Contended, Subjects},
    group_commit::{BATCH_LEN_MAX, GroupCommit, GroupCommitConfig},
    supervisor::Supervisor,
};
use tokio::sync::Semaphore;

/// A clock that stands still.
struct Frozen(Instant);

#[async_trait::async_trait]
impl Clock for Frozen {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn instant(&self) -> Instant {
        self.0
    }

    async fn sleep(&self, _duration: Duration) {
        std::future::pending::<()>().await;
    }
}

/// An item; one above 1000 needs the same as the one 1000 below.
struct Item(u32);

impl Contended for Item {
    fn subjects(&self) -> Subjects {
        [Some(u64::from(self.0 % 1000)), None, None]
    }
}

/// A flush with this item panics.
const POISON: u32 = u32::MAX;

/// Another transaction holds what this item needs.
const LOCKED: u32 = 999;

/// A group commit whose flushes wait for permits and are written down.
struct Rig {
    group: Arc<GroupCommit<Item, u32>>,
    batches: Arc<Mutex<Vec<Vec<u32>>>>,
    gate: Arc<Semaphore>,
    lanes: tokio::task::JoinSet<()>,
    now: Instant,
}

fn rig(lanes: usize, queue_len_max: usize) -> Rig {
    let now = tokio::time::Instant::now().into_std();
    let clock: Arc<dyn Clock> = Arc::new(Frozen(now));
    let batches = Arc::new(Mutex::new(Vec::new()));
    let gate = Arc::new(Semaphore::new(0));
    let (written, waiting) = (Arc::clone(&batches), Arc::clone(&gate));
    let config = GroupCommitConfig {
        lanes,
        queue_len_max,
        overlap_below: 8,
    };
    let supervisor = Supervisor::new(&clock);
    let (group, lanes) = GroupCommit::new(config, &clock, move |items: Vec<Item>| {
        let items: Vec<u32> = items.into_iter().map(|item| item.0).collect();
        let (written, waiting) = (Arc::clone(&written), Arc::clone(&waiting));
        Box::pin(async move {
            assert!(!items.contains(&POISON), "a defect of the flush");
            waiting.acquire().await.expect("open").forget();
            written.lock().expect("not poisoned").push(items.clone());
            let answer = |item| match item {
                LOCKED => Err(Error::request_in_progress()),
                item => Ok(item * 10),
            };
            items.into_iter().map(answer).collect()
        })
    });
    Rig {
        group: Arc::new(group),
        batches,
        gate,
        lanes: lanes.into_iter().map(|lane| supervisor.run(lane)).collect(),
        now,
    }
}

impl Rig {
    fn submit(&self, item: u32, deadline: Deadline) -> tokio::task::JoinHandle<Result<u32, Error>> {
        let group = Arc::clone(&self.group);
        tokio::task::spawn_local(async move { group.submit(Item(item), deadline).await })
    }

    fn sizes(&self) -> Vec<usize> {
        self.batches
            .lock()
            .expect("not poisoned")
            .iter()
            .map(Vec::len)
            .collect()
    }

    async fn finish(mut self) {
        self.group.close();
        while let Some(lane) = self.lanes.join_next().await {
            lane.expect("no lane panics");
        }
    }
}

/// Lets every other task of the single-threaded test run until it waits.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}

#[tokio::test]
async fn a_lone_item_is_flushed_at_once() {
    local(async {
        let rig = rig(2, 16);
        rig.gate.add_permits(1);
        assert_eq!(
            rig.group
                .submit(Item(7), Deadline::NONE)
                .await
                .expect("flushed"),
            70
        );
        assert_eq!(rig.sizes(), [1]);
        rig.finish().await;
    })
    .await;
}

#[tokio::test]
async fn what_arrives_during_a_flush_is_the_next_batch() {
    local(async {
        let rig = rig(1, 2 * BATCH_LEN_MAX);
        let first = rig.submit(0, Deadline::NONE);
        settle().await;
        let items = (1..=600).map(Item).collect();
        let group = Arc::clone(&rig.group);
        let rest =
            tokio::task::spawn_local(async move { group.submit_all(items, Deadline::NONE).await });
        settle().await;
        rig.gate.add_permits(3);
        assert_eq!(first.await.expect("no panic").expect("flushed"), 0);
        let answers: Vec<u32> = rest
            .await
            .expect("no panic")
            .into_iter()
            .map(|a| a.expect("flushed"))
            .collect();
        assert_eq!(answers, (1..=600).map(|item| item * 10).collect::<Vec<_>>());
        assert_eq!(rig.sizes(), [1, BATCH_LEN_MAX, 600 - BATCH_LEN_MAX]);
        rig.finish().await;
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    local(async {
        let rig = rig(1, 2);
        let waiting: Vec<_> = (0..1)
            .map(|item| rig.submit(item, Deadline::NONE))
            .collect();
        settle().await;
        let queued: Vec<_> = (1..3)
            .map(|item| rig.submit(item, Deadline::NONE))
            .collect();
        settle().await;
        let refused = rig.group.submit(Item(9), Deadline::NONE).await;
        assert!(
            matches!(refused, Err(Error::Overloaded { .. })),
            "{refused:?}"
        );
        rig.gate.add_permits(8);
        for answer in waiting.into_iter().chain(queued) {
            answer.await.expect("no panic").expect("flushed");
        }
        rig.finish().await;
    })
    .await;
}

#[tokio::test]
async fn an_expired_item_is_refused_and_not_flushed() {
    local(async {
        let rig = rig(1, 16);
        rig.gate.add_permits(8);
        let expired = Deadline::at(rig.now);
        let refused = rig.group.submit(Item(1), expired).await;
        assert!(
            matches!(refused, Err(Error::DeadlineExceeded)),
            "{refused:?}"
        );
        let later = Deadline::at(rig.now + Duration::from_secs(1));
        rig.group.submit(Item(2), later).await.expect("flushed");
        assert_eq!(rig.sizes(), [1]);
        rig.finish().await;
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_cut_the_flush() {
    local(async {
        let rig = rig(1, 16);
        let caller = rig.submit(5, Deadline::NONE);
        settle().await;
        caller.abort();
        settle().await;
        rig.gate.add_permits(1);
        settle().await;
        assert_eq!(rig.sizes(), [1]);
        rig.finish().await;
    })
    .await;
}

#[tokio::test]
async fn close_flushes_what_waits_and_refuses_the_rest() {
    local(async {
        let rig = rig(2, 16);
        let waiting: Vec<_> = (0..5)
            .map(|item| rig.submit(item, Deadline::NONE))
            .collect();
        settle().await;
        rig.group.close();
        settle().await;
        rig.gate.add_permits(8);
        for answer in waiting {
            answer.await.expect("no panic").expect("flushed");
        }
        settle().await;
        let refused = rig.group.submit(Item(9), Deadline::NONE).await;
        assert!(
            matches!(refused, Err(Error::ShuttingDown { .. })),
            "{refused:?}"
        );
        rig.finish().await;
    })
    .await;
}

#[tokio::test]
async fn a_second_lane_helps_while_little_is_flushed_and_when_much_waits() {
    local(async {
        let rig = rig(2, 2 * BATCH_LEN_MAX);
        let few = rig.submit(0, Deadline::NONE);
        settle().await;
        // One item is being flushed, so the next twenty do not wait for it.
        let group = Arc::clone(&rig.group);
        let twenty = tokio::task::spawn_local(async move {
            group
                .submit_all((1..=20).map(Item).collect(), Deadline::NONE)
                .await
        });
        settle().await;
        rig.gate.add_permits(1);
        few.await.expect("no panic").expect("flushed");
        // Twenty are being flushed; three more are held back, and are joined by others.
        let held_back = rig.submit(21, Deadline::NONE);
        settle().await;
        let group = Arc::clone(&rig.group);
        let many = tokio::task::spawn_local(async move {
            group
                .submit_all((22..=90).map(Item).collect(), Deadline::NONE)
                .await
        });
        settle().await;
        rig.gate.add_permits(2);
        held_back.await.expect("no panic").expect("flushed");
        assert_eq!(
            twenty.await.expect("no panic").len() + many.await.expect("no panic").len(),
            89
        );
        assert_eq!(rig.sizes(), [1, 20, 70]);
        rig.finish().await;
    })
    .await;
}

#[tokio::test]
async fn a_panic_of_a_flush_leaves_the_lane_alive() {
    local(async {
        let rig = rig(1, 16);
        let unknown = rig.group.submit(Item(POISON), Deadline::NONE).await;
        assert!(
            matches!(unknown, Err(Error::StoreUnavailable { .. })),
            "{unknown:?}"
        );
        rig.gate.add_permits(1);
        assert_eq!(
            rig.group
                .submit(Item(1), Deadline::NONE)
                .await
                .expect("flushed"),
            10
        );
        rig.finish().await;
    })
    .await;
}

#[tokio::test]
async fn what_was_locked_lately_waits_apart() {
    local(async {
        let rig = rig(1, 16);
        let locked = rig.submit(LOCKED, Deadline::NONE);
        rig.gate.add_permits(1);
        let answer = locked.await.expect("no panic");
        assert!(
            matches!(answer, Err(Error::RequestInProgress { .. })),
            "{answer:?}"
        );

        // It is still locked, and speaks for what comes behind it.
        let locked = rig.submit(LOCKED, Deadline::NONE);
        let behind = rig.submit(1000 + LOCKED, Deadline::NONE);
        let other = rig.submit(1, Deadline::NONE);
        settle().await;
        rig.gate.add_permits(2);
        assert_eq!(other.await.expect("no panic").expect("flushed"), 10);
        for answer in [locked, behind] {
            let answer = answer.await.expect("no panic");
            assert!(
                matches!(answer, Err(Error::RequestInProgress { .. })),
                "{answer:?}"
            );
        }
        let mut batches = rig.batches.lock().expect("not poisoned").split_off(1);
        batches.sort();
        assert_eq!(batches, [vec![1], vec![LOCKED]]);

        // It is free, and so is what comes behind it.
        let free = rig.submit(2000 + LOCKED, Deadline::NONE);
        let behind = rig.submit(3000 + LOCKED, Deadline::NONE);
        rig.gate.add_permits(2);
        for answer in [free, behind] {
            answer.await.expect("no panic").expect("flushed");
        }
        rig.finish().await;
    })
    .await;
}
