//! What waits, as operators see it.

use order_core::{Backlog, Verdict};

use super::{LEASE, Subject, scene::Scene};

async fn read(scene: &Scene<'_>) -> Backlog {
    scene.store.backlog().await.expect("backlog answers")
}

/// Each job is counted once, by what it waits for.
pub async fn jobs_are_counted_by_what_they_wait_for(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    assert_eq!(read(&scene).await, Backlog::default());

    let (_, failed) = scene.create_leased().await;
    scene.fail(failed).await;
    let (_, retried) = scene.create_leased().await;
    let retry = Verdict::Retry {
        delay: LEASE,
        error: "not yet".to_owned(),
        is_counted: true,
    };
    scene.complete(retried, retry).await;
    let (_, done) = scene.create_leased().await;
    scene.complete(done, Verdict::Processed).await;
    scene.create_leased().await;
    scene.create_due().await;
    scene.create_due().await;
    subject.tick().await;

    let backlog = read(&scene).await;
    let counts = (backlog.due, backlog.scheduled, backlog.leased, backlog.dead);
    assert_eq!(counts, (2, 1, 1, 1));
    let age = backlog.oldest_due.expect("a job is due");
    assert!(!age.is_zero() && age < LEASE, "{age:?}");

    // A lease that has run out makes its job due.
    subject.expire_leases().await;
    subject.tick().await;
    let backlog = read(&scene).await;
    let counts = (backlog.due, backlog.scheduled, backlog.leased, backlog.dead);
    assert_eq!(counts, (4, 0, 0, 1));
}

/// Events are counted while they wait, and the age is that of the oldest.
pub async fn events_are_counted_while_they_wait(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let outbox = subject.outbox();
    outbox.enable().await.expect("enable answers");
    let (_, token) = scene.create_leased().await;
    scene.complete(token, Verdict::Processed).await;
    subject.tick().await;

    let backlog = read(&scene).await;
    assert_eq!(backlog.events, 2);
    let age = backlog.oldest_event.expect("an event waits");
    assert!(!age.is_zero() && age < LEASE, "{age:?}");

    let entries = outbox.read(10).await.expect("read answers");
    let positions: Vec<_> = entries.iter().map(|entry| entry.position).collect();
    outbox.remove(&positions).await.expect("remove answers");
    let backlog = read(&scene).await;
    assert_eq!((backlog.events, backlog.oldest_event), (0, None));
}
