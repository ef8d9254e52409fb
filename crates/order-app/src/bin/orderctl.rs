//! The command-line client of the order system.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    order_app::ctl::main().await
}
