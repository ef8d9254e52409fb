//! Every call answers over the network what it answers in process.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use order_core::{
    BoxError, CancelOrder, Cause, CreateOrder, Error, ExternalId, IfMatch, ListEvents, ListOrders,
    Metadata, OrderApi, OrderStatus, PageSize, Reason, RequestId, RetryOrder, TicketGrant,
    UpdateStatus, Violation, WatchOrder,
};
use order_rpc::proto;
use prost::Message as _;
use tonic::Code;
use uuid::Uuid;

use crate::{
    fake::{Act, FakeApi},
    raw::RawClient,
    support::{TestServer, create, ctx, id, key, order, soon, text, user},
};

#[tokio::test]
async fn every_call_answers_as_in_process() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    let apis: [&dyn OrderApi; 2] = [&*server.api, &remote];
    let mut answers = [Vec::new(), Vec::new()];
    for (api, answers) in apis.into_iter().zip(&mut answers) {
        answers.extend(answers_to_creates(api).await);
        answers.extend(answers_to_reads(api).await);
        answers.extend(answers_to_changes(api).await);
        let grant = TicketGrant { user_id: user() };
        let ticket = api.create_ticket(&ctx(), grant).await.expect("a ticket");
        answers.push(format!("{ticket:?} {}", ticket.secret.to_text()));
        let orders = [None, Some(4)].map(|since| WatchOrder {
            order_id: id(10),
            since,
        });
        let events = api.watch_orders(&ctx(), orders.to_vec()).await;
        let events = events.expect("a stream").take(2);
        let events: Vec<_> = soon(events.collect()).await;
        answers.extend(events.iter().map(text));
    }
    let [local, remote] = answers;
    assert!(local.len() > 30);
    assert_eq!(local, remote);
    server.stop().await;
}

async fn answers_to_creates(api: &dyn OrderApi) -> Vec<String> {
    let mut answers = vec![text(&api.create_order(&ctx(), create(Some(id(5)))).await)];
    let full = CreateOrder {
        metadata: Metadata::new([("a/b".to_owned(), "ü".to_owned())]).expect("valid"),
        external_id: Some(ExternalId::parse("cart-8").expect("valid")),
        idempotency_key: Some(key("key-1")),
        ..create(None)
    };
    answers.push(text(&api.create_order(&ctx(), full.clone()).await));
    let mut requests: Vec<_> = (0..7).map(|n| create(Some(id(n)))).collect();
    requests.extend([full.clone(), full.clone(), full]);
    let batch = api.create_orders(&ctx(), requests).await.expect("a batch");
    answers.extend(batch.iter().map(text));
    let empty = api.create_orders(&ctx(), vec![]).await;
    answers.push(format!("{}", empty.expect("a batch").len()));
    answers
}

async fn answers_to_reads(api: &dyn OrderApi) -> Vec<String> {
    let mut answers = vec![text(&api.get_order(&ctx(), id(7)).await)];
    let full = ListOrders {
        user_id: Some(user()),
        statuses: vec![OrderStatus::Failed],
        external_id: Some(ExternalId::parse("cart-8").expect("valid")),
        created_after: Some("2026-01-01T00:00:00.123456789Z".parse().expect("valid")),
        created_before: Some("2026-01-02T00:00:00Z".parse().expect("valid")),
        page_size: PageSize::MAX,
        page_token: Some("next".to_owned()),
    };
    for request in [ListOrders::default(), full] {
        answers.push(text(&api.list_orders(&ctx(), request).await));
    }
    for after in [0, 5] {
        let request = ListEvents {
            order_id: id(7),
            after,
            page_size: PageSize::DEFAULT,
        };
        answers.push(text(&api.list_events(&ctx(), request).await));
    }
    answers
}

async fn answers_to_changes(api: &dyn OrderApi) -> Vec<String> {
    let mut answers = Vec::new();
    for (reason, idempotency_key) in [
        (None, None),
        (Some("changed my mind"), Some(key("k-1"))),
        (Some(""), None),
    ] {
        let request = CancelOrder {
            order_id: id(8),
            reason: reason.map(str::to_owned),
            if_match: None,
            idempotency_key,
        };
        answers.push(text(&api.cancel_order(&ctx(), request).await));
    }
    for if_match in [
        None,
        Some(IfMatch::Any),
        Some(IfMatch::Versions(vec![])),
        Some(IfMatch::Versions(vec![2])),
        Some(IfMatch::Versions(vec![2, 3])),
    ] {
        let order_id = id(9);
        let request = RetryOrder {
            order_id,
            if_match: if_match.clone(),
        };
        answers.push(text(&api.retry_order(&ctx(), request).await));
        let request = CancelOrder {
            order_id,
            reason: None,
            if_match: if_match.clone(),
            idempotency_key: None,
        };
        answers.push(text(&api.cancel_order(&ctx(), request).await));
        let request = UpdateStatus {
            order_id,
            status: OrderStatus::Failed,
            cause: Some(Cause::new("WHY", "because")),
            if_match,
        };
        answers.push(text(&api.update_status(&ctx(), request).await));
    }
    answers
}

/// One error of each reason.
fn errors() -> Vec<Error> {
    let order_id = id(3);
    let retry_after = Duration::from_millis(1_234);
    let errors = vec![
        Error::InvalidArgument {
            violations: vec![Violation::new("a/0/b", "rule ü"), Violation::new("c", "d")],
        },
        Error::OrderNotFound { order_id },
        Error::OrderAlreadyExists { order_id },
        Error::ExternalIdTaken {
            external_id: ExternalId::parse("cart ü").expect("valid"),
            order_id,
        },
        Error::IdempotencyKeyReused,
        Error::RequestInProgress { retry_after },
        Error::EtagMismatch {
            order_id,
            current: 4,
        },
        Error::OrderNotCancellable {
            order_id,
            current: OrderStatus::Processed,
            allowed: vec![],
        },
        Error::OrderNotRetryable {
            order_id,
            current: OrderStatus::Processing,
            allowed: vec![OrderStatus::Failed],
        },
        Error::TransitionRefused {
            order_id,
            current: OrderStatus::Pending,
            requested: OrderStatus::Pending,
            allowed: OrderStatus::Pending.allowed(),
        },
        Error::VersionConflict { order_id },
        Error::TicketInvalid,
        Error::PermissionDenied {
            what: "this".to_owned(),
        },
        Error::LimitExceeded {
            what: "things".to_owned(),
            limit: 7,
        },
        Error::Overloaded { retry_after },
        Error::StoreUnavailable {
            retry_after: Error::RETRY_AFTER_DEFAULT,
            source: Some(Arc::from(BoxError::from("secret"))),
        },
        // A create without an id or a key is not told when to repeat these two.
        Error::ServiceUnavailable {
            retry_after: Error::RETRY_AFTER_DEFAULT,
            source: None,
        },
        Error::ShuttingDown { retry_after },
        Error::DeadlineExceeded,
        Error::internal("secret"),
    ];
    let reasons: Vec<Reason> = errors.iter().map(Error::reason).collect();
    assert_eq!(reasons, Reason::ALL);
    errors
}

#[tokio::test]
async fn every_error_arrives_as_it_was_made() {
    for error in errors() {
        let made = format!("{error:?}", error = error.without_source());
        let sent = || Act::Fail(error.without_source());
        // Creating without an id is never repeated, so one failure is enough.
        let server = TestServer::start([sent(), sent()]).await;
        let remote = server.client();
        let unary = remote.create_order(&ctx(), create(None)).await;
        assert_eq!(text(&unary), made);
        let failing = stream::iter([Ok(order(id(1)).last_event()), Err(error.without_source())]);
        let streams = &server.api.streams;
        streams
            .lock()
            .expect("not poisoned")
            .push_back(failing.boxed());
        let batch = remote.create_orders(&ctx(), vec![create(None)]).await;
        assert_eq!(text(&batch), made);
        let watch = WatchOrder {
            order_id: id(1),
            since: None,
        };
        let mut events = remote
            .watch_orders(&ctx(), vec![watch])
            .await
            .expect("a stream");
        assert!(soon(events.next()).await.expect("an event").is_ok());
        assert_eq!(text(&soon(events.next()).await.expect("an error")), made);
        assert!(soon(events.next()).await.is_none());
        server.stop().await;
    }
}

#[tokio::test]
async fn request_id_is_taken_passed_on_and_echoed() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let request = proto::GetOrderRequest {
        order_id: id(1).to_string(),
    };
    let given = raw
        .call("GetOrder", &[("x-request-id", "my.id-7")], &request)
        .await;
    assert_eq!(given.headers["x-request-id"], "my.id-7");
    for headers in [&[][..], &[("x-request-id", "not valid!")][..]] {
        let made = raw.call("GetOrder", headers, &request).await;
        let made = made.headers["x-request-id"].to_str().expect("text");
        assert!(Uuid::parse_str(made).is_ok(), "{made}");
        let seen = server.api.calls();
        assert_eq!(seen.last().expect("a call").request_id.as_str(), made);
    }
    assert_eq!(server.api.calls()[0].request_id.as_str(), "my.id-7");

    let refused = raw
        .call("GetOrder", &[], &proto::GetOrderRequest::default())
        .await;
    assert!(refused.headers.contains_key("x-request-id"));
    server.stop().await;
}

#[tokio::test]
async fn client_sends_its_request_id() {
    let server = TestServer::start([]).await;
    let mut ctx = ctx();
    ctx.request_id = RequestId::parse("from-the-gateway").expect("valid");
    server
        .client()
        .get_order(&ctx, id(1))
        .await
        .expect("an order");
    assert_eq!(server.api.calls()[0].request_id, ctx.request_id);
    server.stop().await;
}

#[tokio::test]
async fn malformed_ids_are_refused_before_the_api() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let bad = "not-a-uuid".to_owned();
    let get = proto::GetOrderRequest { order_id: bad };
    let error = raw.call("GetOrder", &[], &get).await.error();
    let Error::InvalidArgument { violations } = error else {
        panic!("unexpected {error:?}");
    };
    assert_eq!(violations[0].field, "order_id");
    assert!(server.api.calls().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn panic_ends_one_call_and_nothing_else() {
    let server = TestServer::start([Act::Panic, Act::Answer, Act::Answer]).await;
    let panicking = stream::once(async { panic!("a bug in the stream") });
    let streams = &server.api.streams;
    streams
        .lock()
        .expect("not poisoned")
        .push_back(panicking.boxed());
    // One connection, so that the calls after the panics show that it lived on.
    let mut raw = RawClient::connect(server.address).await;
    let order_id = id(1).to_string();
    let get = proto::GetOrderRequest {
        order_id: order_id.clone(),
    };
    let answer = raw.call("GetOrder", &[("x-request-id", "p-1")], &get).await;
    assert_eq!(answer.headers["x-request-id"], "p-1");
    assert!(matches!(answer.error(), Error::Internal { .. }));
    let watch = proto::WatchOrdersRequest {
        orders: vec![proto::watch_orders_request::Watch {
            order_id,
            since_version: None,
        }],
    };
    let answer = raw.call("WatchOrders", &[], &watch).await;
    assert!(!answer.status.details().is_empty());
    assert!(matches!(answer.error(), Error::Internal { .. }));
    assert_eq!(
        raw.call("GetOrder", &[], &get).await.status.code(),
        tonic::Code::Ok
    );
    server.stop().await;
}

#[tokio::test]
async fn readiness_follows_the_api() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    wait_until_ready(&remote, true).await;
    let is_ready = &server.api.is_ready;
    is_ready.store(false, std::sync::atomic::Ordering::Relaxed);
    wait_until_ready(&remote, false).await;
    is_ready.store(true, std::sync::atomic::Ordering::Relaxed);
    wait_until_ready(&remote, true).await;
    server.stop().await;
}

/// Asks until the api is ready, or no longer is.
pub(crate) async fn wait_until_ready(api: &dyn OrderApi, wanted: bool) {
    let reached = async {
        loop {
            match api.check_ready(&ctx()).await {
                Ok(()) if wanted => break,
                Err(Error::ServiceUnavailable { .. }) if !wanted => break,
                Ok(()) | Err(Error::ServiceUnavailable { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("unexpected {other:?}"),
            }
        }
    };
    soon(reached).await;
}

#[tokio::test]
async fn fake_api_follows_its_script() {
    let api = FakeApi::new([Act::Fail(Error::DeadlineExceeded)]);
    assert!(api.get_order(&ctx(), id(1)).await.is_err());
    assert!(api.get_order(&ctx(), id(1)).await.is_ok());
}

/// Finishing an order is for operators: it has a service of its own that a proxy can keep from
/// others. Callers of the old method are answered as before.
#[tokio::test]
async fn status_is_updated_by_a_service_of_its_own() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let request = proto::UpdateStatusRequest {
        order_id: id(1).to_string(),
        status: proto::OrderStatus::Processed.into(),
        ..proto::UpdateStatusRequest::default()
    };
    let mut answers = Vec::new();
    for service in ["OrderService", "AdminService"] {
        let path = format!("/order.v1.{service}/UpdateStatus");
        let answer = raw.send(&path, &[], &request.encode_to_vec()).await;
        assert_eq!(answer.status.code(), Code::Ok, "{service}");
        answers.push(answer.message::<proto::UpdateStatusResponse>());
    }
    assert_eq!(answers[0], answers[1]);
    server.stop().await;
}
