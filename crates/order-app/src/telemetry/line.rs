//! Lines of the log as `tracing-subscriber` formats them, in a third of the time: at full load
//! every request is a line.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::config::LogFormat;

/// Fields that the bridge from `log` adds to text, where they say what the line says anyway.
const BRIDGE_FIELDS: [&str; 4] = ["log.target", "log.module_path", "log.file", "log.line"];

/// Formats the usual line itself, and leaves lines with colours or spans to `library`.
pub(super) struct Lines<F> {
    pub(super) format: LogFormat,
    pub(super) library: F,
}

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if writer.has_ansi_escapes() || ctx.event_scope().is_some() {
            return self.library.format_event(ctx, writer, event);
        }
        let bridged = event.normalized_metadata();
        let (level, target) = bridged.as_ref().map_or_else(
            || (event.metadata().level(), event.metadata().target()),
            |metadata| (metadata.level(), metadata.target()),
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "lines have the time of the machine, as those of the library"
        )]
        let now = Timestamp::now();
        match self.format {
            LogFormat::Text => {
                write!(writer, "{now:.6} {level:>5} {target}: ")?;
                let mut fields = TextFields {
                    out: &mut writer,
                    separator: "",
                    result: Ok(()),
                };
                event.record(&mut fields);
                fields.result?;
            }
            LogFormat::Json => {
                write!(writer, r#"{{"timestamp":"{now:.6}","level":"{level}""#)?;
                let mut fields = JsonFields {
                    out: &mut writer,
                    result: Ok(()),
                };
                event.record(&mut fields);
                fields.result?;
                writer.write_str(r#","target":"#)?;
                write_json(&mut writer, target)?;
                writer.write_char('}')?;
            }
        }
        writer.write_char('\n')
    }
}

fn name_of(field: &Field) -> &'static str {
    let name = field.name();
    name.strip_prefix("r#").unwrap_or(name)
}

/// Whether a text is the same within quotes.
fn is_plain(text: &str) -> bool {
    let is_plain = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    text.bytes().all(is_plain)
}

/// Writes `message a="text" b=1`.
struct TextFields<'a, 'w> {
    out: &'a mut Writer<'w>,
    separator: &'static str,
    result: fmt::Result,
}

impl TextFields<'_, '_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let name = name_of(field);
        if self.result.is_err() || BRIDGE_FIELDS.contains(&name) {
            return;
        }
        let separator = std::mem::replace(&mut self.separator, " ");
        self.result = self.out.write_str(separator).and_then(|()| {
            if name != "message" {
                self.out.write_str(name)?;
                self.out.write_char('=')?;
            }
            value(self.out)
        });
    }
}

impl Visit for TextFields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, |out| {
            if field.name() == "message" {
                out.write_str(value)
            } else if is_plain(value) {
                out.write_char('"')?;
                out.write_str(value)?;
                out.write_char('"')
            } else {
                write!(out, "{value:?}")
            }
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, |out| write!(out, "{value:?}"));
    }
}

/// Writes `,"message":"…","a":"text","b":1`.
struct JsonFields<'a, 'w> {
    out: &'a mut Writer<'w>,
    result: fmt::Result,
}

impl JsonFields<'_, '_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.out.write_char(',').and_then(|()| {
                write_json(self.out, name_of(field))?;
                self.out.write_char(':')?;
                value(self.out)
            });
        }
    }
}

impl Visit for JsonFields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.write(field, |out| match serde_json::Number::from_f64(value) {
            Some(number) => write!(out, "{number}"),
            None => out.write_str("null"),
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, |out| write!(out, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, |out| write!(out, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, |out| write!(out, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, |out| write_json(out, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, |out| {
            out.write_char('"')?;
            write!(InString(out), "{value:?}")?;
            out.write_char('"')
        });
    }
}

fn write_json(out: &mut Writer<'_>, text: &str) -> fmt::Result {
    out.write_char('"')?;
    InString(out).write_str(text)?;
    out.write_char('"')
}

/// The inside of a string in JSON.
struct InString<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for InString<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text) {
            return self.0.write_str(text);
        }
        let quoted = serde_json::to_string(text).map_err(|_| fmt::Error)?;
        let escaped = quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        self.0.write_str(escaped.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

    use tracing::subscriber::with_default;
    use tracing_subscriber::{
        Layer, Registry,
        fmt::{format, layer},
        layer::SubscriberExt as _,
        registry,
    };

    use super::*;
    use crate::telemetry::tests::Buffer;

    /// The lines that a layer writes, with a constant in place of the time.
    fn logged<L: Layer<Registry> + Send + Sync>(
        layer: impl FnOnce(fn() -> Buffer) -> L,
        log: impl FnOnce(),
    ) -> Vec<String> {
        static OUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().expect("no panic");
        with_default(registry().with(layer(|| Buffer(&OUT))), log);
        let bytes = std::mem::take(&mut *OUT.lock().expect("no panic"));
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.split_terminator('\n').map(without_time).collect()
    }

    fn without_time(line: &str) -> String {
        const LEN: usize = "2026-11-29T05:00:00.123456Z".len();
        let time = |at: &usize| line.get(*at..*at + LEN)?.parse::<Timestamp>().ok();
        let at = (0..line.len()).find(|at| time(at).is_some());
        let at = at.expect("a time");
        format!("{}TIME{}", &line[..at], &line[at + LEN..])
    }

    fn log() {
        let odd = "tab\t quote\" back\\slash größer 家 \u{202e}\u{7f}\r";
        let error = io::Error::other("it \"failed\"");
        tracing::event!(
            target: "http_access",
            tracing::Level::INFO,
            request.id = %"0199-abcd",
            trace.id = None::<&str>,
            http.path = "/orders",
            http.status = Some(201_u16),
            duration_us = 1234_u64,
            duration_ms = 1.0,
            "{}", "answered"
        );
        tracing::warn!(odd, shown = %odd, debug = ?Some(odd), "größer \"than\" {}", 1);
        tracing::error!(n = -5, big = u128::MAX, is = true, not = f64::NAN, error = %error);
        tracing::error!(ratio = 0.1, huge = 1e300, whole = 2e16, r#type = "x", "");
        tracing::info_span!("span", of = 1).in_scope(|| tracing::info!(a = 1, "in a span"));
    }

    #[test]
    fn lines_are_those_of_the_library() {
        let text = |writer| layer().with_ansi(false).with_writer(writer);
        let own = |writer| {
            let library = format::Format::default();
            text(writer).event_format(Lines {
                format: LogFormat::Text,
                library,
            })
        };
        let lines = logged(own, log);
        assert_eq!(lines.len(), 5);
        assert_eq!(lines, logged(text, log));

        let json = |writer| text(writer).json().flatten_event(true);
        let own = |writer| {
            let library = format::Format::default().json().flatten_event(true);
            let lines = Lines {
                format: LogFormat::Json,
                library,
            };
            json(writer).event_format(lines)
        };
        let lines = logged(own, log);
        assert_eq!(lines.len(), 5);
        assert_eq!(lines, logged(json, log));
    }

    /// The library leaves out of text whatever begins with `log.`.
    #[test]
    fn text_has_fields_about_the_log() {
        let own = |writer| {
            let library = format::Format::default();
            let lines = Lines {
                format: LogFormat::Text,
                library,
            };
            layer()
                .with_ansi(false)
                .with_writer(writer)
                .event_format(lines)
        };
        let log = || {
            tracing::event!(
                target: "t",
                tracing::Level::WARN,
                log.filter = "info",
                log.line = 1,
                "changed"
            );
        };
        assert_eq!(
            logged(own, log),
            [r#"TIME  WARN t: changed log.filter="info""#]
        );
    }
}
