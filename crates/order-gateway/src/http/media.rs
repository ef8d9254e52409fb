//! What a body is and what a client reads: `Content-Type` and `Accept` (RFC 9110).

use http::{
    HeaderMap,
    header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE},
};

use super::problem::ProtocolError;

/// Whether the body is JSON in UTF-8, as it is.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ProtocolError> {
    let is_json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(is_json);
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
    // The most specific range that covers JSON decides (RFC 9110 §12.5.1).
    let mut best: Option<(u8, bool)> = None;
    let mut is_restricted = false;
    for value in headers.get_all(ACCEPT) {
        let Ok(ranges) = value.to_str() else { continue };
        for range in ranges.split(',').map(str::trim).filter(|r| !r.is_empty()) {
            is_restricted = true;
            let mut parts = range.split(';').map(str::trim);
            let Some(specificity) = parts.next().and_then(specificity) else {
                continue;
            };
            let is_wanted = !parts.any(is_zero_weight);
            if best.is_none_or(|(known, _)| known < specificity) {
                best = Some((specificity, is_wanted));
            }
        }
    }
    match best {
        Some((_, true)) => Ok(()),
        None if !is_restricted => Ok(()),
        Some((_, false)) | None => Err(ProtocolError::NotAcceptable),
    }
}

/// How closely a media range names JSON; `None` if it does not cover it.
fn specificity(range: &str) -> Option<u8> {
    match range {
        "*/*" => Some(0),
        _ if range.eq_ignore_ascii_case("application/*") => Some(1),
        _ if range.eq_ignore_ascii_case("application/json") => Some(2),
        _ => None,
    }
}

fn is_zero_weight(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(name, value)| {
        name.trim().eq_ignore_ascii_case("q")
            && value.trim().bytes().all(|c| matches!(c, b'0' | b'.'))
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
}
