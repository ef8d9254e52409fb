//! How jobs come in.

use super::*;

#[tokio::test(start_paused = true)]
async fn born_leased_job_needs_no_claim() {
    let rig = Rig::started(config(), done()).await;

    let order_id = rig.create();
    rig.processed(1).await;

    assert_eq!(rig.queue.processed()[0].order_id, order_id);
    assert_eq!(rig.queue.processed()[0].attempt, 1);
    let stats = rig.pool.stats();
    assert_eq!((stats.claims.get(), stats.claimed_jobs.get()), (1, 0));
    assert_eq!(stats.born_leased.get(), 1);
    assert_eq!(rig.bus.statuses(), [OrderStatus::Processed]);
}

#[tokio::test(start_paused = true)]
async fn job_that_does_not_fit_is_claimed_later() {
    let full = WorkerConfig {
        queue_len_max: 2,
        ..config()
    };
    let rig = Rig::new(full, done());
    for _ in 0..4 {
        rig.create();
    }
    assert!(rig.dispatch.try_reserve().is_none());

    rig.pool.start(&rig.tracker);
    rig.processed(4).await;

    // One for the worker, and two that wait.
    let stats = rig.pool.stats();
    assert_eq!((stats.born_leased.get(), stats.claimed_jobs.get()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn dropped_reservation_gives_its_slot_back() {
    let single = WorkerConfig {
        queue_len_max: 1,
        ..config()
    };
    let rig = Rig::new(single, done());
    let reservations = [(); 2].map(|()| rig.dispatch.try_reserve());
    assert!(reservations.iter().all(Option::is_some));
    assert!(rig.dispatch.try_reserve().is_none());

    drop(reservations);

    assert!(rig.dispatch.try_reserve().is_some());
}

#[tokio::test(start_paused = true)]
async fn any_number_of_hints_is_one_claim() {
    let rig = Rig::started(config(), done()).await;
    for _ in 0..10 {
        rig.insert_due();
        rig.dispatch.notify_due(&[]);
    }

    rig.processed(10).await;

    let stats = rig.pool.stats();
    assert_eq!((stats.claims.get(), stats.claimed_jobs.get()), (2, 10));
}

#[tokio::test(start_paused = true)]
async fn full_claim_is_followed_by_another_when_slots_are_free() {
    let small = WorkerConfig {
        queue_len_max: 10,
        ..config()
    };
    let processor = inside(|_, _| async {
        sleep(Duration::from_millis(10)).await;
        Outcome::Done
    });
    let rig = Rig::new(small, processor);
    for _ in 0..45 {
        rig.insert_due();
    }

    rig.pool.start(&rig.tracker);
    rig.processed(45).await;

    // Half of the slots are free before each claim, and the last one is not full.
    assert!(rig.pool.stats().claims.get() <= 45 / 5 + 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_claimed_than_the_queue_holds() {
    let small = WorkerConfig {
        queue_len_max: 10,
        poll_interval: Duration::from_secs(1),
        ..config()
    };
    let (processor, _) = stuck();
    let rig = Rig::new(small, processor);
    for _ in 0..45 {
        rig.insert_due();
    }

    rig.pool.start(&rig.tracker);
    sleep(LEASE).await;

    assert_eq!(rig.claim_elsewhere().await.len(), 34);
}

#[tokio::test(start_paused = true)]
async fn orders_of_one_process_are_worked_off_by_two() {
    let slow = WorkerConfig {
        workers: 5,
        queue_len_max: 1_024,
        poll_interval: Duration::from_secs(1),
        ..config()
    };
    let processor = || {
        inside(|_, _| async {
            sleep(Duration::from_millis(500)).await;
            Outcome::Done
        })
    };
    let rig = Rig::started(slow, processor()).await;
    let other = WorkerPool::new(
        slow,
        WorkerDeps {
            queue: rig.queue.clone(),
            bus: rig.bus.clone(),
            processor: Arc::new(processor()),
            hints: None,
            clock: rig.clock.clone(),
            supervisor: supervisor(),
        },
    );
    other.start(&rig.tracker);
    // The rig has seen a job that took no time. These tell how long they take.
    for n in 1..=3 {
        rig.create();
        rig.processed(n).await;
    }

    let created_at = Instant::now();
    for _ in 0..200 {
        rig.create();
    }
    rig.eventually(|rig| rig.queue.processed().len() == 203)
        .await;

    // Ten workers need 10 s. The other process finds out within its poll interval.
    assert!(created_at.elapsed() <= Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn poll_finds_due_jobs_without_a_hint() {
    let polling = WorkerConfig {
        poll_interval: Duration::from_secs(1),
        ..config()
    };
    let rig = Rig::started(polling, done()).await;
    rig.insert_due();
    let inserted_at = Instant::now();

    rig.processed(1).await;

    assert!(inserted_at.elapsed() <= Duration::from_millis(1_210));
    assert_eq!(rig.pool.stats().claims.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn expired_lease_of_a_dead_process_is_claimed() {
    let polling = WorkerConfig {
        poll_interval: Duration::from_secs(1),
        ..config()
    };
    let rig = Rig::started(polling, done()).await;
    rig.queue.insert(rig.order(), Some(LEASE));
    let leased_at = Instant::now();

    rig.processed(1).await;

    assert!(leased_at.elapsed() >= LEASE);
    assert_eq!(rig.processor.attempts()[0].number, 2);
}

#[tokio::test(start_paused = true)]
async fn claiming_goes_on_after_an_outage() {
    let rig = Rig::new(config(), done());
    rig.queue.set_away(&[Statement::Claim], true);
    rig.insert_due();
    rig.pool.start(&rig.tracker);
    sleep(Duration::from_mins(5)).await;
    assert_eq!(rig.n_attempts(), 0);

    rig.queue.set_away(&[Statement::Claim], false);
    let healed_at = Instant::now();
    rig.processed(1).await;

    assert!(healed_at.elapsed() <= Duration::from_millis(2_010));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_after_the_stop_but_the_queue_is_worked_off() {
    let polling = WorkerConfig {
        poll_interval: Duration::from_secs(1),
        ..config()
    };
    let rig = Rig::started(polling, done()).await;
    for _ in 0..3 {
        rig.create();
    }

    rig.pool.stop_claiming();
    rig.insert_due();
    rig.dispatch.notify_due(&[]);
    rig.processed(3).await;
    sleep(Duration::from_mins(5)).await;

    assert!(rig.dispatch.try_reserve().is_none());
    assert_eq!(rig.n_attempts(), 3);
    assert_eq!(rig.queue.jobs().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pool_without_workers_takes_nothing_and_spawns_nothing() {
    let none = WorkerConfig {
        workers: 0,
        ..config()
    };
    let rig = Rig::new(none, done());
    rig.pool.start(&rig.tracker);
    rig.create();

    assert!(rig.tracker.is_empty());
    assert!(rig.dispatch.try_reserve().is_none());
    assert_eq!(
        rig.pool.drain(Duration::from_secs(1)).await,
        crate::DrainReport::default()
    );
    assert_eq!(rig.claim_elsewhere().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn second_start_changes_nothing() {
    let rig = Rig::started(config(), done()).await;
    let n_tasks = rig.tracker.len();

    rig.pool.start(&rig.tracker);

    assert_eq!(rig.tracker.len(), n_tasks);
}
