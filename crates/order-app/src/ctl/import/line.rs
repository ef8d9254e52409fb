//! Lines of a file as requests: one JSON object or one row of a table each.

use std::{borrow::Cow, fmt};

use order_core::{CreateOrder, Metadata, Violation};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::ctl::{csv, draft::Draft};

/// How the lines of a file are read.
pub(super) enum LineParser {
    /// Each line is a JSON object.
    Json,
    /// Each line is a row with these columns.
    Table(Vec<Column>),
}

/// What a column of a table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    UserId,
    Amount,
    Currency,
    ExternalId,
    Metadata(String),
}

/// The most fields of an object that are looked at.
const FIELDS_MAX: usize = 32;

impl LineParser {
    /// Reads a line without its end.
    ///
    /// # Errors
    /// Every rule that the line breaks.
    pub(super) fn parse(&self, line: &[u8]) -> Result<CreateOrder, Vec<Violation>> {
        let line = text(line)?;
        match self {
            Self::Json => parse_json(line),
            Self::Table(columns) => parse_row(columns, line),
        }
    }

    /// Reads the header of a table.
    ///
    /// # Errors
    /// What is wrong with the columns.
    pub(super) fn from_header(line: &[u8]) -> Result<Self, Vec<Violation>> {
        let cells = csv::split(text(line)?).map_err(whole_line)?;
        let mut columns = Vec::with_capacity(cells.len());
        let mut violations = Vec::new();
        for name in cells {
            let name = name.unwrap_or_default();
            match Column::parse(&name) {
                Ok(column) if columns.contains(&column) => {
                    violations.push(Violation::new(name, "is given twice"));
                }
                Ok(column) => columns.push(column),
                Err(rule) => violations.push(Violation::new(name, rule)),
            }
        }
        for (column, name) in [(Column::UserId, "user_id"), (Column::Amount, "amount")] {
            if !columns.contains(&column) {
                violations.push(Violation::new(name, "is missing in the header"));
            }
        }
        if violations.is_empty() {
            Ok(Self::Table(columns))
        } else {
            Err(violations)
        }
    }
}

impl Column {
    fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "user_id" => Ok(Self::UserId),
            "amount" => Ok(Self::Amount),
            "currency" => Ok(Self::Currency),
            "external_id" => Ok(Self::ExternalId),
            _ => match name.strip_prefix("metadata.") {
                Some(key) if Metadata::new([(key.to_owned(), String::new())]).is_ok() => {
                    Ok(Self::Metadata(key.to_owned()))
                }
                Some(_) => Err("must have 1 to 40 characters after metadata."),
                None => Err("unknown column"),
            },
        }
    }
}

fn text(line: &[u8]) -> Result<&str, Vec<Violation>> {
    std::str::from_utf8(line)
        .map_err(|error| whole_line(format!("is not UTF-8 at byte {}", error.valid_up_to() + 1)))
}

/// A rule that is about no field in particular.
fn whole_line(rule: impl Into<String>) -> Vec<Violation> {
    vec![Violation::new("", rule)]
}

fn parse_row(columns: &[Column], line: &str) -> Result<CreateOrder, Vec<Violation>> {
    let cells = csv::split(line).map_err(whole_line)?;
    if cells.len() != columns.len() {
        let (found, wanted) = (cells.len(), columns.len());
        let rule = format!("must have {wanted} cells like the header, not {found}");
        return Err(whole_line(rule));
    }
    let mut draft = Draft::default();
    for (column, cell) in columns.iter().zip(cells) {
        match column {
            Column::UserId => draft.user_id = cell,
            Column::Amount => draft.amount = cell,
            Column::Currency => draft.currency = cell,
            Column::ExternalId => draft.external_id = cell,
            Column::Metadata(name) => {
                let entry = cell.map(|value| (name.clone(), value.into_owned()));
                draft.metadata.extend(entry);
            }
        }
    }
    draft.finish()
}

fn parse_json(line: &str) -> Result<CreateOrder, Vec<Violation>> {
    let Entries(fields) = serde_json::from_str(line).map_err(|error| {
        if error.is_data() {
            return whole_line("must be a JSON object");
        }
        // The text ends with a position, whose line is always the first.
        let message = error.to_string();
        let what = message.split(" at line ").next().unwrap_or_default();
        whole_line(format!("is not JSON at column {}: {what}", error.column()))
    })?;
    let mut draft = Draft::default();
    // Five names are known, so more fields than this cannot all be right.
    for (n, (name, value)) in fields.iter().enumerate().take(FIELDS_MAX) {
        if fields.iter().take(n).any(|(before, _)| before == name) {
            draft.refuse(name.as_str(), "is given twice");
            continue;
        }
        match name.as_str() {
            "user_id" => draft.user_id = string(&mut draft, name, value),
            "amount" => draft.amount = decimal(&mut draft, value),
            "currency" => draft.currency = string(&mut draft, name, value),
            "external_id" => draft.external_id = string(&mut draft, name, value),
            "metadata" => metadata(&mut draft, value),
            _ => draft.refuse(shorten(name), "unknown field"),
        }
    }
    draft.finish()
}

fn metadata(draft: &mut Draft<'_>, value: &RawValue) {
    let Ok(Entries(entries)) = serde_json::from_str(value.get()) else {
        return draft.refuse("metadata", "must be an object");
    };
    if entries.len() > Metadata::LEN_MAX {
        let len_max = Metadata::LEN_MAX;
        return draft.refuse("metadata", format!("must have at most {len_max} entries"));
    }
    for (name, value) in entries {
        match parse_string(value.get()) {
            Some(_) if draft.metadata.iter().any(|(before, _)| *before == name) => {
                draft.refuse(format!("metadata/{}", shorten(&name)), "is given twice");
            }
            Some(value) => draft.metadata.push((name, value.into_owned())),
            None => draft.refuse(format!("metadata/{}", shorten(&name)), "must be a string"),
        }
    }
}

fn string<'a>(draft: &mut Draft<'_>, name: &str, value: &'a RawValue) -> Option<Cow<'a, str>> {
    let text = parse_string(value.get());
    if text.is_none() {
        draft.refuse(name, "must be a string");
    }
    text
}

/// The text of a number, given as a number or as a string: it never passes through floating
/// point.
fn decimal<'a>(draft: &mut Draft<'_>, value: &'a RawValue) -> Option<Cow<'a, str>> {
    let raw = value.get();
    if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Some(Cow::Borrowed(raw));
    }
    let text = parse_string(raw);
    if text.is_none() {
        draft.refuse("amount", "must be a number or a decimal string");
    }
    text
}

fn parse_string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// A name as it came, cut so that a long one does not fill the report, and without what
/// would break its line.
fn shorten(name: &str) -> String {
    let visible = name.chars().filter(|c| !c.is_control());
    visible.take(Metadata::NAME_CHARS_MAX).collect()
}

/// The names and values of a JSON object, as they are written.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::with_capacity(5);
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests;
