//! Idempotency keys: requests that come twice.

use order_core::{
    Change, Command, Committed, Created, Error, ExternalId, Fingerprint, IdempotencyKey, Insertion,
    KeyClaim, KeyOperation, NewOrder, Order, OrderStatus, StoredKey, Verdict, decide,
};
use tokio::task::JoinSet;

use super::{
    LEASE, Subject,
    scene::{Scene, create_key, ctx, fingerprint, only, user},
};

fn cancel_key(order: &Order, text: &str, content: u8) -> KeyClaim {
    KeyClaim {
        owner: order.user_id.clone(),
        operation: KeyOperation::CancelOrder,
        ..create_key(text, content)
    }
}

fn cancel(order: &Order, key: KeyClaim) -> Change {
    let change = decide(order, Command::Cancel { reason: None })
        .expect("the order can be cancelled")
        .expect("the order is not cancelled yet");
    Change {
        key: Some(key),
        ..change
    }
}

async fn find_key(scene: &Scene<'_>, claim: &KeyClaim) -> Option<StoredKey> {
    scene
        .store
        .find_key(&ctx(), &claim.owner, claim.operation, &claim.key)
        .await
        .expect("find_key answers")
}

/// A repetition under another id is answered as the first request was, whatever has become
/// of the order, and makes neither an order nor a job.
pub async fn repeated_key_is_answered_as_created(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let created = scene.create(&scene.keyed_order("k", 1)).await;
    let again = || scene.keyed_order("k", 1);
    let expected = Created {
        order: created,
        insertion: Insertion::SameKey,
    };

    let second = again();
    assert_eq!(scene.create_one(&second).await, expected);

    let job = scene.claim_only().await;
    subject.tick().await;
    scene.fail(job.token()).await;
    assert_eq!(scene.create_one(&again()).await, expected);
    assert_eq!(scene.store.find(&ctx(), second.id).await.ok(), Some(None));
    scene.assert_never_due().await;
}

/// The same attempt twice, after an answer was lost: the id tells that nobody else was first.
pub async fn own_retry_with_a_key_is_the_same_id(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = NewOrder {
        lease: Some(LEASE),
        ..scene.keyed_order("k", 1)
    };
    let order = scene.create(&new).await;
    let expected = Created {
        order: order.clone(),
        insertion: Insertion::SameId,
    };

    assert_eq!(scene.create_one(&new).await, expected);

    scene.move_to(&order, OrderStatus::Processing).await;
    assert_eq!(scene.create_one(&new).await, expected);
}

/// A key that comes back with another wish is refused, also under the id it was used with.
pub async fn key_with_other_content_is_refused(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let first = scene.keyed_order("k", 1);
    let order = scene.create(&first).await;
    let other = scene.keyed_order("k", 2);
    let same_id = NewOrder {
        id: first.id,
        ..other.clone()
    };

    let answers = scene.store.create(&[other.clone(), same_id]).await;

    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert!(
            matches!(answer, Err(Error::IdempotencyKeyReused)),
            "{answer:?}"
        );
    }
    assert_eq!(scene.store.find(&ctx(), other.id).await.ok(), Some(None));
    assert_eq!(scene.find(first.id).await, order);
    assert_eq!(scene.claim_only().await.order, order);
}

/// Two users may choose the same key, and one user may use it for another operation.
pub async fn keys_of_other_owners_and_operations_are_others(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create(&scene.keyed_order("k", 1)).await;
    let key = KeyClaim {
        owner: user("user-2"),
        ..create_key("k", 2)
    };
    let of_another = NewOrder {
        user_id: user("user-2"),
        key: Some(key),
        ..scene.new_order(None)
    };

    scene.create(&of_another).await;

    let change = cancel(&order, cancel_key(&order, "k", 3));
    let committed = scene.commit(change).await;
    assert!(matches!(committed, Committed::Applied { .. }));
    // Keys are compared byte by byte.
    scene.create(&scene.keyed_order("K", 1)).await;
}

/// A failed order leaves no key behind, so that a repetition really runs again.
pub async fn failed_order_leaves_no_key(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let external_id = ExternalId::parse("taken").ok();
    let there = NewOrder {
        external_id: external_id.clone(),
        ..scene.new_order(None)
    };
    scene.create(&there).await;
    let same_id = NewOrder {
        id: there.id,
        ..scene.keyed_order("k", 1)
    };
    let same_external_id = NewOrder {
        external_id,
        ..scene.keyed_order("k", 1)
    };

    for bad in [same_id, same_external_id] {
        let answer = scene.store.create(&[bad]).await.remove(0);
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(find_key(&scene, &create_key("k", 1)).await, None);
    }

    scene.create(&scene.keyed_order("k", 1)).await;
}

/// Within one slice the first order of a key is stored; the next are repetitions or refused.
/// One that fails gives way to the next.
pub async fn first_of_equal_keys_in_a_slice_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let taken = scene.new_order(None);
    scene.create(&taken).await;
    let first = scene.keyed_order("k", 1);
    let failing = NewOrder {
        id: taken.id,
        external_id: ExternalId::parse("other").ok(),
        ..scene.keyed_order("l", 1)
    };
    let slice = [
        first.clone(),
        scene.keyed_order("k", 1),
        scene.keyed_order("k", 2),
        scene.new_order(None),
        first.clone(),
        failing,
        scene.keyed_order("l", 1),
    ];

    let answers = scene.store.create(&slice).await;

    let insertions: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().map(|created| created.insertion).ok())
        .collect();
    let expected = [
        Some(Insertion::New),
        Some(Insertion::SameKey),
        None,
        Some(Insertion::New),
        Some(Insertion::SameId),
        None,
        Some(Insertion::New),
    ];
    assert_eq!(insertions, expected, "{answers:?}");
    assert!(matches!(answers[2], Err(Error::IdempotencyKeyReused)));
    assert!(matches!(answers[5], Err(Error::OrderAlreadyExists { .. })));
    let replayed = answers[1].as_ref().expect("a repetition is answered");
    assert_eq!(replayed.order.id, first.id);
    // The one that was there, and three new ones.
    assert_eq!(scene.claim(10).await.len(), 4);
}

/// Of many calls at once one stores the order. The others are told so, or to come again.
pub async fn one_of_many_concurrent_creates_with_a_key_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let (store, new) = (subject.store(), scene.keyed_order("k", 1));
        calls.spawn(async move { store.create(&[new]).await.remove(0) });
    }

    let answers = calls.join_all().await;

    let n_new = answers
        .iter()
        .filter(|answer| answer.as_ref().is_ok_and(Created::is_new));
    assert_eq!(n_new.count(), 1, "{answers:?}");
    for answer in &answers {
        let is_expected = match answer {
            Ok(created) => created.insertion != Insertion::SameId,
            Err(error) => matches!(error, Error::RequestInProgress { .. }),
        };
        assert!(is_expected, "{answer:?}");
    }
    let late = scene.create_one(&scene.keyed_order("k", 1)).await;
    assert_eq!(late.insertion, Insertion::SameKey);
    assert_eq!(late.order.id, scene.claim_only().await.order.id);
}

/// Keys of every length and every allowed character are kept exactly, with what they were
/// used for.
pub async fn stored_key_is_found(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let visible: String = (b'!'..=b'~').map(char::from).collect();
    let longest = "x".repeat(IdempotencyKey::CHARS_MAX);
    for (content, text) in [(1, "k"), (2, &visible), (3, &longest)] {
        let claim = create_key(text, content);
        assert_eq!(find_key(&scene, &claim).await, None);
        let order = scene.create(&scene.keyed_order(text, content)).await;
        let expected = StoredKey {
            fingerprint: fingerprint(content),
            order_id: order.id,
        };
        assert_eq!(find_key(&scene, &claim).await, Some(expected));
        let of_another = KeyClaim {
            owner: user("user-2"),
            ..claim.clone()
        };
        assert_eq!(find_key(&scene, &of_another).await, None);
        let for_another = KeyClaim {
            operation: KeyOperation::CancelOrder,
            ..claim
        };
        assert_eq!(find_key(&scene, &for_another).await, None);
    }
}

/// A full batch of keyed orders is stored, and its repetition is answered in its order.
pub async fn large_slice_of_keyed_orders_is_answered_in_order(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let slice = || -> Vec<_> {
        let keyed = (0..512).map(|n| scene.keyed_order(&format!("k{n}"), 1));
        keyed.collect()
    };
    let (first, mut second) = (slice(), slice());

    let created = scene.store.create(&first).await;

    assert_eq!(created.len(), 512);
    assert!(
        created
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(Created::is_new))
    );
    second.reverse();
    let replayed = scene.store.create(&second).await;
    assert_eq!(replayed.len(), 512);
    for (answer, new) in replayed.iter().zip(first.iter().rev()) {
        let replayed = answer.as_ref().expect("a repetition is answered");
        assert_eq!(replayed.insertion, Insertion::SameKey);
        assert_eq!(replayed.order.id, new.id);
    }
}

/// The key of a change commits with it.
pub async fn key_commits_with_its_change(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    let key = cancel_key(&order, "k", 7);

    let committed = scene.commit(cancel(&order, key.clone())).await;

    assert!(matches!(committed, Committed::Applied { .. }));
    let expected = StoredKey {
        fingerprint: Fingerprint::from_bytes([7; 32]),
        order_id: order.id,
    };
    assert_eq!(find_key(&scene, &key).await, Some(expected));
}

/// A key that is there makes a change stale, whatever it was used for; nothing is written.
pub async fn change_whose_key_is_there_is_stale(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (first, second) = (scene.create_due().await, scene.create_due().await);
    let key = cancel_key(&first, "k", 1);
    scene.commit(cancel(&first, key.clone())).await;
    let before = find_key(&scene, &key).await;

    for content in [1, 2] {
        let change = cancel(&second, cancel_key(&second, "k", content));
        assert_eq!(scene.commit(change).await, Committed::Stale);
    }

    assert_eq!(find_key(&scene, &key).await, before);
    assert_eq!(scene.find(second.id).await, second);
    assert_eq!(scene.events(second.id).await.len(), 1);
    assert_eq!(scene.claim_only().await.order, second);
}

/// A change that is stale, or a job that is done meanwhile, stores no key.
pub async fn stale_change_stores_no_key(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;
    scene.complete(token, Verdict::Processed).await;
    let key = cancel_key(&order, "k", 1);
    let unknown = Order {
        id: scene.id(),
        ..order.clone()
    };

    for change in [cancel(&order, key.clone()), cancel(&unknown, key.clone())] {
        assert_eq!(scene.commit(change).await, Committed::Stale);
        assert_eq!(find_key(&scene, &key).await, None);
    }
}

/// Two changes with one key in one slice: one is applied, the other leaves its order alone.
pub async fn one_of_two_changes_with_a_key_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let orders = [scene.create_due().await, scene.create_due().await];
    let neighbour = scene.create_due().await;
    let [first, second] = &orders;
    let slice = [
        cancel(first, cancel_key(first, "k", 1)),
        cancel(&neighbour, cancel_key(&neighbour, "l", 1)),
        cancel(second, cancel_key(second, "k", 1)),
    ];

    let answers = scene.store.commit(&slice).await;

    let is_applied: Vec<_> = answers
        .into_iter()
        .map(|answer| only(vec![answer]) != Committed::Stale)
        .collect();
    assert!(is_applied[0] != is_applied[2], "{is_applied:?}");
    assert!(is_applied[1]);
    for (order, is_applied) in orders.iter().zip([is_applied[0], is_applied[2]]) {
        let n_events = scene.events(order.id).await.len();
        assert_eq!(n_events, 1 + usize::from(is_applied));
    }
}
