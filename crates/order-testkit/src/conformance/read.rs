//! Reading orders, their history and where they stand.

use order_core::{Order, OrderId, OrderQuery, OrderState, OrderStatus, Verdict};

use super::{
    LEASE, Subject,
    scene::{Scene, ctx, user},
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
    assert!(events.iter().all(|event| event.order_id == order.id));
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

fn any(before: Option<OrderId>, limit: usize) -> OrderQuery {
    OrderQuery {
        user_id: None,
        statuses: vec![],
        before,
        limit,
    }
}

async fn list(scene: &Scene<'_>, query: &OrderQuery) -> Vec<OrderId> {
    let orders = scene.store.list(&ctx(), query).await;
    orders
        .expect("list answers")
        .iter()
        .map(|order| order.id)
        .collect()
}

/// The newest id comes first; `before` and `limit` cut a page out.
pub async fn list_is_by_id_descending(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    assert_eq!(list(&scene, &any(None, 10)).await, []);
    let mut ids: Vec<_> = (0..5).map(|_| scene.id()).collect();
    // Stored in another order than their ids have.
    for id in [3, 0, 4, 1, 2].map(|i| ids[i]) {
        let new = order_core::NewOrder {
            id,
            ..scene.new_order(None)
        };
        scene.create(&new).await;
    }
    ids.reverse();

    assert_eq!(list(&scene, &any(None, 10)).await, ids);
    assert_eq!(list(&scene, &any(None, 2)).await, ids[..2]);
    assert_eq!(list(&scene, &any(Some(ids[1]), 2)).await, ids[2..4]);
    assert_eq!(list(&scene, &any(Some(ids[4]), 2)).await, []);
    assert_eq!(list(&scene, &any(None, 0)).await, []);
    let whole = scene.store.list(&ctx(), &any(None, 1)).await;
    assert_eq!(
        whole.expect("list answers"),
        [scene.find(ids[0]).await],
        "a listed order is a whole order"
    );
}

/// Filters by user and by any of several statuses, alone and together.
pub async fn list_is_filtered(subject: &dyn Subject) {
    use OrderStatus::{Cancelled, Pending, Processing};
    let scene = Scene::new(subject);
    let mut stored = Vec::new();
    for (name, status) in [
        ("user-1", Pending),
        ("user-2", Cancelled),
        ("user-1", Processing),
        ("user-1", Cancelled),
        ("user-2", Pending),
    ] {
        let new = order_core::NewOrder {
            user_id: user(name),
            ..scene.new_order(None)
        };
        let order = scene.create(&new).await;
        if status != Pending {
            scene.move_to(&order, status).await;
        }
        stored.insert(0, (new.id, name, status));
    }
    let cases: [(Option<&str>, &[OrderStatus]); 7] = [
        (Some("user-1"), &[]),
        (Some("user-2"), &[]),
        (Some("user-3"), &[]),
        (None, &[Pending]),
        (None, &[Cancelled, Processing, Cancelled]),
        (Some("user-1"), &[Cancelled, Processing]),
        (Some("user-1"), &[OrderStatus::Failed]),
    ];
    for (name, statuses) in cases {
        let query = OrderQuery {
            user_id: name.map(user),
            statuses: statuses.to_vec(),
            before: None,
            limit: 10,
        };
        let expected: Vec<_> = stored
            .iter()
            .filter(|(_, n, s)| {
                name.is_none_or(|name| name == *n) && (statuses.is_empty() || statuses.contains(s))
            })
            .map(|(id, ..)| *id)
            .collect();
        assert_eq!(list(&scene, &query).await, expected, "{query:?}");
        let first = OrderQuery {
            limit: 1,
            ..query.clone()
        };
        let n_first = expected.len().min(1);
        assert_eq!(list(&scene, &first).await, expected[..n_first]);
        if let Some(second) = expected.get(1) {
            let next = OrderQuery {
                before: Some(expected[0]),
                ..first
            };
            assert_eq!(list(&scene, &next).await, [*second]);
        }
    }
}

/// Orders that arrive while somebody pages through do not shift the pages.
pub async fn list_pages_are_stable_while_inserting(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut expected: Vec<_> = scene.new_orders(7, None).iter().map(|new| new.id).collect();
    for id in &expected {
        let new = order_core::NewOrder {
            id: *id,
            ..scene.new_order(None)
        };
        scene.create(&new).await;
    }
    expected.reverse();

    let (mut seen, mut before) = (Vec::new(), None);
    while seen.len() < expected.len() {
        let page = list(&scene, &any(before, 2)).await;
        assert!(
            !page.is_empty(),
            "the list ends after {} orders",
            seen.len()
        );
        before = page.last().copied();
        seen.extend(page);
        scene.create_due().await;
    }

    assert_eq!(seen, expected);
}

/// States are the orders in brief; ids nobody stored are left out.
pub async fn states_leave_unknown_orders_out(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let first = order_with_history(&scene).await;
    let second = scene.create_due().await;
    let state = |order: &Order| OrderState {
        order_id: order.id,
        version: order.version,
        status: order.status,
        updated_at: order.updated_at,
    };

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

/// A store that was just made is ready.
pub async fn store_is_ready(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.store.check(&ctx()).await.expect("the store is ready");
}
