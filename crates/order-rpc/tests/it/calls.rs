//! Every call answers over the network what it answers in process.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use order_core::{
    CancelOrder, Cause, Error, ListOrders, OrderApi, OrderStatus, PageSize, Reason, RequestId,
    UpdateStatus, UserId, Violation, WatchOrder,
};
use order_rpc::proto;
use uuid::Uuid;

use crate::{
    raw::RawClient,
    support::{Act, FakeApi, TestServer, create, ctx, id, order, soon, text},
};

#[tokio::test]
async fn every_call_answers_as_in_process() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    let ctx = ctx();
    let mut answers = [Vec::new(), Vec::new()];
    let apis: [&dyn OrderApi; 2] = [&*server.api, &remote];
    for (api, answers) in apis.into_iter().zip(&mut answers) {
        answers.push(text(&api.create_order(&ctx, create(Some(id(5)))).await));
        let requests = (0..7).map(|n| create(Some(id(n)))).collect();
        let batch = api.create_orders(&ctx, requests).await.expect("a batch");
        answers.extend(batch.iter().map(text));
        let empty = api.create_orders(&ctx, vec![]).await;
        answers.push(format!("{}", empty.expect("a batch").len()));
        answers.push(text(&api.get_order(&ctx, id(7)).await));
        for page_token in [None, Some("next".to_owned())] {
            let request = ListOrders {
                user_id: Some(UserId::parse("user-1").expect("valid")),
                statuses: vec![OrderStatus::Failed],
                page_size: PageSize::MAX,
                page_token,
            };
            answers.push(text(&api.list_orders(&ctx, request).await));
        }
        for reason in [None, Some("changed my mind"), Some("")] {
            let request = CancelOrder {
                order_id: id(8),
                reason: reason.map(str::to_owned),
            };
            answers.push(text(&api.cancel_order(&ctx, request).await));
        }
        for cause in [None, Some(Cause::new("WHY", "because"))] {
            let request = UpdateStatus {
                order_id: id(9),
                status: OrderStatus::Failed,
                cause,
            };
            answers.push(text(&api.update_status(&ctx, request).await));
        }
        let orders = [None, Some(4)].map(|since| WatchOrder {
            order_id: id(10),
            since,
        });
        let events = api
            .watch_orders(&ctx, orders.to_vec())
            .await
            .expect("a stream");
        let events: Vec<_> = soon(events.take(2).collect()).await;
        answers.extend(events.iter().map(text));
    }
    let [local, remote] = answers;
    assert!(local.len() > 15);
    assert_eq!(local, remote);
    server.stop().await;
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
        Error::OrderNotCancellable {
            order_id,
            current: OrderStatus::Processed,
            allowed: vec![],
        },
        Error::TransitionRefused {
            order_id,
            current: OrderStatus::Pending,
            requested: OrderStatus::Pending,
            allowed: OrderStatus::Pending.allowed(),
        },
        Error::VersionConflict { order_id },
        Error::LimitExceeded {
            what: "things".to_owned(),
            limit: 7,
        },
        Error::Overloaded { retry_after },
        Error::StoreUnavailable {
            retry_after,
            source: Some("secret".into()),
        },
        Error::ServiceUnavailable {
            retry_after,
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
async fn batch_answers_each_request_for_itself() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let create = |n: u128, user_id: &str| proto::CreateOrderRequest {
        order_id: id(n).to_string(),
        user_id: user_id.to_owned(),
        money: Some(proto::Money {
            currency: String::new(),
            minor_units: 1,
        }),
    };
    // The api refuses its second valid order; the second request never reaches it.
    let requests = vec![
        create(0, "u"),
        create(1, ""),
        create(2, "u"),
        create(3, "u"),
    ];
    let answer = raw
        .call(
            "BatchCreateOrders",
            &[],
            &proto::BatchCreateOrdersRequest { requests },
        )
        .await;
    let response: proto::BatchCreateOrdersResponse = answer.message();
    let results: Vec<String> = response.results.into_iter().map(describe).collect();
    assert_eq!(
        results,
        [
            id(0).to_string(),
            "3 the request is not valid: requests/1/user_id: must not be empty".to_owned(),
            format!("6 order {} already exists with other content", id(2)),
            id(3).to_string(),
        ]
    );
    server.stop().await;
}

fn describe(result: proto::batch_create_orders_response::Result) -> String {
    use proto::batch_create_orders_response::result::Result::{Error, Order};
    match result.result.expect("never empty") {
        Order(order) => order.order_id,
        Error(status) => format!("{} {}", status.code, status.message),
    }
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

async fn wait_until_ready(api: &dyn OrderApi, wanted: bool) {
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

#[tokio::test]
async fn concurrent_creates_share_calls_and_get_their_own_answers() {
    let (open, gate) = tokio::sync::oneshot::channel();
    let server = TestServer::start([Act::AnswerAfter(gate)]).await;
    let remote = std::sync::Arc::new(server.client());
    let mut creating = tokio::task::JoinSet::new();
    // The first is on its way alone; the others gather while it is answered.
    for n in 0..40 {
        let remote = std::sync::Arc::clone(&remote);
        creating.spawn(async move { (n, remote.create_order(&ctx(), create(Some(id(n)))).await) });
    }
    server.api.wait_for_calls(1).await;
    open.send(()).expect("the server waits");
    while let Some(created) = creating.join_next().await {
        let (n, answer) = created.expect("no panic");
        // The fake refuses some items of a batch, each by its own id.
        let order_id = match answer {
            Ok(order) => order.id,
            Err(Error::OrderAlreadyExists { order_id }) => order_id,
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(order_id, id(n));
    }
    let n_calls = server.api.calls().len();
    assert!(n_calls < 20, "40 orders took {n_calls} calls");
    server.stop().await;
}
