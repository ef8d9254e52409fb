//! Processes that operators have paused.

use order_core::{Error, LeaseJobs, WorkerApi as _};

use super::{
    hints::{self, FakeBroker},
    remote::{ALL, RemoteRig, ctx},
    remote_reports::send_one,
    *,
};

/// Longer than anything that a process does by itself.
const LONG: Duration = Duration::from_mins(10);

fn polling() -> WorkerConfig {
    WorkerConfig {
        poll_interval: Duration::from_millis(100),
        ..config()
    }
}

/// Takes a second.
fn slow() -> FakeProcessor {
    inside(|_, _| async {
        sleep(Duration::from_secs(1)).await;
        Outcome::Done
    })
}

#[tokio::test(start_paused = true)]
async fn paused_pool_finishes_what_it_holds_and_claims_nothing() {
    let rig = Rig::started(polling(), slow()).await;
    for _ in 0..3 {
        rig.create();
    }
    rig.eventually(|rig| rig.n_attempts() == 1).await;
    rig.pool.set_paused(true);
    let n_claims = rig.pool.stats().claims.get();

    // Neither a new order, nor one of another process, nor the poll leads to a claim.
    rig.create();
    rig.insert_due();
    sleep(LONG).await;

    rig.processed(3).await;
    assert_eq!(rig.pool.stats().claims.get(), n_claims);
    assert_eq!(rig.pool.stats().born_leased.get(), 3);
    assert!(rig.dispatch.try_reserve().is_none());
}

#[tokio::test(start_paused = true)]
async fn resumed_pool_claims_at_once() {
    // It never polls: the end of the pause has to be the reason for the claim.
    let rig = Rig::started(config(), done()).await;
    rig.pool.set_paused(true);
    rig.insert_due();
    sleep(LONG).await;
    assert_eq!(rig.n_attempts(), 0);
    let resumed_at = Instant::now();

    rig.pool.set_paused(false);
    rig.processed(1).await;

    assert!(resumed_at.elapsed() < Duration::from_secs(1));
    rig.create();
    rig.processed(2).await;
    assert_eq!(rig.pool.stats().born_leased.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn abandoned_jobs_wait_for_the_end_of_a_pause() {
    let three = WorkerConfig {
        workers: 3,
        ..polling()
    };
    let rig = Rig::started(three, done()).await;
    rig.pool.set_paused(true);
    abandoned::leave_behind(&rig, 2).await;
    sleep(LONG).await;
    assert_eq!(rig.n_attempts(), 0);
    let resumed_at = Instant::now();

    rig.pool.set_paused(false);
    rig.processed(2).await;

    assert!(resumed_at.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn hints_are_left_to_other_processes_during_a_pause() {
    let (rig, broker) = hints::started(config()).await;
    rig.pool.set_paused(true);
    rig.eventually(|_| broker.n_closed() == 1).await;

    broker.send(&[rig.insert_due()]).await;
    sleep(LONG).await;
    assert_eq!((rig.n_attempts(), broker.n_waiting()), (0, 1));

    rig.pool.set_paused(false);
    rig.processed(1).await;
    assert_eq!(broker.n_waiting(), 0);
}

/// A hint at hand must not lead to a claim either, once the store is back.
#[tokio::test(start_paused = true)]
async fn hint_at_hand_is_not_followed_during_a_pause() {
    let (rig, broker) = hints::started(config()).await;
    rig.queue.set_away(&[Statement::Claim], true);
    broker.send(&[rig.insert_due()]).await;
    rig.eventually(|_| broker.n_waiting() == 0).await;
    sleep(Duration::from_secs(1)).await;

    rig.pool.set_paused(true);
    rig.queue.set_away(&[Statement::Claim], false);
    sleep(LONG).await;

    assert_eq!(rig.n_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn paused_pool_drains_as_any_other() {
    let broker = FakeBroker::new();
    let rig = Rig::with_hints(polling(), done(), Some(broker.queue()));
    rig.pool.set_paused(true);
    rig.pool.start(&rig.tracker);
    rig.insert_due();
    sleep(LONG).await;
    let begun_at = Instant::now();

    rig.pool.drain(LONG).await;

    assert!(rig.tracker.is_empty());
    assert!(begun_at.elapsed() < Duration::from_secs(1));
    assert_eq!(rig.n_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn paused_lease_waits_as_if_nothing_was_due() {
    let rig = RemoteRig::new();
    rig.insert_due();
    rig.remote.set_paused(true);
    let wait = Duration::from_secs(20);
    let asked_at = Instant::now();

    let leased = rig.lease(LeaseJobs { wait, ..ALL }).await.unwrap();

    assert_eq!(leased, []);
    assert!(asked_at.elapsed() >= wait);
    assert_eq!(rig.queue.n_claim_statements(), 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_lease_gets_jobs_as_soon_as_a_pause_is_over() {
    let rig = RemoteRig::new();
    rig.remote.set_paused(true);
    rig.insert_due();
    let patiently = LeaseJobs {
        wait: LeaseJobs::WAIT_MAX,
        ..ALL
    };
    let resume = async {
        sleep(Duration::from_secs(5)).await;
        rig.remote.set_paused(false);
        Instant::now()
    };

    let (leased, resumed_at) = futures_util::join!(rig.lease(patiently), resume);

    assert_eq!(leased.unwrap().len(), 1);
    assert!(resumed_at.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn leased_jobs_go_on_during_a_pause() {
    let rig = RemoteRig::new();
    rig.insert_due();
    let token = rig.lease_one().await.token();
    rig.remote.set_paused(true);
    let ctx = ctx(order_core::Deadline::NONE);

    let lost = rig.remote.heartbeat(&ctx, vec![token], LEASE).await;
    assert_eq!(lost.unwrap(), []);
    send_one(&rig.remote, token, Outcome::Done).await;
    assert_eq!(rig.queue.processed(), [token]);
    rig.remote.stop();
    let refused = rig.lease(ALL).await;
    assert!(matches!(refused, Err(Error::ShuttingDown { .. })));
}
