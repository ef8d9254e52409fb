//! Workers that wait for a job: for how long, at whose cost, and what a stop does to them.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use order_core::{Error, Metadata, OrderApi};
use order_rpc::{RpcServerConfig, SERVICE_NAME, WORKER_SERVICE_NAME, proto, status::from_status};
use tokio::{net::TcpStream, sync::oneshot};
use tonic::Request;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    fake_workers::{Call, FakeWorkers},
    support::{TestServer, ctx, id, server_config, soon},
    workers::{channel, client, seconds},
};

/// A drain that no test waits for.
fn patient_config() -> RpcServerConfig {
    RpcServerConfig {
        drain_timeout: Duration::from_mins(1),
        ..server_config()
    }
}

fn waiting(time: i64) -> proto::LeaseRequest {
    proto::LeaseRequest {
        limit: 5,
        lease: None,
        wait: Some(seconds(time)),
    }
}

fn within(message: proto::LeaseRequest, timeout: Duration) -> Request<proto::LeaseRequest> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

#[tokio::test]
async fn wait_is_cut_to_the_time_of_the_call() {
    let workers = FakeWorkers::with_jobs(20, &Metadata::NONE);
    let server = TestServer::start_with_workers(workers.clone(), server_config()).await;
    let mut client = client(&server);
    let hour = Duration::from_hours(1);
    for request in [
        within(waiting(30), Duration::from_secs(4)),
        // The default is 10 s, the longest time of a call 30 s.
        Request::new(waiting(30)),
        within(waiting(30), hour),
        within(waiting(2), hour),
    ] {
        client.lease(request).await.expect("jobs");
    }
    let waits = workers.calls().into_iter().map(|call| match call {
        Call::Lease(request) => request.wait,
        other => panic!("unexpected {other:?}"),
    });
    let waits: Vec<Duration> = waits.collect();
    let millis = Duration::from_millis;
    assert!(
        (millis(500)..=millis(3_500)).contains(&waits[0]),
        "{waits:?}"
    );
    assert!(
        (millis(500)..=millis(4_500)).contains(&waits[1]),
        "{waits:?}"
    );
    assert!(
        (millis(10_000)..=millis(29_500)).contains(&waits[2]),
        "{waits:?}"
    );
    assert_eq!(waits[3], millis(2_000));
    server.stop().await;
}

#[tokio::test]
async fn worker_that_waited_in_vain_is_answered_before_its_deadline() {
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers, server_config()).await;
    let request = within(waiting(30), Duration::from_millis(800));
    let answer = soon(client(&server).lease(request)).await;
    assert!(answer.expect("no error").into_inner().jobs.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn waiting_workers_take_no_places_of_other_calls() {
    let config = RpcServerConfig {
        in_flight_max: 1,
        leases_max: 2,
        ..patient_config()
    };
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers.clone(), config).await;
    let (mut first, mut second) = (client(&server), client(&server));
    let others = Box::pin(async {
        workers.wait_for_calls(2).await;
        let order = server.client().get_order(&ctx(), id(1)).await;
        assert!(order.is_ok(), "{order:?}");
        let third = client(&server).lease(waiting(30)).await;
        let error = from_status(third.expect_err("no place"));
        assert!(matches!(error, Error::Overloaded { .. }), "{error:?}");
        server.stop.cancel();
    });
    let waiting_both = async { tokio::join!(first.lease(waiting(30)), second.lease(waiting(30))) };
    let ((first, second), ()) = soon(async { tokio::join!(waiting_both, others) }).await;
    assert!(first.is_ok() && second.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn stop_answers_waiting_workers_with_nothing() {
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers.clone(), patient_config()).await;
    let mut client = client(&server);
    let lease = client.lease(within(waiting(30), Duration::from_secs(30)));
    let stopping = async {
        workers.wait_for_calls(1).await;
        server.stop().await;
    };
    let (answer, ()) = soon(async { tokio::join!(lease, stopping) }).await;
    assert!(answer.expect("no error").into_inner().jobs.is_empty());
}

#[tokio::test]
async fn claim_under_way_at_a_stop_is_handed_out() {
    let (claimed, claim) = oneshot::channel();
    let workers = FakeWorkers::with_jobs(1, &Metadata::NONE);
    *workers.claim.lock().expect("not poisoned") = Some(claim);
    let server = TestServer::start_with_workers(workers.clone(), patient_config()).await;
    let mut client = client(&server);
    let lease = client.lease(waiting(30));
    let stopping = async {
        workers.wait_for_calls(1).await;
        server.stop.cancel();
        // The listener closes with the beginning of the drain.
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        // The database takes its time.
        tokio::time::sleep(Duration::from_millis(20)).await;
        claimed.send(()).expect("the claim is under way");
    };
    let (answer, ()) = soon(async { tokio::join!(lease, stopping) }).await;
    assert_eq!(answer.expect("no error").into_inner().jobs.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn health_covers_the_service_for_workers() {
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers, server_config()).await;
    let mut health = HealthClient::new(channel(&server));
    for service in [SERVICE_NAME, WORKER_SERVICE_NAME] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut statuses = health.watch(request).await.expect("a stream").into_inner();
        let serving = async {
            while let Some(status) = statuses.next().await {
                if status.expect("a status").status() == ServingStatus::Serving {
                    break;
                }
            }
        };
        soon(serving).await;
        if service == WORKER_SERVICE_NAME {
            server.stop.cancel();
            let last = soon(statuses.next()).await.expect("a status");
            let last = last.expect("a status").status();
            assert_eq!(last, ServingStatus::NotServing);
            assert!(soon(statuses.next()).await.is_none());
        }
    }
    server.stop().await;
}
