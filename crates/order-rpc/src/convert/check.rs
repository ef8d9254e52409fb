//! The rules of requests, collected so that a caller learns of all that are broken at once.

use order_core::{Cause, Error, Violation};

use crate::proto;

/// The broken rules of one message.
#[derive(Default)]
pub(super) struct Checker {
    violations: Vec<Violation>,
}

impl Checker {
    /// Keeps the value; moves the broken rules here.
    pub(super) fn keep<T>(&mut self, checked: Result<T, Error>) -> Result<Option<T>, Error> {
        self.keep_as(checked, |field| field)
    }

    /// Keeps the value; moves the broken rules here, their fields renamed by `rename`.
    pub(super) fn keep_as<T>(
        &mut self,
        checked: Result<T, Error>,
        rename: impl Fn(String) -> String,
    ) -> Result<Option<T>, Error> {
        match checked {
            Ok(value) => Ok(Some(value)),
            Err(Error::InvalidArgument { violations }) => {
                self.violations
                    .extend(violations.into_iter().map(|violation| Violation {
                        field: rename(violation.field),
                        rule: violation.rule,
                    }));
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Reads a field for which empty text means that it is not given.
    pub(super) fn keep_given<T>(
        &mut self,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match text {
            "" => Ok(None),
            text => self.keep(parse(text)),
        }
    }

    /// Adds a broken rule.
    pub(super) fn refuse(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        self.violations.push(Violation::new(field, rule));
    }

    /// The request, if all of it was kept and no rule is broken.
    pub(super) fn finish<T>(self, request: Option<T>) -> Result<T, Error> {
        match request {
            Some(request) if self.violations.is_empty() => Ok(request),
            _ => Err(Error::InvalidArgument {
                violations: self.violations,
            }),
        }
    }
}

/// Names the fields of a broken element from its list: `requests/3/user_id`.
pub(super) fn within<T>(list: &str, n: usize, element: Result<T, Error>) -> Result<T, Error> {
    let mut checker = Checker::default();
    let kept = checker.keep_as(element, |field| format!("{list}/{n}/{field}"))?;
    checker.finish(kept)
}

/// Refuses a list that is empty or longer than `len_max`.
pub(super) fn check_len(field: &str, len: usize, len_max: usize) -> Result<(), Error> {
    if (1..=len_max).contains(&len) {
        return Ok(());
    }
    let rule = format!("must have 1 to {len_max} elements");
    Err(Error::invalid(field, rule))
}

/// [`Cause::new`] cuts what does not fit; a client is told instead.
pub(super) fn check_cause(cause: &proto::Cause, checker: &mut Checker) -> Cause {
    let kept = Cause::new(cause.code.as_str(), cause.message.as_str());
    check_code(&kept, &cause.code, checker);
    if kept.message != cause.message {
        let rule = format!(
            "must have at most {} characters and no control characters",
            Cause::MESSAGE_CHARS_MAX
        );
        checker.refuse("cause/message", rule);
    }
    kept
}

/// Refuses a code of which [`Cause::new`] kept only a part, or nothing.
pub(super) fn check_code(kept: &Cause, code: &str, checker: &mut Checker) {
    if kept.code.is_empty() || kept.code != code {
        let rule = format!(
            "must have 1 to {} letters, digits and underscores",
            Cause::CODE_LEN_MAX
        );
        checker.refuse("cause/code", rule);
    }
}
