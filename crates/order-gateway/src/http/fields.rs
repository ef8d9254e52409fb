//! JSON objects in, exactly: every field known, given once and of the right type, and all
//! that is wrong reported at once.
//!
//! Values stay text until a rule has looked at them, so numbers never pass through
//! floating point. All fields of this API are scalars or objects of text; what is nested is
//! skipped without recursion and then refused by its type, so the depth of a body needs no
//! limit of its own.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use order_core::{Error, Violation};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::problem::{Problem, ProtocolError};

/// The most broken rules that are reported at once, so that an answer stays small.
const VIOLATIONS_MAX: usize = 32;

/// The longest name made up by the client that is repeated to the client, in characters.
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

    /// Notes that the member `name` of `field` broke `rule`.
    fn push_inside(&mut self, field: &str, name: &str, rule: &str) {
        self.push(format!("{field}/{}", pointer_step(name)), rule);
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

    /// The entries of an object whose values are strings, if it is given and is one.
    /// Entries that are none are left out and noted.
    pub(super) fn text_by_name(&mut self, name: &'static str) -> Option<BTreeMap<String, String>> {
        let raw = self.find(name)?.get();
        let Ok(Entries(entries)) = serde_json::from_str::<Entries<'_>>(raw) else {
            self.violations.push(name, "must be an object of strings");
            return None;
        };
        let mut texts = BTreeMap::new();
        for (key, value) in entries {
            let is_repeated = texts.contains_key(&key);
            match parse_text(value.get()) {
                Some(text) if !is_repeated => {
                    texts.insert(key, text.into_owned());
                }
                Some(_) => self.violations.push_inside(name, &key, "is given twice"),
                None => self.violations.push_inside(name, &key, "must be a string"),
            }
        }
        Some(texts)
    }

    fn find(&self, name: &str) -> Option<&'a RawValue> {
        self.given
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| *value)
    }
}

/// A name that the client made up, cut if it is long.
pub(super) fn shorten(name: &str) -> String {
    let is_long = name.chars().nth(NAME_CHARS_MAX).is_some();
    let mut short: String = name.chars().take(NAME_CHARS_MAX).collect();
    if is_long {
        short.push('…');
    }
    short
}

/// A name that the client made up as one step of a JSON Pointer (RFC 6901 §3).
fn pointer_step(name: &str) -> String {
    shorten(name).replace('~', "~0").replace('/', "~1")
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
                None => fields.violations.push(pointer_step(&name), "unknown field"),
            }
        }
        Ok(fields)
    }
}

/// The entries of an object as they came, repeated ones too.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}
