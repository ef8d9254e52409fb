//! Lists of orders: filters, bounds and pages.

use std::time::Duration;

use jiff::Timestamp;
use order_core::{
    ExternalId, JobToken, Metadata, NewOrder, Order, OrderId, OrderQuery, OrderStatus, Room,
};

use super::{
    LEASE, Subject,
    scene::{Scene, ctx, only, processing, user},
};

fn any(before: Option<OrderId>, limit: usize) -> OrderQuery {
    OrderQuery {
        before,
        limit,
        ..OrderQuery::default()
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
        let new = NewOrder {
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

/// However many orders are asked for, a store reads at most one more than fits into an answer, and
/// goes on behind it.
pub async fn list_ends_when_an_answer_is_full(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let value = "\u{10ffff}".repeat(Metadata::VALUE_CHARS_MAX);
    let entries = (0..Metadata::LEN_MAX).map(|n| (n.to_string(), value.clone()));
    let metadata = Metadata::new(entries).expect("valid");
    let new = scene.new_orders(100, None).into_iter();
    let new: Vec<_> = new
        .map(|new| NewOrder {
            metadata: metadata.clone(),
            ..new
        })
        .collect();
    for created in scene.store.create(&new).await {
        created.expect("stored");
    }

    let (mut seen, mut before, mut n_pages) = (Vec::new(), None, 0);
    loop {
        let page = scene.store.list(&ctx(), &any(before, 1_001)).await;
        let page = page.expect("list answers");
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        let n_fitting = Room::beside(0).n_fitting(page.iter().map(Order::encoded_len_max));
        assert!(page.len() <= n_fitting + 1, "{} orders", page.len());
        seen.extend(page.iter().map(|order| order.id));
        n_pages += 1;
    }

    assert_eq!(n_pages, 3);
    assert!(seen.iter().eq(new.iter().rev().map(|new| &new.id)));
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
        let new = NewOrder {
            user_id: user(name),
            ..scene.new_order(Some(LEASE))
        };
        let order = scene.create(&new).await;
        match status {
            Pending => (),
            // Only a claim leads there.
            Processing => {
                let token = JobToken {
                    order_id: order.id,
                    attempt: 1,
                };
                only(scene.queue.start(&[processing(token)]).await);
            }
            _ => drop(scene.move_to(&order, status).await),
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
            limit: 10,
            ..OrderQuery::default()
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
        let new = NewOrder {
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

/// What a query should find among `orders`, which are sorted by id descending.
fn expected(orders: &[Order], query: &OrderQuery) -> Vec<OrderId> {
    let is_wanted = |order: &&Order| {
        let by_user = query.user_id.iter().all(|user| *user == order.user_id);
        let mut names = query.external_id.iter();
        let by_name = names.all(|name| order.external_id.as_ref() == Some(name));
        let by_status = query.statuses.is_empty() || query.statuses.contains(&order.status);
        let by_id = query.after.iter().all(|after| *after < order.id)
            && query.before.iter().all(|before| order.id < *before);
        let at = order.created_at;
        let by_time = query.created_after.iter().all(|after| *after < at)
            && query.created_before.iter().all(|before| at < *before);
        by_user && by_name && by_status && by_id && by_time
    };
    orders
        .iter()
        .filter(is_wanted)
        .take(query.limit)
        .map(|order| order.id)
        .collect()
}

/// Orders of two users, some with names, stored one after the other; by id descending.
async fn some_orders(scene: &Scene<'_>) -> Vec<Order> {
    let mut orders = Vec::new();
    for (name, external_id) in [
        ("user-1", Some("a")),
        ("user-2", Some("a")),
        ("user-1", None),
        ("user-1", Some("b")),
        ("user-2", None),
        ("user-1", None),
    ] {
        scene.subject.tick().await;
        let new = NewOrder {
            user_id: user(name),
            external_id: external_id.and_then(|id| ExternalId::parse(id).ok()),
            ..scene.new_order(None)
        };
        orders.insert(0, scene.create(&new).await);
    }
    orders[1] = scene.move_to(&orders[1], OrderStatus::Cancelled).await;
    orders[3] = scene.move_to(&orders[3], OrderStatus::Processing).await;
    orders
}

/// Every combination of filters but bounds.
fn filters() -> Vec<OrderQuery> {
    let mut filters = Vec::new();
    for user_id in [None, Some(user("user-1"))] {
        for name in [None, Some("a"), Some("none")] {
            for statuses in [vec![], vec![OrderStatus::Pending, OrderStatus::Cancelled]] {
                filters.push(OrderQuery {
                    user_id: user_id.clone(),
                    external_id: name.and_then(|name| ExternalId::parse(name).ok()),
                    statuses,
                    limit: 4,
                    ..OrderQuery::default()
                });
            }
        }
    }
    filters
}

/// The bounds that are tried with every filter: on the second and the last but one order, and
/// beside them. Clients may name a time more exactly than databases keep it.
fn bounds(late: &Order, early: &Order) -> Vec<OrderQuery> {
    let nano = Duration::from_nanos(1);
    let around = |at: Timestamp| [at - nano, at, at + nano];
    let (early_times, mut late_times) = (around(early.created_at), around(late.created_at));
    late_times.reverse();
    let by_time = early_times.into_iter().zip(late_times);
    let mut bounds: Vec<_> = by_time
        .chain([(Timestamp::MIN, Timestamp::MAX)])
        .map(|(after, before)| OrderQuery {
            created_after: Some(after),
            created_before: Some(before),
            ..OrderQuery::default()
        })
        .collect();
    for (after, before) in [(early, late), (late, early)] {
        bounds.push(OrderQuery {
            after: Some(after.id),
            before: Some(before.id),
            created_after: Some(early.created_at - nano),
            ..OrderQuery::default()
        });
    }
    bounds
}

/// All filters and bounds hold together, and a bound excludes what lies on it.
pub async fn bounds_are_exclusive(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let orders = some_orders(&scene).await;
    for filter in filters() {
        for bounds in bounds(&orders[1], &orders[4]) {
            let query = OrderQuery {
                user_id: filter.user_id.clone(),
                external_id: filter.external_id.clone(),
                statuses: filter.statuses.clone(),
                limit: filter.limit,
                ..bounds
            };
            let expected = expected(&orders, &query);
            assert_eq!(list(&scene, &query).await, expected, "{query:?}");
        }
    }
}

/// Pages under filters show every order that was there before the first one exactly once,
/// whatever is stored or changed meanwhile.
pub async fn filtered_pages_are_stable_while_inserting(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let before_all = scene.create_due().await;
    subject.tick().await;
    let mut there = Vec::new();
    for n in 0..9 {
        let new = NewOrder {
            user_id: user(if n % 3 == 0 { "user-2" } else { "user-1" }),
            ..scene.new_order(None)
        };
        there.insert(0, scene.create(&new).await);
    }
    let first = OrderQuery {
        user_id: Some(user("user-1")),
        statuses: vec![OrderStatus::Pending, OrderStatus::Processing],
        created_after: Some(before_all.created_at),
        after: Some(before_all.id),
        limit: 2,
        ..OrderQuery::default()
    };
    let all = OrderQuery {
        limit: usize::MAX,
        ..first.clone()
    };
    let expected = expected(&there, &all);
    assert_eq!(expected.len(), 6);

    let (mut seen, mut query) = (Vec::new(), first);
    loop {
        let page = list(&scene, &query).await;
        let Some(last) = page.last() else { break };
        query.before = Some(*last);
        seen.extend(page);
        scene.create_due().await;
        // An order that is still to come moves within the filter.
        if let Some(next) = expected.get(seen.len()) {
            let next = scene.find(*next).await;
            scene.move_to(&next, OrderStatus::Processing).await;
        }
    }

    assert_eq!(seen, expected);
}
