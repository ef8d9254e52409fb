//! Asks a running process whether it is ready: the health check of a container whose image
//! has no HTTP client.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Succeeds if the process whose admin listener is at `admin_addr` answers /readyz with 200.
pub async fn check(admin_addr: SocketAddr) -> anyhow::Result<()> {
    let addr = reachable(admin_addr);
    let status = timeout(TIMEOUT, status_of_readyz(addr))
        .await
        .with_context(|| format!("no answer from {addr} within {TIMEOUT:?}"))??;
    if status != "200" {
        bail!("not ready: /readyz answered {status}");
    }
    Ok(())
}

/// An address that is listened on but cannot be connected to stands for this host.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    addr
}

async fn status_of_readyz(addr: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(addr)
        .await
        .with_context(|| format!("cannot connect to {addr}"))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200" is all that is needed of the answer.
    let mut head = [0; 12];
    stream
        .read_exact(&mut head)
        .await
        .context("the answer is not HTTP")?;
    let head = std::str::from_utf8(&head).context("the answer is not HTTP")?;
    head.strip_prefix("HTTP/1.1 ")
        .map(str::to_owned)
        .context("the answer is not HTTP")
}
