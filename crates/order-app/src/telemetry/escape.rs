//! Escapes control and bidirectional characters in log lines.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use order_core::visible;

/// Writes lines in which text of users can neither command a terminal, nor begin another line,
/// nor turn the order of what is shown.
///
/// Each call of `write` is one line with its end, as the formatters of the log write it.
pub(super) struct Escaped<W> {
    inner: W,
    /// Whether the formatter colours lines. It escapes ESC in values then.
    has_colours: bool,
}

impl<W> Escaped<W> {
    pub(super) fn new(inner: W, has_colours: bool) -> Self {
        Self { inner, has_colours }
    }

    /// Whether a character is written as it is.
    fn is_harmless(&self, character: char) -> bool {
        visible::is_harmless(character) || (character == '\u{1b}' && self.has_colours)
    }
}

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (text, end) = match line.split_last() {
            Some((b'\n', text)) => (text, "\n"),
            _ => (line, ""),
        };
        if text.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            self.inner.write_all(line)?;
            return Ok(line.len());
        }
        let text = String::from_utf8_lossy(text);
        let mut escaped =
            escape_unless(&text, |character| self.is_harmless(character)).into_owned();
        escaped.push_str(end);
        self.inner.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Text of others as one line that a terminal shows and does not follow.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_unless(text, visible::is_harmless)
}

fn escape_unless(text: &str, is_harmless: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&is_harmless) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_harmless(character) {
            escaped.push(character);
        } else {
            // All of these have four digits. In JSON they are inside a string, where this
            // means the same character. Memory can always be written to.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::subscriber::with_default;
    use tracing_subscriber::{fmt, layer::SubscriberExt as _, registry};

    use super::*;
    use crate::{
        config::LogFormat,
        telemetry::{line::Lines, tests::Buffer},
    };

    fn escaped(line: &str, has_colours: bool) -> String {
        let mut out = Vec::new();
        let written = Escaped::new(&mut out, has_colours).write(line.as_bytes());
        assert_eq!(written.expect("memory"), line.len());
        String::from_utf8(out).expect("UTF-8")
    }

    /// What both formatters make of a line, with its line end.
    fn logged(text: &str) -> [String; 2] {
        let out: &'static Mutex<Vec<u8>> = Box::leak(Box::default());
        let writer = move || Escaped::new(Buffer(out), false);
        let lines = || fmt::layer().with_ansi(false).with_writer(writer);
        let log = || tracing::info!(user = %text, "{text}");
        let take = || String::from_utf8(std::mem::take(&mut *out.lock().expect("no panic")));
        let library = fmt::format::Format::default();
        let format = LogFormat::Text;
        let text = lines().event_format(Lines { format, library });
        with_default(registry().with(text), log);
        let plain = take().expect("UTF-8");
        let library = fmt::format::Format::default().json().flatten_event(true);
        let format = LogFormat::Json;
        let json = lines().json().event_format(Lines { format, library });
        with_default(registry().with(json), log);
        [plain, take().expect("UTF-8")]
    }

    #[test]
    fn text_of_a_user_is_one_line_in_both_formats() {
        let text = "x\u{1b}]0;y\u{7}\u{202e}z\n2026-01-01 INFO forged\u{9b}2J\r";
        let [plain, json] = logged(text);
        for line in [&plain, &json] {
            let (line, rest) = line.split_once('\n').expect("a line");
            assert_eq!(rest, "");
            let is_bad = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!line.contains(is_bad), "{line:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let user = json.get("user").and_then(|user| user.as_str());
        assert!(
            user.is_some_and(|user| user.contains("\u{202e}z\n2026")),
            "{json}"
        );
    }

    #[test]
    fn what_commands_a_terminal_is_escaped() {
        assert_eq!(escaped("plain\n", false), "plain\n");
        assert_eq!(escaped("größer 家\n", false), "größer 家\n");
        assert_eq!(
            escaped("a\u{1b}[2Jb\rc\nd\u{9b}e\u{7f}\n", false),
            "a\\u001b[2Jb\\u000dc\\u000ad\\u009be\\u007f\n"
        );
        assert_eq!(
            escaped("a\u{202e}b\u{2066}c\u{2028}d\u{200f}\n", false),
            "a\\u202eb\\u2066c\\u2028d\\u200f\n"
        );
        assert_eq!(escaped("\u{1b}[31mred\n", true), "\u{1b}[31mred\n");
    }
}
