//! Lines of a file as requests: one JSON object or one row of a table each.

use order_core::{CreateFields, CreateOrder, Error, Metadata, Violation};
use order_web::json::{self, Fields};

use crate::ctl::csv;

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
    /// A field of an order that is one text.
    Text(&'static str),
    Metadata(String),
}

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
        for name in ["user_id", "amount"] {
            if !columns.contains(&Column::Text(name)) {
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
        if let Some(known) = json::CREATE.iter().find(|known| **known == name)
            && *known != "metadata"
        {
            return Ok(Self::Text(known));
        }
        match name.strip_prefix("metadata.") {
            Some(key) if Metadata::new([(key.to_owned(), String::new())]).is_ok() => {
                Ok(Self::Metadata(key.to_owned()))
            }
            Some(_) => Err("must have 1 to 40 characters after metadata."),
            None => Err("unknown column"),
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
    let mut fields = CreateFields::default();
    for (column, cell) in columns.iter().zip(cells) {
        match column {
            Column::Text(name) => fields.set(name, cell),
            Column::Metadata(name) => {
                let entry = cell.map(|value| (name.clone(), value.into_owned()));
                fields.metadata.extend(entry);
            }
        }
    }
    finish(fields)
}

fn parse_json(line: &str) -> Result<CreateOrder, Vec<Violation>> {
    let fields = Fields::parse(line, json::CREATE).map_err(|error| {
        if error.is_data() {
            return whole_line("must be a JSON object");
        }
        // The text ends with a position, whose line is always the first.
        let message = error.to_string();
        let what = message.split(" at line ").next().unwrap_or_default();
        whole_line(format!("is not JSON at column {}: {what}", error.column()))
    })?;
    finish(fields.into_create())
}

fn finish(fields: CreateFields<'_>) -> Result<CreateOrder, Vec<Violation>> {
    fields.finish().map_err(|error| match error {
        Error::InvalidArgument { violations } => violations,
        other => whole_line(other.to_string()),
    })
}

#[cfg(test)]
mod tests;
