//! Preconditions, retries and positions: everything that goes by the version of an order.

use std::sync::Arc;

use futures_util::StreamExt as _;
use order_core::{
    CancelOrder, Error, IfMatch, OrderApi, OrderId, OrderStatus, RetryOrder, UpdateStatus,
    WatchOrder,
};

use super::{cancel, created, move_to};
use crate::support::{PATIENCE, context};

/// A wish to redrive and nothing else.
pub(super) const fn retry(order_id: OrderId) -> RetryOrder {
    RetryOrder {
        order_id,
        if_match: None,
    }
}

fn versions(versions: &[u32]) -> IfMatch {
    IfMatch::Versions(versions.to_vec())
}

async fn a_stale_precondition_changes_nothing(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    let refused = [
        api.cancel_order(
            &context(),
            CancelOrder {
                if_match: Some(versions(&[2, 3])),
                ..cancel(order.id)
            },
        )
        .await
        .map(|_| ()),
        api.update_status(
            &context(),
            UpdateStatus {
                if_match: Some(versions(&[])),
                ..move_to(order.id, OrderStatus::Processed)
            },
        )
        .await
        .map(|_| ()),
        // The precondition comes before the state.
        api.retry_order(
            &context(),
            RetryOrder {
                if_match: Some(versions(&[9])),
                ..retry(order.id)
            },
        )
        .await
        .map(|_| ()),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(Error::EtagMismatch { order_id, current: 1 }) if order_id == order.id),
            "{refused:?}"
        );
    }
    let same = api.get_order(&context(), order.id).await.expect("found");
    assert_eq!(same, order);
    let matching = UpdateStatus {
        if_match: Some(versions(&[1])),
        ..move_to(order.id, OrderStatus::Processing)
    };
    let moved = api.update_status(&context(), matching).await;
    assert_eq!(moved.expect("moved").version, 2);
    let any = UpdateStatus {
        if_match: Some(IfMatch::Any),
        ..move_to(order.id, OrderStatus::Processed)
    };
    let moved = api.update_status(&context(), any).await;
    assert_eq!(moved.expect("moved").version, 3);
}

async fn only_a_failed_order_is_retried(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    let same = api.retry_order(&context(), retry(order.id)).await;
    assert_eq!(same.expect("harmless"), order);
    let fail = move_to(order.id, OrderStatus::Failed);
    api.update_status(&context(), fail).await.expect("moved");
    let retried = api.retry_order(&context(), retry(order.id)).await;
    let retried = retried.expect("redriven");
    assert_eq!(
        (retried.status, retried.version, &retried.failure),
        (OrderStatus::Pending, 3, &None)
    );
    let done = move_to(order.id, OrderStatus::Processed);
    api.update_status(&context(), done).await.expect("moved");
    let refused = api.retry_order(&context(), retry(order.id)).await;
    assert!(
        matches!(
            refused,
            Err(Error::OrderNotRetryable { current: OrderStatus::Processed, ref allowed, .. })
                if allowed.is_empty()
        ),
        "{refused:?}"
    );
}

async fn a_watch_goes_on_from_a_version(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    for status in [
        OrderStatus::Failed,
        OrderStatus::Pending,
        OrderStatus::Processing,
        OrderStatus::Processed,
    ] {
        api.update_status(&context(), move_to(order.id, status))
            .await
            .expect("moved");
    }
    for since in 0..5 {
        let watch = vec![WatchOrder {
            order_id: order.id,
            since: Some(since),
        }];
        let events = api.watch_orders(&context(), watch).await.expect("a stream");
        let n_missed = usize::try_from(5 - since).expect("small");
        let missed = events.take(n_missed).map(|event| {
            let event = event.expect("an event");
            assert_eq!(event.user_id, order.user_id);
            event.version
        });
        let missed: Vec<u32> = tokio::time::timeout(PATIENCE, missed.collect())
            .await
            .expect("in time");
        assert_eq!(missed, (since + 1..=5).collect::<Vec<_>>());
    }
}

/// Runs every case against one way to reach the service.
pub(super) async fn contract(api: Arc<dyn OrderApi>) {
    a_stale_precondition_changes_nothing(Arc::clone(&api)).await;
    only_a_failed_order_is_retried(Arc::clone(&api)).await;
    a_watch_goes_on_from_a_version(api).await;
}
