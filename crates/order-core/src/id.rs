//! Identifiers, each valid from the moment it exists.

use std::{fmt, str::FromStr, sync::Arc};

use jiff::Timestamp;
use uuid::Uuid;

use crate::Error;

/// The id of an order: a UUID, made as version 7 (RFC 9562) so that ids sort by time
/// of creation and new rows append to the end of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(Uuid);

impl OrderId {
    /// Wraps a UUID of any version.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID itself.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// An id below every version 7 UUID made at `time` or later, and above every one made
    /// in an earlier millisecond. Times that no such id can hold count as the nearest.
    pub fn floor_at(time: Timestamp) -> Self {
        const MILLIS_MAX: u64 = (1 << 48) - 1;
        let millis = u64::try_from(time.as_millisecond())
            .unwrap_or(0)
            .min(MILLIS_MAX);
        Self(Uuid::from_u128(u128::from(millis) << 80))
    }

    /// Parses `text`, blaming `field` in the error.
    ///
    /// Only the hyphenated form of 36 characters is accepted (RFC 9562 §4), so that an
    /// order has one spelling in URLs and logs. Upper-case digits are read, never written.
    pub fn parse_field(field: &str, text: &str) -> Result<Self, Error> {
        text.parse().map_err(|_| {
            Error::invalid(
                field,
                "must be a UUID like 0198c5a0-5d5c-7abc-8def-0123456789ab",
            )
        })
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// The text is not a hyphenated UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hyphenated UUID")]
pub struct ParseOrderIdError;

impl FromStr for OrderId {
    type Err = ParseOrderIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(ParseOrderIdError);
        }
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| ParseOrderIdError)
    }
}

/// Who placed an order: 1 to 128 characters, none of them a control character, with at least
/// one visible character and no white space at either end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// The longest user id, in characters.
    pub const CHARS_MAX: usize = 128;

    /// Checks `text` and takes it as a user id; the error names the field `user_id`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        check_name("user_id", text, Self::CHARS_MAX)?;
        Ok(Self(text.into()))
    }

    /// Takes a user id that was accepted earlier, perhaps by other rules, without checking it.
    pub fn from_accepted(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an order in the client's own system, unique among the orders of a user:
/// 1 to 128 characters, none of them a control character, with at least one visible character
/// and no white space at either end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalId(Arc<str>);

impl ExternalId {
    /// The longest external id, in characters.
    pub const CHARS_MAX: usize = 128;

    /// Checks `text` and takes it as an external id; the error names the field
    /// `external_id`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        check_name("external_id", text, Self::CHARS_MAX)?;
        Ok(Self(text.into()))
    }

    /// Takes an external id that was accepted earlier, perhaps by other rules, without
    /// checking it.
    pub fn from_accepted(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Refuses what [`check_text`] refuses, and text that people cannot see or tell apart.
fn check_name(field: &str, text: &str, chars_max: usize) -> Result<(), Error> {
    check_text(field, text, chars_max)?;
    if !text.chars().any(is_visible) {
        return Err(Error::invalid(
            field,
            "must have at least one visible character",
        ));
    }
    if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        return Err(Error::invalid(
            field,
            "must not begin or end with white space",
        ));
    }
    Ok(())
}

/// Whether a character leaves a mark: white space, controls, the soft hyphen and the characters
/// that only direct or join others do not. `UserId` in `api/openapi.yaml` lists the same ones.
fn is_visible(c: char) -> bool {
    let is_blank = matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    !(c.is_whitespace() || c.is_control() || is_blank)
}

/// Refuses text that is empty, longer than `chars_max` or holds control characters.
pub(crate) fn check_text(field: &str, text: &str, chars_max: usize) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::invalid(field, "must not be empty"));
    }
    check_chars(field, text, chars_max)
}

/// Refuses text that is longer than `chars_max` or holds control characters.
pub(crate) fn check_chars(field: &str, text: &str, chars_max: usize) -> Result<(), Error> {
    // A character is at most four bytes, so a long body is refused without counting it.
    if text.len() > chars_max * 4 || text.chars().count() > chars_max {
        return Err(Error::invalid(
            field,
            format!("must have at most {chars_max} characters"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(field, "must not contain control characters"));
    }
    Ok(())
}

/// The id of one request, the same in every log line and answer it causes:
/// 1 to 128 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The longest request id, in characters.
    pub const CHARS_MAX: usize = 128;

    /// Takes `text` as a request id; `None` if it is not one, so that the caller makes one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let is_valid = (1..=Self::CHARS_MAX).contains(&text.len()) && text.bytes().all(is_allowed);
        is_valid.then(|| Self(text.into()))
    }

    /// A request id from a UUID.
    pub fn from_uuid(uuid: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self((&*uuid.as_hyphenated().encode_lower(&mut buffer)).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_id_has_one_spelling() {
        let text = "0198c5a0-5d5c-7abc-8def-0123456789ab";
        assert_eq!(
            text.parse::<OrderId>().map(|id| id.to_string()).as_deref(),
            Ok(text)
        );
        assert!(text.to_uppercase().parse::<OrderId>().is_ok());
        for bad in [
            "",
            "1",
            "0198c5a05d5c7abc8def0123456789ab",
            "{0198c5a0-5d5c-7abc-8def-0123456789ab}",
        ] {
            assert_eq!(bad.parse::<OrderId>(), Err(ParseOrderIdError), "{bad}");
        }
    }

    #[test]
    fn user_id_length_is_counted_in_characters() {
        assert!(UserId::parse(&"ß".repeat(128)).is_ok());
        for bad in [
            String::new(),
            "ß".repeat(129),
            "a\u{7}".to_owned(),
            "a\0b".to_owned(),
        ] {
            assert!(UserId::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_visible_and_have_no_white_space_at_their_ends() {
        let rule = |text| match UserId::parse(text) {
            Err(Error::InvalidArgument { violations }) => {
                violations.first().map(ToString::to_string)
            }
            _ => None,
        };
        for text in [
            " ",
            "\u{a0}",
            "\u{3000}\u{2003}",
            "\u{200b}",
            "\u{feff}\u{2060}",
            "\u{ad}",
        ] {
            let expected = "user_id: must have at least one visible character";
            assert_eq!(rule(text).as_deref(), Some(expected), "{text:?}");
        }
        for text in [" a", "a ", "\u{a0}a", "a\u{3000}", "a\u{2028}"] {
            let expected = "user_id: must not begin or end with white space";
            assert_eq!(rule(text).as_deref(), Some(expected), "{text:?}");
            assert!(ExternalId::parse(text).is_err(), "{text:?}");
            assert_eq!(UserId::from_accepted(text).as_str(), text);
        }
        for text in ["a b", "é", "名前", "👩\u{200d}💻", "."] {
            assert_eq!(rule(text), None, "{text:?}");
        }
    }

    #[test]
    fn request_id_takes_only_safe_characters() {
        assert!(RequestId::parse("a.b_c-9").is_some());
        for bad in ["", "a b", "a\n", &"x".repeat(129)] {
            assert!(RequestId::parse(bad).is_none(), "{bad:?}");
        }
    }
}
