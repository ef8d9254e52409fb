//! JSON objects in, exactly: every field known, given once and of the right type, and all
//! that is wrong reported at once.
//!
//! Values stay text until a rule has looked at them, so numbers never pass through
//! floating point. All fields of this API are scalars; what is nested is skipped without
//! recursion and then refused by its type, so the depth of a body needs no limit of its own.

use std::{borrow::Cow, fmt};

use order_core::{Error, Violation};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::{Problem, ProtocolError};

/// The most broken rules that are reported at once, so that an answer stays small.
const VIOLATIONS_MAX: usize = 32;

/// The longest name of an unknown field that is repeated to the client, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The rules that a request broke so far.
#[derive(Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    /// Notes that `field` broke `rule`. `field` is a JSON Pointer without its first slash.
    pub(super) fn push(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0.push(Violation::new(field, rule));
        }
    }

    /// Notes a name that nothing has.
    pub(super) fn push_unknown(&mut self, name: &str, rule: &str) {
        let is_long = name.chars().nth(NAME_CHARS_MAX).is_some();
        let mut pointer: String = name.chars().take(NAME_CHARS_MAX).collect();
        if is_long {
            pointer.push('…');
        }
        self.push(pointer.replace('~', "~0").replace('/', "~1"), rule);
    }

    /// Takes a value if its rules hold, and notes those that do not.
    ///
    /// # Errors
    /// An error that is not about the request.
    pub(super) fn check<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
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

    /// Ends the check: the value, if there is one and no rule was broken.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Error> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            Some(_) | None => Err(Error::InvalidArgument { violations: self.0 }),
        }
    }
}

/// The fields of a JSON object.
pub(super) struct Fields<'a> {
    given: Vec<(&'static str, &'a RawValue)>,
    /// What is wrong so far; callers add to it.
    pub(super) violations: Violations,
}

impl<'a> Fields<'a> {
    /// Reads an object that may have the fields `known`.
    pub(super) fn parse(body: &'a [u8], known: &'static [&'static str]) -> Result<Self, Problem> {
        let invalid = |rule: String| ProtocolError::InvalidJson { rule };
        if body.is_empty() {
            return Err(invalid("it is empty".to_owned()).into());
        }
        let text = std::str::from_utf8(body).map_err(|error| {
            let position = error.valid_up_to();
            invalid(format!("it is not UTF-8 at byte {position}"))
        })?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let fields = Object { known }
            .deserialize(&mut deserializer)
            .and_then(|fields| deserializer.end().map(|()| fields));
        fields.map_err(|error| {
            if error.is_data() {
                Error::invalid("", "must be an object").into()
            } else {
                invalid(error.to_string()).into()
            }
        })
    }

    /// Notes each of `names` that is absent.
    pub(super) fn require(&mut self, names: &[&'static str]) {
        for name in names {
            if self.find(name).is_none() {
                self.violations.push(*name, "is required");
            }
        }
    }

    /// A string, if it is given and is one.
    pub(super) fn text(&mut self, name: &'static str) -> Option<Cow<'a, str>> {
        let raw = self.find(name)?.get();
        let text = parse_text(raw);
        if text.is_none() {
            self.violations.push(name, "must be a string");
        }
        text
    }

    /// The text of a number, given as a number or as a string, if it is one of the two.
    pub(super) fn decimal(&mut self, name: &'static str) -> Option<Cow<'a, str>> {
        let raw = self.find(name)?.get();
        let is_number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let text = if is_number {
            Some(Cow::Borrowed(raw))
        } else {
            parse_text(raw)
        };
        if text.is_none() {
            self.violations
                .push(name, "must be a number or a decimal string");
        }
        text
    }

    fn find(&self, name: &str) -> Option<&'a RawValue> {
        self.given
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| *value)
    }
}

fn parse_text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The shape of an object: the names its fields may have.
struct Object {
    known: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for Object {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields {
            given: Vec::with_capacity(self.known.len()),
            violations: Violations::default(),
        };
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            match self.known.iter().find(|known| **known == name) {
                Some(known) if fields.find(known).is_some() => {
                    fields.violations.push(*known, "is given twice");
                }
                Some(known) => fields.given.push((known, value)),
                None => fields.violations.push_unknown(&name, "unknown field"),
            }
        }
        Ok(fields)
    }
}
