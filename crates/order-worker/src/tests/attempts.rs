//! What becomes of an attempt.

use order_core::Cause;

use super::*;

/// Polls, so that retries come back.
fn polling() -> WorkerConfig {
    WorkerConfig {
        poll_interval: Duration::from_millis(100),
        ..config()
    }
}

pub(super) fn failure(rig: &Rig, order_id: OrderId) -> Option<Cause> {
    let jobs = rig.queue.jobs();
    let fake = &jobs[&order_id];
    assert!(fake.is_buried);
    fake.job.order.failure.clone()
}

#[tokio::test(start_paused = true)]
async fn failed_attempt_is_retried_not_before_the_asked_delay() {
    let after = Duration::from_secs(10);
    let processor = inside(move |_, attempt| async move {
        if attempt.number < 3 {
            return retry("busy", Some(after));
        }
        Outcome::Done
    });
    let rig = Rig::started(polling(), processor).await;
    let begun_at = Instant::now();
    let order_id = rig.create();

    rig.eventually(|rig| rig.pool.stats().retried.get() == 1)
        .await;
    let last_error = rig.queue.jobs()[&order_id].last_error.clone();
    rig.processed(1).await;

    assert_eq!(last_error.as_deref(), Some("busy"));
    assert!(begun_at.elapsed() >= after * 2);
    let attempts = rig.processor.attempts();
    assert_eq!(
        attempts.iter().map(|a| a.number).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(
        attempts.iter().map(|a| a.is_last).collect::<Vec<_>>(),
        [false, false, true]
    );
    assert_eq!(rig.pool.stats().retried.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn asked_delay_is_bounded() {
    let processor = inside(|_, _| async { retry("busy", Some(NEVER)) });
    let rig = Rig::started(polling(), processor).await;
    let order_id = rig.create();

    rig.eventually(|rig| rig.pool.stats().retried.get() == 1)
        .await;

    let due_at = rig.queue.jobs()[&order_id].due_at;
    assert!(due_at <= Instant::now() + Duration::from_hours(24));
}

#[tokio::test(start_paused = true)]
async fn postponed_order_never_runs_out_of_attempts() {
    let processor = inside(|_, attempt| async move {
        assert!(!attempt.is_last);
        if attempt.number < 20 {
            return Outcome::Postpone {
                error: "gone".to_owned(),
                after: Duration::from_secs(10),
            };
        }
        Outcome::Done
    });
    let rig = Rig::started(polling(), processor).await;
    rig.create();

    rig.processed(1).await;

    assert_eq!(rig.pool.stats().failed.get(), 0);
    assert_eq!(rig.n_attempts(), 20);
}

#[tokio::test(start_paused = true)]
async fn order_fails_with_the_last_error_when_attempts_run_out() {
    let processor =
        inside(|_, attempt| async move { retry(&format!("error\n{}", attempt.number), None) });
    let rig = Rig::started(polling(), processor).await;
    let order_id = rig.create();

    rig.eventually(|rig| rig.pool.stats().failed.get() == 1)
        .await;

    let cause = Cause::new("ATTEMPTS_EXHAUSTED", "error3");
    assert_eq!(failure(&rig, order_id), Some(cause));
    assert_eq!(rig.n_attempts(), 3);
    assert_eq!(rig.bus.statuses(), [OrderStatus::Failed]);
}

#[tokio::test(start_paused = true)]
async fn permanent_failure_takes_no_further_attempt() {
    let cause = Cause::new("CREDIT_LIMIT", "too much");
    let answer = cause.clone();
    let processor = inside(move |_, _| {
        let answer = answer.clone();
        async move { Outcome::Fail(answer) }
    });
    let rig = Rig::started(polling(), processor).await;
    let order_id = rig.create();

    rig.eventually(|rig| rig.pool.stats().failed.get() == 1)
        .await;

    assert_eq!(failure(&rig, order_id), Some(cause));
    assert_eq!(rig.n_attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn job_that_keeps_killing_its_process_is_buried_without_another_try() {
    let rig = Rig::new(config(), done());
    let order = rig.order();
    let order_id = order.id;
    let job = Job {
        order,
        attempt: 7,
        attempts_before: 4,
        trace_parent: None,
    };
    rig.queue.insert_job(&job, Instant::now());

    rig.pool.start(&rig.tracker);
    rig.eventually(|rig| rig.pool.stats().failed.get() == 1)
        .await;

    let cause = failure(&rig, order_id).unwrap();
    assert_eq!(cause.code, "ATTEMPTS_EXHAUSTED");
    assert_eq!(rig.n_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn earlier_rounds_do_not_count() {
    let rig = Rig::new(config(), done());
    let job = Job {
        order: rig.order(),
        attempt: 7,
        attempts_before: 7,
        trace_parent: None,
    };
    rig.queue.insert_job(&job, Instant::now());

    rig.pool.start(&rig.tracker);
    rig.processed(1).await;

    let first_of_round = Attempt {
        number: 8,
        is_last: false,
        trace_parent: None,
    };
    assert_eq!(rig.processor.attempts(), [first_of_round]);
}

#[tokio::test(start_paused = true)]
async fn panic_costs_its_attempt_and_nothing_else() {
    let processor = inside(|_, attempt| async move {
        assert!(attempt.number > 1, "boom");
        Outcome::Done
    });
    let rig = Rig::started(polling(), processor).await;
    let order_id = rig.create();
    rig.eventually(|rig| rig.pool.stats().retried.get() == 1)
        .await;
    let last_error = rig.queue.jobs()[&order_id].last_error.clone();

    rig.processed(1).await;

    assert_eq!(last_error.as_deref(), Some("the processor panicked: boom"));
    assert_eq!(rig.pool.stats().panics.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn panic_after_an_await_is_caught_too() {
    let processor = inside(|_, _| async {
        sleep(Duration::from_secs(1)).await;
        panic!("late")
    });
    let rig = Rig::started(polling(), processor).await;
    rig.create();

    rig.eventually(|rig| rig.pool.stats().failed.get() == 1)
        .await;

    assert_eq!(rig.pool.stats().panics.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn order_is_durably_processing_before_an_outside_effect() {
    let rig = Rig::started(config(), outside(|_, _| async { Outcome::Done })).await;

    rig.create();
    rig.processed(1).await;

    let order = &rig.processor.orders()[0];
    assert_eq!((order.status, order.version), (OrderStatus::Processing, 2));
    assert_eq!(
        rig.bus.statuses(),
        [OrderStatus::Processing, OrderStatus::Processed]
    );
}

#[tokio::test(start_paused = true)]
async fn stale_start_prevents_the_effect() {
    let rig = Rig::new(config(), outside(|_, _| async { Outcome::Done }));
    let order_id = rig.create();
    rig.queue.steal(order_id);

    rig.pool.start(&rig.tracker);
    rig.eventually(|rig| rig.pool.stats().fenced.get() == 1)
        .await;

    assert_eq!(rig.n_attempts(), 0);
    assert_eq!(rig.bus.statuses(), []);
}

#[tokio::test(start_paused = true)]
async fn start_that_finds_no_store_burns_no_attempt() {
    let rig = Rig::new(polling(), outside(|_, _| async { Outcome::Done }));
    rig.queue.set_away(&[Statement::Start], true);
    rig.create();
    rig.pool.start(&rig.tracker);
    sleep(LEASE * 3).await;
    assert_eq!(rig.n_attempts(), 0);

    rig.queue.set_away(&[Statement::Start], false);
    rig.processed(1).await;

    let attempt = rig.processor.attempts()[0].clone();
    assert!(attempt.number > 3, "given back at each heartbeat");
    assert!(!attempt.is_last, "still the first of its round");
}

#[tokio::test(start_paused = true)]
async fn start_that_took_most_of_the_lease_is_not_followed_by_the_effect() {
    let rig = Rig::new(config(), outside(|_, _| async { Outcome::Done }));
    rig.queue.set_latency(Statement::Start, LEASE * 9 / 10);
    rig.queue.set_away(&[Statement::Extend], true);
    rig.create();

    rig.pool.start(&rig.tracker);
    rig.eventually(|rig| rig.pool.stats().released.get() == 1)
        .await;

    assert_eq!(rig.bus.statuses(), [OrderStatus::Processing]);
    assert_eq!(rig.n_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_takes_too_long_is_dropped_and_counts() {
    let (processor, n_dropped) = stuck();
    let rig = Rig::started(
        WorkerConfig {
            attempt_timeout: Some(LEASE * 10),
            ..polling()
        },
        processor,
    )
    .await;
    let order_id = rig.create();
    rig.eventually(|rig| rig.n_attempts() == 1).await;

    sleep(LEASE * 9).await;
    assert_eq!(n_dropped.load(Ordering::Relaxed), 0, "it has its lease");
    sleep(LEASE * 40).await;

    let cause = failure(&rig, order_id).unwrap();
    assert_eq!(cause.code, "ATTEMPTS_EXHAUSTED");
    assert!(cause.message.contains("longer than"), "{}", cause.message);
    assert_eq!(n_dropped.load(Ordering::Relaxed), 3);
}

/// A worker that takes a job and leaves others behind wakes the next worker.
#[tokio::test(start_paused = true)]
async fn jobs_that_come_together_go_to_all_workers() {
    let (processor, _) = stuck();
    let workers = 5;
    let rig = Rig::started(
        WorkerConfig {
            workers,
            ..config()
        },
        processor,
    )
    .await;
    for _ in 0..workers {
        rig.create();
    }
    rig.eventually(|rig| rig.n_attempts() == workers).await;
}
