//! An order that kills the process that works on it, every time.
//!
//! The release binaries have no hook for that. Workers post orders to an endpoint of the
//! storm, each to a path with its name, and the storm kills the worker that posted the
//! poisoned one.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use http_body_util::Full;
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    fleet::Fleet,
    promise::{Database, Verdict},
};

/// How long the endpoint works on an order, as long as the processor it replaces.
const WORK: Duration = Duration::from_millis(200);

/// The longest body that is read, in bytes.
const BODY_LEN_MAX: usize = 64 * 1024;

/// How long the poisoned order is posted until it is acknowledged.
const POST_TIMEOUT: Duration = Duration::from_mins(1);

/// Kills that wait; a worker has one poisoned order at most.
const KILLS_MAX: usize = 16;

/// Poisoned orders that are not FAILED for the right reason.
const NOT_FAILED: &str = "SELECT count(*) FROM orders WHERE metadata->>'poison' IS NOT NULL \
     AND NOT (status = 4 AND failure_code = 'ATTEMPTS_EXHAUSTED')";

/// The endpoint, and the workers that are to be killed.
pub(super) struct Poison {
    address: SocketAddr,
    victims: mpsc::Receiver<String>,
    n_kills: u32,
    _serving: JoinSet<()>,
}

impl Poison {
    /// Starts the endpoint.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (sender, victims) = mpsc::channel(KILLS_MAX);
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, sender));
        Ok(Self {
            address,
            victims,
            n_kills: 0,
            _serving: serving,
        })
    }

    /// What makes a worker post its orders here.
    pub(super) fn settings(&self, worker: &str) -> Vec<(&'static str, String)> {
        let url = format!("http://{}/{worker}", self.address);
        vec![
            ("PROCESSOR", "http".to_owned()),
            ("FULFILMENT_URL", url),
            (
                "FULFILMENT_SECRET",
                format!("whsec_{}", "c3Rvcm0h".repeat(4)),
            ),
            ("FULFILMENT_ALLOWED_NETWORKS", "127.0.0.0/8".to_owned()),
        ]
    }

    /// Waits for the next worker that posts the poisoned order.
    ///
    /// # Cancel safety
    /// Dropping the future loses no worker.
    pub(super) async fn next_victim(&mut self) -> Option<String> {
        self.victims.recv().await
    }

    /// Kills a worker, which starts again. One that was killed by the storm at the same
    /// moment dies once more.
    pub(super) async fn kill(&mut self, fleet: &mut Fleet, worker: &str) -> anyhow::Result<()> {
        let mut members = fleet.members.iter();
        let n = members.position(|member| member.name == worker);
        fleet.kill(n.context("no such worker")?).await?;
        self.n_kills += 1;
        Ok(())
    }

    /// Kills every worker that posts the poisoned order. Ends with an error only.
    pub(super) async fn kill_all(&mut self, fleet: &mut Fleet) -> anyhow::Result<()> {
        while let Some(worker) = self.next_victim().await {
            self.kill(fleet, &worker).await?;
        }
        anyhow::bail!("the endpoint has ended")
    }

    /// Checks that the poisoned order failed, and after it had killed.
    pub(super) async fn judge(
        &self,
        database: &Database,
        verdict: &mut Verdict,
    ) -> anyhow::Result<()> {
        println!("{} workers killed by the poisoned order", self.n_kills);
        ensure!(self.n_kills > 0, "the poisoned order killed nothing");
        let n = database.count(NOT_FAILED).await?;
        verdict.must_be_none(n, "poisoned orders that are not FAILED");
        Ok(())
    }
}

/// Posts the poisoned order until it is acknowledged.
pub(super) async fn post(urls: &[String]) -> anyhow::Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let deadline = Instant::now() + POST_TIMEOUT;
    for url in urls.iter().cycle() {
        ensure!(
            Instant::now() < deadline,
            "no gateway takes the poisoned order"
        );
        let body = r#"{"user_id":"poison","amount":1,"metadata":{"poison":"yes"}}"#;
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", "poison")
            .body(Full::from(body))?;
        let answer = tokio::time::timeout(POST_TIMEOUT / 4, client.request(request)).await;
        if matches!(answer, Ok(Ok(answer)) if answer.status() == StatusCode::CREATED) {
            break;
        }
        sleep(WORK).await;
    }
    Ok(())
}

async fn accept(listener: TcpListener, victims: mpsc::Sender<String>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let victims = victims.clone();
        connections.spawn(async move {
            // Ends when the worker closes the connection or dies.
            let _ended = serve(stream, &victims).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Answers every order with 204, and the poisoned one never.
async fn serve(stream: TcpStream, victims: &mpsc::Sender<String>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (path, body) = read_request(&mut stream).await?;
        if String::from_utf8_lossy(&body).contains("\"poison\"") {
            victims.send(path.trim_matches('/').to_owned()).await?;
            stream.read_u8().await?;
        }
        sleep(WORK).await;
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await?;
    }
}

/// Reads the path and the body of a request.
async fn read_request(stream: &mut BufReader<TcpStream>) -> anyhow::Result<(String, Vec<u8>)> {
    let mut first = String::new();
    ensure!(stream.read_line(&mut first).await? > 0, "closed");
    let path = first.split(' ').nth(1).context("no path")?.to_owned();
    let mut len = 0;
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "closed");
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            len = value.trim().parse()?;
        }
    }
    ensure!(len <= BODY_LEN_MAX, "a body of {len} bytes");
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    Ok((path, body))
}
