//! A stored order that cannot be read fails alone.

use order_core::{Completed, Job, OrderId, OrderQuery, OrderState, Started, Verdict};

use super::{
    LEASE, Subject,
    scene::{Scene, completion, ctx, processing, user},
};

/// How many orders a case stores; the one in the middle is broken.
const N_ORDERS: usize = 20;

/// Breaks the order in the middle and returns the others; `None` where that is not possible.
async fn break_one(subject: &dyn Subject, mut ids: Vec<OrderId>) -> Option<Vec<OrderId>> {
    let broken = ids.remove(ids.len() / 2);
    subject.break_order(broken).await.then_some(ids)
}

/// A claim hands out the other jobs, by a sweep and by hints. The job of the broken order comes
/// back without using up attempts, so that it runs once the row can be read.
pub async fn unreadable_order_is_left_out_of_claims(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = scene.new_orders(N_ORDERS, None);
    scene.store.create(&new).await;
    let ids: Vec<_> = new.iter().map(|new| new.id).collect();
    let Some(readable) = break_one(subject, ids.clone()).await else {
        return;
    };
    for round in 1..=10 {
        let claimed = if round % 2 == 0 {
            scene.queue.claim_hinted(&ids, LEASE).await
        } else {
            scene.queue.claim(N_ORDERS, LEASE).await
        };

        let mut claimed = claimed.expect("claim answers");
        claimed.sort_by_key(|job| job.order.id);
        let claimed_ids: Vec<_> = claimed.iter().map(|job| job.order.id).collect();
        assert_eq!(claimed_ids, readable, "round {round}");
        let tokens: Vec<_> = claimed.iter().map(Job::token).collect();
        scene.queue.release(&tokens).await.expect("release answers");
        subject.expire_leases().await;
    }
}

/// Pages are served without the order, and are as full as if it did not exist, so that no page
/// is taken for the last one. What asks for the order itself gets an error.
pub async fn unreadable_order_is_left_out_of_pages(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = scene.new_orders(N_ORDERS, None);
    scene.store.create(&new).await;
    let ids: Vec<_> = new.iter().map(|new| new.id).collect();
    let Some(readable) = break_one(subject, ids.clone()).await else {
        return;
    };
    let newest_first: Vec<_> = readable.iter().rev().copied().collect();
    for limit in [N_ORDERS - 1, N_ORDERS, N_ORDERS / 2] {
        let query = OrderQuery {
            user_id: Some(user("user-1")),
            limit,
            ..OrderQuery::default()
        };
        let page = scene.store.list(&ctx(), &query).await;
        let page = page.expect("list answers");
        let listed: Vec<_> = page.iter().map(|order| order.id).collect();
        assert_eq!(listed, newest_first[..limit.min(newest_first.len())]);
    }
    let ids_of = |states: Vec<OrderState>| {
        let mut ids: Vec<_> = states.iter().map(|state| state.order_id).collect();
        ids.sort_unstable();
        ids
    };
    let states = scene.store.states(&readable).await;
    assert_eq!(ids_of(states.expect("states answer")), readable);
    assert!(scene.store.find(&ctx(), ids[N_ORDERS / 2]).await.is_err());
    let repeated = scene.store.create(&new).await;
    let failed = repeated.iter().map(Result::is_err);
    let expected = ids.iter().map(|id| !readable.contains(id));
    assert!(failed.eq(expected), "{repeated:?}");
}

/// The other elements of a batch are answered as if the broken one were not there.
pub async fn unreadable_order_fails_alone_in_a_batch(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let tokens = scene.create_many_leased(N_ORDERS).await;
    let ids = tokens.iter().map(|token| token.order_id).collect();
    let Some(readable) = break_one(subject, ids).await else {
        return;
    };

    let starts: Vec<_> = tokens.iter().copied().map(processing).collect();
    let started = scene.queue.start(&starts).await;
    let completions: Vec<_> = tokens
        .iter()
        .map(|token| completion(*token, Verdict::Processed))
        .collect();
    let completed = scene.queue.complete(&completions).await;

    for (token, (started, completed)) in tokens.iter().zip(started.iter().zip(&completed)) {
        if readable.contains(&token.order_id) {
            assert!(
                matches!(started, Ok(Started::Applied(Some(_)))),
                "{started:?}"
            );
            let is_applied = matches!(completed, Ok(Completed::Applied(Some(_))));
            assert!(is_applied, "{completed:?}");
        }
    }
}
