//! The query of a URL: every parameter known, given once unless it may be repeated, and
//! all that is wrong reported at once.

use std::num::{IntErrorKind, ParseIntError};

use order_core::{Error, PageSize, Version, Violations, violations::shorten};
use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// The parameters of a query.
pub(crate) struct Query {
    given: Vec<(&'static str, String)>,
    /// What is wrong so far; callers add to it.
    pub(crate) violations: Violations,
}

impl Query {
    /// Reads a query that may have the parameters `single`, each once, and `repeatable`.
    pub(crate) fn parse(
        query: Option<&str>,
        single: &[&'static str],
        repeatable: &[&'static str],
    ) -> Self {
        let mut parsed = Self {
            given: Vec::new(),
            violations: Violations::default(),
        };
        for (name, value) in pairs(query) {
            let name = name.unwrap_or_default();
            let is_named = |known: &&&'static str| **known == name;
            let is_repeatable = repeatable.iter().any(|known| *known == name);
            let known = repeatable.iter().chain(single).find(is_named);
            match (known, value) {
                (None, _) => parsed
                    .violations
                    .push(shorten(&name), "unknown query parameter"),
                (Some(known), None) => parsed
                    .violations
                    .push(*known, "must be percent-encoded UTF-8"),
                (Some(known), Some(_)) if !is_repeatable && parsed.find(known).is_some() => {
                    parsed.violations.push(*known, "is given twice");
                }
                (Some(known), Some(value)) => parsed.given.push((known, value)),
            }
        }
        parsed
    }

    /// The value of a parameter, as it came.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of a parameter, as they came.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.given
            .iter()
            .filter(move |(given, _)| *given == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads a parameter by its rules. `None` if it is absent, or broke a rule, which is
    /// then noted.
    ///
    /// # Errors
    /// An error that is not about the request.
    pub(super) fn check<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let text = self.find(name).map(String::from);
        self.violations.check_given(text.as_deref(), parse)
    }

    /// Ends the check: the value, if no rule was broken.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Problem> {
        self.violations
            .finish(Some(value))
            .map_err(Problem::Parameters)
    }
}

/// The names and values of a query; `None` for one that is not UTF-8, which the usual reader of
/// forms would change.
pub(crate) fn pairs(query: Option<&str>) -> impl Iterator<Item = (Option<String>, Option<String>)> {
    let pairs = query.unwrap_or_default().split('&');
    pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

fn decode(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// Reads the size of a page (AIP-158).
pub(super) fn parse_page_size(text: &str) -> Result<PageSize, Error> {
    let wanted = text
        .parse()
        .or_else(|error: ParseIntError| match error.kind() {
            // As far out of range as the largest number inside it.
            IntErrorKind::PosOverflow => Ok(i64::MAX),
            IntErrorKind::NegOverflow => Ok(i64::MIN),
            _ => Err(Error::invalid("page_size", "must be a whole number")),
        })?;
    PageSize::new(wanted)
}

/// Reads the version of an order that a client has seen, 0 for none; the error names the
/// parameter `name`.
pub(crate) fn parse_version(name: &str, text: &str) -> Result<Version, Error> {
    let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !is_number {
        return Err(Error::invalid(name, "must be a whole number from 0"));
    }
    text.parse()
        .map_err(|_| Error::invalid(name, format!("must be at most {}", Version::MAX)))
}
