//! The place of a call in a distributed trace (W3C Trace Context).

use std::sync::Arc;

use order_core::{CallContext, OrderApi, RequestId, TraceParent};
use order_rpc::proto;
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    fake::Act,
    raw::RawClient,
    support::{TestServer, create, ctx, id},
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn valid_position_is_passed_on_and_echoed() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let request = proto::GetOrderRequest {
        order_id: id(1).to_string(),
    };
    let later = format!("cc{}-more", &TRACE[2..]);
    for (given, expected) in [
        (Some(TRACE), Some(TRACE)),
        (Some(later.as_str()), Some(&later[..55])),
        (Some("00-not-valid-01"), None),
        (None, None),
    ] {
        let headers: Vec<_> = given
            .map(|trace| ("traceparent", trace))
            .into_iter()
            .collect();
        let answer = raw.call("GetOrder", &headers, &request).await;
        let echo = answer.headers.get("traceparent");
        assert_eq!(echo.map(|echo| echo.to_str().expect("text")), expected);
        let calls = server.api.calls();
        let seen = calls.last().expect("a call").trace_parent.clone();
        assert_eq!(seen.as_ref().map(TraceParent::as_str), expected);
    }
    server.stop().await;
}

#[tokio::test]
async fn client_sends_its_position_and_the_state_beside_it() {
    let server = TestServer::start([]).await;
    let trace = TraceParent::parse(TRACE).expect("valid");
    let ctx = CallContext {
        trace_parent: Some(trace.with_state(["vendor=1,other=2"])),
        ..ctx()
    };
    let remote = server.client();
    remote.get_order(&ctx, id(1)).await.expect("an order");
    let seen = server.api.calls()[0].trace_parent.clone();
    assert_eq!(seen, ctx.trace_parent);
    assert_eq!(seen.expect("a position").state(), Some("vendor=1,other=2"));
    server.stop().await;
}

#[tokio::test]
async fn shared_call_has_the_position_of_its_first_order() {
    let (open, gate) = oneshot::channel();
    let server = TestServer::start([Act::AnswerAfter(gate)]).await;
    let remote = Arc::new(server.client());
    let mut creating = JoinSet::new();
    // The first ones are held up, and the others gather behind them.
    for n in 0..30_u8 {
        let remote = Arc::clone(&remote);
        let ctx = CallContext {
            request_id: RequestId::parse(&format!("r-{n}")).expect("valid"),
            trace_parent: TraceParent::parse(&TRACE.replace("4bf9", &format!("4b{n:02x}"))),
            ..ctx()
        };
        creating.spawn(async move { remote.create_order(&ctx, create(Some(id(n.into())))).await });
    }
    server.api.wait_for_calls(1).await;
    open.send(()).expect("the server waits");
    creating.join_all().await;
    let calls = server.api.calls();
    assert!(calls.len() < 30);
    for call in calls {
        let request_id = call.request_id.as_str();
        let n: u8 = request_id[2..].parse().expect("a number");
        let trace = call.trace_parent.expect("a position");
        assert!(
            trace.as_str().starts_with(&format!("00-4b{n:02x}")),
            "{trace} of {n}"
        );
    }
    // Each order keeps its own.
    let batches = server.api.batches.lock().expect("not poisoned").clone();
    assert!(!batches.is_empty());
    for request in batches.into_iter().flatten() {
        let order_id = request.order_id.expect("an id");
        let n = (0..30_u8).find(|n| id((*n).into()) == order_id);
        let own = TRACE.replace("4bf9", &format!("4b{:02x}", n.expect("one of these")));
        assert_eq!(request.trace_parent, TraceParent::parse(&own));
    }
    server.stop().await;
}
