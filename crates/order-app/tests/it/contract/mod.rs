//! One contract for `OrderApi`, run against the service in process and over gRPC, on both
//! databases.

mod keys;
mod reading;
mod versions;

use std::sync::Arc;

use futures_util::{StreamExt as _, future};
use order_core::{
    CancelOrder, Cause, CreateOrder, Error, ListOrders, Money, Order, OrderApi, OrderId,
    OrderStatus, UpdateStatus, UserId, WatchOrder,
};
use order_testkit::clock::SeededIds;

use crate::support::{Engine, PATIENCE, Shape, System, context, database, run, wait_for};

/// Far longer than a test: orders stay PENDING until the test moves them.
pub(crate) const SLOW: &[&str] = &["--processor-delay", "1h"];

fn create(order_id: Option<OrderId>, user: &str, amount: &str) -> CreateOrder {
    CreateOrder {
        order_id,
        ..CreateOrder::new(
            UserId::parse(user).expect("valid"),
            Money::parse(amount, "USD").expect("valid"),
        )
    }
}

/// A wish to cancel and nothing else.
fn cancel(order_id: OrderId) -> CancelOrder {
    CancelOrder {
        order_id,
        reason: None,
        if_match: None,
        idempotency_key: None,
    }
}

/// A wish to move an order and nothing else.
fn move_to(order_id: OrderId, status: OrderStatus) -> UpdateStatus {
    UpdateStatus {
        order_id,
        status,
        cause: None,
        if_match: None,
    }
}

async fn created(api: &Arc<dyn OrderApi>) -> Order {
    api.create_order(&context(), create(None, "user-1", "99.95"))
        .await
        .expect("created")
        .order
}

async fn an_order_is_read_as_it_was_created(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    assert_eq!((order.status, order.version), (OrderStatus::Pending, 1));
    assert_eq!(
        (order.user_id.as_str(), order.money.to_string()),
        ("user-1", "99.95".to_owned())
    );
    assert_eq!(order.created_at, order.updated_at);
    assert_eq!(
        api.get_order(&context(), order.id).await.expect("found"),
        order
    );
}

async fn a_create_with_an_id_is_idempotent(api: Arc<dyn OrderApi>) {
    let id = order_core::IdGen::order_id(&SeededIds::new(1));
    let first = api
        .create_order(&context(), create(Some(id), "a", "1"))
        .await
        .expect("created");
    let again = api
        .create_order(&context(), create(Some(id), "a", "1"))
        .await
        .expect("replayed");
    assert_eq!(first, again);
    let other = api
        .create_order(&context(), create(Some(id), "a", "2"))
        .await;
    assert!(
        matches!(other, Err(Error::OrderAlreadyExists { order_id }) if order_id == id),
        "{other:?}"
    );
}

async fn a_batch_answers_each_request(api: Arc<dyn OrderApi>) {
    let taken = created(&api).await;
    let requests = vec![
        create(None, "b", "1"),
        create(Some(taken.id), "b", "2"),
        create(None, "b", "3"),
    ];
    let answers = api
        .create_orders(&context(), requests)
        .await
        .expect("answers");
    let amounts: Vec<_> = answers
        .iter()
        .map(|answer| {
            answer
                .as_ref()
                .map(|receipt| receipt.order.money.to_string())
                .map_err(Error::reason)
        })
        .collect();
    assert_eq!(
        amounts,
        [
            Ok("1".to_owned()),
            Err(order_core::Reason::OrderAlreadyExists),
            Ok("3".to_owned())
        ]
    );
}

async fn an_unknown_order_is_not_found(api: Arc<dyn OrderApi>) {
    let order_id = order_core::IdGen::order_id(&SeededIds::new(99));
    let ctx = context();
    let watch = vec![WatchOrder {
        order_id,
        since: None,
    }];
    let answers = [
        api.get_order(&ctx, order_id).await.map(|_| ()),
        api.cancel_order(&ctx, cancel(order_id)).await.map(|_| ()),
        api.update_status(&ctx, move_to(order_id, OrderStatus::Processed))
            .await
            .map(|_| ()),
        api.retry_order(&ctx, versions::retry(order_id))
            .await
            .map(|_| ()),
        api.list_events(&ctx, reading::events_after(order_id, 0))
            .await
            .map(|_| ()),
        match api.watch_orders(&ctx, watch).await {
            Ok(mut stream) => stream.next().await.expect("an item").map(|_| ()),
            Err(error) => Err(error),
        },
    ];
    for answer in answers {
        assert!(
            matches!(answer, Err(Error::OrderNotFound { order_id: id }) if id == order_id),
            "{answer:?}"
        );
    }
}

async fn a_pending_order_is_cancelled_once(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    let cancel = CancelOrder {
        reason: Some("changed my mind".to_owned()),
        ..cancel(order.id)
    };
    let cancelled = api
        .cancel_order(&context(), cancel.clone())
        .await
        .expect("cancelled");
    assert_eq!(
        (cancelled.order.status, cancelled.order.version),
        (OrderStatus::Cancelled, 2)
    );
    assert_eq!(
        api.cancel_order(&context(), cancel)
            .await
            .expect("the same"),
        cancelled
    );
    let late = move_to(order.id, OrderStatus::Processed);
    let refused = api.update_status(&context(), late).await;
    assert!(
        matches!(refused, Err(Error::TransitionRefused { current: OrderStatus::Cancelled, ref allowed, .. }) if allowed.is_empty()),
        "{refused:?}"
    );
}

async fn a_processing_order_cannot_be_cancelled(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    let begin = move_to(order.id, OrderStatus::Processing);
    api.update_status(&context(), begin).await.expect("moved");
    let refused = api.cancel_order(&context(), cancel(order.id)).await;
    let expected = [OrderStatus::Processed, OrderStatus::Failed];
    assert!(
        matches!(refused, Err(Error::OrderNotCancellable { current: OrderStatus::Processing, ref allowed, .. }) if *allowed == expected),
        "{refused:?}"
    );
}

async fn a_failed_order_keeps_its_cause_until_it_is_redriven(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    let cause = Cause::new("NO_STOCK", "sold out");
    let fail = UpdateStatus {
        cause: Some(cause.clone()),
        ..move_to(order.id, OrderStatus::Failed)
    };
    let failed = api.update_status(&context(), fail).await.expect("moved");
    assert_eq!(failed.failure, Some(cause));
    let redrive = move_to(order.id, OrderStatus::Pending);
    let pending = api.update_status(&context(), redrive).await.expect("moved");
    assert_eq!(
        (pending.status, pending.version, pending.failure),
        (OrderStatus::Pending, 3, None)
    );
}

async fn a_watch_sees_the_state_and_every_change(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    let watch = vec![WatchOrder {
        order_id: order.id,
        since: None,
    }];
    let mut events = api.watch_orders(&context(), watch).await.expect("a stream");
    let mut next = async || {
        let event = tokio::time::timeout(PATIENCE, events.next())
            .await
            .expect("in time");
        let event = event.expect("open").expect("no error");
        (event.version, event.status)
    };
    assert_eq!(next().await, (1, OrderStatus::Pending));
    api.cancel_order(&context(), cancel(order.id))
        .await
        .expect("cancelled");
    assert_eq!(next().await, (2, OrderStatus::Cancelled));
}

async fn an_expired_deadline_is_refused(api: Arc<dyn OrderApi>) {
    let mut ctx = context();
    ctx.deadline = order_core::Deadline::at(tokio::time::Instant::now().into_std());
    let refused = api.create_order(&ctx, create(None, "late", "1")).await;
    assert!(
        matches!(refused, Err(Error::DeadlineExceeded)),
        "{refused:?}"
    );
    let list = ListOrders {
        user_id: Some(UserId::parse("late").expect("valid")),
        ..ListOrders::default()
    };
    assert_eq!(
        api.list_orders(&context(), list)
            .await
            .expect("a page")
            .orders,
        []
    );
}

/// Runs every case against one way to reach the service.
pub(crate) async fn contract(api: Arc<dyn OrderApi>) {
    an_order_is_read_as_it_was_created(Arc::clone(&api)).await;
    a_create_with_an_id_is_idempotent(Arc::clone(&api)).await;
    a_batch_answers_each_request(Arc::clone(&api)).await;
    an_unknown_order_is_not_found(Arc::clone(&api)).await;
    a_pending_order_is_cancelled_once(Arc::clone(&api)).await;
    a_processing_order_cannot_be_cancelled(Arc::clone(&api)).await;
    a_failed_order_keeps_its_cause_until_it_is_redriven(Arc::clone(&api)).await;
    a_watch_sees_the_state_and_every_change(Arc::clone(&api)).await;
    an_expired_deadline_is_refused(Arc::clone(&api)).await;
    keys::contract(Arc::clone(&api)).await;
    reading::contract(Arc::clone(&api)).await;
    versions::contract(api).await;
}

macro_rules! contract_tests {
    ($($name:ident: $engine:ident, $api:expr;)+) => {$(
        #[test]
        fn $name() {
            run(async {
                let database = database!(Engine::$engine);
                let system = System::start(Shape::Split, &database, SLOW).await;
                let api: fn(&System) -> Arc<dyn OrderApi> = $api;
                contract(api(&system)).await;
                system.stop().await;
            });
        }
    )+};
}

contract_tests! {
    contract_holds_in_process_on_sqlite: Sqlite, |system| Arc::clone(&system.service.api);
    contract_holds_over_grpc_on_sqlite: Sqlite, System::remote;
    contract_holds_in_process_on_postgres: Postgres, |system| Arc::clone(&system.service.api);
    contract_holds_over_grpc_on_postgres: Postgres, System::remote;
}

#[test]
fn concurrent_creates_with_one_id_make_one_order() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let system = System::start(Shape::Split, &database, &[]).await;
            let api = system.remote();
            let id = order_core::IdGen::order_id(&SeededIds::new(7));
            let ctx = context();
            let twins = (0..200).map(|_| api.create_order(&ctx, create(Some(id), "twin", "5")));
            for answer in future::join_all(twins).await {
                assert_eq!(answer.expect("created or replayed").order.id, id);
            }
            wait_for("the order is processed", async || {
                let order = api.get_order(&context(), id).await.expect("found");
                (order.status == OrderStatus::Processed).then(|| assert_eq!(order.version, 2))
            })
            .await;
            system.stop().await;
        }
    });
}
