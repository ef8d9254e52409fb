//! The HTTP gateway in front of the order service.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    order_app::cli::api_gateway().await
}
