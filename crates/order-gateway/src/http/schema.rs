//! Schemas of what is read by hand: bodies, parameters and their parts. Limits come from
//! the domain, so that the document cannot say anything else than the code does.

use std::collections::BTreeMap;

use order_core::{Cause, ExternalId, Metadata, Money, OrderStatus, UserId};
use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ArrayBuilder, KnownFormat, Object, ObjectBuilder, RefOr, Schema, SchemaFormat, Type,
        schema::{AdditionalProperties, AnyOfBuilder},
    },
};

/// Text without control characters, as ECMA-262 knows them.
const NO_CONTROLS: &str = r"^[^\u0000-\u001F\u007F-\u009F]*$";

/// The body of `POST /orders`.
pub(super) struct CreateOrderRequest;

/// The body of `POST /orders/{order_id}/cancel`.
pub(super) struct CancelOrderRequest;

/// The body of `POST /orders/{order_id}/retry`.
pub(super) struct RetryOrderRequest;

/// The body of `POST /stream-tickets`.
pub(super) struct StreamTicketRequest;

impl ToSchema for CreateOrderRequest {}
impl ToSchema for CancelOrderRequest {}
impl ToSchema for RetryOrderRequest {}
impl ToSchema for StreamTicketRequest {}

impl PartialSchema for CreateOrderRequest {
    /// What amounts there are depends on the currency: one alternative for each number of
    /// decimal places.
    fn schema() -> RefOr<Schema> {
        let alternatives = currencies_by_decimal_places().into_iter();
        alternatives
            .fold(AnyOfBuilder::new(), |any_of, (places, currencies)| {
                any_of.item(create_order(places, currencies))
            })
            .description(Some("An order to be stored and processed."))
            .into()
    }
}

impl PartialSchema for CancelOrderRequest {
    fn schema() -> RefOr<Schema> {
        let reason = text(1, Cause::MESSAGE_CHARS_MAX);
        object()
            .property(
                "reason",
                reason.description(Some("Why, in your own words.")),
            )
            .into()
    }
}

impl PartialSchema for RetryOrderRequest {
    fn schema() -> RefOr<Schema> {
        object().into()
    }
}

impl PartialSchema for StreamTicketRequest {
    fn schema() -> RefOr<Schema> {
        let description = "The user whose orders may be watched with the ticket.";
        object()
            .property("user_id", user_id().description(Some(description)))
            .required("user_id")
            .into()
    }
}

fn create_order(decimal_places: usize, currencies: Vec<String>) -> ObjectBuilder {
    let currency = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("ISO 4217."));
    let is_default = currencies
        .iter()
        .any(|code| code == Money::CURRENCY_DEFAULT);
    let currency = if is_default {
        currency.default(Some(json!(Money::CURRENCY_DEFAULT)))
    } else {
        currency
    };
    let order = object()
        .title(Some(match decimal_places {
            0 => "Order in a currency without decimal places".to_owned(),
            n => format!("Order in a currency with {n} decimal places"),
        }))
        .property(
            "user_id",
            user_id().description(Some("Who places the order.")),
        )
        .property("amount", amount(decimal_places))
        .property("currency", currency.enum_values(Some(currencies)))
        .property(
            "external_id",
            external_id().description(Some(
                "The name of the order in your own system, unique among the orders of the user.",
            )),
        )
        .property("metadata", metadata())
        .required("user_id")
        .required("amount");
    if is_default {
        order
    } else {
        order.required("currency")
    }
}

/// Amounts in major units, as a number or as text.
fn amount(decimal_places: usize) -> AnyOfBuilder {
    let places = i32::try_from(decimal_places).unwrap_or_default();
    // As JSON has them: both are exact in 17 digits.
    let scale = 10_f64.powi(places);
    #[expect(clippy::cast_precision_loss, reason = "2^53 - 1 is a double")]
    let largest = Money::MINOR_UNITS_MAX as f64 / scale;
    let number = ObjectBuilder::new()
        .schema_type(Type::Number)
        .exclusive_minimum(Some(0))
        .maximum(Some(largest))
        .multiple_of(Some(1.0 / scale));
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(amount_pattern(decimal_places)));
    AnyOfBuilder::new()
        .item(number)
        .item(text)
        .description(Some("What it is worth, in major units, exactly."))
}

/// Decimal text above 0, with as many digits before the point as every amount below the
/// largest one may have.
fn amount_pattern(decimal_places: usize) -> String {
    let at_most = |digits: usize| format!("[0-9]{{0,{digits}}}");
    let whole = format!("[1-9]{}", at_most(14_usize.saturating_sub(decimal_places)));
    if decimal_places == 0 {
        return format!("^{whole}$");
    }
    // After `0.`, perhaps some zeros and then a digit that is none.
    let below_one: Vec<String> = (0..decimal_places)
        .map(|zeros| {
            let rest = at_most(decimal_places - zeros - 1);
            format!("{}[1-9]{rest}", "0".repeat(zeros))
        })
        .collect();
    format!(
        r"^(?:{whole}(?:\.[0-9]{{1,{decimal_places}}})?|0\.(?:{}))$",
        below_one.join("|")
    )
}

/// Every currency that an amount may have, by its number of decimal places. The domain
/// knows, and is asked about each code there could be.
fn currencies_by_decimal_places() -> BTreeMap<usize, Vec<String>> {
    let letters = || 'A'..='Z';
    let codes = letters().flat_map(|a| {
        letters().flat_map(move |b| letters().map(move |c| String::from_iter([a, b, c])))
    });
    let mut by_places = BTreeMap::<_, Vec<_>>::new();
    for code in codes {
        if let Ok(smallest) = Money::from_minor_units(1, &code) {
            // `1`, `0.1`, `0.01`, …
            let places = smallest.to_string().len().saturating_sub(2);
            by_places.entry(places).or_default().push(code);
        }
    }
    by_places
}

fn metadata() -> ObjectBuilder {
    let name = text(1, Metadata::NAME_CHARS_MAX).build();
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("Whatever you want to keep with the order."))
        .max_properties(Some(Metadata::LEN_MAX))
        .property_names(Some(name))
        .additional_properties(Some(text(0, Metadata::VALUE_CHARS_MAX)))
}

/// An object with no other fields than those that are added.
fn object() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
}

/// Text without control characters.
fn text(chars_min: usize, chars_max: usize) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(chars_min))
        .max_length(Some(chars_max))
        .pattern(Some(NO_CONTROLS))
}

/// A text with at least one visible character and no white space at its ends.
fn name(chars_max: usize) -> ObjectBuilder {
    // The same characters as in `order_core`, written without look-around, which not every
    // reader of the document has.
    let controls = r"\u0000-\u001F\u007F-\u009F";
    let spaces = r" \u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000";
    let invisible = r"\u00AD\u200B-\u200F\u202A-\u202E\u2060-\u206F\uFEFF";
    let any = format!("[^{controls}]*");
    let end = format!("[^{controls}{spaces}]");
    let visible = format!("[^{controls}{spaces}{invisible}]");
    let pattern = format!(
        "^({visible}|{visible}{any}{end}|{end}{any}{visible}|{end}{any}{visible}{any}{end})$"
    );
    text(1, chars_max).pattern(Some(pattern))
}

/// The name of a user.
pub(super) fn user_id() -> ObjectBuilder {
    name(UserId::CHARS_MAX)
}

/// The name of an order in the client's own system.
pub(super) fn external_id() -> ObjectBuilder {
    name(ExternalId::CHARS_MAX)
}

/// The name of a status.
pub(super) fn status() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(OrderStatus::ALL.map(OrderStatus::as_str)))
        .build()
}

/// A list of statuses.
pub(super) fn statuses() -> ArrayBuilder {
    ArrayBuilder::new().items(status())
}

/// A point in time (RFC 3339).
pub(super) fn time() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

/// A whole number from 0.
pub(super) fn count() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
}

/// A UUID.
pub(super) fn uuid() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::Custom("uuid".to_owned())))
}

/// Text that matches `pattern`.
pub(super) fn text_like(pattern: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currencies_are_sorted_by_decimal_places() {
        let currencies = currencies_by_decimal_places();
        let has = |places, code: &str| currencies[&places].iter().any(|known| known == code);
        assert!(has(2, "USD") && has(2, "EUR") && has(0, "JPY") && has(3, "KWD"));
        assert!(!currencies.values().flatten().any(|code| code == "XAU"));
    }

    #[test]
    fn amounts_of_the_pattern_are_amounts() {
        assert_eq!(
            amount_pattern(2),
            r"^(?:[1-9][0-9]{0,12}(?:\.[0-9]{1,2})?|0\.(?:[1-9][0-9]{0,1}|0[1-9][0-9]{0,0}))$"
        );
        for (amount, currency) in [
            ("9999999999999.99", "USD"),
            ("0.01", "USD"),
            ("999999999999999", "JPY"),
            ("999999999999.999", "KWD"),
        ] {
            assert!(
                Money::parse(amount, currency).is_ok(),
                "{amount} {currency}"
            );
        }
    }
}
