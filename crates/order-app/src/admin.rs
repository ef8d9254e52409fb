//! Calls the admin listener of a running process.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, anyhow};
use axum::http::{Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// The longest answer that is read, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024;

/// Sends a request to the admin listener at `addr` and returns the status and the text of the
/// answer, if it comes within `limit`.
pub(crate) async fn call(
    addr: SocketAddr,
    (method, path, body): (Method, &str, String),
    limit: Duration,
) -> anyhow::Result<(StatusCode, String)> {
    let addr = reachable(addr);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, addr.to_string())
        .body(Full::new(Bytes::from(body)))?;
    timeout(limit, exchange(addr, request))
        .await
        .with_context(|| format!("no answer from {addr} within {limit:?}"))?
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

async fn exchange(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(addr)
        .await
        .with_context(|| format!("cannot connect to {addr}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answered = async move {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_LEN_MAX).collect().await;
        let body = body.map_err(|error| anyhow!(error))?.to_bytes();
        anyhow::Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection ends when the sender is gone; what breaks it breaks the answer, too.
    let (answered, _) = tokio::join!(answered, connection);
    answered.with_context(|| format!("{addr} did not answer as HTTP"))
}
