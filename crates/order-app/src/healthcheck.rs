//! Asks a running process whether it is ready: the health check of a container whose image
//! has no HTTP client.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use axum::http::Method;

use crate::admin;

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Succeeds if the process whose admin listener is at `admin_addr` answers /readyz with 200.
pub async fn check(admin_addr: SocketAddr) -> anyhow::Result<()> {
    let request = (Method::GET, "/readyz", String::new());
    let (status, _) = admin::call(admin_addr, request, TIMEOUT).await?;
    ensure!(
        status.is_success(),
        "not ready: /readyz answered {}",
        status.as_u16()
    );
    Ok(())
}
