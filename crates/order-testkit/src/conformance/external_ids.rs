//! External ids: the client's own names of its orders.

use order_core::{Created, Error, ExternalId, Insertion, NewOrder, OrderId, OrderStatus, UserId};
use tokio::task::JoinSet;

use super::{
    Subject,
    scene::{Scene, create_key, ctx, user},
};

fn external_id(text: &str) -> ExternalId {
    ExternalId::parse(text).expect("a valid external id")
}

fn named(scene: &Scene<'_>, user_id: UserId, name: &str) -> NewOrder {
    NewOrder {
        user_id,
        external_id: Some(external_id(name)),
        ..scene.new_order(None)
    }
}

fn assert_taken(answer: &Result<Created, Error>, name: &str, by: OrderId) {
    let is_taken = matches!(
        answer,
        Err(Error::ExternalIdTaken { external_id: taken, order_id })
            if *taken == external_id(name) && *order_id == by
    );
    assert!(is_taken, "{name}, {by}: {answer:?}");
}

/// A user has one order of a name, whatever became of it; another user may have one, too.
pub async fn external_id_is_unique_per_user(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let first = scene.create(&named(&scene, user("user-1"), "a")).await;
    scene.create(&named(&scene, user("user-2"), "a")).await;
    scene.create(&named(&scene, user("user-1"), "A")).await;
    let second = named(&scene, user("user-1"), "a");

    let second = std::slice::from_ref(&second);
    let refused = scene.store.create(second).await.remove(0);

    assert_taken(&refused, "a", first.id);
    let found = scene.store.find(&ctx(), second[0].id).await;
    assert_eq!(found.ok(), Some(None));
    assert_eq!(scene.claim(10).await.len(), 3);
    scene.move_to(&first, OrderStatus::Cancelled).await;
    let refused = scene.store.create(second).await.remove(0);
    assert_taken(&refused, "a", first.id);
}

/// An order that is stored again under its id does not stand in its own way, and its id
/// decides before its name.
pub async fn retry_by_id_does_not_meet_its_own_external_id(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = named(&scene, user("user-1"), "a");
    let order = scene.create(&new).await;
    let expected = Created {
        order,
        insertion: Insertion::SameId,
    };
    assert_eq!(scene.create_one(&new).await, expected);

    let other = scene.create(&named(&scene, user("user-1"), "b")).await;
    for name in [Some("b"), Some("c"), None] {
        let renamed = NewOrder {
            external_id: name.map(external_id),
            ..new.clone()
        };
        let refused = scene.store.create(&[renamed]).await.remove(0);
        assert!(
            matches!(refused, Err(Error::OrderAlreadyExists { order_id }) if order_id == new.id),
            "{refused:?}"
        );
    }
    assert_eq!(scene.find(other.id).await, other);
}

/// Within one slice the first order of a name is stored, and its neighbours are left alone.
pub async fn first_of_equal_external_ids_in_a_slice_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let first = named(&scene, user("user-1"), "a");
    let keyed = NewOrder {
        key: Some(create_key("k", 1)),
        ..named(&scene, user("user-1"), "a")
    };
    let slice = [
        first.clone(),
        named(&scene, user("user-2"), "a"),
        named(&scene, user("user-1"), "a"),
        scene.new_order(None),
        keyed,
        first.clone(),
        named(&scene, user("user-1"), "b"),
    ];

    let answers = scene.store.create(&slice).await;

    let insertions: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().ok().map(|created| created.insertion))
        .collect();
    let new = Some(Insertion::New);
    let expected = [new, new, None, new, None, Some(Insertion::SameId), new];
    assert_eq!(insertions, expected, "{answers:?}");
    assert_taken(&answers[2], "a", first.id);
    assert_taken(&answers[4], "a", first.id);
    assert_eq!(scene.claim(10).await.len(), 4);
}

/// Of several calls at once one gets the name, and the others are told who has it.
pub async fn one_of_many_concurrent_creates_gets_the_external_id(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let (store, new) = (subject.store(), named(&scene, user("user-1"), "a"));
        calls.spawn(async move { store.create(&[new]).await.remove(0) });
    }

    let answers = calls.join_all().await;

    let winner = scene.claim_only().await.order.id;
    for answer in &answers {
        match answer {
            Ok(created) => assert!(created.is_new() && created.order.id == winner),
            Err(_) => assert_taken(answer, "a", winner),
        }
    }
}
