//! The resident memory of an idle WebSocket connection.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::system::System;

/// The handshake of RFC 6455 with the sample key of its section 1.3.
const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// Connections that are opened before the first look, so that what the process allocates
/// once does not count.
const WARM_UP: u32 = 200;

/// How long the memory must stay the same to count as settled.
const SETTLED: Duration = Duration::from_secs(2);

/// Prints the resident memory per connection of `order-service` with `n` idle connections.
pub(super) async fn measure(programs: &Path, n: u32) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(crate::workspace_root().join("target"))?;
    let url = format!("sqlite:{}", dir.path().join("orders.db").display());
    let limit = (n + WARM_UP).to_string();
    let settings = [
        ("WS_MAX_CONNECTIONS_PER_ADDRESS", limit.as_str()),
        ("RUST_LOG", "warn,order_app=info"),
    ];
    let system = System::start_all_in_one(programs, &url, &settings).await?;
    let pid = system.service.id()?;
    let mut sockets = Vec::new();
    open(&mut sockets, system.ws_port, WARM_UP).await?;
    let before = settled_rss_kib(pid).await?;
    open(&mut sockets, system.ws_port, n).await?;
    let after = settled_rss_kib(pid).await?;
    println!(
        "\nidle WebSocket: {n} connections took {} KiB, {:.1} KiB each (resident, without the kernel's socket buffers)",
        after - before,
        f64::from(u32::try_from(after - before)?) / f64::from(n),
    );
    drop(sockets);
    system.stop().await
}

async fn open(sockets: &mut Vec<TcpStream>, port: u16, n: u32) -> anyhow::Result<()> {
    for _ in 0..n {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.write_all(HANDSHAKE.as_bytes()).await?;
        let mut answer = [0; 512];
        let len = socket.read(&mut answer).await?;
        let answer = answer.get(..len).unwrap_or_default();
        ensure!(
            answer.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(answer)
        );
        sockets.push(socket);
    }
    Ok(())
}

async fn settled_rss_kib(pid: u32) -> anyhow::Result<i64> {
    let (mut value, mut since) = (rss_kib(pid)?, Instant::now());
    while since.elapsed() < SETTLED {
        sleep(Duration::from_millis(100)).await;
        let next = rss_kib(pid)?;
        if next != value {
            (value, since) = (next, Instant::now());
        }
    }
    Ok(value)
}

fn rss_kib(pid: u32) -> anyhow::Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .context("no VmRSS in the status of the process")
}
