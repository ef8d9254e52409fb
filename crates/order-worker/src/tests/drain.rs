//! How a pool is taken down.

use futures_util::future::join;

use super::*;
use crate::DrainReport;

/// Takes three seconds.
fn slow() -> FakeProcessor {
    inside(|_, _| async {
        sleep(Duration::from_secs(3)).await;
        Outcome::Done
    })
}

#[tokio::test(start_paused = true)]
async fn drain_finishes_what_runs_and_gives_back_what_is_queued() {
    let rig = Rig::started(config(), slow()).await;
    for _ in 0..4 {
        rig.create();
    }
    rig.eventually(|rig| rig.n_attempts() == 1).await;

    let elsewhere = async {
        rig.eventually(|rig| rig.pool.stats().released.get() == 3)
            .await;
        // The hand-over does not wait for the running job.
        assert_eq!(rig.queue.processed(), []);
        rig.claim_elsewhere().await
    };
    let (report, claimed) = join(rig.pool.drain(Duration::from_secs(10)), elsewhere).await;

    let expected = DrainReport {
        finished: 1,
        released: 3,
        lost: 0,
    };
    assert_eq!(report, expected);
    assert_eq!(rig.queue.processed().len(), 1);
    assert_eq!(claimed.len(), 3);
    for job in claimed {
        assert_eq!((job.attempt, job.attempt_in_round()), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn every_task_ends_with_the_drain() {
    let rig = Rig::started(config(), outside(|_, _| async { Outcome::Done })).await;
    rig.create();
    rig.processed(1).await;
    assert!(!rig.tracker.is_empty());

    rig.pool.drain(Duration::MAX).await;

    assert!(rig.tracker.is_empty());
    assert!(rig.dispatch.try_reserve().is_none());
}

#[tokio::test(start_paused = true)]
async fn stuck_processor_is_dropped_at_the_timeout_and_its_job_given_back() {
    let (processor, n_dropped) = stuck();
    let rig = Rig::started(config(), processor).await;
    rig.create();
    rig.eventually(|rig| rig.n_attempts() == 1).await;
    let begun_at = Instant::now();

    let report = rig.pool.drain(Duration::from_mins(2)).await;

    let elapsed = begun_at.elapsed();
    assert!(elapsed >= Duration::from_mins(2) && elapsed < Duration::from_secs(121));
    assert_eq!((report.finished, report.released, report.lost), (0, 1, 0));
    assert_eq!(n_dropped.load(Ordering::Relaxed), 1);
    assert_eq!(rig.claim_elsewhere().await[0].attempt_in_round(), 1);
    assert!(rig.tracker.is_empty());
}

#[tokio::test(start_paused = true)]
async fn results_are_committed_before_the_drain_ends() {
    let rig = Rig::started(config(), done()).await;
    rig.queue.set_away(&[Statement::Complete], true);
    for _ in 0..3 {
        rig.create();
    }
    rig.eventually(|rig| rig.n_attempts() == 3).await;

    let heal = async {
        sleep(Duration::from_secs(5)).await;
        rig.queue.set_away(&[Statement::Complete], false);
    };
    let (report, ()) = join(rig.pool.drain(Duration::from_secs(10)), heal).await;

    assert_eq!((report.finished, report.released, report.lost), (3, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn result_the_store_does_not_take_is_given_back() {
    let rig = Rig::started(config(), done()).await;
    rig.queue.set_away(&[Statement::Complete], true);
    rig.create();
    rig.eventually(|rig| rig.n_attempts() == 1).await;

    let report = rig.pool.drain(Duration::from_secs(10)).await;

    assert_eq!((report.finished, report.released, report.lost), (0, 1, 0));
    assert!(rig.tracker.is_empty());
}

#[tokio::test(start_paused = true)]
async fn jobs_the_store_does_not_take_back_are_reported_lost() {
    let rig = Rig::new(config(), done());
    for _ in 0..3 {
        rig.create();
    }
    rig.queue.set_away(&[Statement::Release], true);

    let report = rig.pool.drain(Duration::from_secs(10)).await;

    assert_eq!((report.finished, report.released, report.lost), (0, 0, 3));
}

#[tokio::test(start_paused = true)]
async fn jobs_claimed_beyond_the_free_places_are_given_back() {
    let (processor, _) = stuck();
    let small = WorkerConfig {
        queue_len_max: 10,
        ..config()
    };
    let rig = Rig::new(small, processor);
    for _ in 0..40 {
        rig.insert_due();
    }
    rig.pool.start(&rig.tracker);
    rig.eventually(|rig| rig.n_attempts() == 1).await;

    rig.pool.drain(Duration::from_secs(1)).await;

    assert_eq!(rig.claim_elsewhere().await.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_claim_under_way_are_given_back_as_soon_as_it_ends() {
    let (processor, _) = stuck();
    let rig = Rig::started(config(), processor).await;
    rig.create();
    rig.eventually(|rig| rig.n_attempts() == 1).await;
    rig.queue
        .set_latency(Statement::Claim, Duration::from_secs(1));
    for _ in 0..3 {
        rig.insert_due();
    }
    rig.dispatch.notify_due(&[]);
    sleep(Duration::from_millis(500)).await;
    let begun_at = Instant::now();

    let given_back = async {
        rig.eventually(|rig| rig.pool.stats().released.get() == 3)
            .await;
        begun_at.elapsed()
    };
    let drain = rig.pool.drain(Duration::from_mins(1));
    let (report, elapsed) = join(drain, given_back).await;

    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    assert_eq!((report.finished, report.released, report.lost), (0, 4, 0));
}
