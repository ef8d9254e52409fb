//! The rules that a request broke, collected so that a caller learns of all of them at once.

use crate::{Error, Violation};

/// The longest name made up by the client that is repeated to the client, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The rules that a request broke so far.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// The most broken rules that are reported at once, so that an answer stays small.
    pub const LEN_MAX: usize = 32;

    /// Notes that `field` broke `rule`. `field` is a JSON Pointer without its first slash.
    pub fn push(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        if self.0.len() < Self::LEN_MAX {
            self.0.push(Violation::new(field, rule));
        }
    }

    /// Notes that `field` is missing, unless it was given and refused.
    pub fn require(&mut self, field: &str) {
        if !self.0.iter().any(|found| found.field == field) {
            self.push(field, "is required");
        }
    }

    /// Takes a value if its rules hold, and notes those that do not.
    ///
    /// # Errors
    /// An error that is not about the request.
    pub fn check<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::InvalidArgument { violations }) => {
                for violation in violations {
                    self.push(violation.field, violation.rule);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a field, if it is given, by its rules.
    ///
    /// # Errors
    /// As for [`Self::check`].
    pub fn check_given<T>(
        &mut self,
        text: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        text.map_or(Ok(None), |text| self.check(parse(text)))
    }

    /// Ends the check: the value, if there is one and no rule was broken.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the broken rules.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Error> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            Some(_) | None => Err(Error::InvalidArgument { violations: self.0 }),
        }
    }
}

/// A name that the client made up, cut if it is long and without what would break a line.
pub fn shorten(name: &str) -> String {
    let mut visible = name.chars().filter(|c| !c.is_control());
    let mut short: String = visible.by_ref().take(NAME_CHARS_MAX).collect();
    if visible.next().is_some() {
        short.push('…');
    }
    short
}

/// A name that the client made up as one step of a JSON Pointer (RFC 6901 §3).
pub fn pointer_step(name: &str) -> String {
    shorten(name).replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_rules_have_a_limit() {
        let mut violations = Violations::default();
        for n in 0..100 {
            violations.push(n.to_string(), "unknown field");
        }
        let Err(Error::InvalidArgument { violations }) = violations.finish(Some(())) else {
            panic!("broken rules are an error");
        };
        assert_eq!(violations.len(), Violations::LEN_MAX);
    }

    #[test]
    fn names_of_clients_are_cut_and_escaped() {
        assert_eq!(pointer_step("a/b~\n"), "a~1b~0");
        let long = "ä".repeat(NAME_CHARS_MAX + 1);
        assert_eq!(shorten(&long).chars().count(), NAME_CHARS_MAX + 1);
        assert!(shorten(&long).ends_with('…'));
        assert_eq!(shorten(&long[2..]), long[2..]);
    }
}
