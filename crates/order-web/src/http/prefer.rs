//! What a client would like and does not insist on: `Prefer` (RFC 7240).
//!
//! The one preference that is honoured is `wait` (§4.3). Whatever else there is, and
//! whatever is malformed, is ignored as §2 asks for.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// Says which preferences were honoured (§3).
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long the client would like to wait for the end of what it asks for. Of several
/// wishes the first one counts (§2).
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| split(value, ','))
        // Parameters of a preference come after a semicolon; `wait` has none.
        .filter_map(|preference| split(preference, ';').next())
        .map(|preference| preference.split_once('=').unwrap_or((preference, "")))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| parse_seconds(seconds.trim()))
}

fn parse_seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    // A number that is too large is as good as the largest one.
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

/// The parts of `text` between separators that are not quoted.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c| {
        let is_separator = c == separator && !is_quoted;
        if c == '"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = is_quoted && c == '\\' && !is_escaped;
        is_separator
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn first_wish_to_wait_counts() {
        for (lines, expected) in [
            (&[][..], None),
            (&["wait=10"][..], Some(10)),
            (&["Wait = 10"], Some(10)),
            (&["wait=0"], Some(0)),
            (&["wait=007"], Some(7)),
            (&["wait=99999999999999999999999"], Some(u64::MAX)),
            (&["respond-async, wait=5"], Some(5)),
            (&["respond-async", "wait=5;x=1", "wait=6"], Some(5)),
            (&["handling=lenient; foo=\"a,b\", wait=5"], Some(5)),
            (&[r#"foo="wait=1, \" wait=2", wait=3"#], Some(3)),
            (&[",, wait=5 ,"], Some(5)),
            // Malformed wishes are none, and hide those after them.
            (&["wait"], None),
            (&["wait="], None),
            (&["wait=-1"], None),
            (&["wait=1.5"], None),
            (&["wait=\"5\""], None),
            (&["wait=soon, wait=5"], None),
            (&["foo=\"wait=5"], None),
            (&["waiting=5"], None),
        ] {
            let headers: HeaderMap = lines
                .iter()
                .map(|line| (PREFER, HeaderValue::from_static(line)))
                .collect();
            let expected = expected.map(Duration::from_secs);
            assert_eq!(wait(&headers), expected, "{lines:?}");
        }
    }
}
