//! The backlog and the dead letters, as operators see them.

use order_core::{Backlog, Cause, DeadLetterGroup, Order, OrderStatus, Verdict};

use super::{
    LEASE, Subject,
    scene::{Scene, ctx},
};

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

/// Dead letters are counted by the code of their cause, and a redriven one no longer.
pub async fn dead_letters_are_grouped_by_their_codes(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut orders = Vec::new();
    for code in ["RARE", "COMMON", "COMMON", "COMMON"] {
        let (_, token) = scene.create_leased().await;
        let verdict = Verdict::Failed(Cause::new(code, "no"));
        scene.complete(token, verdict).await;
        orders.push(scene.find(token.order_id).await);
    }
    let group = |code: &str, count, example: &Order| DeadLetterGroup {
        code: code.to_owned(),
        count,
        example: example.id,
    };
    let read = async || scene.store.dead_letters(&ctx()).await.expect("an answer");
    let [rare, .., common] = orders.as_slice() else {
        unreachable!("there are four");
    };
    let newest = orders.iter().skip(1).max_by_key(|order| order.id);
    let expected = [
        group("COMMON", 3, newest.unwrap_or(common)),
        group("RARE", 1, rare),
    ];
    assert_eq!(read().await, expected);

    scene.move_to(rare, OrderStatus::Pending).await;
    assert_eq!(read().await, expected[..1]);
}
