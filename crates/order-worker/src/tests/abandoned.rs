//! Jobs whose last claim ended without a result.

use order_testkit::fault::{FaultPlan, FaultStore};
use tokio::sync::Notify;

use super::{attempts::failure, *};

fn polling() -> WorkerConfig {
    WorkerConfig {
        poll_interval: Duration::from_millis(100),
        ..config()
    }
}

/// Inserts `n_jobs` that a process has left behind, and returns their ids, the longest due
/// first.
pub(super) async fn leave_behind(rig: &Rig, n_jobs: usize) -> Vec<OrderId> {
    let mut ids = Vec::new();
    for _ in 0..n_jobs {
        let job = Job {
            order: rig.order(),
            attempt: 1,
            attempts_before: 0,
            trace_parent: None,
        };
        rig.queue.insert_abandoned(&job, false);
        ids.push(job.order.id);
        sleep(Duration::from_millis(1)).await;
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn abandoned_jobs_run_one_at_a_time_and_are_marked_first() {
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let processor = inside(move |_, _| {
        let waits = Arc::clone(&waits);
        async move {
            waits.notified().await;
            Outcome::Done
        }
    });
    let rig = Rig::new(
        WorkerConfig {
            workers: 3,
            ..polling()
        },
        processor,
    );
    let abandoned = leave_behind(&rig, 3).await;
    rig.pool.start(&rig.tracker);

    for (n, order_id) in abandoned.iter().enumerate() {
        rig.eventually(|rig| rig.n_attempts() == n + 1).await;
        // However long it takes, no worker begins the next one.
        sleep(LEASE * 3).await;
        assert_eq!(rig.n_attempts(), n + 1);
        let is_begun = |id: &OrderId| rig.queue.jobs()[id].is_begun;
        assert!(is_begun(order_id));
        assert!(!abandoned[n + 1..].iter().any(is_begun));
        go_on.notify_one();
        rig.processed(n + 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn busy_queue_does_not_starve_an_abandoned_job() {
    let rig = Rig::started(polling(), done()).await;
    let [abandoned] = leave_behind(&rig, 1).await[..] else {
        panic!("one job");
    };
    rig.eventually(|rig| {
        rig.create();
        let processed = rig.queue.processed();
        processed.iter().any(|token| token.order_id == abandoned)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn last_attempt_of_an_abandoned_job_runs_alone() {
    let (processor, _) = stuck();
    let rig = Rig::new(
        WorkerConfig {
            workers: 3,
            ..polling()
        },
        processor,
    );
    let last = Job {
        order: rig.order(),
        attempt: 2,
        attempts_before: 0,
        trace_parent: None,
    };
    rig.pool.start(&rig.tracker);
    let beside = rig.create();
    rig.eventually(|rig| rig.n_attempts() == 1).await;
    rig.queue.insert_abandoned(&last, true);
    sleep(LEASE).await;
    rig.create();
    sleep(LEASE).await;

    assert_eq!(
        rig.n_attempts(),
        1,
        "nothing begins beside it, nor it beside another"
    );
    rig.queue.steal(beside);
    rig.eventually(|rig| rig.n_attempts() == 2).await;
    let attempts = rig.processor.attempts();
    assert!(attempts[1].is_last);
    assert_eq!(attempts[1].number, 3);
}

/// A process that dies: from then on nothing it does reaches the queue.
fn process(queue: &Arc<FakeQueue>, workers: usize, poison: OrderId) -> (WorkerPool, Arc<Notify>) {
    let died = Arc::new(Notify::new());
    let death = Arc::clone(&died);
    let view = Arc::new(FaultStore::new(Arc::clone(queue), FaultPlan::default(), 1));
    let own = Arc::clone(&view);
    let processor = inside(move |order, _| {
        let (death, own) = (Arc::clone(&death), Arc::clone(&own));
        async move {
            sleep(Duration::from_millis(2)).await;
            if order.id == poison {
                own.set_partitioned(true);
                death.notify_one();
                pending::<()>().await;
            }
            Outcome::Done
        }
    });
    let config = WorkerConfig {
        workers,
        ..polling()
    };
    let deps = WorkerDeps {
        queue: view,
        bus: Arc::new(FakeBus::default()),
        processor: Arc::new(processor),
        hints: None,
        clock: Arc::new(SimClock::new()),
        supervisor: supervisor(),
    };
    (WorkerPool::new(config, deps), died)
}

#[tokio::test(start_paused = true)]
async fn only_the_job_that_kills_its_process_fails() {
    for workers in [1, 5] {
        let rig = Rig::new(config(), done());
        let queue = &rig.queue;
        let order_ids: Vec<_> = (0..50).map(|_| rig.insert_due()).collect();
        let poison = order_ids[3];
        let mut n_deaths = 0;
        let is_over = || queue.jobs().values().all(|job| job.is_buried);
        while !is_over() {
            let (pool, died) = process(queue, workers, poison);
            pool.start(&rig.tracker);
            tokio::select! {
                () = died.notified() => n_deaths += 1,
                () = rig.eventually(|_| is_over()) => {}
            }
            sleep(LEASE).await;
        }

        // The first death is counted for nobody: nothing was marked before it.
        assert_eq!(n_deaths, config().retry.attempts_max + 1);
        assert_eq!(queue.processed().len(), 49);
        assert_eq!(failure(&rig, poison).unwrap().code, "ATTEMPTS_EXHAUSTED");
    }
}
