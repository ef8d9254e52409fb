//! Entity tags and the preconditions made of them (RFC 9110 §8.8.3 and §13.1).
//!
//! The entity tag of an order is its version: `"3"`. A tag that no order can have is valid
//! and matches nothing.

use http::{
    HeaderMap, HeaderName,
    header::{IF_MATCH, IF_NONE_MATCH},
};
use order_core::{Error, IfMatch, Version};

use super::problem::Problem;

/// The entity tag of an order at `version`.
pub(super) fn entity_tag(version: Version) -> String {
    format!("\"{version}\"")
}

/// The versions at which `If-Match` lets the request happen; weak tags never match
/// (§13.1.1).
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Problem> {
    parse(headers, IF_MATCH, "If-Match", |tag| !tag.is_weak)
}

/// The versions that the client has and does not want again; weak tags match like strong
/// ones (§13.1.2).
pub(super) fn if_none_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Problem> {
    parse(headers, IF_NONE_MATCH, "If-None-Match", |_| true)
}

/// An entity tag: `"opaque"`, or `W/"opaque"` if it is weak.
struct EntityTag<'a> {
    opaque: &'a [u8],
    is_weak: bool,
}

impl EntityTag<'_> {
    /// The version that the tag stands for; tags have one spelling.
    fn version(&self) -> Option<Version> {
        let is_canonical = self.opaque.iter().all(u8::is_ascii_digit)
            && self.opaque.first().is_some_and(|digit| *digit != b'0');
        let text = std::str::from_utf8(self.opaque).ok()?;
        text.parse().ok().filter(|_| is_canonical)
    }
}

fn parse(
    headers: &HeaderMap,
    header: HeaderName,
    name: &str,
    is_compared: fn(&EntityTag<'_>) -> bool,
) -> Result<Option<IfMatch>, Problem> {
    let malformed = || {
        let rule = r#"must be * or a list of entity tags like "1", "2""#;
        Problem::Parameters(Error::invalid(name, rule))
    };
    let lines: Vec<&[u8]> = headers
        .get_all(header)
        .iter()
        .map(|value| value.as_bytes().trim_ascii())
        .collect();
    match lines.as_slice() {
        [] => return Ok(None),
        [b"*"] => return Ok(Some(IfMatch::Any)),
        _ => {}
    }
    // Several lines are one list (§5.3).
    let mut tags = Vec::new();
    for line in lines {
        read_list(line, &mut tags).ok_or_else(malformed)?;
    }
    if tags.is_empty() {
        return Err(malformed());
    }
    let compared = tags.iter().filter(|tag| is_compared(tag));
    Ok(Some(IfMatch::Versions(
        compared.filter_map(EntityTag::version).collect(),
    )))
}

/// Reads tags between commas; `None` if there is anything else. Elements may be empty
/// (§5.6.1.2).
fn read_list<'a>(line: &'a [u8], tags: &mut Vec<EntityTag<'a>>) -> Option<()> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if !matches!(rest, [] | [b',', ..]) {
            let (tag, after) = read_tag(rest)?;
            tags.push(tag);
            rest = after.trim_ascii_start();
        }
        match rest {
            [] => return Some(()),
            [b',', after @ ..] => rest = after,
            _ => return None,
        }
    }
}

fn read_tag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let strong = text.strip_prefix(b"W/");
    let quoted = strong.unwrap_or(text).strip_prefix(b"\"")?;
    let end = quoted.iter().position(|c| *c == b'"')?;
    let (opaque, after) = (quoted.get(..end)?, quoted.get(end + 1..)?);
    // `etagc`: visible ASCII without the quote, and bytes above ASCII.
    if !opaque.iter().all(|c| *c > b' ' && *c != 0x7f) {
        return None;
    }
    let tag = EntityTag {
        opaque,
        is_weak: strong.is_some(),
    };
    Some((tag, after))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        lines
            .iter()
            .flat_map(|line| {
                let value = HeaderValue::from_bytes(line).expect("a header value");
                [(IF_MATCH, value.clone()), (IF_NONE_MATCH, value)]
            })
            .collect()
    }

    #[test]
    fn lists_of_entity_tags_name_versions() {
        let versions = |versions: &[Version]| Some(IfMatch::Versions(versions.to_vec()));
        for (lines, strong, weak) in [
            (&[][..], None, None),
            (&[&b"*"[..]], Some(IfMatch::Any), Some(IfMatch::Any)),
            (&[b" * "], Some(IfMatch::Any), Some(IfMatch::Any)),
            (&[b"\"1\""], versions(&[1]), versions(&[1])),
            (&[b"W/\"1\""], versions(&[]), versions(&[1])),
            (
                &[b"\"1\",W/\"2\" ,\t\"4294967295\""],
                versions(&[1, 4_294_967_295]),
                versions(&[1, 2, 4_294_967_295]),
            ),
            (
                &[b"\"1\"", b",, \"2\","],
                versions(&[1, 2]),
                versions(&[1, 2]),
            ),
            // Valid tags that no order has.
            (
                &[b"\"\",\"a,b\",\"01\",\"0\",\"+1\",\"4294967296\",\"*\",\"\xff\""],
                versions(&[]),
                versions(&[]),
            ),
        ] {
            let headers = headers(lines);
            assert_eq!(if_match(&headers).expect("valid"), strong, "{lines:?}");
            assert_eq!(if_none_match(&headers).expect("valid"), weak, "{lines:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for lines in [
            &[&b""[..]][..],
            &[b","],
            &[b"1"],
            &[b"\"1"],
            &[b"1\""],
            &[b"w/\"1\""],
            &[b"W/ \"1\""],
            &[b"W/1"],
            &[b"\"a b\""],
            &[b"\"1\" \"2\""],
            &[b"\"1\"2"],
            &[b"*, \"1\""],
            &[b"\"1\", *"],
            &[b"*", b"*"],
            &[b"\"1\"", b"*"],
        ] {
            assert!(if_match(&headers(lines)).is_err(), "{lines:?}");
            assert!(if_none_match(&headers(lines)).is_err(), "{lines:?}");
        }
    }
}
