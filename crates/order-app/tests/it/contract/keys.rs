//! Repeating requests by key, and the names clients give their orders.

use std::sync::Arc;

use futures_util::future;
use order_core::{
    CancelOrder, CreateOrder, Error, ExternalId, IdempotencyKey, IfMatch, ListOrders, Metadata,
    OrderApi, OrderStatus, Receipt, UserId,
};

use super::{cancel, create, created, move_to};
use crate::support::context;

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).expect("valid")
}

fn keyed(user: &str, amount: &str, text: &str) -> CreateOrder {
    CreateOrder {
        idempotency_key: Some(key(text)),
        ..create(None, user, amount)
    }
}

async fn n_orders_of(api: &Arc<dyn OrderApi>, user: &str) -> usize {
    let list = ListOrders {
        user_id: Some(UserId::parse(user).expect("valid")),
        ..ListOrders::default()
    };
    let page = api.list_orders(&context(), list).await.expect("a page");
    page.orders.len()
}

async fn a_repeated_create_is_answered_as_the_first_was(api: Arc<dyn OrderApi>) {
    let request = keyed("keys-1", "5", "a");
    let first = api.create_order(&context(), request.clone()).await;
    let first = first.expect("created");
    assert!(!first.is_replayed);
    // What happened to the order in between does not show.
    let done = move_to(first.order.id, OrderStatus::Processed);
    api.update_status(&context(), done).await.expect("moved");
    let again = api.create_order(&context(), request).await;
    let expected = Receipt {
        order: first.order,
        is_replayed: true,
    };
    assert_eq!(again.expect("replayed"), expected);
    assert_eq!(n_orders_of(&api, "keys-1").await, 1);
}

async fn a_key_with_another_request_is_refused(api: Arc<dyn OrderApi>) {
    let request = keyed("keys-2", "5", "a");
    api.create_order(&context(), request.clone())
        .await
        .expect("created");
    let others = [
        keyed("keys-2", "6", "a"),
        CreateOrder {
            external_id: ExternalId::parse("x").ok(),
            ..request.clone()
        },
        CreateOrder {
            metadata: Metadata::new([("a".to_owned(), "b".to_owned())]).expect("valid"),
            ..request
        },
    ];
    for other in others {
        let refused = api.create_order(&context(), other).await;
        assert!(
            matches!(refused, Err(Error::IdempotencyKeyReused)),
            "{refused:?}"
        );
    }
    assert_eq!(n_orders_of(&api, "keys-2").await, 1);
}

async fn a_key_belongs_to_its_user(api: Arc<dyn OrderApi>) {
    for user in ["keys-3", "keys-4"] {
        let receipt = api.create_order(&context(), keyed(user, "5", "same")).await;
        assert!(!receipt.expect("created").is_replayed, "{user}");
    }
}

async fn a_batch_may_mix_keys(api: Arc<dyn OrderApi>) {
    let requests = vec![
        keyed("keys-5", "1", "a"),
        create(None, "keys-5", "2"),
        keyed("keys-5", "1", "a"),
    ];
    let answers = api.create_orders(&context(), requests).await;
    let answers = answers.expect("answers");
    let receipts: Vec<&Receipt> = answers
        .iter()
        .map(|answer| answer.as_ref().expect("created or replayed"))
        .collect();
    // The twins are written at the same time, and one of them is first.
    assert_eq!(receipts[0].order, receipts[2].order);
    assert_ne!(receipts[0].is_replayed, receipts[2].is_replayed);
    assert!(!receipts[1].is_replayed);
    assert_eq!(n_orders_of(&api, "keys-5").await, 2);
}

async fn twins_make_one_order(api: Arc<dyn OrderApi>) {
    let ctx = context();
    let twins = (0..200).map(|_| api.create_order(&ctx, keyed("keys-6", "5", "twin")));
    let receipts: Vec<Receipt> = future::join_all(twins)
        .await
        .into_iter()
        .map(|receipt| receipt.expect("created or replayed"))
        .collect();
    let n_first = receipts.iter().filter(|r| !r.is_replayed).count();
    assert_eq!(n_first, 1);
    assert!(receipts.iter().all(|r| r.order == receipts[0].order));
    assert_eq!(n_orders_of(&api, "keys-6").await, 1);
}

async fn a_repeated_cancel_is_answered_as_the_first_was(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    let request = CancelOrder {
        idempotency_key: Some(key("cancel-1")),
        if_match: Some(IfMatch::Versions(vec![1])),
        ..cancel(order.id)
    };
    let first = api.cancel_order(&context(), request.clone()).await;
    let first = first.expect("cancelled");
    assert!(!first.is_replayed);
    // The precondition held when it counted.
    let again = api.cancel_order(&context(), request.clone()).await;
    let expected = Receipt {
        order: first.order,
        is_replayed: true,
    };
    assert_eq!(again.expect("replayed"), expected);
    let other = created(&api).await;
    let misused = CancelOrder {
        order_id: other.id,
        ..request
    };
    let refused = api.cancel_order(&context(), misused).await;
    assert!(
        matches!(refused, Err(Error::IdempotencyKeyReused)),
        "{refused:?}"
    );
    let untouched = api.get_order(&context(), other.id).await.expect("found");
    assert_eq!(untouched.status, OrderStatus::Pending);
}

async fn an_external_id_is_taken_once_per_user(api: Arc<dyn OrderApi>) {
    let named = |user: &str, amount: &str| CreateOrder {
        external_id: ExternalId::parse("shop-7").ok(),
        ..create(None, user, amount)
    };
    let first = api.create_order(&context(), named("names-1", "1")).await;
    let first = first.expect("created").order;
    assert_eq!(first.external_id, ExternalId::parse("shop-7").ok());
    let refused = api.create_order(&context(), named("names-1", "2")).await;
    assert!(
        matches!(refused, Err(Error::ExternalIdTaken { order_id, .. }) if order_id == first.id),
        "{refused:?}"
    );
    api.create_order(&context(), named("names-2", "1"))
        .await
        .expect("another user");
}

/// Runs every case against one way to reach the service.
pub(super) async fn contract(api: Arc<dyn OrderApi>) {
    a_repeated_create_is_answered_as_the_first_was(Arc::clone(&api)).await;
    a_key_with_another_request_is_refused(Arc::clone(&api)).await;
    a_key_belongs_to_its_user(Arc::clone(&api)).await;
    a_batch_may_mix_keys(Arc::clone(&api)).await;
    twins_make_one_order(Arc::clone(&api)).await;
    a_repeated_cancel_is_answered_as_the_first_was(Arc::clone(&api)).await;
    an_external_id_is_taken_once_per_user(api).await;
}
