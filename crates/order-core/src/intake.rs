//! Parses requests to create orders from the texts that a transport has read.

use std::borrow::Cow;

use crate::{
    CreateOrder, Error, ExternalId, IdempotencyKey, Metadata, Money, OrderId, UserId, Violation,
    violations::Violations,
};

const N_TEXTS: usize = 5;

/// The fields of a request to create an order as they came, and what is wrong with them so far.
#[derive(Debug, Default)]
pub struct CreateFields<'a> {
    /// The id, if the caller made one.
    pub order_id: Option<Cow<'a, str>>,
    /// The amount in minor units, from callers that do not write it as decimal text.
    pub minor_units: Option<i64>,
    /// Metadata of the order.
    pub metadata: Vec<(String, String)>,
    /// The broken rules so far. Callers add those of parsing.
    pub violations: Violations,
    texts: [Option<Cow<'a, str>>; N_TEXTS],
}

impl<'a> CreateFields<'a> {
    /// The names of the fields that are text or, in the case of [`Self::AMOUNT`], a number.
    pub const TEXTS: [&'static str; N_TEXTS] = [
        "user_id",
        Self::AMOUNT,
        "currency",
        "external_id",
        "idempotency_key",
    ];

    /// The field that may be a number.
    pub const AMOUNT: &'static str = "amount";

    /// Fields with metadata only.
    pub fn new(metadata: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            metadata: metadata.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Takes the text of one of [`Self::TEXTS`]; `None` leaves it absent. Ignores other names.
    pub fn set(&mut self, name: &str, text: Option<Cow<'a, str>>) {
        let mut fields = Self::TEXTS.iter().zip(&mut self.texts);
        if let Some((_, field)) = fields.find(|(known, _)| **known == name) {
            *field = text;
        }
    }

    /// Checks every field, so that everything that is wrong is reported at once.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with every broken rule. Amounts are `amount`, however they came.
    pub fn finish(self) -> Result<CreateOrder, Error> {
        let Self {
            order_id,
            minor_units,
            metadata,
            mut violations,
            texts,
        } = self;
        let [user_id, amount, currency, external_id, key] = &texts;
        let order_id = violations.check_given(order_id.as_deref(), |text| {
            OrderId::parse_field("order_id", text)
        })?;
        if user_id.is_none() {
            violations.require("user_id");
        }
        let user_id = violations.check_given(user_id.as_deref(), UserId::parse)?;
        let currency = currency.as_deref().unwrap_or(Money::CURRENCY_DEFAULT);
        let money = match (amount, minor_units) {
            (Some(amount), _) => violations.check(Money::parse(amount, currency))?,
            (None, Some(minor_units)) => {
                violations.check(Money::from_minor_units(minor_units, currency))?
            }
            (None, None) => {
                violations.require(Self::AMOUNT);
                // There is no amount to judge, but a wrong currency is worth saying now.
                let any = violations.check(Money::from_minor_units(1, currency))?;
                any.and(None)
            }
        };
        let external_id = violations.check_given(external_id.as_deref(), ExternalId::parse)?;
        let metadata = violations.check(Metadata::new(metadata))?;
        let idempotency_key = violations.check_given(key.as_deref(), IdempotencyKey::parse)?;
        let request = user_id.zip(money).map(|(user_id, money)| CreateOrder {
            order_id,
            metadata: metadata.unwrap_or_default(),
            external_id,
            idempotency_key,
            ..CreateOrder::new(user_id, money)
        });
        violations.finish(request)
    }
}

/// Refuses a list that is empty or longer than `len_max`.
///
/// # Errors
/// [`Error::InvalidArgument`] for `field`.
pub fn check_len(field: &str, len: usize, len_max: usize) -> Result<(), Error> {
    if (1..=len_max).contains(&len) {
        return Ok(());
    }
    let rule = format!("must have 1 to {len_max} elements");
    Err(Error::invalid(field, rule))
}

/// Names the fields of a broken element from its list: `requests/3/user_id`.
///
/// # Errors
/// The error, with its fields renamed.
pub fn within<T>(list: &str, n: usize, element: Result<T, Error>) -> Result<T, Error> {
    element.map_err(|error| {
        error.with_fields(|field| match field.as_str() {
            "" => format!("{list}/{n}"),
            _ => format!("{list}/{n}/{field}"),
        })
    })
}

impl Error {
    /// The same error with the fields of its broken rules renamed.
    #[must_use]
    pub fn with_fields(self, rename: impl Fn(String) -> String) -> Self {
        match self {
            Self::InvalidArgument { violations } => {
                let renamed = violations.into_iter().map(|violation| Violation {
                    field: rename(violation.field),
                    rule: violation.rule,
                });
                Self::InvalidArgument {
                    violations: renamed.collect(),
                }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(fields: CreateFields<'_>) -> Vec<String> {
        match fields.finish() {
            Err(Error::InvalidArgument { violations }) => {
                violations.iter().map(ToString::to_string).collect()
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn everything_that_is_wrong_is_reported_at_once() {
        let mut fields = CreateFields {
            order_id: Some("x".into()),
            metadata: vec![("a".to_owned(), "\u{7}".to_owned())],
            ..CreateFields::default()
        };
        fields.set("amount", Some("0".into()));
        fields.set("external_id", Some("".into()));
        fields.set("idempotency_key", Some("a b".into()));
        fields.violations.push("b", "unknown field");
        let expected = [
            "b: unknown field",
            "order_id: must be a UUID like 0198c5a0-5d5c-7abc-8def-0123456789ab",
            "user_id: is required",
            "amount: must be greater than 0",
            "external_id: must not be empty",
            "metadata/a: the value must not contain control characters",
        ];
        let found = broken(fields);
        assert_eq!(found[..6], expected);
        assert!(found[6].starts_with("idempotency_key: "), "{found:?}");
    }

    #[test]
    fn currency_is_judged_without_an_amount_and_no_field_is_refused_twice() {
        let mut fields = CreateFields::default();
        fields.violations.push("user_id", "must be a string");
        fields.set("currency", Some("usd".into()));
        assert_eq!(
            broken(fields),
            [
                "user_id: must be a string",
                "amount: is required",
                "currency: must be an ISO 4217 code like USD",
            ]
        );
    }

    #[test]
    fn amounts_come_as_text_or_in_minor_units() {
        let fields = || {
            let mut fields = CreateFields::default();
            fields.set("user_id", Some("u".into()));
            fields
        };
        let mut text = fields();
        text.set("amount", Some("99.95".into()));
        let minor = CreateFields {
            minor_units: Some(9_995),
            ..fields()
        };
        let [text, minor] = [text, minor].map(|fields| fields.finish().expect("valid"));
        assert_eq!(text, minor);
    }
}
