//! Every limit refuses with a status that says which.

use futures_util::StreamExt as _;
use order_core::{CreateOrder, Error, OrderApi, UserId, WatchOrder};
use order_rpc::{
    REQUEST_BYTES_MAX, RpcServerConfig,
    proto::{self, order_service_client::OrderServiceClient},
};
use tokio::sync::oneshot;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    fake::Act,
    raw::RawClient,
    support::{TestServer, create, ctx, id, server_config, soon},
    workers::channel,
};

#[tokio::test]
async fn too_large_message_is_refused_with_the_limit() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let path = "/order.v1.OrderService/CreateOrder";
    let answer = raw.send(path, &[], &vec![0; REQUEST_BYTES_MAX + 1]).await;
    assert_eq!(answer.status.code(), Code::ResourceExhausted);
    let retry = answer.status.get_details_retry_info();
    assert!(retry.is_none(), "it will never be shorter");
    let error = answer.error();
    let Error::LimitExceeded { what, limit } = error else {
        panic!("unexpected {error:?}");
    };
    assert_eq!((what.as_str(), limit), ("bytes per message", 1_048_576));
    server.stop().await;
}

#[tokio::test]
async fn largest_batch_and_its_answer_pass() {
    let server = TestServer::start([]).await;
    let user_id = UserId::parse(&"\u{10ffff}".repeat(UserId::CHARS_MAX)).expect("valid");
    let requests = (0..1_000).map(|n| CreateOrder {
        user_id: user_id.clone(),
        ..create(Some(id(n)))
    });
    let answers = server
        .client()
        .create_orders(&ctx(), requests.collect())
        .await;
    assert_eq!(answers.expect("a batch").len(), 1_000);
    assert_eq!(server.api.calls().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn answer_to_a_batch_of_broken_orders_passes() {
    let server = TestServer::start([]).await;
    // A thousand orders with as many broken rules as fit into a message.
    let metadata = (0..33)
        .map(|n| (format!("\u{1}{n}"), String::new()))
        .collect();
    let broken = proto::CreateOrderRequest {
        metadata,
        ..proto::CreateOrderRequest::default()
    };
    let request = proto::BatchCreateOrdersRequest {
        requests: vec![broken; 1_000],
    };
    // It accepts 4 MiB, as every gRPC client does.
    let mut client = OrderServiceClient::new(channel(&server));

    let answer = client.batch_create_orders(request).await;

    let results = answer
        .expect("an answer that can be read")
        .into_inner()
        .results;
    assert_eq!(results.len(), 1_000);
    server.stop().await;
}

#[tokio::test]
async fn refusals_of_the_framework_have_details() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let bad = raw
        .send("/order.v1.OrderService/GetOrder", &[], &[0xff; 9])
        .await;
    assert_eq!(bad.status.code(), Code::InvalidArgument);
    assert!(matches!(bad.error(), Error::InvalidArgument { .. }));
    for path in ["/order.v1.OrderService/Nope", "/other.v1.Service/Get", "/"] {
        let unknown = raw.send(path, &[], &[]).await;
        assert_eq!(unknown.status.code(), Code::Unimplemented, "{path}");
        let details = unknown.status.get_error_details();
        let info = details.error_info().expect("always there");
        assert_eq!(
            (info.domain.as_str(), info.reason.as_str()),
            ("order-system", "UNIMPLEMENTED")
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn calls_beyond_the_limit_are_shed_until_a_place_is_free() {
    let config = RpcServerConfig {
        in_flight_max: 1,
        ..server_config()
    };
    let (release, released) = oneshot::channel();
    let server = TestServer::start_with([Act::AnswerAfter(released)], config).await;
    let (first, second) = (server.client(), server.client());
    let context = ctx();
    let waiting = first.get_order(&context, id(1));
    let shedding = async {
        server.api.wait_for_calls(1).await;
        let shed = second.get_order(&ctx(), id(2)).await;
        assert!(matches!(shed, Err(Error::Overloaded { .. })), "{shed:?}");
        // Health is not work: a busy service is a healthy one.
        let mut raw = RawClient::connect(server.address).await;
        let health = raw.send("/grpc.health.v1.Health/Check", &[], &[]).await;
        assert_eq!(health.status.code(), Code::Ok);
        release.send(()).expect("the api waits");
    };
    let (waited, ()) = soon(async { tokio::join!(waiting, shedding) }).await;
    assert!(waited.is_ok());
    assert!(second.get_order(&ctx(), id(2)).await.is_ok());
    assert_eq!(server.api.calls().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn watches_beyond_the_limit_are_refused_until_one_ends() {
    let config = RpcServerConfig {
        watches_max: 1,
        ..server_config()
    };
    let server = TestServer::start_with([], config).await;
    let remote = server.client();
    let watch = WatchOrder {
        order_id: id(1),
        since: None,
    };
    let mut first = remote
        .watch_orders(&ctx(), vec![watch])
        .await
        .expect("a stream");
    assert!(soon(first.next()).await.expect("an event").is_ok());
    let refused = remote.watch_orders(&ctx(), vec![watch]).await;
    assert!(matches!(refused.err(), Some(Error::Overloaded { .. })));
    drop(first);
    let freed = async {
        while remote.watch_orders(&ctx(), vec![watch]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(freed).await;
    server.stop().await;
}

#[tokio::test]
async fn too_many_watched_orders_are_refused() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let watch = proto::watch_orders_request::Watch {
        order_id: id(1).to_string(),
        since_version: None,
    };
    for n in [0, 101] {
        let orders = vec![watch.clone(); n];
        let request = proto::WatchOrdersRequest { orders };
        let error = raw.call("WatchOrders", &[], &request).await.error();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn messages_that_do_not_come_keep_out_nobody() {
    let config = RpcServerConfig {
        in_flight_max: 2,
        ..server_config()
    };
    let server = TestServer::start_with([], config).await;
    let mut raw = RawClient::connect(server.address).await;
    for _ in 0..5 {
        raw.begin("/order.v1.OrderService/CreateOrder", &[]);
    }
    // Its answer says that the server has read everything before it, too.
    raw.send("/no/such-method", &[], &[]).await;

    let answered = server.client().get_order(&ctx(), id(1)).await;

    assert!(answered.is_ok(), "{answered:?}");
    server.stop().await;
}

#[tokio::test]
async fn one_address_does_not_take_all_slots() {
    let config = RpcServerConfig {
        in_flight_max: 4,
        ..server_config()
    };
    let (release, script): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let (release, released) = oneshot::channel();
            (release, Act::AnswerAfter(released))
        })
        .unzip();
    let server = TestServer::start_with(script, config).await;
    let remote = server.client();
    let (first, second, third) = (ctx(), ctx(), ctx());
    let calls = async {
        tokio::join!(
            remote.get_order(&first, id(1)),
            remote.get_order(&second, id(2)),
            remote.get_order(&third, id(3)),
        )
    };
    let other = async {
        server.api.wait_for_calls(3).await;
        let request = proto::GetOrderRequest {
            order_id: id(4).to_string(),
        };
        let mut same = RawClient::connect(server.address).await;
        let refused = same.call("GetOrder", &[], &request).await;
        assert!(matches!(refused.error(), Error::Overloaded { .. }));
        let mut other = RawClient::connect_from("127.0.0.2:0", server.address).await;
        let answered = other.call("GetOrder", &[], &request).await;
        assert_eq!(answered.status.code(), Code::Ok);
        for release in release {
            release.send(()).expect("the api waits");
        }
    };
    let (answers, ()) = soon(async { tokio::join!(calls, other) }).await;
    assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
    server.stop().await;
}
