//! Time runs out where it should, and is told as what it is.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use order_core::{CallContext, Clock as _, Deadline, Error, OrderApi, WatchOrder};
use order_rpc::{RpcServerConfig, proto};
use tonic::Code;

use crate::{
    fake::Act,
    raw::RawClient,
    support::{TestClock, TestServer, create, ctx, ctx_within, id, server_config, soon},
};

fn get() -> proto::GetOrderRequest {
    proto::GetOrderRequest {
        order_id: id(1).to_string(),
    }
}

#[tokio::test]
async fn server_ends_a_call_at_the_deadline_of_its_caller() {
    let server = TestServer::start([Act::Hang]).await;
    let mut raw = RawClient::connect(server.address).await;
    let answer = raw
        .call("GetOrder", &[("grpc-timeout", "50m")], &get())
        .await;
    assert_eq!(answer.status.code(), Code::DeadlineExceeded);
    assert!(matches!(answer.error(), Error::DeadlineExceeded));
    let deadline = server.api.calls()[0].deadline;
    assert!(deadline.is_expired(TestClock.instant()));
    server.stop().await;
}

#[tokio::test]
async fn call_without_a_deadline_gets_the_default_and_a_long_one_is_capped() {
    let config = RpcServerConfig {
        deadline_default: Duration::from_millis(50),
        deadline_max: Duration::from_millis(60),
        ..server_config()
    };
    let server = TestServer::start_with([Act::Hang, Act::Hang], config).await;
    let mut raw = RawClient::connect(server.address).await;
    for headers in [&[][..], &[("grpc-timeout", "1H")][..]] {
        let answer = raw.call("GetOrder", headers, &get()).await;
        assert_eq!(answer.status.code(), Code::DeadlineExceeded);
    }
    server.stop().await;
}

/// Words of the contract, each at the value that the server has by default.
#[test]
fn contract_names_the_deadlines_of_the_server() {
    let config = RpcServerConfig::default();
    let default = config.deadline_default.as_secs();
    let longest = config.deadline_max.as_secs();
    for (file, promises) in [
        (
            include_str!("../../../../proto/order/v1/order.proto"),
            [
                format!("`grpc-timeout` is honoured up to {longest} s"),
                format!("a call without it ends after {default} s"),
            ],
        ),
        (
            include_str!("../../../../proto/order/v1/worker.proto"),
            [
                format!("How long to wait for a job, at most {longest} s"),
                format!("which is {default} s where it names none and {longest} s at most"),
            ],
        ),
    ] {
        let comments: Vec<&str> = file
            .lines()
            .map(|line| line.trim_start().trim_start_matches("// "))
            .collect();
        let comments = comments.join(" ");
        for promise in promises {
            assert!(comments.contains(&promise), "{promise}");
        }
    }
}

#[tokio::test]
async fn expired_and_malformed_timeouts_are_refused_before_the_api() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let answer = raw
        .call("GetOrder", &[("grpc-timeout", "0n")], &get())
        .await;
    assert!(matches!(answer.error(), Error::DeadlineExceeded));
    let answer = raw
        .call("GetOrder", &[("grpc-timeout", "soon")], &get())
        .await;
    assert!(matches!(answer.error(), Error::InvalidArgument { .. }));
    assert!(server.api.calls().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn client_ends_a_call_at_its_deadline_and_tells_the_server() {
    let server = TestServer::start([Act::Hang]).await;
    let remote = server.client();
    let ctx = ctx_within(Duration::from_millis(50));
    let answer = soon(remote.create_order(&ctx, create(Some(id(1))))).await;
    assert!(matches!(answer, Err(Error::DeadlineExceeded)), "{answer:?}");
    let seen = server.api.calls()[0]
        .deadline
        .instant()
        .expect("a deadline");
    // The server counts from the arrival, with what was left at the departure.
    let sent = ctx.deadline.instant().expect("a deadline");
    assert!(
        seen < sent + Duration::from_secs(5),
        "not the default of the server"
    );
    server.stop().await;
}

#[tokio::test]
async fn client_refuses_a_call_without_time() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    let ctx = CallContext {
        deadline: Deadline::at(TestClock.instant()),
        ..ctx()
    };
    let answer = remote.get_order(&ctx, id(1)).await;
    assert!(matches!(answer, Err(Error::DeadlineExceeded)));
    assert!(server.api.calls().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn deadline_of_a_watch_is_not_sent_because_the_stream_outlives_it() {
    let server = TestServer::start([]).await;
    let ctx = ctx_within(Duration::from_secs(2));
    let watch = WatchOrder {
        order_id: id(1),
        since: None,
    };
    let events = server.client().watch_orders(&ctx, vec![watch]).await;
    assert!(events.is_ok());
    let seen = server.api.calls()[0].deadline.instant();
    let sent = ctx.deadline.instant().expect("a deadline");
    let default = seen.expect("the default of the server") - sent;
    assert!(default > Duration::from_secs(2), "{default:?}");
    server.stop().await;
}

#[tokio::test]
async fn stream_ends_at_the_deadline_its_caller_sent() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let request = proto::WatchOrdersRequest {
        orders: vec![proto::watch_orders_request::Watch {
            order_id: id(1).to_string(),
            since_version: None,
        }],
    };
    let answer = raw
        .call("WatchOrders", &[("grpc-timeout", "100m")], &request)
        .await;
    assert_eq!(answer.status.code(), Code::DeadlineExceeded);
    assert!(matches!(answer.error(), Error::DeadlineExceeded));
    server.stop().await;
}

#[tokio::test]
async fn api_is_dropped_when_its_caller_hangs_up() {
    let (alive, gone) = tokio::sync::oneshot::channel::<()>();
    let server = TestServer::start([]).await;
    let stream = futures_util::stream::unfold(alive, |alive| async move {
        std::future::pending::<()>().await;
        Some((Err(Error::DeadlineExceeded), alive))
    });
    let streams = &server.api.streams;
    streams
        .lock()
        .expect("not poisoned")
        .push_back(stream.boxed());
    let remote = Arc::new(server.client());
    let watch = WatchOrder {
        order_id: id(1),
        since: None,
    };
    let events = remote
        .watch_orders(&ctx(), vec![watch])
        .await
        .expect("a stream");
    drop(events);
    soon(gone)
        .await
        .expect_err("the sender is dropped, not used");
    server.stop().await;
}
