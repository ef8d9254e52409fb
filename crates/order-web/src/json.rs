//! JSON objects in, exactly: every field known, given once and of the right type, and all
//! that is wrong reported at once. The one reader of JSON from clients and from files.
//!
//! Values stay text until a rule has looked at them, so numbers never pass through
//! floating point. All fields of this API are scalars or objects of text; what is nested is
//! skipped without recursion and then refused by its type, so the depth of a body needs no
//! limit of its own.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use order_core::{CreateFields, Violations, violations::pointer_step};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Orders and events as JSON, for whoever writes them elsewhere in the same form.
pub use crate::http::dto::{CauseBody, EventBody, OrderBody};

/// The fields of a request to create one order.
pub const CREATE: &[&str] = &["user_id", "amount", "currency", "external_id", "metadata"];

/// The fields of such a request in a batch, where no header belongs to it alone.
pub const CREATE_IN_BATCH: &[&str] = &[
    "user_id",
    "amount",
    "currency",
    "external_id",
    "metadata",
    "idempotency_key",
];

/// The fields of a JSON object.
pub struct Fields<'a> {
    given: Vec<(&'static str, &'a RawValue)>,
    /// What is wrong so far; callers add to it.
    pub violations: Violations,
}

impl<'a> Fields<'a> {
    /// Reads an object that may have the fields `known`.
    ///
    /// # Errors
    /// The text is not JSON; the class of the error is [`Category::Data`] if it is, but no object.
    ///
    /// [`Category::Data`]: serde_json::error::Category::Data
    pub fn parse(text: &'a str, known: &'static [&'static str]) -> serde_json::Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let fields = Object { known }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(fields)
    }

    /// Notes each of `names` that is absent.
    pub fn require(&mut self, names: &[&'static str]) {
        for name in names {
            if self.find(name).is_none() {
                self.violations.require(name);
            }
        }
    }

    /// A string, if it is given and is one.
    pub fn text(&mut self, name: &'static str) -> Option<Cow<'a, str>> {
        let raw = self.find(name)?.get();
        let text = parse_text(raw);
        if text.is_none() {
            self.violations.push(name, "must be a string");
        }
        text
    }

    /// The text of a number, given as a number or as a string, if it is one of the two.
    pub fn decimal(&mut self, name: &'static str) -> Option<Cow<'a, str>> {
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
    pub fn text_by_name(&mut self, name: &'static str) -> Option<BTreeMap<String, String>> {
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
                Some(_) => self.push_inside(name, &key, "is given twice"),
                None => self.push_inside(name, &key, "must be a string"),
            }
        }
        Some(texts)
    }

    /// The elements of an array, as they are written, if it is given and is one.
    pub fn elements(&mut self, name: &'static str) -> Option<Vec<&'a str>> {
        let raw = self.find(name)?.get();
        let elements = serde_json::from_str::<Vec<&RawValue>>(raw);
        if elements.is_err() {
            self.violations.push(name, "must be an array");
        }
        let elements = elements.ok()?.into_iter();
        Some(elements.map(RawValue::get).collect())
    }

    /// The fields of a request to create an order, in the form that all readers of JSON share.
    pub fn into_create(mut self) -> CreateFields<'a> {
        let mut create = CreateFields::default();
        for name in CreateFields::TEXTS {
            let text = match name {
                CreateFields::AMOUNT => self.decimal(name),
                _ => self.text(name),
            };
            create.set(name, text);
        }
        let metadata = self.text_by_name("metadata").unwrap_or_default();
        create.metadata = metadata.into_iter().collect();
        create.violations = self.violations;
        create
    }

    /// Notes that the member `name` of `field` broke `rule`.
    fn push_inside(&mut self, field: &str, name: &str, rule: &str) {
        let field = format!("{field}/{}", pointer_step(name));
        self.violations.push(field, rule);
    }

    /// The names of the fields that were given.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.given.iter().map(|(name, _)| *name)
    }

    /// The value of a field as it is written, if it is given.
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.find(name).map(RawValue::get)
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
        while let Some((name, value)) = map.next_entry::<Name<'_>, &RawValue>()? {
            match self.known.iter().find(|known| **known == name.0) {
                Some(known) if fields.find(known).is_some() => {
                    fields.violations.push(*known, "is given twice");
                }
                Some(known) => fields.given.push((known, value)),
                None => fields
                    .violations
                    .push(pointer_step(&name.0), "unknown field"),
            }
        }
        Ok(fields)
    }
}

/// The name of a field.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

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
