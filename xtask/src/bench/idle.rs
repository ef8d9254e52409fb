//! The resident memory of an idle connection: a WebSocket, and a stream of server-sent events.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::system::{System, settled_rss_kib};

/// The handshake of RFC 6455 with the sample key of its section 1.3.
const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// Connections that are opened before the first look, so that what the process allocates
/// once does not count.
const WARM_UP: u32 = 200;

/// Connections from one source address: below the limit the server has for one.
const PER_ADDRESS: usize = 900;

/// Prints the resident memory per idle connection of `order-system`, with `n` of each kind.
pub(super) async fn measure(programs: &Path, n: u32) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(crate::workspace_root().join("target"))?;
    let url = format!("sqlite:{}", dir.path().join("orders.db").display());
    // Without workers the order that is watched never moves.
    let settings = [("WORKERS", "0"), ("RUST_LOG", "warn,order_app=info")];
    let system = System::start_all_in_one(programs, &url, &settings).await?;
    println!();
    let handshake = Opening {
        port: system.ws_port,
        request: HANDSHAKE.to_owned(),
        answer: "HTTP/1.1 101",
    };
    handshake.measure("WebSocket", &system, n).await?;
    let order_id = create_order(system.http_port).await?;
    let stream = Opening {
        port: system.http_port,
        request: format!(
            "GET /orders/{order_id}/events HTTP/1.1\r\nHost: localhost\r\n\
             Accept: text/event-stream\r\n\r\n"
        ),
        answer: "HTTP/1.1 200",
    };
    stream.measure("event stream", &system, n).await?;
    system.stop().await
}

/// How a connection is opened that is then left alone.
struct Opening {
    port: u16,
    request: String,
    /// How the answer begins.
    answer: &'static str,
}

impl Opening {
    async fn measure(&self, what: &str, system: &System, n: u32) -> anyhow::Result<()> {
        let pid = system.service.id()?;
        let mut connections = Vec::new();
        self.open(&mut connections, WARM_UP).await?;
        let before = settled_rss_kib(pid).await?;
        self.open(&mut connections, n).await?;
        let after = settled_rss_kib(pid).await?;
        println!(
            "idle {what}: {n} connections took {} KiB, {:.1} KiB each (resident, without the kernel's socket buffers)",
            after - before,
            f64::from(u32::try_from(after - before)?) / f64::from(n),
        );
        Ok(())
    }

    async fn open(&self, connections: &mut Vec<TcpStream>, n: u32) -> anyhow::Result<()> {
        for _ in 0..n {
            let n_address = u8::try_from(2 + connections.len() / PER_ADDRESS)?;
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, n_address), 0)))?;
            let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let mut connection = socket.connect(server).await?;
            connection.write_all(self.request.as_bytes()).await?;
            let mut answer = [0; 1024];
            let len = connection.read(&mut answer).await?;
            let answer = answer.get(..len).unwrap_or_default();
            ensure!(
                answer.starts_with(self.answer.as_bytes()),
                "{}",
                String::from_utf8_lossy(answer)
            );
            connections.push(connection);
        }
        Ok(())
    }
}

/// Posts an order and returns its id.
async fn create_order(port: u16) -> anyhow::Result<String> {
    let body = r#"{"user_id":"bench","amount":1}"#;
    let request = format!(
        "POST /orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (_, rest) = answer
        .split_once("\"order_id\":\"")
        .with_context(|| format!("no order id in {answer}"))?;
    let (order_id, _) = rest.split_once('"').context("the end of the id")?;
    Ok(order_id.to_owned())
}
