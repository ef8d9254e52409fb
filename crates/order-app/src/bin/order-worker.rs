//! Workers on a database, scaled on their own.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    order_app::cli::order_worker().await
}
