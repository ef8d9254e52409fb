//! Exact amounts of money.

use std::fmt;

use crate::{
    Error,
    currency::{self, CurrencyCode},
};

/// A positive amount in the minor units of an ISO 4217 currency.
///
/// No floating point is ever involved: amounts are parsed from decimal text and written
/// back as decimal text. An amount has at most 15 digits, which a client whose numbers are
/// IEEE 754 doubles reads exactly and writes back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    minor_units: i64,
    code: CurrencyCode,
    minor_digits: u8,
}

/// The longest amount that is looked at, in bytes. The longest canonical one has 16.
const TEXT_LEN_MAX: usize = 64;

impl Money {
    /// The largest amount, in minor units: 15 digits, as many as a double keeps of any decimal.
    pub const MINOR_UNITS_MAX: i64 = 10_i64.pow(f64::DIGITS) - 1;

    /// The currency of a request that names none.
    pub const CURRENCY_DEFAULT: &'static str = "USD";

    /// The most decimal places of an amount that was accepted earlier. 10^18 fits in an `i64`.
    const MINOR_DIGITS_MAX: u8 = 18;

    /// Rebuilds an amount that was accepted earlier, by this or another version of the program:
    /// its code is not checked against today's currencies. `minor_digits` are the decimal places
    /// that came with the amount; without them the code must be known.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the amount cannot be shown: it is not positive, the code is
    /// not three capital letters, or its decimal places are unknown or more than 18.
    pub fn from_accepted(
        minor_units: i64,
        currency: &str,
        minor_digits: Option<u8>,
    ) -> Result<Self, Error> {
        if minor_units <= 0 {
            return Err(Error::invalid("amount", "must be greater than 0"));
        }
        let unknown = || Error::invalid("currency", "has unknown decimal places");
        let code = parse_code(currency).ok_or_else(unknown)?;
        let minor_digits = minor_digits
            .or_else(|| currency::minor_digits(code))
            .filter(|digits| *digits <= Self::MINOR_DIGITS_MAX)
            .ok_or_else(unknown)?;
        Ok(Self {
            minor_units,
            code,
            minor_digits,
        })
    }

    /// Builds the amount of a request from minor units and a currency code.
    pub fn from_minor_units(minor_units: i64, currency: &str) -> Result<Self, Error> {
        let (code, minor_digits) = parse_currency(currency)?;
        if minor_units <= 0 {
            return Err(Error::invalid("amount", "must be greater than 0"));
        }
        if minor_units > Self::MINOR_UNITS_MAX {
            return Err(too_large(code, minor_digits));
        }
        Ok(Self {
            minor_units,
            code,
            minor_digits,
        })
    }

    /// Parses decimal text in the grammar of a JSON number (RFC 8259 §6): `100`, `99.95`, `1e2`.
    pub fn parse(amount: &str, currency: &str) -> Result<Self, Error> {
        let (code, minor_digits) = parse_currency(currency)?;
        let number = Decimal::parse(amount).ok_or_else(|| {
            Error::invalid("amount", "must be a decimal number like 100 or 99.95")
        })?;
        if number.is_negative || number.is_zero() {
            return Err(Error::invalid("amount", "must be greater than 0"));
        }
        // `digits × 10^exponent` major units are `digits × 10^shift` minor units.
        let shift = number.exponent.saturating_add(i64::from(minor_digits));
        if shift < 0 {
            let rule = match minor_digits {
                0 => format!("must have no decimal places in {currency}"),
                n => format!("must have at most {n} decimal places in {currency}"),
            };
            return Err(Error::invalid("amount", rule));
        }
        let digits = number.whole.bytes().chain(number.fraction.bytes());
        let minor_units = digits
            .map(|digit| i64::from(digit - b'0'))
            .chain(std::iter::repeat_n(
                0,
                usize::try_from(shift).unwrap_or(usize::MAX),
            ))
            .try_fold(0_i64, |sum, digit| {
                let next = sum.checked_mul(10)?.checked_add(digit)?;
                (next <= Self::MINOR_UNITS_MAX).then_some(next)
            })
            .ok_or_else(|| too_large(code, minor_digits))?;
        Ok(Self {
            minor_units,
            code,
            minor_digits,
        })
    }

    /// The amount in minor units, 1 to 10^15 − 1 if it was accepted by this version.
    pub const fn minor_units(&self) -> i64 {
        self.minor_units
    }

    /// The amount in major units, if that is a whole number.
    pub fn whole(&self) -> Option<i64> {
        let (major, minor) = self.split();
        (minor == 0).then_some(major)
    }

    /// The whole major units, and the minor units beside them.
    fn split(&self) -> (i64, i64) {
        let scale = 10_i64.pow(u32::from(self.minor_digits));
        (self.minor_units / scale, self.minor_units % scale)
    }

    /// The three letters of the currency.
    pub fn currency(&self) -> &str {
        // Both constructors take ASCII letters only.
        std::str::from_utf8(&self.code).unwrap_or_default()
    }

    /// The decimal places of the currency, 0 to 18: an amount in major units is
    /// `minor_units / 10^minor_digits`.
    pub const fn minor_digits(&self) -> u8 {
        self.minor_digits
    }
}

/// Writes the shortest decimal text of the amount in major units: `100`, `99.5`.
/// It is a JSON number and parses to the same amount.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.split();
        if minor == 0 {
            return write!(f, "{major}");
        }
        let fraction = format!("{minor:0width$}", width = usize::from(self.minor_digits));
        write!(f, "{major}.{}", fraction.trim_end_matches('0'))
    }
}

fn parse_code(code: &str) -> Option<CurrencyCode> {
    let is_capitals = code.bytes().all(|c| c.is_ascii_uppercase());
    code.as_bytes().try_into().ok().filter(|_| is_capitals)
}

fn parse_currency(currency: &str) -> Result<(CurrencyCode, u8), Error> {
    parse_code(currency)
        .and_then(|code| Some((code, currency::minor_digits(code)?)))
        .ok_or_else(|| Error::invalid("currency", "must be an ISO 4217 code like USD"))
}

fn too_large(code: CurrencyCode, minor_digits: u8) -> Error {
    let largest = Money {
        minor_units: Money::MINOR_UNITS_MAX,
        code,
        minor_digits,
    };
    let currency = largest.currency();
    Error::invalid("amount", format!("must be at most {largest} {currency}"))
}

/// A decimal number: ± its digits × 10^`exponent`, without trailing zeros.
struct Decimal<'a> {
    is_negative: bool,
    /// The digits before the point.
    whole: &'a str,
    /// Those after it.
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        let (is_negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some((whole, fraction)) => (whole, fraction),
            None => (mantissa, ""),
        };
        let is_digits = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
        let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
        if whole.is_empty() || has_leading_zero || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let (whole, n_trailing) = if fraction.is_empty() {
            let significant = whole.trim_end_matches('0');
            (significant, whole.len() - significant.len())
        } else {
            (whole, 0)
        };
        let exponent = exponent
            .saturating_sub(i64::try_from(fraction.len()).ok()?)
            .saturating_add(i64::try_from(n_trailing).ok()?);
        Some(Self {
            is_negative,
            whole,
            fraction,
            exponent,
        })
    }

    const fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }
}

fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    // An exponent beyond i64 is as far out of range as the largest one inside it.
    let magnitude = digits.parse::<i64>().unwrap_or(i64::MAX);
    Some(if text.starts_with('-') {
        -magnitude
    } else {
        magnitude
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(amount: &str, currency: &str) -> String {
        match Money::parse(amount, currency) {
            Err(Error::InvalidArgument { violations }) => violations
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn writes_the_number_that_came_in() {
        for (text, minor_units) in [
            ("100", 10_000),
            ("99.95", 9_995),
            ("99.5", 9_950),
            ("0.01", 1),
            ("9999999999999.99", Money::MINOR_UNITS_MAX),
        ] {
            let money = Money::parse(text, "USD").expect(text);
            assert_eq!(
                (money.minor_units(), money.to_string().as_str()),
                (minor_units, text)
            );
        }
    }

    /// What JavaScript's `JSON.parse` and `JSON.stringify` do to the largest and the smallest
    /// amounts.
    #[test]
    fn amounts_survive_a_client_that_computes_in_doubles() {
        for currency in ["JPY", "USD", "KWD", "CLF"] {
            let largest = Money::MINOR_UNITS_MAX - 10_000..=Money::MINOR_UNITS_MAX;
            for minor_units in largest.chain(1..=10_000) {
                let money = Money::from_minor_units(minor_units, currency).expect("in range");
                let double: f64 = money.to_string().parse().expect("a number");
                assert_eq!(double.to_string(), money.to_string(), "{currency}");
            }
        }
    }

    #[test]
    fn reads_every_spelling_of_a_json_number() {
        for text in ["100", "100.00", "1e2", "1E+2", "1000e-1", "0.1e3"] {
            assert_eq!(
                Money::parse(text, "USD").map(|m| m.minor_units()).ok(),
                Some(10_000),
                "{text}"
            );
        }
        assert_eq!(
            Money::parse("12", "JPY").map(|m| m.minor_units()).ok(),
            Some(12)
        );
        assert_eq!(
            Money::parse("1.234", "KWD").map(|m| m.minor_units()).ok(),
            Some(1_234)
        );
    }

    #[test]
    fn refuses_with_the_rule() {
        for (amount, currency, expected) in [
            ("0", "USD", "amount: must be greater than 0"),
            ("-1", "USD", "amount: must be greater than 0"),
            (
                "NaN",
                "USD",
                "amount: must be a decimal number like 100 or 99.95",
            ),
            (
                "01",
                "USD",
                "amount: must be a decimal number like 100 or 99.95",
            ),
            (
                "1.",
                "USD",
                "amount: must be a decimal number like 100 or 99.95",
            ),
            (
                ".5",
                "USD",
                "amount: must be a decimal number like 100 or 99.95",
            ),
            (
                "1.001",
                "USD",
                "amount: must have at most 2 decimal places in USD",
            ),
            ("1.5", "JPY", "amount: must have no decimal places in JPY"),
            (
                "1e400",
                "USD",
                "amount: must be at most 9999999999999.99 USD",
            ),
            (
                "1e99999999999999999999",
                "USD",
                "amount: must be at most 9999999999999.99 USD",
            ),
            (
                "1e-99999999999999999999",
                "USD",
                "amount: must have at most 2 decimal places in USD",
            ),
            (
                "10000000000000",
                "USD",
                "amount: must be at most 9999999999999.99 USD",
            ),
            ("1", "usd", "currency: must be an ISO 4217 code like USD"),
            ("1", "ZZZ", "currency: must be an ISO 4217 code like USD"),
            ("1", "XAU", "currency: must be an ISO 4217 code like USD"),
        ] {
            assert_eq!(rule(amount, currency), expected, "{amount} {currency}");
        }
    }

    #[test]
    fn accepted_amounts_are_trusted() {
        let text = |units, code, digits| {
            Money::from_accepted(units, code, digits)
                .map(|money| format!("{money} {}", money.currency()))
                .ok()
        };
        assert_eq!(text(150, "ANG", None).as_deref(), Some("1.5 ANG"));
        assert_eq!(text(1_500, "ZZZ", Some(3)).as_deref(), Some("1.5 ZZZ"));
        assert_eq!(
            text(i64::MAX, "ZZZ", Some(18)).as_deref(),
            Some("9.223372036854775807 ZZZ")
        );
        for (units, code, digits) in [
            (0, "USD", None),
            (-1, "USD", Some(2)),
            (1, "ZZZ", None),
            (1, "zz1", Some(2)),
            (1, "USD", Some(19)),
        ] {
            assert_eq!(text(units, code, digits), None, "{units} {code} {digits:?}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(minor_units in 1..=Money::MINOR_UNITS_MAX, currency in prop::sample::select(vec!["USD", "JPY", "KWD"])) {
            let money = Money::from_minor_units(minor_units, currency).expect("in range");
            prop_assert_eq!(Money::parse(&money.to_string(), currency).ok(), Some(money));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,80}") {
            let _ = Money::parse(&text, "USD");
        }
    }
}
