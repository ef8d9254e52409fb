//! What expires: keys, and tickets that nobody redeemed.

use std::time::Duration;

use order_core::{Insertion, KeyClaim, NewOrder};

use super::{
    LEASE, Subject,
    scene::{Scene, create_key, ctx, new_ticket},
};

/// An order whose key may be removed at once.
fn short_lived(scene: &Scene<'_>, key: &str) -> NewOrder {
    NewOrder {
        key: Some(KeyClaim {
            retention: Duration::ZERO,
            ..create_key(key, 1)
        }),
        ..scene.new_order(None)
    }
}

async fn prune(scene: &Scene<'_>, limit: usize) -> usize {
    scene.subject.tick().await;
    scene.store.prune(limit).await.expect("prune answers")
}

/// What has expired is removed, the rest stays, and orders stay anyway.
pub async fn expired_keys_and_tickets_are_removed(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    assert_eq!(prune(&scene, 10).await, 0);
    let kept = scene.keyed_order("kept", 1);
    let slice = [
        short_lived(&scene, "a"),
        kept.clone(),
        short_lived(&scene, "b"),
    ];
    for created in scene.store.create(&slice).await {
        created.expect("a new order is stored");
    }
    for ticket in [new_ticket(1, Duration::ZERO), new_ticket(2, LEASE)] {
        scene.store.put_ticket(&ticket).await.expect("is stored");
    }

    assert_eq!(prune(&scene, 10).await, 3);
    assert_eq!(prune(&scene, 10).await, 0);

    let key = |text: &str| create_key(text, 1);
    for (claim, is_there) in [(key("a"), false), (key("b"), false), (key("kept"), true)] {
        let found = scene
            .store
            .find_key(&ctx(), &claim.owner, claim.operation, &claim.key)
            .await;
        assert_eq!(found.expect("find_key answers").is_some(), is_there);
    }
    let kept_ticket = scene.store.take_ticket(&[2; 32]).await;
    assert!(kept_ticket.expect("take_ticket answers").is_some());
    for new in &slice {
        scene.find(new.id).await;
    }
}

/// A call removes at most `limit` of each, and says when nothing is left.
pub async fn prune_removes_at_most_its_limit(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let slice: Vec<_> = (0..5)
        .map(|n| short_lived(&scene, &format!("k{n}")))
        .collect();
    for created in scene.store.create(&slice).await {
        created.expect("a new order is stored");
    }
    for n in 0..3 {
        let ticket = new_ticket(n, Duration::ZERO);
        scene.store.put_ticket(&ticket).await.expect("is stored");
    }

    assert_eq!(prune(&scene, 0).await, 0);
    let mut removed = Vec::new();
    for _ in 0..4 {
        removed.push(prune(&scene, 2).await);
    }

    assert_eq!(removed, [4, 3, 1, 0]);
}

/// A key that was removed may be used anew; the id alone then tells a retry.
pub async fn removed_key_may_be_used_anew(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let first = short_lived(&scene, "k");
    let order = scene.create(&first).await;
    assert_eq!(prune(&scene, 10).await, 1);

    let again = scene.create_one(&first).await;

    assert_eq!((again.order, again.insertion), (order, Insertion::SameId));
    prune(&scene, 10).await;
    scene.create(&scene.keyed_order("k", 2)).await;
}

/// A key counts as long as it is there: it is kept at least for its retention.
pub async fn expired_key_counts_until_it_is_removed(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create(&short_lived(&scene, "k")).await;
    subject.tick().await;

    let again = scene.create_one(&scene.keyed_order("k", 1)).await;

    assert_eq!(again.insertion, Insertion::SameKey);
}
