//! Versions as entity tags (RFC 9110 §8.8.3, §13.1.1; AIP-154).

use order_core::{Error, IfMatch, Version};

/// A tag that no order has: weak tags never match. Stands for an empty list.
const NONE: &str = "W/\"0\"";

/// The tag of a version: `"3"`.
pub(super) fn etag_of(version: Version) -> String {
    format!("\"{version}\"")
}

/// Reads a precondition: `"3"`, `3`, `*`, or a list of such tags as in `If-Match`. A weak
/// tag is read and never matches.
///
/// # Errors
/// [`Error::InvalidArgument`] for `etag`.
pub(super) fn if_match_from_proto(text: &str) -> Result<IfMatch, Error> {
    if text.trim() == "*" {
        return Ok(IfMatch::Any);
    }
    let tags = text.split(',').map(str::trim);
    let versions = tags
        .filter(|tag| !is_weak(tag))
        .map(|tag| version_of(tag).ok_or_else(malformed));
    Ok(IfMatch::Versions(versions.collect::<Result<_, _>>()?))
}

/// Writes a precondition.
pub(super) fn if_match_to_proto(if_match: &IfMatch) -> String {
    match if_match {
        IfMatch::Any => "*".to_owned(),
        IfMatch::Versions(versions) if versions.is_empty() => NONE.to_owned(),
        IfMatch::Versions(versions) => {
            let tags: Vec<String> = versions.iter().map(|version| etag_of(*version)).collect();
            tags.join(", ")
        }
    }
}

fn is_weak(tag: &str) -> bool {
    tag.strip_prefix("W/").and_then(unquoted).is_some()
}

fn version_of(tag: &str) -> Option<Version> {
    let digits = unquoted(tag).unwrap_or(tag);
    let version: Version = digits.parse().ok()?;
    // Tags are compared by their characters: "03" and "+3" are not "3".
    (version.to_string() == digits).then_some(version)
}

fn unquoted(tag: &str) -> Option<&str> {
    tag.strip_prefix('"')?.strip_suffix('"')
}

fn malformed() -> Error {
    Error::invalid("etag", "must be a version like \"3\", or *")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_are_read_in_all_their_forms() {
        let read = |text| if_match_from_proto(text).ok();
        let versions = |versions: &[Version]| Some(IfMatch::Versions(versions.to_vec()));
        assert_eq!(read("\"3\""), versions(&[3]));
        assert_eq!(read("3"), versions(&[3]));
        assert_eq!(read("*"), Some(IfMatch::Any));
        assert_eq!(read("W/\"3\""), versions(&[]));
        assert_eq!(read("\"3\", W/\"4\" ,5"), versions(&[3, 5]));
        for bad in [
            "",
            "\"",
            "\"\"",
            "\"3",
            "3\"",
            "+3",
            "03",
            "\"03\"",
            "-1",
            "4294967296",
            "W/3",
            "abc",
            "\"abc\"",
            "3,",
            "3,*",
        ] {
            let Err(Error::InvalidArgument { violations }) = if_match_from_proto(bad) else {
                panic!("{bad:?} is read");
            };
            assert_eq!(violations[0].field, "etag", "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn precondition_survives_the_way(
            versions in prop::option::of(prop::collection::vec(any::<Version>(), 0..4)),
        ) {
            let if_match = versions.map_or(IfMatch::Any, IfMatch::Versions);
            let text = if_match_to_proto(&if_match);
            prop_assert_eq!(if_match_from_proto(&text).expect("valid"), if_match);
        }
    }
}
