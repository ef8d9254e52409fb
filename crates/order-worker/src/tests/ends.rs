//! What is counted and told of attempts and orders that have ended.

use order_core::{Cause, WorkerApi as _, metrics::Registry};
use prometheus_client::encoding::text::encode;

use super::{
    remote::{ALL, RemoteRig, ctx},
    remote_reports::send_one,
    *,
};
use crate::EndStats;

/// How long attempts take here.
const WORK: Duration = Duration::from_secs(3);

fn slow(outcome: Outcome) -> FakeProcessor {
    inside(move |_, _| {
        let outcome = outcome.clone();
        async move {
            sleep(WORK).await;
            outcome
        }
    })
}

fn cause() -> Cause {
    Cause::new("NO_STOCK", "none left")
}

/// The series as a scrape shows them.
fn scrape(ends: &EndStats) -> String {
    let mut registry = Registry::default();
    registry.register("durations", "help", ends.durations.clone());
    registry.register("dead", "help", ends.dead_letters.by_code.clone());
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn attempt_tells_how_long_it_took() {
    for outcome in [Outcome::Done, Outcome::Fail(cause()), retry("no", None)] {
        let rig = Rig::started(config(), slow(outcome)).await;
        rig.create();
        rig.eventually(|rig| !rig.queue.took().is_empty()).await;
        let took = rig.queue.took()[0].expect("a duration");
        assert!((WORK..WORK * 2).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_outside_is_measured_from_the_lease_to_the_report() {
    let rig = RemoteRig::new();
    rig.insert_due();
    let token = rig.lease_one().await.token();
    sleep(WORK).await;
    send_one(&rig.remote, token, Outcome::Done).await;
    let took = rig.queue.took()[0].expect("a duration");
    assert!((WORK..WORK * 2).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn orders_are_measured_from_their_creation_to_their_end() {
    for (outcome, label) in [
        (Outcome::Done, "processed"),
        (Outcome::Fail(cause()), "failed"),
    ] {
        let rig = Rig::started(config(), slow(outcome)).await;
        let mut order = rig.order();
        order.created_at -= Duration::from_millis(1_500);
        rig.queue.insert(order, None);
        rig.dispatch.notify_due(&[]);
        rig.eventually(|rig| {
            let text = scrape(&rig.pool.stats().ends);
            text.contains(&format!("durations_sum{{outcome=\"{label}\"}} 1.5"))
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn ends_by_workers_outside_are_counted_with_the_others() {
    let ends = EndStats::default();
    let rig = RemoteRig::counting(ends.clone());
    for outcome in [Outcome::Done, Outcome::Fail(cause())] {
        rig.insert_due();
        let token = rig.lease_one().await.token();
        send_one(&rig.remote, token, outcome).await;
    }
    let text = scrape(&ends);
    for series in [
        "durations_count{outcome=\"processed\"} 1",
        "durations_count{outcome=\"failed\"} 1",
        "dead_total{code=\"NO_STOCK\"} 1",
    ] {
        assert!(text.contains(series), "{series}: {text}");
    }
}

/// Another process has handed the job out: nothing is known of it here but its token.
#[tokio::test(start_paused = true)]
async fn job_of_another_process_is_not_measured() {
    let ends = EndStats::default();
    let rig = RemoteRig::counting(ends.clone());
    rig.insert_due();
    let (replica, ctx) = (rig.replica(), ctx(order_core::Deadline::NONE));
    let token = replica.lease(&ctx, ALL).await.unwrap()[0].token();
    send_one(&rig.remote, token, Outcome::Done).await;
    assert_eq!(rig.queue.processed(), [token]);
    assert_eq!(rig.queue.took(), [None]);
    assert!(!scrape(&ends).contains("durations_count"));
}
