//! No acknowledged order is lost, stuck or doubled while the order service is killed again
//! and again.
//!
//! Clients post orders through the gateway and write down every id that was answered with
//! 201. Meanwhile the service gets SIGKILL and is started again. Afterwards the database is
//! asked: every acknowledged order is there, is PROCESSED, and its history has no gap.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use order_testkit::server::postgres::PostgresServer;
use tokio::{task::JoinSet, time::Instant};

use super::{
    StormArgs,
    promise::{Database, Verdict},
};
use crate::system::{self, System};

/// The lease of the storm, short so that jobs of a killed process are soon taken over.
const LEASE: &str = "2s";

/// How long the orders may take to be processed after the last kill: the lease, a retry,
/// and time to spare on a slow machine.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long posting may take in all.
const POST_TIMEOUT: Duration = Duration::from_mins(5);

/// How long a client waits after an answer other than 201. The service is down for longer
/// than that; without it the clients would only spin.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// What the clients saw.
#[derive(Default)]
struct Log {
    acknowledged: Mutex<Vec<String>>,
    n_acknowledged: AtomicUsize,
    n_refused: AtomicUsize,
    n_unknown: AtomicUsize,
}

/// Runs the storm; fails if anything acknowledged was lost, doubled or stuck.
pub(super) async fn run(args: StormArgs) -> anyhow::Result<()> {
    let programs = system::build(args.release)?;
    let postgres = PostgresServer::start(&[]).await?;
    let settings = [
        ("LEASE", LEASE),
        ("RUST_LOG", "info,order_rpc=warn,order_web=warn"),
    ];
    let mut system = System::start_split(&programs, &postgres.url(), &settings).await?;

    let log = Arc::new(Log::default());
    let mut clients = start_clients(args, system.http_port, &log);
    for kill in 1..=args.kills {
        // The kills are spread over the orders, so that each one meets load.
        let target = args.orders * kill / (args.kills + 1);
        wait_for_acknowledged(&log, target).await?;
        system.service.kill().await?;
        println!(
            "kill {kill}: {} orders acknowledged",
            log.n_acknowledged.load(Ordering::Relaxed)
        );
        system.service.start().await?;
    }
    let posted = async {
        while let Some(client) = clients.join_next().await {
            client??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(POST_TIMEOUT, posted)
        .await
        .context("the clients did not finish")??;

    println!(
        "{} answers refused, {} unknown",
        log.n_refused.load(Ordering::Relaxed),
        log.n_unknown.load(Ordering::Relaxed),
    );
    let database = Database::connect(&postgres.url()).await?;
    database.settle(SETTLE_TIMEOUT).await?;
    let acknowledged = log
        .acknowledged
        .lock()
        .map_err(|_| anyhow::anyhow!("poisoned"))?
        .clone();
    let mut verdict = Verdict::default();
    database.check(&acknowledged, &mut verdict).await?;
    verdict.give()?;
    system.stop().await
}

fn start_clients(args: StormArgs, port: u16, log: &Arc<Log>) -> JoinSet<anyhow::Result<()>> {
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
    let mut clients = JoinSet::new();
    for n in 0..args.clients {
        let (client, log) = (client.clone(), Arc::clone(log));
        clients.spawn(async move {
            while log.n_acknowledged.load(Ordering::Relaxed) < args.orders {
                post_order(&client, port, n, &log).await?;
            }
            Ok(())
        });
    }
    clients
}

async fn post_order(client: &HttpClient, port: u16, n: usize, log: &Log) -> anyhow::Result<()> {
    let body = format!("{{\"user_id\":\"storm-{n}\",\"amount\":100}}");
    let request = Request::post(format!("http://127.0.0.1:{port}/orders"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body))?;
    let answer = async {
        let response = client.request(request).await?;
        let status = response.status();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    let Ok(Ok((status, body))) = tokio::time::timeout(ANSWER_TIMEOUT, answer).await else {
        log.n_unknown.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    match status {
        StatusCode::CREATED => {
            let order: serde_json::Value = serde_json::from_slice(&body)?;
            let id = order
                .get("order_id")
                .and_then(|id| id.as_str())
                .context("no order_id")?;
            log.acknowledged
                .lock()
                .map_err(|_| anyhow::anyhow!("poisoned"))?
                .push(id.to_owned());
            log.n_acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            log.n_refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
        }
        other => bail!(
            "unexpected answer {other}: {}",
            String::from_utf8_lossy(&body)
        ),
    }
    Ok(())
}

async fn wait_for_acknowledged(log: &Log, target: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + POST_TIMEOUT;
    while log.n_acknowledged.load(Ordering::Relaxed) < target {
        ensure!(
            Instant::now() < deadline,
            "only {} orders were acknowledged",
            log.n_acknowledged.load(Ordering::Relaxed)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
