//! Logs.

mod escape;
mod line;
mod waiting;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _},
    net::SocketAddr,
    panic::{self, PanicHookInfo},
    sync::OnceLock,
    thread,
};

use order_core::RequestId;
use order_web::admin::LogFilter;
use tracing_subscriber::{
    EnvFilter, Registry,
    fmt::{self, format::Format},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

pub(crate) use self::escape::escape;
use self::{escape::Escaped, line::Lines, waiting::WaitingLines};
use crate::config::LogFormat;

/// What is logged when RUST_LOG says nothing. The migration library tells each step; the
/// adapters say what was done in one line.
const FILTER_DEFAULT: &str = "info,refinery_core=warn";

/// The rule for filters, in RUST_LOG and while the process runs.
const FILTER_RULE: &str = "must be log levels (off, error, warn, info, debug, trace) separated by \
                           commas, each for everything or for one target, like \
                           info,order_worker=debug";

/// The names of the levels.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The filter of the log of this process. There is one log in a process, so there is one filter.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// The lines of the log of this process that wait to be written.
static LINES: OnceLock<WaitingLines> = OnceLock::new();

/// Lines that were dropped because too many waited.
pub(crate) fn n_dropped() -> usize {
    LINES.get().map_or(0, WaitingLines::n_dropped)
}

/// Waits until the lines that were logged before are written; gives up after a second.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// The filter in RUST_LOG; `None` if it is unset or empty.
pub(crate) fn filter() -> Option<String> {
    let filter = std::env::var(EnvFilter::DEFAULT_ENV).ok()?;
    (!filter.is_empty()).then_some(filter)
}

/// Starts logging to standard error. Does nothing if the process already logs, so that
/// tests may call it more than once.
pub fn init(format: LogFormat) {
    let given = filter();
    let parsed = given
        .as_deref()
        .map_or_else(|| parse(FILTER_DEFAULT), parse);
    let is_bad = parsed.is_err();
    let (filter, handle) =
        reload::Layer::new(parsed.unwrap_or_else(|_| EnvFilter::new(FILTER_DEFAULT)));
    // Colours are for people; a file or a collector would store the escape codes.
    let has_colours = io::stderr().is_terminal();
    let waiting = WaitingLines::default();
    let log = waiting.clone();
    let lines = fmt::layer()
        .with_ansi(has_colours)
        .with_writer(move || Escaped::new(log.clone(), has_colours))
        // A line that cannot be written is dropped. Saying so would mean to print to the same
        // broken place, which panics.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Json => {
            let library = Format::default().json().flatten_event(true);
            let lines = lines.json().event_format(Lines { format, library });
            registry.with(lines).try_init()
        }
        LogFormat::Text => {
            let library = Format::default();
            let lines = lines.event_format(Lines { format, library });
            registry.with(lines).try_init()
        }
    };
    // The only failure is that a subscriber is already set.
    if started.is_ok() {
        // Without a thread nothing is written. A process that gets none says so at its next step.
        let _ = waiting.write_to(io::stderr());
        let _ = LINES.set(waiting);
        let _ = FILTER.set(handle);
        panic::set_hook(Box::new(log_panic));
    }
    if is_bad {
        tracing::warn!(log.filter = given, "RUST_LOG is ignored: it {FILTER_RULE}");
    }
}

/// Logs a panic like everything else: the hook of the standard library waits for whoever reads
/// standard error, and writes what the panic says as it is.
fn log_panic(info: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    let thread = thread::current();
    tracing::error!(
        panic = info.payload_as_str().unwrap_or("without a text"),
        panic.location = info.location().map(tracing::field::display),
        panic.backtrace = is_captured.then(|| tracing::field::display(backtrace)),
        thread = thread.name(),
        "panicked"
    );
    if thread.name() == Some("main") {
        flush();
    }
}

/// Reads a filter. `EnvFilter` takes a misspelled level for a target, which would silence
/// everything else.
fn parse(text: &str) -> Result<EnvFilter, String> {
    let is_level = |level: &str| LEVELS.iter().any(|name| level.eq_ignore_ascii_case(name));
    let is_target = |target: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_:.-".contains(&byte);
        !target.is_empty() && target.bytes().all(is_plain)
    };
    let is_good = text.split(',').all(|part| match part.split_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(part),
    });
    let parsed = is_good.then(|| EnvFilter::try_new(text).ok()).flatten();
    parsed.ok_or_else(|| FILTER_RULE.to_owned())
}

/// The filter of the log of this process, for the admin listener.
pub(crate) struct Filter;

impl LogFilter for Filter {
    fn get(&self) -> String {
        let filter = FILTER
            .get()
            .and_then(|filter| filter.with_current(ToString::to_string).ok());
        filter.unwrap_or_default()
    }

    fn set(
        &self,
        filter: &str,
        request_id: &RequestId,
        client: Option<SocketAddr>,
    ) -> Result<(), String> {
        let wanted = parse(filter)?;
        let before = self.get();
        let log = || {
            tracing::warn!(
                log.filter = filter,
                log.filter_before = before,
                request.id = request_id.as_str(),
                client.address = client.map(|client| tracing::field::display(client.ip())),
                "the log level was changed"
            );
        };
        // One of the two filters may leave the line out.
        let is_logged = tracing::enabled!(tracing::Level::WARN);
        if is_logged {
            log();
        }
        let handle = FILTER
            .get()
            .ok_or("cannot be set: this process has no log")?;
        handle.reload(wanted).map_err(|error| error.to_string())?;
        if !is_logged {
            log();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Mutex};

    use super::*;

    /// Keeps the lines of the log.
    pub(super) struct Buffer(pub(super) &'static Mutex<Vec<u8>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn filter_is_levels_for_everything_or_for_a_target() {
        for good in [
            FILTER_DEFAULT,
            "off",
            "WARN",
            "info,http_access=off,order_rpc::interceptor::access_log=debug",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        // The first three would leave only lines of a target that does not exist.
        for bad in [
            "debgu",
            "info,order_worker",
            "",
            "info,",
            "a=b",
            "=info",
            "[span{x=1}]=info",
        ] {
            assert_eq!(parse(bad).err().as_deref(), Some(FILTER_RULE), "{bad}");
        }
    }
}
