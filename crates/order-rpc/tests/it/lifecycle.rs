//! How a server ends, and how a connection does.

use std::time::Duration;

use futures_util::StreamExt as _;
use order_core::{Error, OrderApi, WatchOrder};
use order_rpc::{ADMIN_SERVICE_NAME, RpcServerConfig, SERVICE_NAME};
use tokio::{net::TcpStream, sync::oneshot};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    calls::wait_until_ready,
    fake::Act,
    support::{TestServer, ctx, id, server_config, soon},
};

#[tokio::test]
async fn stop_ends_in_time_with_idle_connections_open() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    remote.get_order(&ctx(), id(1)).await.expect("an order");
    // One that has not said a word, and one that has begun and will not leave.
    let silent = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    let stuck = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    stuck.writable().await.expect("open");
    stuck
        .try_write(b"PRI * HTTP/2.0\r\n\r\nSM")
        .expect("written");
    server.stop().await;
    drop((silent, stuck));
}

#[tokio::test]
async fn calls_under_way_are_finished_and_new_ones_refused() {
    let config = RpcServerConfig {
        drain_timeout: Duration::from_secs(10),
        ..server_config()
    };
    let (release, released) = oneshot::channel();
    let server = TestServer::start_with([Act::AnswerAfter(released)], config).await;
    let (remote, late) = (server.client(), server.client());
    let context = ctx();
    let stopping = async {
        server.api.wait_for_calls(1).await;
        server.stop.cancel();
        // The listener is closed soon after, not at once.
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let refused = late.get_order(&ctx(), id(2)).await;
        assert!(
            matches!(refused, Err(Error::ServiceUnavailable { .. })),
            "{refused:?}"
        );
        release.send(()).expect("the api waits");
    };
    let call = remote.get_order(&context, id(1));
    let (answer, ()) = soon(async { tokio::join!(call, stopping) }).await;
    assert_eq!(answer.expect("an order").id, id(1));
    server.stop().await;
}

#[tokio::test]
async fn hanging_call_is_cut_at_the_hard_end() {
    let server = TestServer::start([Act::Hang]).await;
    let remote = server.client();
    let context = ctx();
    let call = remote.get_order(&context, id(1));
    let api = server.api.clone();
    let stopping = async {
        api.wait_for_calls(1).await;
        server.stop().await;
    };
    let (answer, ()) = soon(async { tokio::join!(call, stopping) }).await;
    assert!(
        matches!(answer, Err(Error::ServiceUnavailable { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn health_says_not_serving_before_the_end() {
    let server = TestServer::start([]).await;
    let channel = Endpoint::from_shared(format!("http://{}", server.address))
        .expect("a valid URL")
        .connect_lazy();
    for service in ["", ADMIN_SERVICE_NAME, SERVICE_NAME] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let stream = HealthClient::new(channel.clone()).watch(request).await;
        let mut statuses = stream.expect("a stream").into_inner();
        let mut next = async || {
            soon(statuses.next())
                .await
                .map(|status| status.expect("a status").status())
        };
        let mut status = next().await.expect("a status");
        if status == ServingStatus::NotServing {
            status = next().await.expect("the first check succeeds");
        }
        assert_eq!(status, ServingStatus::Serving);
        if service == SERVICE_NAME {
            server.stop.cancel();
            assert_eq!(next().await, Some(ServingStatus::NotServing));
            assert_eq!(next().await, None);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn server_that_is_leaving_serves_on_and_says_that_it_does_not() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    wait_until_ready(&remote, true).await;

    server.leaving.cancel();

    wait_until_ready(&remote, false).await;
    remote.get_order(&ctx(), id(1)).await.expect("an order");
    server.stop().await;
}

#[tokio::test]
async fn unknown_service_has_no_health() {
    let server = TestServer::start([]).await;
    let channel = Endpoint::from_shared(format!("http://{}", server.address))
        .expect("a valid URL")
        .connect_lazy();
    let request = HealthCheckRequest {
        service: "other.v1.Service".to_owned(),
    };
    let status = HealthClient::new(channel).check(request).await;
    assert_eq!(status.expect_err("unknown").code(), Code::NotFound);
    server.stop().await;
}

fn watch() -> Vec<WatchOrder> {
    vec![WatchOrder {
        order_id: id(1),
        since: None,
    }]
}

#[tokio::test]
async fn watch_is_cut_on_stop_and_says_why() {
    let config = RpcServerConfig {
        drain_timeout: Duration::from_mins(1),
        ..server_config()
    };
    let server = TestServer::start_with([], config).await;
    let remote = server.client();
    let mut events = remote
        .watch_orders(&ctx(), watch())
        .await
        .expect("a stream");
    assert!(soon(events.next()).await.expect("an event").is_ok());
    // Far less than the drain: the watch does not hold it up.
    server.stop().await;
    let cut = soon(events.next()).await.expect("an error");
    assert!(matches!(cut, Err(Error::ShuttingDown { .. })), "{cut:?}");
    assert!(soon(events.next()).await.is_none());
}

#[tokio::test]
async fn aged_connection_is_replaced_without_a_failed_call() {
    let config = RpcServerConfig {
        connection_age_max: Duration::from_millis(30),
        ..server_config()
    };
    let server = TestServer::start_with([], config).await;
    let remote = server.client();
    for _ in 0..5 {
        let mut events = remote
            .watch_orders(&ctx(), watch())
            .await
            .expect("a stream");
        let mut cut = soon(events.next()).await.expect("an item");
        // The connection may have reached its age before the event was out.
        if cut.is_ok() {
            cut = soon(events.next()).await.expect("an error");
        }
        assert!(matches!(cut, Err(Error::ShuttingDown { .. })), "{cut:?}");
        remote.get_order(&ctx(), id(1)).await.expect("an order");
    }
    server.stop().await;
}
