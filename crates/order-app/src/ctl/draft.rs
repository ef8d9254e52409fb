//! An order on its way from text to a request.

use std::borrow::Cow;

use order_core::{CreateOrder, Error, ExternalId, Metadata, Money, UserId, Violation};

/// The most broken rules that are told of one order.
const VIOLATIONS_MAX: usize = 32;

/// The fields of a wanted order as text, and what is wrong with them so far.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub(super) user_id: Option<Cow<'a, str>>,
    pub(super) amount: Option<Cow<'a, str>>,
    pub(super) currency: Option<Cow<'a, str>>,
    pub(super) external_id: Option<Cow<'a, str>>,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) violations: Vec<Violation>,
}

impl Draft<'_> {
    /// Notes that `field` broke `rule`.
    pub(super) fn refuse(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation::new(field, rule));
        }
    }

    /// Checks every field, so that everything that is wrong is told at once.
    ///
    /// # Errors
    /// Every broken rule that was found.
    pub(super) fn finish(mut self) -> Result<CreateOrder, Vec<Violation>> {
        let user_id = self.user_id.take().map(|text| UserId::parse(&text));
        let user_id = self.required("user_id", user_id);
        let currency = self.currency.take();
        let currency = currency.as_deref().unwrap_or(Money::CURRENCY_DEFAULT);
        let money = self.amount.take().map(|text| Money::parse(&text, currency));
        let money = self.required("amount", money);
        let external_id = self.external_id.take().map(|text| ExternalId::parse(&text));
        let external_id = external_id.and_then(|parsed| self.check(parsed));
        let metadata = Metadata::new(std::mem::take(&mut self.metadata));
        let metadata = self.check(metadata);
        match (user_id, money, metadata) {
            (Some(user_id), Some(money), Some(metadata)) if self.violations.is_empty() => {
                Ok(CreateOrder {
                    metadata,
                    external_id,
                    ..CreateOrder::new(user_id, money)
                })
            }
            _ => Err(self.violations),
        }
    }

    fn required<T>(&mut self, field: &str, parsed: Option<Result<T, Error>>) -> Option<T> {
        // A field that was refused before is not missing.
        if parsed.is_none() && !self.violations.iter().any(|found| found.field == field) {
            self.refuse(field, "is required");
        }
        self.check(parsed?)
    }

    fn check<T>(&mut self, parsed: Result<T, Error>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(Error::InvalidArgument { violations }) => {
                let room = VIOLATIONS_MAX.saturating_sub(self.violations.len());
                self.violations.extend(violations.into_iter().take(room));
                None
            }
            Err(error) => {
                self.refuse("", error.to_string());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let draft = Draft {
            amount: Some("0".into()),
            external_id: Some("".into()),
            metadata: vec![("a".to_owned(), "\u{7}".to_owned())],
            ..Draft::default()
        };
        let violations = draft.finish().expect_err("wrong");
        let told: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "user_id: is required",
                "amount: must be greater than 0",
                "external_id: must not be empty",
                "metadata/a: the value must not contain control characters",
            ]
        );
    }

    #[test]
    fn what_is_told_has_a_limit() {
        let mut draft = Draft::default();
        for n in 0..100 {
            draft.refuse(n.to_string(), "unknown field");
        }
        let violations = draft.finish().expect_err("wrong");
        assert_eq!(violations.len(), VIOLATIONS_MAX);
    }
}
