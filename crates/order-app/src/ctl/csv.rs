//! Rows of comma-separated values (RFC 4180), one per line.
//!
//! No field of an order may hold a line break, so a row always is one line: a broken quote
//! spoils its own line only, and lines can be counted and skipped without reading rows. A
//! cell that is absent is empty, and one that holds the empty text is `""`, as PostgreSQL
//! writes it.

use std::{
    borrow::Cow,
    io::{self, Write},
};

/// Splits a line, without its end, into cells.
///
/// # Errors
/// The rule that the line breaks.
pub(super) fn split(line: &str) -> Result<Vec<Option<Cow<'_, str>>>, &'static str> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let (cell, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (text, after) = split_quoted(quoted)?;
                (Some(text), after)
            }
            None => split_bare(rest)?,
        };
        cells.push(cell);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(cells),
            None => return Err("a quoted cell must end with its second quote"),
        }
    }
}

/// A cell and what follows it.
type Split<'a, T> = Result<(T, &'a str), &'static str>;

fn split_bare(rest: &str) -> Split<'_, Option<Cow<'_, str>>> {
    let (cell, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
    if cell.contains('"') {
        return Err("a cell with quotes must be quoted, and the quotes inside doubled");
    }
    let text = Some(cell).filter(|cell| !cell.is_empty());
    Ok((text.map(Cow::Borrowed), after))
}

/// Reads a quoted cell after its first quote.
fn split_quoted(quoted: &str) -> Split<'_, Cow<'_, str>> {
    let mut text = Cow::Borrowed("");
    let mut rest = quoted;
    loop {
        let (part, after) = rest
            .split_once('"')
            .ok_or("a quoted cell must end on its line")?;
        text += part;
        match after.strip_prefix('"') {
            Some(more) => {
                text += "\"";
                rest = more;
            }
            None => return Ok((text, after)),
        }
    }
}

/// Writes a line.
pub(super) fn write_row<'a>(
    out: &mut dyn Write,
    cells: impl Iterator<Item = Option<&'a str>>,
) -> io::Result<()> {
    for (n, cell) in cells.enumerate() {
        if n > 0 {
            out.write_all(b",")?;
        }
        match cell {
            Some(text) if text.is_empty() || text.contains(['"', ',']) => {
                write!(out, "\"{}\"", text.replace('"', "\"\""))?;
            }
            Some(text) => out.write_all(text.as_bytes())?,
            None => {}
        }
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_written() {
        for row in [
            vec![Some("a"), Some("b")],
            vec![Some(""), None, Some("")],
            vec![None],
            vec![Some("a,b"), Some("say \"hi\""), Some("\""), Some(" x ")],
            vec![Some("ä€"), None],
        ] {
            let mut line = Vec::new();
            write_row(&mut line, row.iter().copied()).expect("memory");
            let line = String::from_utf8(line).expect("text");
            let cells = split(line.strip_suffix('\n').expect("one line")).expect(&line);
            let cells: Vec<_> = cells.iter().map(|cell| cell.as_deref()).collect();
            assert_eq!(cells, row, "{line}");
        }
    }

    #[test]
    fn broken_quotes_are_refused() {
        for (line, rule) in [
            ("a,\"b", "a quoted cell must end on its line"),
            ("\"a\"\"", "a quoted cell must end on its line"),
            ("\"a\"b,c", "a quoted cell must end with its second quote"),
            (
                "a\"b,c",
                "a cell with quotes must be quoted, and the quotes inside doubled",
            ),
        ] {
            assert_eq!(split(line), Err(rule), "{line}");
        }
    }
}
