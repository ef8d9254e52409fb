//! What operators call, over the network.

use std::sync::Arc;

use futures_util::StreamExt as _;
use order_core::{
    AdminApi as _, DeadLetterFilter, Error, OrderApi as _, ProcessId, PushRecord, Redrive,
};
use order_rpc::{RpcClientConfig, RpcServerConfig, proto};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    fake::{Act, cluster, dead_letters, pushes, record, redrive_steps, report},
    raw::RawClient,
    support::{TestServer, ctx, id, remote, server_config, soon, text, user},
};

fn request() -> Redrive {
    Redrive {
        filter: DeadLetterFilter {
            code: Some("TIMEOUT".to_owned()),
            user_id: Some(user()),
            created_after: "2026-01-31T12:00:00Z".parse().ok(),
            created_before: "2026-02-01T12:00:00.000001Z".parse().ok(),
        },
        limit: 7,
        rate: 70,
        failed_percent_max: 0,
        is_dry_run: true,
    }
}

#[tokio::test]
async fn dead_letters_and_redrives_arrive_as_they_were_sent() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    let groups = soon(remote.dead_letters(&ctx())).await;
    assert_eq!(groups.expect("an answer"), [dead_letters()]);

    let steps = soon(remote.redrive(&ctx(), request())).await;
    let steps: Vec<_> = soon(steps.expect("a stream").collect()).await;
    let steps: Vec<_> = steps.iter().map(text).collect();
    let expected: Vec<_> = redrive_steps().iter().map(text).collect();
    assert_eq!(steps, expected);
    let asked = server.api.redrive.lock().expect("not poisoned").take();
    assert_eq!(asked, Some(request()));
    server.stop().await;
}

#[tokio::test]
async fn record_arrives_as_it_was_sent() {
    let server = TestServer::start([]).await;
    let answer = soon(server.client().record(&ctx(), id(1))).await;
    assert_eq!(answer.expect("a record"), record(id(1)));
    server.stop().await;
}

/// Each process knows its own pushes only, so a client asks all of them, once each.
#[tokio::test]
async fn record_has_the_pushes_of_all_services_that_answer() {
    let [server, one, two] = [(); 3].map(|()| TestServer::start([]));
    let servers = [server.await, one.await, two.await];
    let other = PushRecord::of("order-service host:9", vec![pushes()[0].push]);
    // Two of the addresses are of one process.
    for server in &servers[1..] {
        *server.api.pushes.lock().expect("not poisoned") = other.clone();
    }
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addresses = servers.iter().map(|server| server.address);
    let addresses = addresses.chain(dead.local_addr());
    let remote = remote(&RpcClientConfig::new(
        addresses
            .map(|address| format!("http://{address}"))
            .collect(),
    ));
    let answer = soon(remote.record(&ctx(), id(1))).await;
    let answer = answer.expect("a record");
    let expected = [pushes(), other].concat();
    assert_eq!(answer.pushes, expected);
    assert_eq!(answer.silent_processes, 1);
    let n_calls: usize = servers.iter().map(|server| server.api.calls().len()).sum();
    assert_eq!(n_calls, 1, "the record itself is read once");
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test]
async fn report_is_answered_with_a_directive_and_shown_to_operators() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    let directive = soon(remote.report(&ctx(), report())).await;
    assert!(directive.expect("an answer").is_paused);
    let reports = server.api.reports.lock().expect("not poisoned").clone();
    assert_eq!(reports, [report()]);
    let shown = soon(remote.cluster(&ctx())).await;
    assert_eq!(shown.expect("an answer"), cluster());
    server.stop().await;
}

#[tokio::test]
async fn processes_are_paused_and_resumed() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    let one = Some(ProcessId::from_u64(0xA0));
    for (process_id, is_paused) in [(None, true), (one, false)] {
        let done = soon(remote.set_paused(&ctx(), process_id, is_paused)).await;
        done.expect("an answer");
    }
    let pauses = server.api.pauses.lock().expect("not poisoned").clone();
    assert_eq!(pauses, [(None, true), (one, false)]);
    server.stop().await;
}

/// The process of which operators want to hear most is the one under load.
#[tokio::test]
async fn report_is_answered_while_the_server_is_full() {
    let config = RpcServerConfig {
        in_flight_max: 4,
        ..server_config()
    };
    let hang = (0..4).map(|_| Act::Hang);
    let server = TestServer::start_with(hang, config).await;
    let remote = Arc::new(server.client());
    let mut reads = JoinSet::new();
    loop {
        let n_calls = server.api.calls().len();
        let reader = Arc::clone(&remote);
        reads.spawn(async move { reader.get_order(&ctx(), id(1)).await });
        tokio::select! {
            () = server.api.wait_for_calls(n_calls + 1) => {}
            refused = reads.join_next() => {
                let refused = refused.expect("a call").expect("no panic");
                assert!(matches!(refused, Err(Error::Overloaded { .. })), "{refused:?}");
                break;
            }
        }
    }
    soon(remote.report(&ctx(), report()))
        .await
        .expect("an answer");
    server.stop().await;
}

#[tokio::test]
async fn refused_reports_name_their_fields() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let bad = proto::ReportProcessRequest {
        report: Some(proto::ProcessReport {
            process_id: "9".to_owned(),
            program: "a\nb".to_owned(),
            place: "host:7".to_owned(),
            ..proto::ProcessReport::default()
        }),
    };
    for (request, fields) in [
        (
            bad,
            vec![
                "report/process_id",
                "report/started_at",
                "report/program",
                "report/version",
            ],
        ),
        (proto::ReportProcessRequest::default(), vec!["report"]),
    ] {
        let path = "/order.v1.AdminService/ReportProcess";
        let refused = raw.send(path, &[], &request.encode_to_vec()).await.error();
        let Error::InvalidArgument { violations } = refused else {
            panic!("unexpected {refused:?}");
        };
        let named: Vec<_> = violations.iter().map(|found| &*found.field).collect();
        assert_eq!(named, fields);
    }
    let path = "/order.v1.AdminService/SetPaused";
    let request = proto::SetPausedRequest {
        process_id: "+".repeat(16),
        paused: true,
    };
    let refused = raw.send(path, &[], &request.encode_to_vec()).await.error();
    assert!(format!("{refused:?}").contains("process_id"), "{refused:?}");
    assert!(server.api.calls().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn redrive_that_fails_is_not_repeated() {
    let failure = || Act::Fail(Error::store_unavailable("down"));
    let server = TestServer::start([failure(), failure()]).await;
    let remote = server.client();
    let refused = soon(remote.redrive(&ctx(), request())).await;
    assert!(matches!(refused, Err(Error::StoreUnavailable { .. })));
    assert_eq!(server.api.calls().len(), 1);
    server.stop().await;
}
