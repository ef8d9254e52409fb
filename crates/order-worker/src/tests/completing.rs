//! How results are committed.

use super::*;

#[tokio::test(start_paused = true)]
async fn workers_do_not_wait_for_commits() {
    let rig = Rig::started(config(), done()).await;
    rig.queue.set_commit_open(false);
    for _ in 0..3 {
        rig.create();
    }

    rig.eventually(|rig| rig.n_attempts() == 3).await;
    assert_eq!(rig.bus.statuses(), [], "nothing is told before its commit");

    rig.queue.set_commit_open(true);
    rig.processed(3).await;
    assert_eq!(rig.bus.statuses(), [OrderStatus::Processed; 3]);
}

#[tokio::test(start_paused = true)]
async fn results_without_a_commit_are_bounded() {
    let small = WorkerConfig {
        queue_len_max: 4,
        ..config()
    };
    let rig = Rig::started(small, done()).await;
    rig.queue.set_commit_open(false);
    for _ in 0..20 {
        rig.create();
        sleep(Duration::from_millis(1)).await;
    }
    sleep(LEASE).await;

    // Four results wait, and the one worker holds the fifth.
    assert_eq!(rig.n_attempts(), 5);

    rig.queue.set_commit_open(true);
    rig.processed(20).await;
}

#[tokio::test(start_paused = true)]
async fn outage_during_the_commit_heals() {
    let rig = Rig::started(config(), done()).await;
    rig.queue.set_away(&[Statement::Complete], true);
    for _ in 0..3 {
        rig.create();
    }
    sleep(LEASE / 2).await;

    rig.queue.set_away(&[Statement::Complete], false);
    rig.processed(3).await;

    assert_eq!(rig.n_attempts(), 3);
    let stats = rig.pool.stats();
    assert_eq!((stats.dropped.get(), stats.fenced.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn result_is_dropped_when_the_outage_outlasts_its_lease() {
    let outage = [Statement::Complete, Statement::Extend, Statement::Claim];
    let polling = WorkerConfig {
        poll_interval: Duration::from_secs(1),
        ..config()
    };
    let rig = Rig::started(polling, done()).await;
    rig.queue.set_away(&outage, true);
    rig.create();
    let leased_at = Instant::now();

    rig.eventually(|rig| rig.pool.stats().dropped.get() == 1)
        .await;
    assert!(leased_at.elapsed() >= LEASE);
    rig.queue.set_away(&outage, false);
    rig.processed(1).await;

    assert_eq!(rig.queue.processed()[0].attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn bad_result_fails_alone_and_its_lease_runs_out() {
    let rig = Rig::started(config(), done()).await;
    rig.queue.set_commit_open(false);
    let order_ids = [rig.create(), rig.create(), rig.create()];
    rig.queue.spoil(order_ids[1]);

    rig.queue.set_commit_open(true);
    rig.processed(2).await;
    assert_eq!(rig.pool.stats().dropped.get(), 1);

    sleep(LEASE).await;
    let abandoned = rig.queue.claim_abandoned(LEASE).await.unwrap();
    assert_eq!(abandoned.map(|job| job.order.id), Some(order_ids[1]));
}

#[tokio::test(start_paused = true)]
async fn results_that_pile_up_share_a_statement() {
    let rig = Rig::started(config(), done()).await;
    rig.queue.set_commit_open(false);
    for _ in 0..50 {
        rig.create();
    }
    rig.eventually(|rig| rig.n_attempts() == 50).await;

    rig.queue.set_commit_open(true);
    rig.processed(50).await;

    assert!(rig.queue.n_complete_statements() <= 2);
}

#[tokio::test(start_paused = true)]
async fn locked_order_holds_up_no_result_but_its_own() {
    let rig = Rig::started(config(), done()).await;
    rig.queue.set_commit_open(false);
    let locked = rig.create();
    rig.queue.lock_job(locked);
    rig.eventually(|rig| rig.n_attempts() == 1).await;
    rig.queue.set_commit_open(true);

    // It is alone in its batch, and there is one lane.
    for n in 1..50 {
        rig.create();
        rig.processed(n).await;
    }

    let locked_for = Instant::now();
    rig.queue.unlock_job(locked);
    rig.processed(50).await;
    assert!(locked_for.elapsed() < LEASE / 10);
    assert_eq!(rig.n_attempts(), 50, "it is not run again");
}
