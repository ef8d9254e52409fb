//! Logs.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged when RUST_LOG says nothing. The migration library tells each step; the
/// adapters say what was done in one line.
const FILTER_DEFAULT: &str = "info,refinery_core=warn";

/// Starts logging to standard error. Does nothing if the process already logs, so that
/// tests may call it more than once.
pub fn init(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER_DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // The only failure is that a subscriber is already set.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}
