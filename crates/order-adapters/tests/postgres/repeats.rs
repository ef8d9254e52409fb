//! A change whose commit was not answered: the client gets the answer to its own change.

use futures_util::future::BoxFuture;
use order_core::{
    CancelOrder, Clock, EventBus, IfMatch, JobDispatch, Order, OrderApi as _, OrderEvent,
    OrderEventStream, OrderService, OrderServiceConfig, OrderServiceDeps, OrderWatch, PageTokenKey,
    Push, Reservation, RetryOrder, UpdateStatus, WatchOrder, supervisor::Supervisor,
};
use order_testkit::clock::{RuntimeClock, SeededIds};

use super::*;

/// Stands in for the workers and the hub: takes no jobs, drops events, refuses watches.
struct Discard;

impl JobDispatch for Discard {
    fn try_reserve(&self) -> Option<Reservation> {
        None
    }

    fn notify_due(&self, _: &[OrderId]) {}
}

impl EventBus for Discard {
    fn publish(&self, _: &[OrderEvent]) {}
}

#[async_trait]
impl OrderWatch for Discard {
    async fn watch(&self, _: &CallContext, _: Vec<WatchOrder>) -> Result<OrderEventStream, Error> {
        Err(Error::internal("nothing is watched in these tests"))
    }

    fn pushes(&self, _: OrderId) -> Vec<Push> {
        Vec::new()
    }
}

fn service(store: &Arc<PostgresStore>, lanes: &mut JoinSet<()>) -> Arc<OrderService> {
    let clock: Arc<dyn Clock> = Arc::new(RuntimeClock::new());
    let supervisor = Supervisor::new(&clock);
    let (service, running) = OrderService::new(
        OrderServiceConfig::default(),
        OrderServiceDeps {
            process_name: None,
            store: Arc::clone(store) as _,
            dispatch: Arc::new(Discard),
            bus: Arc::new(Discard),
            watch: Arc::new(Discard),
            clock,
            ids: Arc::new(SeededIds::new(1)),
            page_token_key: PageTokenKey::from_bytes([7; 32]),
            supervisor: Arc::clone(&supervisor),
        },
    );
    for lane in running {
        lanes.spawn(supervisor.run(lane));
    }
    Arc::new(service)
}

/// Commits of the store that wait for a standby: they are committed on this server and not
/// answered.
const N_UNANSWERED: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE wait_event = 'SyncRep' AND application_name = 'order-system requests'";

const TERMINATE_UNANSWERED: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE wait_event = 'SyncRep' AND application_name = 'order-system requests'";

type Change = fn(Arc<OrderService>, OrderId) -> BoxFuture<'static, Result<Order, Error>>;

/// A change of a client with a precondition that only holds before the change.
const CHANGES: [(OrderStatus, Change); 3] = [
    (OrderStatus::Cancelled, |service, order_id| {
        Box::pin(async move {
            let request = CancelOrder {
                order_id,
                reason: Some("changed my mind".to_owned()),
                if_match: Some(IfMatch::Versions(vec![1])),
                idempotency_key: None,
            };
            let receipt = service.cancel_order(&ctx(), request).await?;
            Ok(receipt.order)
        })
    }),
    (OrderStatus::Failed, |service, order_id| {
        Box::pin(async move {
            let request = UpdateStatus {
                order_id,
                status: OrderStatus::Failed,
                cause: Some(Cause::new("A", "b")),
                if_match: Some(IfMatch::Versions(vec![1])),
            };
            service.update_status(&ctx(), request).await
        })
    }),
    (OrderStatus::Pending, |service, order_id| {
        Box::pin(async move {
            let if_match = Some(IfMatch::Versions(vec![2]));
            let request = RetryOrder { order_id, if_match };
            service.retry_order(&ctx(), request).await
        })
    }),
];

#[tokio::test]
async fn change_whose_commit_was_not_answered_is_answered_as_the_clients_own() {
    let Ok(server) = PostgresServer::start(&[]).await else {
        skip!("a PostgreSQL of its own");
    };
    let config = PostgresConfig::new(server.url());
    let store = Arc::new(PostgresStore::connect(config, identity()).await.unwrap());
    let mut lanes = JoinSet::new();
    let service = service(&store, &mut lanes);
    let (sql, mut connections) = raw_connection(&server.url()).await;
    let created = store.create(&[due(1), due(2)]).await;
    assert!(created.iter().all(is_new), "{created:?}");
    let (cancelled, failed) = (due(1).id, due(2).id);

    for ((status, change), (order_id, version)) in
        CHANGES
            .into_iter()
            .zip([(cancelled, 2), (failed, 2), (failed, 3)])
    {
        wait_for_standby(&sql, &server.url(), "gone", &mut connections).await;
        let mut changing = JoinSet::new();
        changing.spawn(change(Arc::clone(&service), order_id));
        wait_for(&sql, N_UNANSWERED, 1).await;
        let row = sql.query_one(TERMINATE_UNANSWERED, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 1);
        wait_for_standby(&sql, &server.url(), "", &mut connections).await;

        let changed = changing.join_next().await.unwrap().unwrap();

        let changed = changed.expect("the change was the client's own");
        assert_eq!((changed.status, changed.version), (status, version));
        let events = store.events(&ctx(), order_id, 0, 10).await.unwrap();
        assert_eq!(events.last(), Some(&last_event(&changed, &events)));
        assert_eq!(events.len(), version as usize, "{events:?}");
    }
}

/// The event that an order shows, with the cause from its history.
fn last_event(order: &Order, events: &[OrderEvent]) -> OrderEvent {
    OrderEvent {
        cause: events.last().and_then(|event| event.cause.clone()),
        ..order.last_event()
    }
}

/// The change of another client is not taken for the caller's own, whether it is the same or not.
#[tokio::test]
async fn change_is_recognised_by_its_id_alone() {
    let fixture = available!(fixture());
    fixture.store.create(&[due(1)]).await;
    let cancel = |id| order_core::Change {
        order_id: due(1).id,
        expected_version: 1,
        status: OrderStatus::Cancelled,
        job: JobEffect::Delete,
        cause: Some(Cause::new("A", "b")),
        key: None,
        id,
        trace_parent: None,
    };
    let commit = async |id| fixture.store.commit(&[cancel(id)]).await.remove(0).unwrap();
    let own = Some(Uuid::from_u128(1));

    let first = commit(own).await;

    assert!(matches!(first, Committed::Applied { .. }), "{first:?}");
    assert_eq!(commit(own).await, first);
    assert_eq!(commit(Some(Uuid::from_u128(2))).await, Committed::Stale);
    assert_eq!(commit(None).await, Committed::Stale);
    // The event stays that of the change, however far the order has moved.
    fixture
        .run("UPDATE orders SET status = 4, version = 3, updated_at = now()")
        .await;
    let Committed::Applied { order, event } = commit(own).await else {
        panic!("not recognised");
    };
    let Committed::Applied { event: first, .. } = first else {
        panic!("not applied");
    };
    assert_eq!((order.version, event), (3, first));
}

/// A gateway that got no answer sends the request again, to a service that knows nothing of the
/// first one.
#[tokio::test]
async fn change_that_is_requested_again_under_its_id_is_answered_as_the_clients_own() {
    let fixture = available!(fixture());
    let store = Arc::clone(&fixture.store);
    let (mut lanes, mut other_lanes) = (JoinSet::new(), JoinSet::new());
    let first = service(&store, &mut lanes);
    let second = service(&store, &mut other_lanes);
    store.create(&[due(1)]).await;
    let request = CancelOrder {
        order_id: due(1).id,
        reason: None,
        if_match: Some(IfMatch::Versions(vec![1])),
        idempotency_key: None,
    };
    let named = |n| CallContext {
        change_id: Some(Uuid::from_u128(n)),
        ..ctx()
    };

    let made = first.cancel_order(&named(1), request.clone()).await;
    let made = made.expect("cancelled");
    let repeated = second.cancel_order(&named(1), request.clone()).await;

    assert_eq!(repeated.expect("the change was the client's own"), made);
    for other in [named(2), ctx()] {
        let refused = second.cancel_order(&other, request.clone()).await;
        assert!(
            matches!(refused, Err(Error::EtagMismatch { .. })),
            "{refused:?}"
        );
    }
}
