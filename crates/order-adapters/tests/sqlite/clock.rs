//! A clock that is set back.

use jiff::Timestamp;
use order_core::{Figures, ProcessReport};

use super::*;

const HOUR: Duration = Duration::from_hours(1);

/// A job of each kind: leased, to be retried after a minute, and due.
struct Jobs {
    leased: OrderId,
    retried: OrderId,
    due: OrderId,
}

async fn jobs(test: &Sqlite) -> Jobs {
    let leased = create(&test.store, test.new_order(Some(LEASE))).await;
    let retried = create(&test.store, test.new_order(Some(LEASE))).await;
    let retry = Completion {
        took: None,
        token: JobToken {
            order_id: retried,
            attempt: 1,
        },
        verdict: Verdict::Retry {
            delay: Duration::from_mins(1),
            error: "later".to_owned(),
            is_counted: true,
        },
        trace_parent: None,
    };
    let completed = test.store.complete(&[retry]).await.remove(0);
    assert!(matches!(completed, Ok(Completed::Applied(None))));
    let due = create(&test.store, test.new_order(None)).await;
    Jobs {
        leased,
        retried,
        due,
    }
}

async fn claimed(store: &SqliteStore) -> Vec<OrderId> {
    let jobs = store.claim(10, LEASE).await.expect("claim answers");
    jobs.iter().map(|job| job.order.id).collect()
}

async fn abandoned(store: &SqliteStore) -> Option<OrderId> {
    let job = store.claim_abandoned(LEASE).await.expect("claim answers");
    job.map(|job| job.order.id)
}

#[tokio::test]
async fn clock_set_back_makes_no_lease_and_no_retry_longer() {
    let test = Sqlite::make().await;
    let jobs = jobs(&test).await;

    test.clock.set_back(HOUR);

    assert_eq!(claimed(&test.store).await, [jobs.due]);
    assert_eq!(abandoned(&test.store).await, None, "the lease still holds");
    processed(&test.store, jobs.due, 1).await;
    test.clock.advance(LEASE.max(Duration::from_mins(1)));
    assert_eq!(claimed(&test.store).await, [jobs.retried]);
    assert_eq!(abandoned(&test.store).await, Some(jobs.leased));
    assert_eq!(abandoned(&test.store).await, None);
}

/// Otherwise a process that has ended would be shown for as long as the step.
#[tokio::test]
async fn clock_set_back_shows_no_process_longer() {
    let test = Sqlite::make().await;
    let report = ProcessReport {
        identity: identity(),
        version: "1".to_owned(),
        started_at: Timestamp::UNIX_EPOCH,
        figures: Figures::default(),
    };
    test.store.report(&ctx(), &report).await.expect("reports");

    test.clock.set_back(HOUR);
    create(&test.store, test.new_order(None)).await;

    let shown = async || {
        let cluster = test.store.cluster(&ctx()).await;
        cluster.expect("cluster answers").processes.len()
    };
    assert_eq!(shown().await, 1);
    test.clock.advance(ProcessReport::SHOWN_FOR);
    assert_eq!(shown().await, 0);
}

/// A step that is not committed is found again by the next transaction.
#[tokio::test]
async fn step_is_corrected_by_the_first_transaction_that_commits() {
    let test = Sqlite::make().await;
    let due = create(&test.store, test.new_order(None)).await;
    test.clock.set_back(HOUR);
    let by_hand = Connection::open(test.path()).expect("opens");
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON jobs \
        BEGIN SELECT raise(ABORT, 'not now'); END";
    by_hand.execute_batch(refuse).expect("creates");
    assert!(test.store.claim(10, LEASE).await.is_err());
    by_hand.execute_batch("DROP TRIGGER refuse").expect("drops");

    assert_eq!(claimed(&test.store).await, [due]);
}

#[tokio::test]
async fn clock_set_back_between_two_runs_hides_no_job() {
    let test = Sqlite::make().await;
    let jobs = jobs(&test).await;
    test.store.close().await;
    test.clock.set_back(HOUR);

    let reopened = open(&test.path(), &test.clock);

    assert_eq!(claimed(&reopened).await, [jobs.due]);
    test.clock.advance(LEASE.max(Duration::from_mins(1)));
    assert_eq!(claimed(&reopened).await, [jobs.retried]);
    assert_eq!(abandoned(&reopened).await, Some(jobs.leased));
}
