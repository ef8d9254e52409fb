//! Claiming jobs, keeping them and giving them back.

use std::{collections::BTreeSet, time::Duration};

use order_core::{Completed, Extended, JobToken, OrderStatus, Start, Started, Verdict};

use super::{
    LEASE, Subject,
    complete::retry,
    scene::{Scene, only, processing},
};

/// A job that is not born leased is due at once, as attempt 1 of its first round.
pub async fn unleased_order_is_claimable_at_once(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;

    let job = scene.claim_only().await;

    assert_eq!((job.attempt, job.attempts_before), (1, 0));
    assert_eq!(job.order, order);
}

/// A job that is born leased is attempt 1 already, and due when that lease runs out.
pub async fn order_born_leased_is_claimable_after_its_lease(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;
    scene.assert_nothing_due().await;
    assert!(scene.is_current(token).await);

    subject.expire_leases().await;

    let job = scene.claim_abandoned().await;
    assert_eq!((job.attempt, job.attempts_before), (2, 1));
    assert_eq!(job.order, order);
}

/// A lease of no length is over at once.
pub async fn zero_lease_is_due_again_at_once(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create(&scene.new_order(Some(Duration::ZERO))).await;
    for attempt in 2..5 {
        let job = scene.queue.claim_abandoned(Duration::ZERO).await;
        let job = job.expect("claim answers").expect("the lease is over");
        assert_eq!(job.attempt, attempt);
    }
}

/// A claimed job is nobody else's until its lease runs out; the next claim has the next token.
/// Nobody said that work had begun, so no attempt counts, however often that happens.
pub async fn claimed_job_is_abandoned_after_its_lease(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create_due().await;
    scene.claim_only().await;
    for attempt in 2..9 {
        scene.assert_nothing_due().await;
        subject.expire_leases().await;
        assert_eq!(scene.claim(10).await, [], "claimed like any other");
        let job = scene.claim_abandoned().await;
        assert_eq!((job.attempt, job.attempt_in_round()), (attempt, 1));
    }
}

/// An abandoned attempt counts if its work was marked as begun.
pub async fn abandoned_attempt_counts_if_it_began(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;
    let begin = |token| Start {
        token,
        moves_order: false,
        counts: true,
        trace_parent: None,
    };
    let mut token = token;
    for in_round in 2..5 {
        for _ in 0..2 {
            let started = only(scene.queue.start(&[begin(token)]).await);
            assert_eq!(started, Started::Applied(None));
        }
        subject.expire_leases().await;
        let job = scene.claim_abandoned().await;
        assert_eq!(job.attempt_in_round(), in_round);
        assert_eq!(job.order, order);
        token = job.token();
    }
    subject.expire_leases().await;
    assert_eq!(scene.claim_abandoned().await.attempt_in_round(), 4);
}

/// The abandoned job that has been due for longest goes first; hints do not find it.
pub async fn abandoned_jobs_are_claimed_one_at_a_time(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let slice = scene.new_orders(3, Some(Duration::ZERO));
    for new in &slice {
        scene.create(new).await;
        subject.tick().await;
    }
    let due = scene.create_due().await;
    let hints: Vec<_> = slice.iter().map(|new| new.id).collect();

    let hinted = scene.queue.claim_hinted(&hints, LEASE).await;

    assert_eq!(hinted.expect("claim answers"), []);
    assert_eq!(scene.claim_only().await.order, due);
    for new in &slice {
        assert_eq!(scene.claim_abandoned().await.order.id, new.id);
    }
    scene.assert_nothing_due().await;
}

/// The job that has been due for longest goes first, whatever its id; no more are claimed
/// than asked for.
pub async fn claim_takes_the_longest_due_first_up_to_its_limit(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut slice = scene.new_orders(5, None);
    slice.reverse();
    for new in &slice {
        scene.create(new).await;
        subject.tick().await;
    }

    let mut claimed = Vec::new();
    for n_expected in [2, 2, 1, 0] {
        let jobs = scene.claim(2).await;
        assert_eq!(jobs.len(), n_expected);
        claimed.extend(jobs.iter().map(|job| job.order.id));
    }

    let expected: Vec<_> = slice.iter().map(|new| new.id).collect();
    assert_eq!(claimed, expected);
}

/// A claim comes with the order as it is then, not as it was created.
pub async fn claim_shows_the_order_as_it_is(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    let moved = scene.move_to(&order, OrderStatus::Processing).await;
    assert_eq!(scene.claim_only().await.order, moved);
}

/// Claims at the same time share no job and together get them all.
pub async fn concurrent_claims_share_no_job(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.store.create(&scene.new_orders(64, None)).await;

    let (a, b, c, d) = tokio::join!(
        scene.claim(20),
        scene.claim(20),
        scene.claim(20),
        scene.claim(20),
    );
    // A claim may pass over jobs another one is just taking; one more finds the rest.
    let rest = scene.claim(64).await;

    let tokens: Vec<_> = [a, b, c, d, rest]
        .iter()
        .flatten()
        .map(|job| (job.order.id, job.attempt))
        .collect();
    let distinct: BTreeSet<_> = tokens.iter().collect();
    assert_eq!((tokens.len(), distinct.len()), (64, 64));
    assert!(tokens.iter().all(|(_, attempt)| *attempt == 1));
}

/// A claim of overdue jobs leaves those alone that have just become due.
pub async fn overdue_claim_leaves_fresh_jobs_alone(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create_due().await;

    let overdue = |overdue| scene.queue.claim_overdue(10, LEASE, overdue);
    assert_eq!(overdue(LEASE).await.expect("claim answers"), []);
    assert_eq!(overdue(Duration::ZERO).await.expect("answers").len(), 1);
}

/// A claim by id gets the jobs that are due, each once, and no other.
pub async fn hinted_claim_gets_the_due_jobs_it_names(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let due = scene.create_due().await;
    let other = scene.create_due().await;
    let (leased, _) = scene.create_leased().await;
    let (done, token) = scene.create_leased().await;
    scene.complete(token, Verdict::Processed).await;
    let hints = [due.id, leased.id, done.id, scene.id(), due.id];

    let jobs = scene.queue.claim_hinted(&hints, LEASE).await;

    let jobs = jobs.expect("claim answers");
    assert_eq!(jobs.len(), 1);
    assert_eq!((&jobs[0].order, jobs[0].attempt), (&due, 1));
    assert!(scene.is_current(jobs[0].token()).await);
    let again = scene.queue.claim_hinted(&hints, LEASE).await;
    assert_eq!(again.expect("claim answers"), []);
    assert_eq!(scene.claim_only().await.order, other);
    assert_eq!(
        scene.queue.claim_hinted(&[], LEASE).await.ok(),
        Some(vec![])
    );
}

/// A hint that comes twice, even in one slice, is one attempt, whatever the lease.
pub async fn equal_hints_are_one_attempt(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    for attempt in 1..4 {
        let hints = [order.id, order.id];
        let jobs = scene.queue.claim_hinted(&hints, Duration::ZERO).await;
        let jobs = jobs.expect("claim answers");
        let attempts: Vec<_> = jobs.iter().map(|job| job.attempt).collect();
        assert_eq!(attempts, [attempt]);
        assert_eq!(scene.queue.release(&[jobs[0].token()]).await.ok(), Some(1));
    }
}

/// Of concurrent claims by the same hints each job goes to one.
pub async fn one_of_two_consumers_of_a_hint_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let slice = scene.new_orders(64, None);
    scene.store.create(&slice).await;
    let hints: Vec<_> = slice.iter().map(|new| new.id).collect();

    let (a, b) = tokio::join!(
        scene.queue.claim_hinted(&hints, LEASE),
        scene.queue.claim_hinted(&hints, LEASE),
    );

    let mut claimed: Vec<_> = [a, b]
        .into_iter()
        .flat_map(|jobs| jobs.expect("claim answers"))
        .map(|job| (job.order.id, job.attempt))
        .collect();
    claimed.sort_unstable();
    let expected: BTreeSet<_> = hints.into_iter().map(|id| (id, 1)).collect();
    assert_eq!(claimed, expected.into_iter().collect::<Vec<_>>());
}

/// A heartbeat keeps current leases and names every token that is not current any more.
pub async fn extend_keeps_a_lease_and_reports_lost_tokens(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create_due().await;
    let [overtaken, current] = scene.overtake().await;
    let (_, done) = scene.create_leased().await;
    scene.complete(done, Verdict::Processed).await;
    let unknown = JobToken {
        order_id: scene.id(),
        attempt: 1,
    };
    subject.expire_leases().await;

    let tokens = [overtaken, current, done, unknown];
    let extended = scene.queue.extend(&tokens, LEASE).await;

    let [stale, applied] = [Extended::Stale, Extended::Applied];
    let expected = [stale, applied, stale, stale];
    assert_eq!(extended.expect("extend answers"), expected);
    scene.assert_nothing_due().await;
}

/// A heartbeat that comes after the lease ran out, but before anybody else, is in time.
pub async fn late_worker_may_still_extend(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (_, token) = scene.create_leased().await;
    subject.expire_leases().await;
    assert!(scene.is_current(token).await);
    scene.assert_nothing_due().await;
}

/// A released job is due at once, and its next claim is as early in the round as the one
/// that was given back. The token is worth nothing from then on, in whichever attempt.
pub async fn release_makes_due_at_once_and_burns_no_attempt(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (_, token) = scene.create_leased().await;

    let n_released = scene.queue.release(&[token]).await.expect("answers");

    assert_eq!(n_released, 1);
    let second = scene.claim_only().await;
    assert_eq!((second.attempt, second.attempts_before), (2, 1));
    assert_eq!(second.attempt_in_round(), 1);
    scene.complete(second.token(), retry(Duration::ZERO)).await;
    let third = scene.claim_only().await;
    assert_eq!((third.attempt, third.attempt_in_round()), (3, 2));
    let token = third.token();
    assert_eq!(scene.queue.release(&[token]).await.ok(), Some(1));

    assert_eq!(scene.queue.release(&[token]).await.ok(), Some(0));
    assert!(!scene.is_current(token).await);
    let completed = scene.complete(token, Verdict::Processed).await;
    assert_eq!(completed, Completed::Stale);
    let fourth = scene.claim_only().await;
    assert_eq!((fourth.attempt, fourth.attempt_in_round()), (4, 2));
}

/// Old, finished and unknown tokens release nothing.
pub async fn release_ignores_stale_tokens(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create_due().await;
    let [overtaken, current] = scene.overtake().await;
    let (_, done) = scene.create_leased().await;
    scene.complete(done, Verdict::Processed).await;
    let unknown = JobToken {
        order_id: scene.id(),
        attempt: 1,
    };

    let stale = [overtaken, done, unknown];
    let n_released = scene.queue.release(&stale).await.expect("answers");

    assert_eq!(n_released, 0);
    scene.assert_nothing_due().await;
    assert!(scene.is_current(current).await);
    let mixed = [overtaken, current, unknown];
    assert_eq!(scene.queue.release(&mixed).await.ok(), Some(1));
    assert_eq!(scene.claim_only().await.attempt_in_round(), 1);
}

/// Heartbeats, starts and releases take a full batch.
pub async fn large_slices_of_tokens_are_answered(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let tokens = scene.create_many_leased(512).await;

    assert_eq!(
        scene.queue.extend(&tokens, LEASE).await.ok(),
        Some(vec![Extended::Applied; 512])
    );
    let starts: Vec<_> = tokens.iter().copied().map(processing).collect();
    let started = scene.queue.start(&starts).await;
    assert_eq!(started.len(), 512);
    for (started, token) in started.iter().zip(&tokens) {
        let Ok(Started::Applied(Some(event))) = started else {
            panic!("{started:?}");
        };
        assert_eq!(event.order_id, token.order_id);
    }
    assert_eq!(scene.queue.release(&tokens).await.ok(), Some(512));
    assert_eq!(scene.claim(600).await.len(), 512);
}
