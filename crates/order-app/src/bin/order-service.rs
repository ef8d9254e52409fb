//! The order service: gRPC, WebSocket and workers on a database.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    order_app::cli::order_service().await
}
