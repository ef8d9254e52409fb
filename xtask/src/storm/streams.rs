//! Many clients follow an order each at one gateway with one service, while orders are created:
//! every client gets every version once, no request fails, and a stream costs little memory.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use order_testkit::server::postgres::PostgresServer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::system::{self, System, settled_rss_kib};

/// How long the load goes on. Every followed order moves once within this time.
const LOAD_TIME: Duration = Duration::from_secs(20);

/// Orders created per second meanwhile.
const CREATES_PER_SECOND: u32 = 1_000;

/// Requests under way at the same time, and streams that are being opened.
const REQUESTS_MAX: usize = 256;

/// Streams from one source address: below the limit that the gateway has for one.
const PER_ADDRESS: u32 = 900;

/// How long a stream waits for its next bytes, keep-alives included.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The most memory of a stream in an optimised gateway.
const KIB_PER_STREAM_MAX: i64 = 16;

/// Follows `n` orders.
pub(super) async fn run(n: u32, release: bool) -> anyhow::Result<()> {
    let programs = system::build(release)?;
    let postgres = PostgresServer::start(&[]).await?;
    let settings = [
        // Nothing but this program moves an order.
        ("WORKERS", "0"),
        // The streams alone take the default.
        ("HTTP_MAX_CONNECTIONS", "20000"),
        ("RUST_LOG", "warn,order_app=info"),
    ];
    let system = System::start_split(&programs, &postgres.url(), &settings).await?;
    let api = Api::new(system.http_port);
    let creates = stream::iter(0..n).map(|_| api.create());
    let orders: Vec<String> = creates.buffer_unordered(REQUESTS_MAX).try_collect().await?;

    let gateway = system.gateway.as_ref().context("a gateway")?.id()?;
    let before = settled_rss_kib(gateway).await?;
    let open = (0..n)
        .zip(&orders)
        .map(|(n, order_id)| open(system.http_port, n, order_id));
    let streams: Vec<TcpStream> = stream::iter(open)
        .buffer_unordered(REQUESTS_MAX)
        .try_collect()
        .await?;
    let kib = settled_rss_kib(gateway).await? - before;
    let tenths = 10 * kib / i64::from(n.max(1));
    let (whole, tenths) = (tenths / 10, tenths % 10);
    println!("{n} event streams: {whole}.{tenths} KiB each in the gateway");

    let mut readers = JoinSet::new();
    for stream in streams {
        readers.spawn(read_to_the_end(stream));
    }
    let n_creates = CREATES_PER_SECOND * u32::try_from(LOAD_TIME.as_secs())?;
    tokio::try_join!(
        paced(0..n_creates, n_creates, async |_| api
            .create()
            .await
            .map(drop)),
        paced(&orders, n, async |order_id| api.cancel(order_id).await),
    )?;
    while let Some(read) = readers.join_next().await {
        read??;
    }
    println!("{n_creates} orders were created meanwhile, and every stream had every version once");
    ensure!(
        !release || kib <= KIB_PER_STREAM_MAX * i64::from(n),
        "a stream takes more than {KIB_PER_STREAM_MAX} KiB"
    );
    system.stop().await
}

/// Makes `n` requests, evenly over the time of the load.
async fn paced<T>(
    items: impl IntoIterator<Item = T>,
    n: u32,
    request: impl AsyncFn(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let requests = (0..n).zip(items).map(async |(k, item)| {
        sleep_until(start + LOAD_TIME.mul_f64(f64::from(k) / f64::from(n))).await;
        request(item).await
    });
    let requests = stream::iter(requests).buffer_unordered(REQUESTS_MAX);
    requests.try_collect::<()>().await
}

/// The API of the gateway.
struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

impl Api {
    fn new(port: u16) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: format!("http://127.0.0.1:{port}/orders"),
        }
    }

    /// Creates an order and returns its id.
    async fn create(&self) -> anyhow::Result<String> {
        let body = r#"{"user_id":"streams","amount":1}"#;
        let answer = self.send(self.url.clone(), body).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)?;
        let order_id = answer.get("order_id").and_then(|id| id.as_str());
        Ok(order_id.context("an order id")?.to_owned())
    }

    async fn cancel(&self, order_id: &str) -> anyhow::Result<()> {
        let url = format!("{}/{order_id}/cancel", self.url);
        self.send(url, "{}").await.map(drop)
    }

    async fn send(&self, url: String, body: &'static str) -> anyhow::Result<Bytes> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        let response = self.client.request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "{status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }
}

/// Asks for the events of an order, as client number `n`.
async fn open(port: u16, n: u32, order_id: &str) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let n_address = u8::try_from(2 + n / PER_ADDRESS)?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, n_address), 0)))?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = socket.connect(server).await?;
    let request = format!(
        "GET /orders/{order_id}/events HTTP/1.1\r\nHost: localhost\r\n\
         Accept: text/event-stream\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let text = read_until(&mut stream, "id: 1\n").await?;
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    Ok(stream)
}

/// Reads the second and last version of an order, and the end.
async fn read_to_the_end(mut stream: TcpStream) -> anyhow::Result<()> {
    let text = read_until(&mut stream, "event: end\n").await?;
    ensure!(text.matches("id: ").count() == 1, "{text}");
    ensure!(
        text.contains("id: 2\n") && text.contains("CANCELLED"),
        "{text}"
    );
    Ok(())
}

async fn read_until(stream: &mut TcpStream, wanted: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut bytes = [0; 1024];
        let len = timeout(READ_TIMEOUT, stream.read(&mut bytes)).await??;
        ensure!(len > 0, "the stream was cut after: {text}");
        let bytes = bytes.get(..len).unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(bytes));
    }
    Ok(text)
}
