//! Logs.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged when RUST_LOG says nothing. The migration library tells each step; the
/// adapters say what was done in one line.
const FILTER_DEFAULT: &str = "info,refinery_core=warn";

/// The filter in RUST_LOG; `None` if it is unset or empty.
pub(crate) fn filter() -> Option<String> {
    let filter = std::env::var(EnvFilter::DEFAULT_ENV).ok()?;
    (!filter.is_empty()).then_some(filter)
}

/// Starts logging to standard error. Does nothing if the process already logs, so that
/// tests may call it more than once.
pub fn init(format: LogFormat) {
    let filter = filter().and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(FILTER_DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for people; a file or a collector would store the escape codes.
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // A line that cannot be written is dropped. Saying so would mean to print to the same
        // broken place, which panics.
        .log_internal_errors(false);
    // The only failure is that a subscriber is already set.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}
