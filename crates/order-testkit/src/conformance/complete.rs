//! Starting and finishing attempts.

use std::time::Duration;

use order_core::{Cause, Completed, Extended, JobToken, OrderEvent, OrderStatus, Started, Verdict};

use super::{
    LEASE, Subject,
    scene::{Scene, completion, only, processing},
};

pub(super) fn retry(delay: Duration) -> Verdict {
    Verdict::Retry {
        delay,
        error: "the other side did not answer".to_owned(),
        is_counted: true,
    }
}

fn declined() -> Cause {
    Cause::new("DECLINED", "the card was declined")
}

/// PROCESSED is durable with its event, and there is no job any more.
pub async fn processed_ends_the_order_and_its_job(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (before, token) = scene.create_leased().await;
    subject.tick().await;

    let Completed::Applied(Some(event)) = scene.complete(token, Verdict::Processed).await else {
        panic!("the token is current");
    };

    let order = scene.find(before.id).await;
    let expected = OrderEvent {
        order_id: before.id,
        user_id: before.user_id.clone(),
        version: 2,
        status: OrderStatus::Processed,
        at: order.updated_at,
        cause: None,
        trace_parent: None,
    };
    assert_eq!(event, expected);
    assert_eq!((order.status, order.version), (OrderStatus::Processed, 2));
    assert!(order.updated_at > before.updated_at);
    assert_eq!(scene.events(before.id).await[1..], [event]);
    scene.assert_never_due().await;
}

/// FAILED keeps its cause with the order and the event, and is never claimed again.
pub async fn failed_buries_the_job(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (before, token) = scene.create_leased().await;

    let completed = scene.complete(token, Verdict::Failed(declined())).await;

    let order = scene.find(before.id).await;
    assert_eq!((order.status, order.version), (OrderStatus::Failed, 2));
    assert_eq!(order.failure, Some(declined()));
    assert_eq!(completed, Completed::Applied(Some(order.last_event())));
    assert_eq!(scene.events(before.id).await[1..], [order.last_event()]);
    scene.assert_never_due().await;
}

/// A retry leaves the order as it is, and its job is not due before the delay is over.
pub async fn retry_waits_for_its_delay(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    let job = scene.claim_only().await;

    let completed = scene.complete(job.token(), retry(LEASE)).await;

    assert_eq!(completed, Completed::Applied(None));
    assert_eq!(scene.find(order.id).await, order);
    assert_eq!(scene.events(order.id).await.len(), 1);
    scene.assert_nothing_due().await;
    subject.expire_leases().await;
    let next = scene.claim_only().await;
    assert_eq!((next.attempt, next.attempt_in_round()), (2, 2));
}

/// A postponed job waits as a retry does, and its attempt does not count, however often.
pub async fn postponed_job_burns_no_attempt(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;
    let postpone = || Verdict::Retry {
        delay: LEASE,
        error: "the endpoint is gone".to_owned(),
        is_counted: false,
    };

    assert_eq!(
        scene.complete(token, postpone()).await,
        Completed::Applied(None)
    );
    scene.assert_nothing_due().await;
    subject.expire_leases().await;
    let second = scene.claim_only().await;
    assert_eq!((second.attempt, second.attempt_in_round()), (2, 1));
    scene.complete(second.token(), retry(LEASE)).await;
    subject.expire_leases().await;
    let third = scene.claim_only().await;
    assert_eq!((third.attempt, third.attempt_in_round()), (3, 2));
    scene.complete(third.token(), postpone()).await;
    subject.expire_leases().await;
    let fourth = scene.claim_only().await;

    assert_eq!((fourth.attempt, fourth.attempt_in_round()), (4, 2));
    assert_eq!(scene.find(order.id).await, order);
}

/// A retry without delay does not wait for the rest of the lease.
pub async fn retry_without_delay_is_due_at_once(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (_, token) = scene.create_leased().await;
    let completed = scene.complete(token, retry(Duration::ZERO)).await;
    assert_eq!(completed, Completed::Applied(None));
    assert_eq!(scene.claim_only().await.attempt, 2);
}

/// The end of a lease alone does not take the right to finish.
pub async fn late_worker_nobody_overtook_may_still_finish(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;
    subject.expire_leases().await;

    assert!(matches!(
        only(scene.queue.start(&[processing(token)]).await),
        Started::Applied(Some(_))
    ));
    let completed = scene.complete(token, Verdict::Processed).await;

    assert!(matches!(completed, Completed::Applied(Some(_))));
    assert_eq!(scene.find(order.id).await.status, OrderStatus::Processed);
    scene.assert_never_due().await;
}

/// Whoever was overtaken changes nothing: neither the order, nor its history, nor the lease
/// of the one who overtook.
pub async fn stale_token_changes_nothing(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    let [stale, current] = scene.overtake().await;

    for verdict in [
        Verdict::Processed,
        Verdict::Failed(declined()),
        retry(Duration::ZERO),
    ] {
        assert_eq!(scene.complete(stale, verdict).await, Completed::Stale);
    }
    assert_eq!(
        only(scene.queue.start(&[processing(stale)]).await),
        Started::Stale
    );
    assert_eq!(scene.queue.release(&[stale]).await.ok(), Some(0));
    assert_eq!(
        scene.queue.extend(&[stale], Duration::ZERO).await.ok(),
        Some(vec![Extended::Stale])
    );

    assert_eq!(scene.find(order.id).await, order);
    assert_eq!(scene.events(order.id).await.len(), 1);
    scene.assert_nothing_due().await;
    let done = scene.complete(current, Verdict::Processed).await;
    assert!(matches!(done, Completed::Applied(Some(_))));
}

/// Nobody holds a job that was never claimed, whatever number a token makes up.
pub async fn attempt_zero_is_never_current(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    for attempt in [0, 1, u32::MAX] {
        let forged = JobToken {
            order_id: order.id,
            attempt,
        };
        let completed = scene.complete(forged, Verdict::Processed).await;
        assert_eq!(completed, Completed::Stale, "attempt {attempt}");
        assert_eq!(
            only(scene.queue.start(&[processing(forged)]).await),
            Started::Stale
        );
        assert_eq!(scene.queue.release(&[forged]).await.ok(), Some(0));
        assert!(!scene.is_current(forged).await);
    }
    let job = scene.claim_only().await;
    assert_eq!((job.order, job.attempt, job.attempts_before), (order, 1, 0));
}

/// A buried job keeps its attempt for the redrive, but the token of that attempt is spent.
pub async fn buried_job_answers_no_token(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (_, token) = scene.create_leased().await;
    let failed = scene.fail(token).await;

    let completed = scene.complete(token, Verdict::Processed).await;
    assert_eq!(completed, Completed::Stale);
    assert_eq!(
        only(scene.queue.start(&[processing(token)]).await),
        Started::Stale
    );
    assert_eq!(scene.queue.release(&[token]).await.ok(), Some(0));
    assert!(!scene.is_current(token).await);

    assert_eq!(scene.find(failed.id).await, failed);
    scene.assert_never_due().await;
}

/// A client may cancel a PENDING order under the worker's hands; the worker then finds its
/// token stale.
pub async fn cancelled_order_makes_its_tokens_stale(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;
    let cancelled = scene.move_to(&order, OrderStatus::Cancelled).await;

    assert!(!scene.is_current(token).await);
    assert_eq!(
        only(scene.queue.start(&[processing(token)]).await),
        Started::Stale
    );
    for verdict in [
        Verdict::Processed,
        Verdict::Failed(declined()),
        retry(Duration::ZERO),
    ] {
        assert_eq!(scene.complete(token, verdict).await, Completed::Stale);
    }

    assert_eq!(scene.find(order.id).await, cancelled);
    assert_eq!(scene.events(order.id).await.len(), 2);
    scene.assert_never_due().await;
}

/// Every verdict in one slice, stale tokens between them: each answer stands where its
/// completion stood.
pub async fn mixed_slice_is_answered_in_order(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let [processed, failed, retried, again] =
        <[_; 4]>::try_from(scene.create_many_leased(4).await).expect("four tokens");
    let stale = JobToken {
        attempt: 7,
        ..again
    };
    let unknown = JobToken {
        order_id: scene.id(),
        attempt: 1,
    };

    let slice = [
        completion(stale, Verdict::Processed),
        completion(retried, retry(Duration::ZERO)),
        completion(failed, Verdict::Failed(declined())),
        completion(unknown, Verdict::Failed(declined())),
        completion(processed, Verdict::Processed),
        completion(again, Verdict::Failed(Cause::new("OTHER", "another cause"))),
    ];
    let answers: Vec<_> = scene
        .queue
        .complete(&slice)
        .await
        .into_iter()
        .map(|answer| answer.expect("complete answers"))
        .collect();

    let event = async |token: JobToken| Some(scene.find(token.order_id).await.last_event());
    let expected = [
        Completed::Stale,
        Completed::Applied(None),
        Completed::Applied(event(failed).await),
        Completed::Stale,
        Completed::Applied(event(processed).await),
        Completed::Applied(event(again).await),
    ];
    assert_eq!(answers, expected);
    let causes = [failed, again].map(|token| scene.events(token.order_id));
    for (events, code) in causes.into_iter().zip(["DECLINED", "OTHER"]) {
        let cause = events.await[1].cause.clone();
        assert_eq!(cause.map(|cause| cause.code).as_deref(), Some(code));
    }
    assert_eq!(scene.claim_only().await.order.id, retried.order_id);
}

fn n_applied(answers: &[Result<Completed, order_core::Error>]) -> usize {
    let is_applied = |answer: &&Result<_, _>| matches!(answer, Ok(Completed::Applied(_)));
    answers.iter().filter(is_applied).count()
}

/// The same result twice in one slice is applied once, and both are answered so.
pub async fn equal_completions_are_one(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;

    let slice = [
        completion(token, Verdict::Processed),
        completion(token, Verdict::Processed),
    ];
    let answers = scene.queue.complete(&slice).await;

    assert_eq!((answers.len(), n_applied(&answers)), (2, 2), "{answers:?}");
    assert_eq!(scene.events(order.id).await.len(), 2);
}

/// A report whose answer was lost and that is repeated is answered as the first was, also when
/// the order has gone on since, and changes nothing.
pub async fn repeated_report_is_answered_as_the_first(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    for verdict in [Verdict::Processed, Verdict::Failed(declined())] {
        let (order, token) = scene.create_leased().await;
        let first = scene.complete(token, verdict.clone()).await;
        assert!(matches!(first, Completed::Applied(Some(_))));
        assert_eq!(scene.complete(token, verdict.clone()).await, first);
        let ended = scene.find(order.id).await;
        if ended.status == OrderStatus::Failed {
            // A policy may have made a failure of what is reported as a retry.
            assert_eq!(scene.complete(token, retry(LEASE)).await, first);
            scene.move_to(&ended, OrderStatus::Pending).await;
            assert_eq!(scene.complete(token, verdict).await, first);
            scene.claim_only().await;
        }
        let n_events = scene.events(order.id).await.len();
        assert_eq!(n_events, scene.find(order.id).await.version as usize);
    }
}

/// A failure that is reported twice counts once, and does not move the time of the retry.
pub async fn repeated_retry_counts_once(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (_, token) = scene.create_leased().await;
    for delay in [Duration::ZERO, LEASE] {
        let completed = scene.complete(token, retry(delay)).await;
        assert_eq!(completed, Completed::Applied(None));
    }
    let next = scene.claim_only().await;
    assert_eq!((next.attempt, next.attempt_in_round()), (2, 2));
    let repeated = scene.complete(token, retry(Duration::ZERO)).await;
    assert_eq!(repeated, Completed::Applied(None));
    let success = scene.complete(token, Verdict::Processed).await;
    assert_eq!(success, Completed::Stale, "it was reported as failed");
    assert!(scene.is_current(next.token()).await);
    scene.assert_nothing_due().await;
}

/// After a retry the token is worth nothing: a heartbeat that was under way does not move the
/// time of the retry, and nothing is released.
pub async fn retry_ends_the_token(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (_, token) = scene.create_leased().await;
    scene.complete(token, retry(Duration::ZERO)).await;

    assert!(!scene.is_current(token).await);
    assert_eq!(scene.queue.release(&[token]).await.ok(), Some(0));
    let started = only(scene.queue.start(&[processing(token)]).await);
    assert_eq!(started, Started::Stale);
    assert_eq!(scene.claim_only().await.attempt_in_round(), 2);
}

/// A completion and a cancel at the same time: one of them wins, wholly.
pub async fn one_of_two_concurrent_completions_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    for _ in 0..8 {
        let (order, token) = scene.create_leased().await;
        let slices = [
            [completion(token, Verdict::Processed)],
            [completion(token, Verdict::Failed(declined()))],
        ];
        let (left, right) = tokio::join!(
            scene.queue.complete(&slices[0]),
            scene.queue.complete(&slices[1])
        );
        assert_eq!(
            n_applied(&left) + n_applied(&right),
            1,
            "{left:?} {right:?}"
        );
        assert_eq!(scene.find(order.id).await.version, 2);
        assert_eq!(scene.events(order.id).await.len(), 2);
    }
    scene.assert_never_due().await;
}

/// The first start moves the order, every further one finds it there.
pub async fn start_is_idempotent(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;

    let first = only(scene.queue.start(&[processing(token)]).await);

    let started = scene.find(order.id).await;
    assert_eq!(
        (started.status, started.version),
        (OrderStatus::Processing, 2)
    );
    assert_eq!(first, Started::Applied(Some(started.last_event())));
    assert_eq!(
        only(scene.queue.start(&[processing(token)]).await),
        Started::Applied(None)
    );
    assert_eq!(scene.find(order.id).await, started);
    assert_eq!(scene.events(order.id).await.len(), 2);
    // The lease is as it was, and the attempt counts.
    scene.assert_nothing_due().await;
    subject.expire_leases().await;
    let next = scene.claim_abandoned().await;
    assert_eq!((next.attempt, next.attempt_in_round()), (2, 2));
    assert_eq!(
        only(scene.queue.start(&[processing(next.token())]).await),
        Started::Applied(None)
    );
}

/// An overtaken worker must not begin its effect.
pub async fn start_is_fenced(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, stale) = scene.create_leased().await;
    subject.expire_leases().await;
    let current = scene.claim_abandoned().await.token();
    let unknown = JobToken {
        order_id: scene.id(),
        attempt: 1,
    };

    let answers: Vec<_> = scene
        .queue
        .start(&[stale, current, unknown].map(processing))
        .await
        .into_iter()
        .map(|answer| answer.expect("start answers"))
        .collect();

    let event = scene.find(order.id).await.last_event();
    let expected = [
        Started::Stale,
        Started::Applied(Some(event)),
        Started::Stale,
    ];
    assert_eq!(answers, expected);
    assert_eq!(scene.events(order.id).await.len(), 2);
}

/// From PROCESSING an order is finished, retried and given up like from PENDING.
pub async fn started_order_can_be_finished_and_given_up(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    for (verdict, status, version) in [
        (Verdict::Processed, OrderStatus::Processed, 3),
        (Verdict::Failed(declined()), OrderStatus::Failed, 3),
        (retry(LEASE), OrderStatus::Processing, 2),
    ] {
        let (order, token) = scene.create_leased().await;
        scene.queue.start(&[processing(token)]).await;
        let completed = scene.complete(token, verdict).await;
        assert!(matches!(completed, Completed::Applied(_)));
        let order = scene.find(order.id).await;
        assert_eq!((order.status, order.version), (status, version));
        assert_eq!(
            scene.events(order.id).await.last(),
            Some(&order.last_event())
        );
    }
}

/// A full batch of results is applied, and each answer stands where its completion stood.
pub async fn large_slice_of_completions_is_answered_in_order(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut tokens = scene.create_many_leased(512).await;
    tokens.reverse();
    let slice: Vec<_> = tokens
        .iter()
        .map(|token| completion(*token, Verdict::Processed))
        .collect();

    let answers = scene.queue.complete(&slice).await;

    assert_eq!(answers.len(), slice.len());
    for (answer, token) in answers.iter().zip(&tokens) {
        let Ok(Completed::Applied(Some(event))) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!((event.order_id, event.version), (token.order_id, 2));
    }
    scene.assert_never_due().await;
}
