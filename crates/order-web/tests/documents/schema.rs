//! As much of JSON Schema as the documents use. A keyword that it does not know fails the
//! test, so that nothing passes because it was not looked at.
//!
//! Numbers are doubles, as in most validators. An object has no members but those that its
//! schema names, unless that schema says otherwise: what is not documented is not sent.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
};

use regex::Regex;
use serde_json::{Map, Value};

/// Checks `value` against `schema`; `document` is what references point into.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let rules = schema.as_object().expect("a schema is an object");
    check_members(document, rules, value)?;
    for (keyword, rule) in rules {
        if !is_met(document, keyword, rule, value)? {
            return Err(format!("{value} breaks {keyword}: {rule}"));
        }
    }
    Ok(())
}

fn is_met(document: &Value, keyword: &str, rule: &Value, value: &Value) -> Result<bool, String> {
    let n_met = || {
        let schemas = rule.as_array().expect("a list").iter();
        let met = schemas.filter(|schema| check(document, schema, value).is_ok());
        met.count()
    };
    Ok(match keyword {
        // Texts, and what `check_members` looks at.
        "title" | "description" | "default" | "properties" | "additionalProperties" => true,
        "$ref" => {
            check(document, follow_pointer(document, rule), value)?;
            true
        }
        "allOf" => {
            for schema in rule.as_array().expect("a list") {
                check(document, schema, value)?;
            }
            true
        }
        "anyOf" => n_met() > 0,
        "oneOf" => n_met() == 1,
        "type" => is_of_type(rule.as_str().expect("one type"), value),
        "enum" => rule.as_array().expect("a list").contains(value),
        "const" => rule == value,
        "format" => has_format(rule.as_str().expect("a name"), value),
        "pattern" => value
            .as_str()
            .is_some_and(|text| matches(rule.as_str().expect("a pattern"), text)),
        "minimum" => value.as_f64() >= rule.as_f64(),
        "exclusiveMinimum" => value.as_f64() > rule.as_f64(),
        "maximum" => value.as_f64().is_some_and(|n| Some(n) <= rule.as_f64()),
        "multipleOf" => {
            let quotient = value.as_f64().zip(rule.as_f64()).map(|(n, step)| n / step);
            quotient.is_some_and(|quotient| quotient.fract() == 0.0)
        }
        "minLength" => len_of(value) >= rule.as_u64(),
        "maxLength" => len_of(value) <= rule.as_u64(),
        "minItems" => value.as_array().map(|items| items.len() as u64) >= rule.as_u64(),
        "maxItems" => value.as_array().map(|items| items.len() as u64) <= rule.as_u64(),
        "maxProperties" => value.as_object().map(|fields| fields.len() as u64) <= rule.as_u64(),
        "propertyNames" => {
            for name in value.as_object().into_iter().flat_map(Map::keys) {
                check(document, rule, &Value::from(name.as_str()))?;
            }
            true
        }
        "items" => {
            for item in value.as_array().into_iter().flatten() {
                check(document, rule, item)?;
            }
            true
        }
        "required" => {
            let mut names = rule.as_array().expect("a list").iter();
            names.all(|name| value.get(name.as_str().expect("a name")).is_some())
        }
        unknown => panic!("the keyword {unknown} is not known"),
    })
}

/// Checks each member by the schema of its name.
fn check_members(
    document: &Value,
    rules: &Map<String, Value>,
    value: &Value,
) -> Result<(), String> {
    let named = rules.get("properties");
    let others = rules.get("additionalProperties");
    let is_whole = rules.get("type").is_some() && named.is_some();
    for (name, member) in value.as_object().into_iter().flatten() {
        match (named.and_then(|named| named.get(name)), others) {
            (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                check(document, schema, member)?;
            }
            // Any object at all, or a part of a schema that others complete.
            (None, None) if !is_whole => {}
            (None, _) => return Err(format!("{name} is not documented")),
        }
    }
    Ok(())
}

/// What a reference stands for.
pub(crate) fn follow_pointer<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let target = reference.as_str().expect("a reference is text");
    let pointer = target
        .strip_prefix('#')
        .expect("a reference into the document");
    let target = document.pointer(pointer);
    target.unwrap_or_else(|| panic!("{pointer} leads nowhere"))
}

/// `part`, or what it refers to.
pub(crate) fn follow<'a>(document: &'a Value, part: &'a Value) -> &'a Value {
    match part.get("$ref") {
        Some(reference) => follow(document, follow_pointer(document, reference)),
        None => part,
    }
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        unknown => panic!("the type {unknown} is not known"),
    }
}

fn has_format(name: &str, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    match name {
        "uuid" => text.parse::<order_core::OrderId>().is_ok(),
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "uri" => text.starts_with("urn:"),
        "uri-reference" => text.parse::<http::Uri>().is_ok(),
        "double" => value.is_f64() || value.is_u64(),
        "int32" => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        "int64" => value.is_i64(),
        unknown => panic!("the format {unknown} is not known"),
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    /// Patterns take long to compile.
    static PATTERNS: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut patterns = PATTERNS.lock().expect("no check panicked");
    let compile = || Regex::new(pattern).expect("a regular expression");
    let pattern = patterns.entry(pattern.to_owned()).or_insert_with(compile);
    pattern.is_match(text)
}

fn len_of(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}
