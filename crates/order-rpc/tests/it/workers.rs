//! The service for workers outside: what it hands out, and what it makes of reports.

use std::{sync::Arc, time::Duration};

use order_core::{Cause, Error, JobToken, Metadata, Outcome};
use order_rpc::{
    proto::{
        self, batch_create_orders_response::Status as BatchStatus, report_result,
        worker_service_client::WorkerServiceClient,
    },
    status::from_status,
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    fake_workers::{CURRENT, Call, FAILING, FakeWorkers, PANICKING, STALE},
    support::{TestServer, id, server_config},
};

pub(crate) fn channel(server: &TestServer) -> Channel {
    Endpoint::from_shared(format!("http://{}", server.address))
        .expect("a valid URL")
        .connect_lazy()
}

pub(crate) fn client(server: &TestServer) -> WorkerServiceClient<Channel> {
    WorkerServiceClient::new(channel(server))
}

pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn token(attempt: u32) -> proto::JobToken {
    proto::JobToken {
        order_id: id(7).to_string(),
        attempt,
    }
}

/// The fields of the broken rules.
fn fields<T: std::fmt::Debug>(answer: Result<T, Status>) -> Vec<String> {
    match from_status(answer.expect_err("bad input")) {
        Error::InvalidArgument { violations } => violations.into_iter().map(|v| v.field).collect(),
        other => panic!("unexpected {other:?}"),
    }
}

#[tokio::test]
async fn lease_hands_out_jobs_with_their_tokens() {
    let workers = FakeWorkers::with_jobs(3, &Metadata::NONE);
    let server = TestServer::start_with_workers(workers.clone(), server_config()).await;
    let request = proto::LeaseRequest {
        limit: 2,
        lease: Some(seconds(60)),
        wait: None,
    };
    let answer = client(&server).lease(request).await.expect("jobs");
    let jobs = answer.into_inner().jobs;
    let told: Vec<_> = jobs
        .iter()
        .map(|job| {
            let token = job.token.as_ref().expect("a token");
            let order = job.order.as_ref().expect("an order");
            assert_eq!(token.order_id, order.order_id);
            (order.order_id.clone(), token.attempt, job.is_last_attempt)
        })
        .collect();
    assert_eq!(
        told,
        [(id(0).to_string(), 1, false), (id(1).to_string(), 2, true)]
    );
    let [Call::Lease(seen)] = &workers.calls()[..] else {
        panic!("unexpected {:?}", workers.calls());
    };
    assert_eq!((seen.limit, seen.lease), (2, Duration::from_mins(1)));
    server.stop().await;
}

#[tokio::test]
async fn jobs_that_do_not_fit_into_an_answer_are_given_back() {
    let entries = (0..50).map(|n| (format!("{n}"), "\u{10ffff}".repeat(500)));
    let metadata = Metadata::new(entries).expect("valid");
    let workers = FakeWorkers::with_jobs(60, &metadata);
    let server = TestServer::start_with_workers(workers.clone(), server_config()).await;
    let request = proto::LeaseRequest {
        limit: 60,
        ..proto::LeaseRequest::default()
    };
    // The client has the limit that every gRPC client has.
    let answer = client(&server).lease(request).await.expect("jobs");
    let n_jobs = answer.into_inner().jobs.len();
    assert!((30..42).contains(&n_jobs), "{n_jobs}");
    let calls = workers.calls();
    let [Call::Lease(..), Call::Release(released)] = &calls[..] else {
        panic!("unexpected {calls:?}");
    };
    let given_back: Vec<JobToken> = (0..60_u32)
        .skip(n_jobs)
        .map(|n| JobToken {
            order_id: id(n.into()),
            attempt: n + 1,
        })
        .collect();
    assert_eq!(released, &given_back);
    server.stop().await;
}

#[tokio::test]
async fn heartbeat_names_what_is_lost_and_release_counts() {
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers.clone(), server_config()).await;
    let tokens = vec![token(CURRENT), token(STALE)];
    let request = proto::HeartbeatRequest {
        tokens: tokens.clone(),
        lease: Some(seconds(5)),
    };
    let answer = client(&server).heartbeat(request).await.expect("an answer");
    assert_eq!(answer.into_inner().lost, [token(STALE)]);
    let request = proto::ReleaseRequest { tokens };
    let answer = client(&server).release(request).await.expect("an answer");
    assert_eq!(answer.into_inner().released, 1);
    let calls = workers.calls();
    let [Call::Heartbeat(kept, lease), Call::Release(released)] = &calls[..] else {
        panic!("unexpected {calls:?}");
    };
    assert_eq!((kept, *lease), (released, Duration::from_secs(5)));
    server.stop().await;
}

fn outcomes(results: &[proto::ReportResult]) -> Vec<report_result::Outcome> {
    results.iter().map(proto::ReportResult::outcome).collect()
}

#[tokio::test]
async fn each_report_has_its_own_result() {
    use report_result::Outcome::{Applied, Failed, Stale};
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers.clone(), server_config()).await;
    let tokens = vec![token(CURRENT), token(STALE), token(FAILING)];
    let request = proto::CompleteRequest {
        tokens: tokens.clone(),
    };
    let answer = client(&server).complete(request).await.expect("results");
    let results = answer.into_inner().results;
    assert_eq!(outcomes(&results), [Applied, Stale, Failed]);
    assert_eq!(results[0].error, None);
    let BatchStatus { code, details, .. } = results[2].error.clone().expect("a reason");
    assert_eq!(Code::from_i32(code), Code::Unavailable);
    let error = from_status(Status::with_details(Code::Unavailable, "", details));
    assert!(matches!(error, Error::StoreUnavailable { .. }), "{error:?}");

    let failure = |token| proto::fail_request::Failure {
        token: Some(token),
        cause: Some(proto::Cause {
            code: "NO_STOCK".to_owned(),
            message: "none left".to_owned(),
        }),
        permanent: true,
        retry_after: None,
    };
    let mut failures: Vec<_> = tokens.into_iter().map(failure).collect();
    failures[0].permanent = false;
    failures[0].retry_after = Some(seconds(90));
    let request = proto::FailRequest { failures };
    let answer = client(&server).fail(request).await.expect("results");
    assert_eq!(
        outcomes(&answer.into_inner().results),
        [Applied, Stale, Failed]
    );

    let calls = workers.calls();
    let [Call::Report(done), Call::Report(failed)] = &calls[..] else {
        panic!("unexpected {calls:?}");
    };
    assert!(done.iter().all(|report| report.outcome == Outcome::Done));
    let retry = Outcome::Retry {
        error: "NO_STOCK: none left".to_owned(),
        after: Some(Duration::from_secs(90)),
    };
    assert_eq!(failed[0].outcome, retry);
    let fail = Outcome::Fail(Cause::new("NO_STOCK", "none left"));
    assert_eq!(failed[1].outcome, fail);
    server.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_before_the_api() {
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers.clone(), server_config()).await;
    let mut client = client(&server);
    let lease = proto::LeaseRequest {
        limit: 1_001,
        lease: Some(seconds(0)),
        wait: Some(seconds(31)),
    };
    let answer = client.lease(lease).await;
    assert_eq!(fields(answer), ["limit", "lease", "wait"]);
    let tokens = vec![token(1), token(0)];
    let heartbeat = proto::HeartbeatRequest {
        tokens: tokens.clone(),
        lease: Some(seconds(-1)),
    };
    let answer = client.heartbeat(heartbeat).await;
    assert_eq!(fields(answer), ["lease", "tokens/1/attempt"]);
    let answer = client.complete(proto::CompleteRequest::default()).await;
    assert_eq!(fields(answer), ["tokens"]);
    let answer = client.release(proto::ReleaseRequest { tokens }).await;
    assert_eq!(fields(answer), ["tokens/1/attempt"]);
    let failures = vec![proto::fail_request::Failure {
        retry_after: Some(seconds(86_401)),
        ..proto::fail_request::Failure::default()
    }];
    let answer = client.fail(proto::FailRequest { failures }).await;
    assert_eq!(
        fields(answer),
        ["failures/0/token", "failures/0/retry_after"]
    );
    assert!(workers.calls().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn calls_of_workers_pass_the_interceptors() {
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers, server_config()).await;
    let mut client = client(&server);
    let mut request = Request::new(proto::CompleteRequest {
        tokens: vec![token(PANICKING)],
    });
    request
        .metadata_mut()
        .insert("x-request-id", "w-1".parse().expect("valid"));
    let status = client.complete(request).await.expect_err("a panic");
    assert_eq!(
        status.metadata().get("x-request-id").expect("echoed"),
        "w-1"
    );
    assert!(matches!(from_status(status), Error::Internal { .. }));
    let request = proto::CompleteRequest {
        tokens: vec![token(CURRENT)],
    };
    assert!(client.complete(request).await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn service_is_left_out_without_workers() {
    let server = TestServer::start([]).await;
    let answer = client(&server).lease(proto::LeaseRequest::default()).await;
    assert_eq!(answer.expect_err("not there").code(), Code::Unimplemented);
    server.stop().await;
}
