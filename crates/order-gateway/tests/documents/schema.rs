//! As much of JSON Schema as the documents use. A keyword that it does not know fails the
//! test, so that nothing passes because it was not looked at.

use serde_json::Value;

/// Checks `value` against `schema`; `document` is what references point into.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let rules = schema.as_object().expect("a schema is an object");
    for (keyword, rule) in rules {
        let is_met = match keyword.as_str() {
            "description" => true,
            "$ref" => {
                let pointer = rule.as_str().and_then(|target| target.strip_prefix('#'));
                let target = pointer.and_then(|pointer| document.pointer(pointer));
                check(
                    document,
                    target.expect("a reference that leads somewhere"),
                    value,
                )?;
                true
            }
            "oneOf" => {
                let schemas = rule.as_array().expect("a list").iter();
                schemas
                    .filter(|schema| check(document, schema, value).is_ok())
                    .count()
                    == 1
            }
            "type" => is_of_type(rule.as_str().expect("one type"), value),
            "enum" => rule.as_array().expect("a list").contains(value),
            "const" => rule == value,
            "format" => has_format(rule.as_str().expect("a name"), value),
            "pattern" => matches_pattern(rule.as_str().expect("a pattern"), value),
            "minimum" => value.as_u64() >= rule.as_u64(),
            "maximum" => value.as_u64() <= rule.as_u64(),
            "minLength" => len_of(value) >= rule.as_u64(),
            "maxLength" => len_of(value) <= rule.as_u64(),
            "maxProperties" => value.as_object().map(|fields| fields.len() as u64) <= rule.as_u64(),
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
            "properties" => {
                for (name, schema) in rule.as_object().expect("an object") {
                    if let Some(value) = value.get(name) {
                        check(document, schema, value)?;
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(rule, false);
                let known = schema["properties"].as_object().expect("an object");
                let mut given = value.as_object().into_iter().flatten();
                given.all(|(name, _)| known.contains_key(name))
            }
            unknown => panic!("the keyword {unknown} is not known"),
        };
        if !is_met {
            return Err(format!("{value} breaks {keyword}: {rule}"));
        }
    }
    Ok(())
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        unknown => panic!("the type {unknown} is not known"),
    }
}

fn has_format(name: &str, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    match name {
        "uuid" => text.parse::<order_core::OrderId>().is_ok(),
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        unknown => panic!("the format {unknown} is not known"),
    }
}

fn matches_pattern(pattern: &str, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    match pattern {
        r"^[^\u0000-\u001F\u007F-\u009F]*$" => !text.chars().any(char::is_control),
        // The rule of names, spelled out.
        name if name.starts_with(r"^([^\u0000-\u001F\u007F-\u009F \u00A0") => {
            order_core::UserId::parse(text).is_ok()
        }
        unknown => panic!("the pattern {unknown} is not known"),
    }
}

fn len_of(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}
