//! Workers outside: what they may take, and what they learn of reports whose answers were lost.

use std::{cell::Cell, net::SocketAddr};

use futures_util::future::join_all;
use order_rpc::proto::{
    CompleteRequest, FailRequest, HeartbeatRequest, JobToken, LeaseRequest, ReportResult,
    fail_request::Failure, report_result::Outcome, worker_service_client::WorkerServiceClient,
};
use tokio::{
    io::{copy, sink},
    join,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    try_join,
};
use tonic::transport::{Channel, Endpoint};

use crate::support::{Database, Engine, Http, Shape, System, database, run, wait_for};

pub(crate) type Client = WorkerServiceClient<Channel>;

pub(crate) fn client(address: SocketAddr) -> Client {
    let url = format!("http://{address}");
    let endpoint = Endpoint::from_shared(url).expect("a valid URL");
    WorkerServiceClient::new(endpoint.connect_lazy())
}

/// Passes on what a client sends to `target`, and nothing that comes back, until it is dropped.
async fn one_way(target: SocketAddr) -> (SocketAddr, JoinSet<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut forwarding = JoinSet::new();
    forwarding.spawn(async move {
        let (mut client, _) = listener.accept().await?;
        let (mut answers, mut server) = TcpStream::connect(target).await?.into_split();
        let mut nowhere = sink();
        try_join!(
            copy(&mut client, &mut server),
            copy(&mut answers, &mut nowhere)
        )?;
        Ok(())
    });
    (address, forwarding)
}

/// Leases the only job, as soon as it is due.
async fn lease(client: &Client) -> JobToken {
    wait_for("the job is due", async || {
        let request = LeaseRequest {
            limit: 1,
            ..LeaseRequest::default()
        };
        let jobs = client.clone().lease(request).await.expect("an answer");
        jobs.into_inner().jobs.pop()?.token
    })
    .await
}

async fn complete(mut client: Client, token: JobToken) -> Result<Vec<ReportResult>, tonic::Status> {
    let tokens = vec![token];
    let answer = client.complete(CompleteRequest { tokens }).await?;
    Ok(answer.into_inner().results)
}

async fn fail(mut client: Client, token: JobToken) -> Result<Vec<ReportResult>, tonic::Status> {
    let failure = Failure {
        token: Some(token),
        retry_after: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1,
        }),
        ..Failure::default()
    };
    let failures = vec![failure];
    let answer = client.fail(FailRequest { failures }).await?;
    Ok(answer.into_inner().results)
}

fn is_applied(results: &[ReportResult]) -> bool {
    matches!(results, [result] if result.outcome() == Outcome::Applied)
}

#[test]
fn report_whose_answer_was_lost_is_answered_when_it_is_repeated() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            repeat_reports(&database).await;
        }
    });
}

async fn repeat_reports(database: &Database) {
    let flags = ["--workers", "0"];
    let system = System::start(Shape::AllInOne, database, &flags).await;
    let http = Http::new(system.http_addr());
    let address = system.grpc_addr();
    let direct = client(address);
    let order_id = http.create_order().await;

    // The first attempt fails, which can be seen when the second one is handed out.
    let first = lease(&direct).await;
    let (lossy, forwarding) = one_way(address).await;
    let failing = fail(client(lossy), first.clone());
    let (lost, second) = join!(failing, async {
        let second = lease(&direct).await;
        drop(forwarding);
        second
    });
    lost.expect_err("no answer");
    let results = fail(direct.clone(), first).await.expect("an answer");
    assert!(is_applied(&results), "{results:?}");
    // It has ended the first attempt only.
    let heartbeat = HeartbeatRequest {
        tokens: vec![second.clone()],
        lease: None,
    };
    let answer = direct.clone().heartbeat(heartbeat).await;
    assert_eq!(answer.expect("an answer").into_inner().lost, []);

    let (lossy, forwarding) = one_way(address).await;
    let completing = complete(client(lossy), second.clone());
    let (lost, ()) = join!(completing, async {
        http.wait_for_status(&order_id, "PROCESSED").await;
        drop(forwarding);
    });
    lost.expect_err("no answer");
    let results = complete(direct, second).await.expect("an answer");
    assert!(is_applied(&results), "{results:?}");
    let history = http.get(&format!("/orders/{order_id}/events")).await.json();
    assert_eq!(history["events"].as_array().map(Vec::len), Some(3));

    system.stop().await;
}

#[test]
fn workers_outside_have_two_connections_of_their_own() {
    run(async {
        let database = database!(Engine::Postgres);
        let system = System::start(Shape::AllInOne, &database, &["--workers", "0"]).await;
        let http = Http::new(system.http_addr());
        let workers = client(system.grpc_addr());
        let mut tokens = Vec::new();
        for _ in 0..8 {
            http.create_order().await;
            tokens.push(lease(&workers).await);
        }
        let sql = database.sql().await;
        sql.batch_execute(
            "CREATE FUNCTION sleepy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_sleep(0.5);
                RETURN NULL;
            END $$;
            CREATE TRIGGER sleepy AFTER UPDATE ON jobs EXECUTE FUNCTION sleepy()",
        )
        .await
        .expect("made slow");

        let heartbeats = join_all(tokens.into_iter().map(|token| {
            let mut workers = workers.clone();
            let tokens = vec![token];
            async move {
                let lease = None;
                let answer = workers.heartbeat(HeartbeatRequest { tokens, lease }).await;
                assert_eq!(answer.expect("an answer").into_inner().lost, []);
            }
        }));
        let most = Cell::new(0);
        let count = async {
            let asleep = "SELECT count(*) FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event = 'PgSleep'";
            loop {
                let n: i64 = sql.query_one(asleep, &[]).await.expect("counted").get(0);
                most.set(most.get().max(n));
            }
        };
        tokio::select! {
            _ = heartbeats => {}
            () = count => {}
        }
        assert_eq!(most.get(), 2);
        system.stop().await;
    });
}
