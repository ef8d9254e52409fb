//! The position in a trace that is stored with an order.

use std::time::Duration;

use order_core::{Command, Job, JobToken, NewOrder, TraceParent, Verdict, decide};

use super::{
    LEASE, Subject,
    complete::retry,
    scene::{Scene, create_key},
};

fn trace(n: u8) -> TraceParent {
    let text = format!("00-{n:032x}-{n:016x}-01");
    TraceParent::parse(&text).expect("a valid position")
}

/// Every claim of the job tells it, whatever has become of the job in between: a retry, a release,
/// a lost lease, a redrive. With and without a key, and none for an order that came without one.
pub async fn trace_is_told_by_every_claim(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    for (n, is_keyed) in [(0, false), (1, false), (2, true)] {
        let trace = (n > 0).then(|| trace(n));
        let new = NewOrder {
            trace_parent: trace.clone(),
            key: is_keyed.then(|| create_key("key", n)),
            ..scene.new_order(Some(LEASE))
        };
        let order_id = scene.create(&new).await.id;
        let first = JobToken {
            order_id,
            attempt: 1,
        };
        let check = |job: Job| {
            assert_eq!(job.trace_parent, trace, "attempt {}", job.attempt);
            job.token()
        };
        scene.complete(first, retry(Duration::ZERO)).await;
        let retried = check(scene.claim_only().await);
        let released = scene.queue.release(&[retried]).await;
        released.expect("release answers");
        let hinted = scene.queue.claim_hinted(&[order_id], LEASE).await;
        let hinted = hinted.expect("claim answers").into_iter().map(check);
        assert_eq!(hinted.count(), 1);
        subject.expire_leases().await;
        let abandoned = check(scene.claim_abandoned().await);
        let failed = scene.fail(abandoned).await;
        let redrive = decide(&failed, Command::Retry).expect("allowed");
        scene.commit(redrive.expect("a change")).await;
        let redriven = check(scene.claim_only().await);
        scene.complete(redriven, Verdict::Processed).await;
    }
}

/// Events that wait to be published have it.
pub async fn trace_is_kept_with_events_for_others(subject: &dyn Subject) {
    let outbox = subject.outbox();
    outbox.enable().await.expect("the outbox can be enabled");
    let scene = Scene::new(subject);
    let new = NewOrder {
        trace_parent: Some(trace(1)),
        ..scene.new_order(Some(LEASE))
    };
    let order_id = scene.create(&new).await.id;
    let attempt = 1;
    scene.fail(JobToken { order_id, attempt }).await;
    scene.create_due().await;

    let entries = outbox.read(10).await.expect("read answers");

    let events = entries.into_iter().filter_map(|entry| entry.event);
    let traces = events.map(|event| event.trace_parent);
    assert_eq!(
        traces.collect::<Vec<_>>(),
        [Some(trace(1)), Some(trace(1)), None]
    );
}

/// A position that is not valid costs the trace and not the order.
pub async fn trace_that_is_not_valid_is_ignored(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = NewOrder {
        trace_parent: Some(trace(1)),
        ..scene.new_order(None)
    };
    scene.create(&new).await;
    if subject.break_trace(new.id).await {
        let job = scene.claim_only().await;
        assert_eq!((job.order.id, job.trace_parent), (new.id, None));
    }
}
