//! What a body is and what a client reads: `Content-Type` and `Accept` (RFC 9110).

use http::{
    HeaderMap,
    header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE},
};

use super::problem::ProtocolError;

pub(crate) const HTML: &str = "text/html";
pub(crate) const JSON: &str = "application/json";
pub(crate) const PROBLEM: &str = "application/problem+json";
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// The weight of a range that names none.
const WEIGHT_MAX: u16 = 1000;

/// Whether the body is JSON in UTF-8, as it is.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ProtocolError> {
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|value| {
        // As nearly all clients write it.
        value == JSON || value.to_str().is_ok_and(is_json)
    });
    let is_encoded = headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_json && !is_encoded {
        Ok(())
    } else {
        Err(ProtocolError::UnsupportedMediaType)
    }
}

fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let is_type = parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    is_type
        && parts.all(|parameter| {
            // RFC 8259 §8.1: JSON between systems is UTF-8. Other parameters mean nothing.
            match parameter.split_once('=') {
                Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                    value.trim_matches('"').eq_ignore_ascii_case("utf-8")
                }
                Some(_) => true,
                None => parameter.is_empty(),
            }
        })
}

/// Whether the client reads JSON. No `Accept` means that it reads anything.
pub(super) fn check_accept(headers: &HeaderMap) -> Result<(), ProtocolError> {
    negotiate(headers, &[JSON]).map(|_| ())
}

/// The media type that the client likes best, the first of equals (RFC 9110 §12.5.1). No
/// `Accept` means that it likes all of them.
pub(crate) fn negotiate<'a>(
    headers: &HeaderMap,
    offered: &[&'a str],
) -> Result<&'a str, ProtocolError> {
    let ranges: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|ranges| ranges.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .collect();
    let weigh = |kind| match ranges.as_slice() {
        [] => WEIGHT_MAX,
        ranges => weight_of(kind, ranges),
    };
    offered
        .iter()
        .map(|kind| (weigh(kind), *kind))
        // Of equals `max_by_key` takes the last one.
        .rev()
        .max_by_key(|(weight, _)| *weight)
        .filter(|(weight, _)| *weight > 0)
        .map(|(_, kind)| kind)
        .ok_or_else(|| ProtocolError::NotAcceptable {
            offered: offered.join(" or "),
        })
}

/// The weight of a media type, in thousandths: that of the most specific range that covers
/// it.
fn weight_of(kind: &str, ranges: &[&str]) -> u16 {
    let mut best = (None, 0);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let specificity = parts.next().and_then(|range| specificity(range, kind));
        if specificity.is_some() && best.0 < specificity {
            best = (specificity, parts.find_map(weight).unwrap_or(WEIGHT_MAX));
        }
    }
    best.1
}

/// How closely a media range names a type; `None` if it does not cover it.
fn specificity(range: &str, kind: &str) -> Option<u8> {
    if range == "*/*" {
        return Some(0);
    }
    let (range_type, range_subtype) = range.split_once('/')?;
    let (type_, subtype) = kind.split_once('/')?;
    match range_type.eq_ignore_ascii_case(type_) {
        true if range_subtype == "*" => Some(1),
        true if range_subtype.eq_ignore_ascii_case(subtype) => Some(2),
        _ => None,
    }
}

/// The weight that a parameter gives (RFC 9110 §12.4.2), in thousandths. One that cannot
/// be read counts as the largest, like an absent one.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("q").then(|| {
        let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
        match (whole, format!("{fraction:0<3}").parse()) {
            ("0", Ok(thousandths)) if fraction.len() <= 3 => thousandths,
            _ => WEIGHT_MAX,
        }
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn content_type_must_be_json_in_utf_8() {
        for (value, is_accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json;", true),
            ("application/json; charset=latin1", false),
            ("application/json; nonsense", false),
            ("application/jsonx", false),
            ("text/plain", false),
            ("", false),
        ] {
            let checked = check_content_type(&headers(CONTENT_TYPE, value));
            assert_eq!(checked.is_ok(), is_accepted, "{value}");
        }
    }

    #[test]
    fn most_specific_range_decides_what_is_acceptable() {
        assert!(check_accept(&HeaderMap::new()).is_ok());
        for (value, is_accepted) in [
            ("", true),
            ("*/*", true),
            ("text/html, */*;q=0.8", true),
            ("application/*", true),
            ("APPLICATION/JSON", true),
            ("application/json;q=0.001", true),
            ("text/html", false),
            ("application/json;q=0", false),
            ("application/json; q=0.000, */*", false),
            ("*/*;q=0, application/json", true),
        ] {
            let checked = check_accept(&headers(ACCEPT, value));
            assert_eq!(checked.is_ok(), is_accepted, "{value}");
        }
    }

    #[test]
    fn client_gets_what_it_likes_best() {
        let offered = [JSON, EVENT_STREAM];
        for (value, expected) in [
            ("", Some(JSON)),
            ("*/*", Some(JSON)),
            ("text/event-stream", Some(EVENT_STREAM)),
            ("text/*", Some(EVENT_STREAM)),
            ("Text/Event-Stream, */*;q=0.1", Some(EVENT_STREAM)),
            ("text/event-stream, application/json", Some(JSON)),
            (
                "text/event-stream;q=0.9, application/json;q=0.8",
                Some(EVENT_STREAM),
            ),
            (
                "text/event-stream;q=0.25, application/json;q=0.3",
                Some(JSON),
            ),
            ("*/*, application/json;q=0", Some(EVENT_STREAM)),
            (
                "text/event-stream; q=1.000, */*; q=0.999",
                Some(EVENT_STREAM),
            ),
            (
                "text/event-stream;q=nonsense, */*;q=0.9",
                Some(EVENT_STREAM),
            ),
            ("text/html", None),
            ("*/*;q=0", None),
        ] {
            let chosen = negotiate(&headers(ACCEPT, value), &offered).ok();
            assert_eq!(chosen, expected, "{value}");
        }
    }
}
