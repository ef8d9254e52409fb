//! The name of the process that took a request from its client.

use std::sync::Arc;

use order_core::{CallContext, OrderApi as _, RequestId};
use order_rpc::{RpcClientConfig, proto};
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    fake::Act,
    raw::RawClient,
    support::{TestServer, create, ctx, id, remote},
};

const GATEWAY: &str = "api-gateway host:8";

#[tokio::test]
async fn service_sees_the_gateway_and_the_request_of_each_order() {
    let (open, gate) = oneshot::channel();
    let server = TestServer::start([Act::Answer, Act::AnswerAfter(gate)]).await;
    let remote = Arc::new(remote(&RpcClientConfig {
        connections: 1,
        gateway: Some(GATEWAY.to_owned()),
        ..RpcClientConfig::new(vec![format!("http://{}", server.address)])
    }));
    let alone = remote.create_order(&ctx(), create(Some(id(99)))).await;
    alone.expect("an order");
    let mut creating = JoinSet::new();
    // The first ones are held up, and the others gather behind them.
    for n in 0..30_u8 {
        let remote = Arc::clone(&remote);
        let ctx = CallContext {
            request_id: RequestId::parse(&format!("r-{n}")).expect("valid"),
            ..ctx()
        };
        creating.spawn(async move { remote.create_order(&ctx, create(Some(id(n.into())))).await });
    }
    server.api.wait_for_calls(2).await;
    open.send(()).expect("the server waits");
    creating.join_all().await;

    for call in server.api.calls() {
        assert_eq!(call.gateway.as_deref(), Some(GATEWAY));
    }
    let batches = server.api.batches.lock().expect("not poisoned").clone();
    assert!(!batches.is_empty());
    for request in batches.into_iter().flatten() {
        let order_id = request.order_id.expect("an id");
        let own = (0..30_u8).find(|n| id((*n).into()) == order_id);
        let own = RequestId::parse(&format!("r-{}", own.expect("one of these")));
        assert_eq!(request.request_id, own);
    }
    server.stop().await;
}

#[tokio::test]
async fn other_clients_send_no_name() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    remote.get_order(&ctx(), id(1)).await.expect("an order");
    assert_eq!(server.api.calls()[0].gateway, None);
    server.stop().await;
}

/// A name that metadata cannot hold costs the name, and no call.
#[tokio::test]
async fn name_that_cannot_be_sent_is_left_out() {
    let server = TestServer::start([]).await;
    let remote = remote(&RpcClientConfig {
        gateway: Some("api-gateway host\n:8".to_owned()),
        ..RpcClientConfig::new(vec![format!("http://{}", server.address)])
    });
    remote.get_order(&ctx(), id(1)).await.expect("an order");
    assert_eq!(server.api.calls()[0].gateway, None);
    server.stop().await;
}

#[tokio::test]
async fn only_a_printable_name_of_bounded_length_is_taken() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let request = proto::GetOrderRequest {
        order_id: id(1).to_string(),
    };
    let (longest, too_long) = ("g".repeat(128), "g".repeat(129));
    for (name, is_taken) in [
        (GATEWAY, true),
        (&*longest, true),
        (&*too_long, false),
        ("", false),
        ("a\tb", false),
        ("caf\u{e9}", false),
    ] {
        raw.call("GetOrder", &[("x-gateway", name)], &request).await;
        let calls = server.api.calls();
        let seen = calls.last().expect("a call").gateway.clone();
        assert_eq!(seen.as_deref(), is_taken.then_some(name), "{name:?}");
    }
    server.stop().await;
}
