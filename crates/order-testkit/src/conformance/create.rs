//! Storing new orders.

use order_core::{
    Created, Error, ExternalId, Insertion, Metadata, Money, NewOrder, OrderEvent, OrderStatus,
    UserId, Verdict,
};

use super::{
    LEASE, Subject,
    scene::{Scene, ctx, only, user},
};

fn metadata(entries: &[(&str, &str)]) -> Metadata {
    let entries = entries.iter();
    Metadata::new(entries.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
        .expect("valid metadata")
}

/// A stored order is what was sent, PENDING, at version 1, and that is its first event.
pub async fn new_order_is_pending_at_version_1(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = scene.new_order(None);

    let order = scene.create(&new).await;

    assert!(order.is_same_request(&new));
    assert_eq!(
        (order.status, order.version, &order.failure),
        (OrderStatus::Pending, 1, &None)
    );
    assert_eq!(order.created_at, order.updated_at);
    assert_eq!(scene.find(new.id).await, order);
    let created = OrderEvent {
        order_id: new.id,
        user_id: new.user_id.clone(),
        version: 1,
        status: OrderStatus::Pending,
        at: order.created_at,
        cause: None,
        trace_parent: None,
    };
    assert_eq!(scene.events(new.id).await, [created]);
}

/// Creating the same again answers with the stored order, which stays as it is, and makes
/// no second job.
pub async fn same_id_and_content_is_a_retry(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = scene.new_order(None);
    let order = scene.create(&new).await;
    subject.tick().await;

    let leased = NewOrder {
        lease: Some(LEASE),
        ..new.clone()
    };
    let again = only(scene.store.create(&[leased]).await);

    let expected = Created {
        order,
        insertion: Insertion::SameId,
    };
    assert_eq!(again, expected);
    assert_eq!(
        scene.claim_only().await.attempt,
        1,
        "a retry leases the job of the first call"
    );
}

/// The answer to a retry shows how far the order has come since.
pub async fn retry_answers_with_the_order_as_it_is_now(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = scene.new_order(None);
    scene.create(&new).await;
    let job = scene.claim_only().await;
    scene.complete(job.token(), Verdict::Processed).await;

    let again = only(scene.store.create(&[new]).await);

    assert_eq!(again.insertion, Insertion::SameId);
    assert_eq!(
        (again.order.status, again.order.version),
        (OrderStatus::Processed, 2)
    );
    scene.assert_never_due().await;
}

/// An id that is taken by other content is refused, whichever part differs.
pub async fn same_id_and_other_content_is_refused(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = scene.new_order(None);
    let order = scene.create(&new).await;
    let money = |minor_units, currency| {
        Money::from_minor_units(minor_units, currency).expect("a valid amount")
    };

    let others = [
        NewOrder {
            user_id: user("user-2"),
            ..new.clone()
        },
        NewOrder {
            money: money(10_001, "USD"),
            ..new.clone()
        },
        NewOrder {
            money: money(10_000, "EUR"),
            ..new.clone()
        },
        NewOrder {
            metadata: metadata(&[("a", "1")]),
            ..new.clone()
        },
        NewOrder {
            external_id: ExternalId::parse("a").ok(),
            ..new.clone()
        },
    ];
    let answers = scene.store.create(&others).await;

    assert_eq!(answers.len(), others.len());
    for answer in answers {
        assert!(
            matches!(answer, Err(Error::OrderAlreadyExists { order_id }) if order_id == new.id),
            "{answer:?}"
        );
    }
    assert_eq!(scene.find(new.id).await, order);
    assert_eq!(scene.events(new.id).await.len(), 1);
}

/// Within one slice the first of two equal ids is stored; the next are retries or refused.
pub async fn first_of_equal_ids_in_a_slice_wins(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let first = scene.new_order(None);
    let other = NewOrder {
        user_id: user("user-2"),
        ..first.clone()
    };
    let slice = [
        first.clone(),
        first.clone(),
        other,
        scene.new_order(None),
        first.clone(),
    ];

    let answers = scene.store.create(&slice).await;

    let is_new: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().ok().map(Created::is_new))
        .collect();
    assert_eq!(
        is_new,
        [Some(true), Some(false), None, Some(true), Some(false)]
    );
    assert!(matches!(answers[2], Err(Error::OrderAlreadyExists { .. })));
    assert_eq!(scene.find(first.id).await.user_id, first.user_id);
    assert_eq!(scene.claim(10).await.len(), 2);
}

/// A refused order takes neither its neighbours nor their jobs with it.
pub async fn bad_order_fails_alone(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let taken = scene.new_order(Some(LEASE));
    scene.create(&taken).await;
    let bad = NewOrder {
        user_id: user("user-2"),
        ..taken
    };
    let (before, after) = (scene.new_order(None), scene.new_order(None));

    let answers = scene
        .store
        .create(&[before.clone(), bad, after.clone()])
        .await;

    let is_new: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().ok().map(Created::is_new))
        .collect();
    assert_eq!(is_new, [Some(true), None, Some(true)]);
    let mut due: Vec<_> = scene
        .claim(10)
        .await
        .iter()
        .map(|job| job.order.id)
        .collect();
    due.sort_unstable();
    assert_eq!(due, [before.id, after.id]);
}

/// A full batch is stored, and each answer stands where its order stood.
pub async fn large_slice_is_answered_in_order(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut slice = scene.new_orders(512, None);
    // Ids out of order show whether answers are matched by position or by luck.
    slice.reverse();

    let answers = scene.store.create(&slice).await;

    assert_eq!(answers.len(), slice.len());
    for (answer, new) in answers.iter().zip(&slice) {
        let created = answer.as_ref().expect("a new order is stored");
        assert!(created.is_new() && created.order.is_same_request(new));
    }
}

/// The largest and smallest amounts and every text come back as they were sent.
pub async fn amounts_and_texts_are_kept_exactly(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    for (name, minor_units, currency) in [
        ("ß".repeat(UserId::CHARS_MAX), 1, "USD"),
        ("'; --".to_owned(), Money::MINOR_UNITS_MAX, "JPY"),
        ("用户 👤".to_owned(), 1_234, "KWD"),
    ] {
        let new = NewOrder {
            user_id: user(&name),
            money: Money::from_minor_units(minor_units, currency).expect("a valid amount"),
            ..scene.new_order(None)
        };
        scene.create(&new).await;
        assert!(scene.find(new.id).await.is_same_request(&new));
    }
}

/// Metadata comes back as it was sent, wherever an order is read.
pub async fn metadata_is_kept_exactly(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let long_name = "名".repeat(Metadata::NAME_CHARS_MAX);
    let long_value = "\u{10ffff}".repeat(Metadata::VALUE_CHARS_MAX);
    let many: Vec<_> = (0..Metadata::LEN_MAX).map(|n| n.to_string()).collect();
    let many: Vec<_> = many.iter().map(|n| (n.as_str(), "")).collect();
    let slice: Vec<_> = [
        &[][..],
        &[("empty", "")],
        &[
            ("a", r#"{"json": ["\"", '\\']}"#),
            ("b", "'; DROP TABLE orders; --"),
        ],
        &[("null", "null"), ("\"quoted\"", "\\u0000"), ("{}", "NULL")],
        &[
            ("e\u{301}", "composed"),
            ("é", "precomposed"),
            ("👤", "\u{feff}\u{202e}"),
        ],
        &[(&long_name, &long_value)],
        &many,
    ]
    .into_iter()
    .map(|entries| NewOrder {
        metadata: metadata(entries),
        ..scene.new_order(None)
    })
    .collect();

    let created = scene.store.create(&slice).await;

    assert_eq!(created.len(), slice.len());
    for (created, new) in created.into_iter().zip(&slice) {
        let created = created.expect("a new order is stored");
        assert_eq!(created.order.metadata, new.metadata);
        assert_eq!(scene.find(new.id).await, created.order);
        let retried = scene.create_one(new).await;
        assert_eq!(retried.insertion, Insertion::SameId);
    }
    let claimed = scene.claim(slice.len()).await;
    assert_eq!(claimed.len(), slice.len());
    for job in claimed {
        assert!(slice.iter().any(|new| job.order.is_same_request(new)));
        let moved = scene.move_to(&job.order, OrderStatus::Processing).await;
        assert_eq!(moved.metadata, job.order.metadata);
    }
}

/// Nothing asked, nothing answered.
pub async fn empty_slices_are_answered_empty(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create_due().await;
    assert!(scene.store.create(&[]).await.is_empty());
    assert!(scene.store.commit(&[]).await.is_empty());
    assert!(scene.queue.start(&[]).await.is_empty());
    assert!(scene.queue.complete(&[]).await.is_empty());
    assert_eq!(scene.queue.extend(&[], LEASE).await.expect("answers"), []);
    assert_eq!(scene.queue.release(&[]).await.expect("answers"), 0);
    assert_eq!(scene.store.states(&[]).await.expect("answers"), []);
    assert_eq!(scene.claim(0).await, []);
    assert_eq!(
        scene
            .store
            .events(&ctx(), scene.id(), 0, 10)
            .await
            .expect("answers"),
        []
    );
}
