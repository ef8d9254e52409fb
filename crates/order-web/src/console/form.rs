//! Forms: what the browser sends, and the rules it broke beside the fields.

use http::{header::CONTENT_TYPE, request::Parts};
use maud::{Markup, html};
use order_core::{Error, Violation};

use super::text;
use crate::http::{
    operation::Call,
    problem::Problem,
    query::{Query, pairs},
};

/// A form that was sent. A field that is empty counts as absent.
pub(super) struct Form(Query);

impl Form {
    /// Reads the body of a form that has the fields `known`, each once.
    pub(super) fn read(call: &Call, known: &[&'static str]) -> Result<Self, Problem> {
        let content_type = call.parts.headers.get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let kind = content_type.and_then(|value| value.split(';').next());
        if kind.map(str::trim) != Some("application/x-www-form-urlencoded") {
            return Err(Error::invalid("", "must be a form").into());
        }
        let body = std::str::from_utf8(&call.body)
            .map_err(|_| Error::invalid("", "must be a form in UTF-8"))?;
        Self::parse(body, known)
    }

    /// Reads the query of a form that was sent by `GET`.
    pub(super) fn parse(text: &str, known: &[&'static str]) -> Result<Self, Problem> {
        let mut query = Query::parse(Some(&given(text)), known, &[]);
        let violations = std::mem::take(&mut query.violations);
        violations
            .finish(Some(Self(query)))
            .map_err(Problem::Parameters)
    }

    /// The text of a field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.find(name)
    }
}

/// A query without the fields that are empty.
pub(super) fn given(query: &str) -> String {
    let pairs = query
        .split('&')
        .filter(|pair| !pair.ends_with('=') && !pair.is_empty());
    pairs.collect::<Vec<_>>().join("&")
}

/// The first value of a parameter.
pub(super) fn value_of(query: &str, name: &str) -> Option<String> {
    pairs(Some(query)).find_map(|(known, value)| value.filter(|_| known.as_deref() == Some(name)))
}

/// Makes times as the console writes them, `2026-11-23 09:30:00`, times as the API reads them.
pub(super) fn with_times(query: &str) -> String {
    let names = ["created_after", "created_before"];
    let pairs = query.split('&').map(|pair| {
        let Some((name, value)) = pair
            .split_once('=')
            .filter(|(name, _)| names.contains(name))
        else {
            return pair.to_owned();
        };
        let decoded = value_of(pair, name).unwrap_or_default();
        let text = decoded.trim();
        let is_plain = matches!(text.len(), 16 | 19)
            && text
                .bytes()
                .all(|c| c.is_ascii_digit() || b"-: T".contains(&c));
        if !is_plain {
            return format!("{name}={value}");
        }
        let seconds = if text.len() == 16 { ":00" } else { "" };
        format!("{name}={}{seconds}Z", text.replace(' ', "T"))
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// A field for text.
pub(super) struct Field<'a> {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) value: Option<&'a str>,
    pub(super) hint: &'static str,
    pub(super) is_required: bool,
    /// The longest text, in characters.
    pub(super) len_max: usize,
    /// How digits are typed on a phone.
    pub(super) is_number: bool,
    /// Whether the text has several lines.
    pub(super) is_long: bool,
}

impl Field<'_> {
    pub(super) const fn new(name: &'static str, label: &'static str) -> Self {
        Self {
            name,
            label,
            value: None,
            hint: "",
            is_required: false,
            len_max: 128,
            is_number: false,
            is_long: false,
        }
    }

    /// The field with the rules that its text broke.
    pub(super) fn render(&self, form: &str, violations: &[Violation]) -> Markup {
        let id = format!("{form}-{}", self.name);
        let error_id = format!("{id}-error");
        let broken: Vec<_> = violations
            .iter()
            .filter_map(|violation| Some((part_of(violation, self.name)?, &violation.rule)))
            .collect();
        let has_error = !broken.is_empty();
        let hint = Some(self.hint).filter(|hint| !hint.is_empty());
        let (invalid, described) = (
            has_error.then_some("true"),
            has_error.then_some(error_id.as_str()),
        );
        html! {
            div.field.long[self.is_long] {
                label for=(id) { (self.label) }
                @if self.is_long {
                    textarea id=(id) name=(self.name) rows="3" placeholder=[hint]
                        maxlength=(self.len_max) autocomplete="off" spellcheck="false"
                        aria-invalid=[invalid] aria-describedby=[described] {
                        // A reader of HTML drops the first line break.
                        "\n" (self.value.unwrap_or_default())
                    }
                } @else {
                    input id=(id) name=(self.name) type="text" value=[self.value] placeholder=[hint]
                        maxlength=(self.len_max) required[self.is_required] autocomplete="off" spellcheck="false"
                        inputmode=[self.is_number.then_some("decimal")]
                        aria-invalid=[invalid] aria-describedby=[described];
                }
                @if has_error {
                    p.error id=(error_id) {
                        @for (part, rule) in broken {
                            @if !part.is_empty() { (text::plain(part)) ": " }
                            (text::plain(rule)) " "
                        }
                    }
                }
            }
        }
    }
}

/// The part of the field `name` that broke a rule, empty for all of it; `None` for another field.
fn part_of<'a>(violation: &'a Violation, name: &str) -> Option<&'a str> {
    let part = violation.field.strip_prefix(name)?;
    if part.is_empty() {
        return Some(part);
    }
    part.strip_prefix('/')
}

/// The rules about fields that the form does not show, so that they are said as well.
pub(super) fn elsewhere<'a>(
    violations: &'a [Violation],
    shown: &'a [&str],
) -> impl Iterator<Item = &'a Violation> {
    violations
        .iter()
        .filter(|violation| !shown.iter().any(|name| part_of(violation, name).is_some()))
}

/// The message after a change. The address has only its name, so that no link can put words into the
/// mouth of this page.
pub(super) fn done(parts: &Parts) -> Option<&'static str> {
    let query = parts.uri.query()?;
    let name = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("done="))?;
    DONE.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

const DONE: &[(&str, &str)] = &[
    ("created", "The order was created."),
    ("cancelled", "The order was cancelled."),
    ("retried", "The order has a new round of attempts."),
    ("paused", "Paused. Processes follow within a few seconds."),
    ("resumed", "Resumed. Processes follow within a few seconds."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_console_writes_them() {
        for (query, expected) in [
            (
                "created_after=2026-11-23+09%3A30%3A00",
                "created_after=2026-11-23T09:30:00Z",
            ),
            (
                "a=b&created_before=2026-11-23T09:30",
                "a=b&created_before=2026-11-23T09:30:00Z",
            ),
            (
                "created_after=2026-11-23T09:30:00Z",
                "created_after=2026-11-23T09:30:00Z",
            ),
            ("created_after=yesterday", "created_after=yesterday"),
            ("", ""),
        ] {
            assert_eq!(with_times(query), expected);
        }
    }
}
