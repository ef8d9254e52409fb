//! How leases are kept, and lost.

use super::*;
use crate::heartbeat::TOKENS_LEN_MAX;

#[tokio::test(start_paused = true)]
async fn heartbeat_extends_running_and_queued_jobs_in_one_statement() {
    let (processor, _) = stuck();
    let rig = Rig::started(config(), processor).await;
    for _ in 0..4 {
        rig.create();
    }
    rig.eventually(|rig| rig.n_attempts() == 1).await;

    sleep(LEASE * 10).await;

    assert_eq!(rig.claim_elsewhere().await, []);
    let n_heartbeats = rig.pool.stats().heartbeats.get();
    assert!((29..=30).contains(&n_heartbeats), "{n_heartbeats}");
}

#[tokio::test(start_paused = true)]
async fn heartbeat_extends_results_that_wait_for_their_commit() {
    let rig = Rig::started(config(), done()).await;
    rig.queue.set_commit_open(false);
    rig.create();

    sleep(LEASE * 10).await;
    assert_eq!(rig.claim_elsewhere().await, []);

    rig.queue.set_commit_open(true);
    rig.processed(1).await;
}

#[tokio::test(start_paused = true)]
async fn idle_pool_sends_no_heartbeat() {
    let rig = Rig::started(config(), done()).await;

    sleep(LEASE * 10).await;

    assert_eq!(rig.pool.stats().heartbeats.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn lost_lease_cancels_the_work() {
    let (processor, n_dropped) = stuck();
    let rig = Rig::started(config(), processor).await;
    let order_id = rig.create();
    rig.eventually(|rig| rig.n_attempts() == 1).await;

    rig.queue.steal(order_id);
    let stolen_at = Instant::now();
    rig.eventually(|_| n_dropped.load(Ordering::Relaxed) == 1)
        .await;

    assert!(stolen_at.elapsed() <= LEASE / 3);
    assert_eq!(rig.pool.stats().fenced.get(), 1);
    assert_eq!(rig.queue.processed(), []);
}

#[tokio::test(start_paused = true)]
async fn queued_job_whose_lease_is_lost_is_not_begun() {
    let processor = inside(|_, _| async {
        sleep(LEASE).await;
        Outcome::Done
    });
    let rig = Rig::started(config(), processor).await;
    rig.create();
    let queued = rig.create();

    rig.queue.steal(queued);
    rig.processed(1).await;
    sleep(LEASE).await;

    assert_eq!(rig.n_attempts(), 1);
    assert_eq!(rig.pool.stats().fenced.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn result_of_a_lost_lease_is_dropped() {
    let processor = inside(|_, _| async {
        sleep(Duration::from_secs(1)).await;
        Outcome::Done
    });
    let rig = Rig::started(config(), processor).await;
    let order_id = rig.create();
    rig.eventually(|rig| rig.n_attempts() == 1).await;

    rig.queue.steal(order_id);
    rig.eventually(|rig| rig.pool.stats().fenced.get() == 1)
        .await;

    assert_eq!(rig.queue.processed(), []);
    assert_eq!(rig.bus.statuses(), []);
    assert_eq!(rig.queue.jobs()[&order_id].job.attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn work_stops_before_its_lease_ends_when_no_heartbeat_gets_through() {
    let (processor, n_dropped) = stuck();
    let rig = Rig::started(config(), processor).await;
    rig.queue.set_away(&[Statement::Extend], true);
    rig.create();
    let leased_at = Instant::now();

    rig.eventually(|_| n_dropped.load(Ordering::Relaxed) == 1)
        .await;

    let worked = leased_at.elapsed();
    assert!(worked > LEASE / 2 && worked < LEASE, "{worked:?}");
    assert_eq!(rig.pool.stats().fenced.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_heartbeat_takes_no_lease_away() {
    let processor = inside(|_, _| async {
        sleep(LEASE * 2).await;
        Outcome::Done
    });
    let rig = Rig::started(config(), processor).await;
    rig.queue.set_away(&[Statement::Extend], true);
    rig.create();
    sleep(LEASE / 2).await;
    rig.queue.set_away(&[Statement::Extend], false);

    rig.processed(1).await;

    assert_eq!(rig.queue.processed()[0].attempt, 1);
    assert_eq!(rig.pool.stats().fenced.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn job_with_little_lease_left_is_given_back_and_burns_no_attempt() {
    let polling = WorkerConfig {
        poll_interval: Duration::from_secs(1),
        ..config()
    };
    let rig = Rig::new(polling, done());
    rig.create();
    // As after a pause of the whole process.
    tokio::time::advance(LEASE * 9 / 10).await;
    rig.queue.set_away(&[Statement::Claim], true);

    rig.pool.start(&rig.tracker);
    rig.eventually(|rig| rig.pool.stats().released.get() == 1)
        .await;
    assert_eq!(rig.n_attempts(), 0);
    rig.queue.set_away(&[Statement::Claim], false);
    rig.processed(1).await;

    let first_of_round = Attempt {
        number: 2,
        is_last: false,
        trace_parent: None,
    };
    assert_eq!(rig.processor.attempts(), [first_of_round]);
}

#[tokio::test(start_paused = true)]
async fn local_lease_is_counted_from_before_the_insert() {
    let rig = Rig::new(config(), done());
    let reservation = rig.dispatch.try_reserve().unwrap();
    // A slow insert: the database counts the lease from its end, this process must not.
    tokio::time::advance(LEASE * 9 / 10).await;
    let job = rig.queue.insert(rig.order(), Some(LEASE));
    reservation.dispatch(job);

    rig.pool.start(&rig.tracker);
    rig.eventually(|rig| rig.pool.stats().released.get() == 1)
        .await;

    assert_eq!(rig.n_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn locked_job_does_not_take_the_leases_of_others() {
    let (processor, n_dropped) = stuck();
    let rig = Rig::started(
        WorkerConfig {
            workers: 5,
            ..config()
        },
        processor,
    )
    .await;
    let order_ids: Vec<_> = (0..5).map(|_| rig.create()).collect();
    rig.eventually(|rig| rig.n_attempts() == 5).await;

    rig.queue.lock_job(order_ids[2]);
    sleep(LEASE * 5).await;

    assert_eq!(n_dropped.load(Ordering::Relaxed), 1);
    let due = rig.queue.jobs()[&order_ids[0]].due_at;
    assert!(due > Instant::now());
}

#[tokio::test(start_paused = true)]
async fn statement_that_fails_takes_no_leases_of_other_statements() {
    let many = WorkerConfig {
        queue_len_max: 5_000,
        ..config()
    };
    let (processor, _) = stuck();
    let rig = Rig::started(many, processor).await;
    for _ in 0..TOKENS_LEN_MAX + 100 {
        rig.create();
    }
    let lease_end = Instant::now() + LEASE;
    // The first statement of a heartbeat is full, and the second is not.
    rig.queue.set_extend_len_max(TOKENS_LEN_MAX - 1);

    sleep(LEASE / 2).await;

    let jobs = rig.queue.jobs();
    let n_extended = jobs.values().filter(|job| job.due_at > lease_end).count();
    assert_eq!(n_extended, 100);
}
