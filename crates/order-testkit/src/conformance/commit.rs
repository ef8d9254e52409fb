//! Committing decided changes.

use order_core::{
    Cause, Change, Command, Committed, Completed, JobEffect, JobToken, Order, OrderEvent,
    OrderStatus, Started, TRANSITIONS, Verdict, decide,
};
use uuid::Uuid;

use super::{
    LEASE, Subject,
    scene::{Scene, change_to, ctx, only, processing},
};

fn cancel(order: &Order) -> Change {
    let reason = Some("changed my mind".to_owned());
    decide(order, Command::Cancel { reason })
        .expect("the order can be cancelled")
        .expect("the order is not cancelled yet")
}

/// An applied change raises the version by one, and its event says what happened and why.
pub async fn change_is_applied_with_its_event(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let before = scene.create_due().await;
    subject.tick().await;

    let change = cancel(&before);
    let Committed::Applied { order, event } = scene.commit(change.clone()).await else {
        panic!("a change on the current version is applied");
    };

    let expected = Order {
        status: OrderStatus::Cancelled,
        version: 2,
        updated_at: order.updated_at,
        ..before.clone()
    };
    assert_eq!(*order, expected);
    assert!(order.updated_at > before.updated_at);
    let expected = OrderEvent {
        order_id: before.id,
        user_id: before.user_id,
        version: 2,
        status: OrderStatus::Cancelled,
        at: order.updated_at,
        cause: change.cause,
        trace_parent: None,
    };
    assert_eq!(event, expected);
    assert_eq!(scene.find(before.id).await, *order);
    assert_eq!(scene.events(before.id).await[1..], [event]);
}

/// A decision made on an old version changes nothing.
pub async fn change_on_an_old_version_is_stale(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let before = scene.create_due().await;
    let now = scene.move_to(&before, OrderStatus::Processing).await;

    let late = scene.commit(cancel(&before)).await;

    assert_eq!(late, Committed::Stale);
    assert_eq!(scene.find(before.id).await, now);
    assert_eq!(scene.events(before.id).await.len(), 2);
    assert_eq!(scene.claim_only().await.order, now);

    let early = Change {
        expected_version: 3,
        ..change_to(&now, OrderStatus::Processed, None)
    };
    assert_eq!(scene.commit(early).await, Committed::Stale);
}

/// A change that was committed is found by its id: in the history of its order alone.
/// One that was stale is not found.
pub async fn change_is_found_by_its_id(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, other) = (scene.create_due().await, scene.create_due().await);
    let [own, stale] = [1, 2].map(Uuid::from_u128);
    let cancel_as = |id| Change {
        id: Some(id),
        ..cancel(&order)
    };
    let has_change = async |order_id, change_id| {
        let found = scene.store.has_change(&ctx(), order_id, change_id).await;
        found.expect("the store answers")
    };

    assert!(!has_change(order.id, own).await);
    let committed = scene.commit(cancel_as(own)).await;
    assert!(matches!(committed, Committed::Applied { .. }));
    assert_eq!(scene.commit(cancel_as(stale)).await, Committed::Stale);

    assert!(has_change(order.id, own).await);
    assert!(!has_change(order.id, stale).await);
    assert!(!has_change(other.id, own).await);
}

/// A change of an order that does not exist is stale and creates nothing.
pub async fn change_of_an_unknown_order_is_stale(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let known = scene.create(&scene.new_order(Some(LEASE))).await;
    let unknown = Order {
        id: scene.id(),
        ..known
    };

    assert_eq!(scene.commit(cancel(&unknown)).await, Committed::Stale);

    assert_eq!(scene.events(unknown.id).await, []);
    assert_eq!(
        scene.store.states(&[unknown.id]).await.expect("answers"),
        []
    );
    assert_eq!(scene.claim(10).await, []);
}

/// Brings a fresh order, born leased, to `status`.
async fn leased_order_in(scene: &Scene<'_>, status: OrderStatus) -> (Order, JobToken) {
    let (order, token) = scene.create_leased().await;
    let order = match status {
        OrderStatus::Pending => order,
        OrderStatus::Processing | OrderStatus::Failed => scene.move_to(&order, status).await,
        OrderStatus::Processed | OrderStatus::Cancelled => panic!("no transition leaves {status}"),
    };
    (order, token)
}

/// Every row of the state machine: the order moves, and its job is kept, deleted, buried or
/// requeued in the same transaction.
pub async fn every_transition_moves_the_order_and_its_job(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    for transition in TRANSITIONS {
        let (before, token) = leased_order_in(&scene, transition.from).await;
        let change = change_to(&before, transition.to, None);
        assert_eq!(change.job, transition.job);

        let after = scene.move_to(&before, transition.to).await;

        let context = format!("{} to {}", transition.from, transition.to);
        assert_eq!(after.status, transition.to, "{context}");
        assert_eq!(after.version, before.version + 1, "{context}");
        let is_current = scene.is_current(token).await;
        let is_due = transition.job == JobEffect::Requeue;
        let due_before = scene.claim(10).await;
        assert_eq!(due_before.len(), usize::from(is_due), "{context}");
        subject.expire_leases().await;
        let abandoned = scene.queue.claim_abandoned(LEASE).await;
        let abandoned = abandoned.expect("claim answers");
        // The requeued job was claimed twice above, as attempts 2 and 3 over its life.
        let expected = match transition.job {
            JobEffect::Keep => (true, Some(2)),
            JobEffect::Delete | JobEffect::Bury => (false, None),
            JobEffect::Requeue => (false, Some(3)),
        };
        let attempt = abandoned.as_ref().map(|job| job.attempt);
        assert_eq!((is_current, attempt), expected, "{context}");
        if let Some(job) = abandoned {
            let done = scene.complete(job.token(), Verdict::Processed).await;
            assert!(matches!(done, Completed::Applied(Some(_))), "{context}");
        }
    }
}

/// FAILED shows its cause; every later move clears it from the order, never from history.
pub async fn failure_is_stored_and_cleared(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    let cause = Cause::new("OUT_OF_STOCK", "no more ‘blue’ ones");

    let change = change_to(&order, OrderStatus::Failed, Some(cause.clone()));
    scene.commit(change).await;

    let failed = scene.find(order.id).await;
    assert_eq!(failed.failure, Some(cause.clone()));
    let redriven = scene.move_to(&failed, OrderStatus::Pending).await;
    assert_eq!(redriven.failure, None);
    assert_eq!(scene.find(order.id).await, redriven);
    let causes: Vec<_> = scene
        .events(order.id)
        .await
        .into_iter()
        .map(|event| event.cause)
        .collect();
    assert_eq!(causes, [None, Some(cause), None]);

    // A cause that is not a failure belongs to the event alone.
    let note = Cause::new("BY_HAND", "started by hand");
    let change = change_to(&redriven, OrderStatus::Processing, Some(note.clone()));
    scene.commit(change).await;
    assert_eq!(scene.find(order.id).await.failure, None);
    assert_eq!(scene.events(order.id).await[3].cause, Some(note));
}

/// A redriven order is due at once; attempts go on counting, but a new round begins.
pub async fn redrive_starts_a_new_round(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    let [_, second] = scene.overtake().await;
    let failed = scene.fail(second).await;
    scene.assert_never_due().await;

    let redriven = scene.move_to(&failed, OrderStatus::Pending).await;

    let third = scene.claim_only().await;
    assert_eq!((third.attempt, third.attempts_before), (3, 2));
    assert_eq!(third.attempt_in_round(), 1);
    assert_eq!(third.order, redriven);
    scene.fail(third.token()).await;
    let failed = scene.find(order.id).await;
    scene.move_to(&failed, OrderStatus::Pending).await;
    let fourth = scene.claim_only().await;
    assert_eq!((fourth.attempt, fourth.attempts_before), (4, 3));
}

/// A report of an earlier round that arrives late, or is repeated because its answer was
/// lost, does not end the new round.
pub async fn redrive_makes_the_tokens_of_earlier_rounds_stale(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (_, token) = scene.create_leased().await;
    let failed = scene.fail(token).await;
    let redriven = scene.move_to(&failed, OrderStatus::Pending).await;

    let cause = Cause::new("DECLINED", "the card was declined");
    let repeated = scene.complete(token, Verdict::Failed(cause)).await;

    let first = failed.last_event();
    assert_eq!(repeated, Completed::Applied(Some(first)));
    assert_eq!(
        only(scene.queue.start(&[processing(token)]).await),
        Started::Stale
    );
    assert!(!scene.is_current(token).await);
    assert_eq!(scene.find(redriven.id).await, redriven);
    assert_eq!(scene.claim_only().await.attempt_in_round(), 1);
}

/// Requeueing an order whose job is gone makes a new one.
pub async fn requeue_creates_a_missing_job(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    let cancelled = scene.move_to(&order, OrderStatus::Cancelled).await;
    let change = Change {
        order_id: order.id,
        expected_version: cancelled.version,
        status: OrderStatus::Pending,
        job: JobEffect::Requeue,
        cause: None,
        key: None,
        id: None,
        trace_parent: None,
    };

    let applied = scene.commit(change).await;

    assert!(matches!(applied, Committed::Applied { .. }));
    let job = scene.claim_only().await;
    assert_eq!(job.attempt_in_round(), 1);
    assert_eq!(job.order.status, OrderStatus::Pending);
}

/// A stale change in a slice takes nothing with it, and answers stay in order.
pub async fn stale_change_leaves_its_neighbours_alone(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (first, second) = (scene.create_due().await, scene.create_due().await);
    let old = scene.create_due().await;
    let moved = scene.move_to(&old, OrderStatus::Processing).await;

    let slice = [cancel(&second), cancel(&old), cancel(&first)];
    let answers = scene.store.commit(&slice).await;

    let ids: Vec<_> = answers
        .iter()
        .map(|answer| match answer.as_ref().expect("answers") {
            Committed::Applied { order, event } => {
                assert_eq!(order.id, event.order_id);
                Some(order.id)
            }
            Committed::Stale => None,
        })
        .collect();
    assert_eq!(ids, [Some(second.id), None, Some(first.id)]);
    assert_eq!(scene.find(old.id).await, moved);
}

fn n_applied(answers: &[Result<Committed, order_core::Error>]) -> usize {
    let is_applied = |answer: &&Result<_, _>| matches!(answer, Ok(Committed::Applied { .. }));
    answers.iter().filter(is_applied).count()
}

/// Two changes decided on the same version, in one slice: one is applied, one is stale.
pub async fn one_of_two_equal_changes_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;

    let slice = [cancel(&order), cancel(&order)];
    let answers = scene.store.commit(&slice).await;

    assert_eq!((answers.len(), n_applied(&answers)), (2, 1), "{answers:?}");
    assert!(
        answers
            .iter()
            .any(|answer| matches!(answer, Ok(Committed::Stale)))
    );
    assert_eq!(scene.events(order.id).await.len(), 2);
}

/// Two changes decided on the same version, in two calls at the same time.
pub async fn one_of_two_concurrent_changes_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;

    let slices = [
        [cancel(&order)],
        [change_to(&order, OrderStatus::Processing, None)],
    ];
    let (left, right) = tokio::join!(
        scene.store.commit(&slices[0]),
        scene.store.commit(&slices[1])
    );

    assert_eq!(
        n_applied(&left) + n_applied(&right),
        1,
        "{left:?} {right:?}"
    );
    assert_eq!(scene.find(order.id).await.version, 2);
    assert_eq!(scene.events(order.id).await.len(), 2);
}

/// A full batch of changes is applied, and each answer stands where its change stood.
pub async fn large_slice_of_changes_is_answered_in_order(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let created = scene.store.create(&scene.new_orders(512, None)).await;
    let mut changes: Vec<_> = created
        .iter()
        .map(|created| cancel(&created.as_ref().expect("a new order is stored").order))
        .collect();
    changes.reverse();

    let answers = scene.store.commit(&changes).await;

    assert_eq!(answers.len(), changes.len());
    for (answer, change) in answers.iter().zip(&changes) {
        let Ok(Committed::Applied { order, .. }) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!((order.id, order.version), (change.order_id, 2));
    }
    scene.assert_never_due().await;
}
