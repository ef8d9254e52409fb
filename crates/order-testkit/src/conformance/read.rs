//! Reading orders, their history and where they stand.

use order_core::{Cause, NewOrder, Order, OrderState, OrderStatus, Verdict};

use super::{
    LEASE, Subject,
    scene::{Scene, change_to, ctx, user},
};

/// An id nobody stored is not an error.
pub async fn unknown_order_is_not_found(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create_due().await;
    let unknown = scene.id();
    assert_eq!(scene.store.find(&ctx(), unknown).await.ok(), Some(None));
    assert_eq!(scene.events(unknown).await, []);
}

/// An order that went through everything: created, started, failed, redriven, processed.
async fn order_with_history(scene: &Scene<'_>) -> Order {
    let (order, token) = scene.create_leased().await;
    scene.subject.tick().await;
    scene.move_to(&order, OrderStatus::Processing).await;
    scene.subject.tick().await;
    let failed = scene.fail(token).await;
    scene.subject.tick().await;
    scene.move_to(&failed, OrderStatus::Pending).await;
    scene.subject.tick().await;
    let job = scene.claim_only().await;
    scene.complete(job.token(), Verdict::Processed).await;
    scene.find(order.id).await
}

/// Versions start at 1, have no gaps, and time does not run backwards between them.
pub async fn history_has_no_gaps(subject: &dyn Subject) {
    use OrderStatus::{Failed, Pending, Processed, Processing};
    let scene = Scene::new(subject);
    scene.create(&scene.new_order(Some(LEASE))).await;

    let order = order_with_history(&scene).await;

    let events = scene.events(order.id).await;
    let steps: Vec<_> = events.iter().map(|e| (e.version, e.status)).collect();
    let expected = [
        (1, Pending),
        (2, Processing),
        (3, Failed),
        (4, Pending),
        (5, Processed),
    ];
    assert_eq!(steps, expected);
    assert!(events.is_sorted_by_key(|event| event.at));
    assert!(
        events
            .iter()
            .all(|event| event.order_id == order.id && event.user_id == order.user_id)
    );
    assert_eq!(events[0].at, order.created_at);
    assert_eq!(events[4], order.last_event());
    assert_eq!(
        events[2].cause.as_ref().map(|c| c.code.as_str()),
        Some("DECLINED")
    );
}

/// `after` and `limit` cut a piece out of the history, oldest first.
pub async fn history_is_read_in_pieces(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = order_with_history(&scene).await;
    let all = scene.events(order.id).await;
    for (after, limit, expected) in [
        (0, 1, &all[..1]),
        (0, 3, &all[..3]),
        (1, 100, &all[1..]),
        (2, 2, &all[2..4]),
        (4, 100, &all[4..]),
        (5, 100, &[]),
        (u32::MAX, 100, &[]),
        (0, 0, &[]),
        (0, usize::MAX, &all[..]),
    ] {
        let piece = scene.store.events(&ctx(), order.id, after, limit).await;
        assert_eq!(
            piece.expect("events answer"),
            expected,
            "after {after}, limit {limit}"
        );
    }
}

fn state(order: &Order) -> OrderState {
    OrderState {
        order_id: order.id,
        user_id: order.user_id.clone(),
        version: order.version,
        status: order.status,
        updated_at: order.updated_at,
        cause: None,
    }
}

/// What ended without success is shown with its cause, as its event is.
pub async fn states_say_why(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (failed, token) = scene.create_leased().await;
    scene.fail(token).await;
    let order = scene.create_due().await;
    let cancelled = order.id;
    let cause = Cause::new("CANCELLED", "changed my mind");
    let change = change_to(&order, OrderStatus::Cancelled, Some(cause));
    scene.commit(change).await;
    let (done, token) = scene.create_leased().await;
    scene.complete(token, Verdict::Processed).await;

    let ids = [failed.id, cancelled, done.id];
    let states = scene.store.states(&ids).await.expect("states answer");
    let recent = scene.store.recent_states(&[user("user-1")], 10).await;

    let mut expected = Vec::new();
    for id in ids {
        expected.extend(scene.events(id).await.pop());
    }
    for states in [states, recent.expect("recent_states answer")] {
        let mut events: Vec<_> = states.into_iter().map(OrderState::into_event).collect();
        events.sort_by_key(|event| event.order_id);
        assert_eq!(events, expected);
    }
}

/// States are the orders in brief; ids nobody stored are left out.
pub async fn states_leave_unknown_orders_out(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let first = order_with_history(&scene).await;
    let second = scene.create_due().await;

    let ids = [second.id, scene.id(), first.id];
    let mut states = scene.store.states(&ids).await.expect("states answer");

    states.sort_unstable_by_key(|state| state.order_id);
    assert_eq!(states, [state(&first), state(&second)]);

    let many = scene
        .store
        .create(&scene.new_orders(512, Some(LEASE)))
        .await;
    let ids: Vec<_> = many
        .iter()
        .map(|created| created.as_ref().expect("a new order is stored").order.id)
        .collect();
    let states = scene.store.states(&ids).await.expect("states answer");
    assert_eq!(states.len(), 512);
}

/// Of each user the newest by id, however they stand; users without orders are left out.
pub async fn recent_states_are_the_newest_of_each_user(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut expected = Vec::new();
    for n in 0..7 {
        let new = NewOrder {
            user_id: user(["user-1", "user-2", "user-3"][n % 3]),
            ..scene.new_order(None)
        };
        let mut order = scene.create(&new).await;
        if n == 4 {
            order = scene.move_to(&order, OrderStatus::Cancelled).await;
        }
        // Of user 1 the orders 0, 3 and 6 are there, of user 2 the orders 1 and 4.
        if matches!(n, 1 | 3 | 4 | 6) {
            expected.push(state(&order));
        }
    }
    let recent = async |users: &[&str], limit| {
        let users: Vec<_> = users.iter().map(|name| user(name)).collect();
        let states = scene.store.recent_states(&users, limit).await;
        states.expect("recent_states answer")
    };

    let mut states = recent(&["user-2", "nobody", "user-1"], 2).await;

    // Users come in any order, the orders of each by id descending.
    let ids = |states: &[OrderState], name| -> Vec<_> {
        let of_user = states.iter().filter(|state| state.user_id == user(name));
        of_user.map(|state| state.order_id).collect()
    };
    for name in ["user-1", "user-2"] {
        assert!(ids(&states, name).is_sorted_by(|left, right| left > right));
    }
    states.sort_unstable_by_key(|state| state.order_id);
    assert_eq!(states, expected);
    assert_eq!(recent(&["user-1"], 0).await, []);
    assert_eq!(recent(&["user-1"], 100).await.len(), 3);
    assert_eq!(recent(&[], 2).await, []);
}

/// A store that was just made is ready.
pub async fn store_is_ready(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.store.check(&ctx()).await.expect("the store is ready");
}
