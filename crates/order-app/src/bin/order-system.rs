//! The order system in one process.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    order_app::cli::order_system().await
}
