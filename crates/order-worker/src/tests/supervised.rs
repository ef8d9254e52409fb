//! Tasks that panic or hang.

use order_core::supervisor::{Beat, STEP_TIME_MAX, Task};

use super::*;

/// A task that fails in its first run, and what it is in.
fn failing_once(fail: fn(Beat)) -> (Task, Arc<AtomicUsize>) {
    let n_runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&n_runs);
    let task = Task::new("test", STEP_TIME_MAX, move |beat| {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        async move {
            if n == 0 {
                fail(beat);
            }
            pending::<()>().await;
        }
    });
    (task, n_runs)
}

#[tokio::test(start_paused = true)]
async fn task_that_panics_is_started_again_and_the_process_is_not_ready_meanwhile() {
    let supervisor = supervisor();
    let (task, n_runs) = failing_once(|_| panic!("a defect"));
    let tracker = TaskTracker::new();
    tracker.spawn(supervisor.run(task));

    sleep(Duration::from_millis(50)).await;
    assert!(supervisor.check().is_err());
    sleep(Duration::from_secs(3)).await;

    assert!(supervisor.check().is_ok());
    assert_eq!(n_runs.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn task_that_is_stuck_is_started_again() {
    let supervisor = supervisor();
    let (task, n_runs) = failing_once(|beat| beat.busy());
    let tracker = TaskTracker::new();
    tracker.spawn(supervisor.run(task));

    sleep(STEP_TIME_MAX * 99 / 100).await;
    assert!(supervisor.check().is_ok());
    sleep(STEP_TIME_MAX / 100 + Duration::from_millis(50)).await;
    assert!(supervisor.check().is_err());
    assert_eq!(n_runs.load(Ordering::Relaxed), 1);
    sleep(Duration::from_secs(3)).await;

    assert!(supervisor.check().is_ok());
    assert_eq!(n_runs.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn task_that_waits_for_work_may_wait_for_ever() {
    let supervisor = supervisor();
    let (task, n_runs) = failing_once(|beat| {
        beat.busy();
        beat.idle();
    });
    let tracker = TaskTracker::new();
    tracker.spawn(supervisor.run(task));

    sleep(Duration::from_hours(24)).await;

    assert!(supervisor.check().is_ok());
    assert_eq!(n_runs.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn pool_works_on_after_a_panic_in_any_of_its_statements() {
    let polling = WorkerConfig {
        poll_interval: Duration::from_secs(1),
        // Only one result may wait for its commit, so a lost place stops the pool.
        queue_len_max: 1,
        ..config()
    };
    // Long enough for a heartbeat.
    let processor = inside(|_, _| async {
        sleep(LEASE / 2).await;
        Outcome::Done
    });
    let rig = Rig::started(polling, processor).await;
    let statements = [Statement::Claim, Statement::Extend, Statement::Complete];
    for (n, statement) in statements.into_iter().enumerate() {
        rig.queue.panic_once(statement);
        rig.insert_due();
        rig.processed(n + 1).await;
        assert!(!rig.queue.panics(statement), "{statement:?} did not panic");
    }
}

#[tokio::test(start_paused = true)]
async fn lease_of_a_worker_that_panics_runs_out() {
    let polling = WorkerConfig {
        poll_interval: Duration::from_secs(1),
        ..config()
    };
    let rig = Rig::started(polling, done()).await;
    // The worker sends the start of an abandoned job itself.
    rig.queue.panic_once(Statement::Start);
    let job = Job {
        order: rig.order(),
        attempt: 1,
        attempts_before: 0,
        trace_parent: None,
    };
    rig.queue.insert_abandoned(&job, false);

    rig.processed(1).await;

    assert!(!rig.queue.panics(Statement::Start));
}
