//! What a client attaches to an order and only the client understands.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    Error, Violation,
    id::{check_chars, check_text},
};

/// Text by name: at most 50 entries, names of 1 to 40 characters, values of at most 500,
/// without control characters.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Option<Arc<BTreeMap<String, String>>>);

impl Metadata {
    /// No entries.
    pub const NONE: Self = Self(None);
    /// The most entries.
    pub const LEN_MAX: usize = 50;
    /// The longest name, in characters.
    pub const NAME_CHARS_MAX: usize = 40;
    /// The longest value, in characters.
    pub const VALUE_CHARS_MAX: usize = 500;

    /// Checks and takes entries; the last of two with the same name wins. The error names
    /// every bad entry, as `metadata/NAME`.
    pub fn new(entries: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let entries: BTreeMap<_, _> = entries.into_iter().collect();
        if entries.is_empty() {
            return Ok(Self::default());
        }
        let mut violations = Vec::new();
        if entries.len() > Self::LEN_MAX {
            let len_max = Self::LEN_MAX;
            violations.push(Violation::new(
                "metadata",
                format!("must have at most {len_max} entries"),
            ));
        }
        for (name, value) in entries.iter().take(Self::LEN_MAX) {
            let checked = check_text("", name, Self::NAME_CHARS_MAX)
                .map_err(|error| ("the name ", error))
                .and_then(|()| {
                    check_chars("", value, Self::VALUE_CHARS_MAX)
                        .map_err(|error| ("the value ", error))
                });
            if let Err((what, Error::InvalidArgument { violations: found })) = checked {
                // The name goes into the error as it came, cut so that a long one does
                // not, and without what would break a log line.
                let name: String = name
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(Self::NAME_CHARS_MAX)
                    .collect();
                violations.extend(found.into_iter().map(|violation| {
                    Violation::new(
                        format!("metadata/{}", escape_pointer(&name)),
                        format!("{what}{}", violation.rule),
                    )
                }));
            }
        }
        if violations.is_empty() {
            Ok(Self(Some(Arc::new(entries))))
        } else {
            Err(Error::InvalidArgument { violations })
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The entries, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|entries| entries.iter())
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A name as one step of a JSON Pointer (RFC 6901 §3).
fn escape_pointer(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(entries: &[(&str, &str)]) -> Vec<String> {
        let entries = entries
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        match Metadata::new(entries) {
            Ok(_) => vec![],
            Err(Error::InvalidArgument { violations }) => {
                violations.iter().map(Violation::to_string).collect()
            }
            Err(error) => panic!("unexpected {error:?}"),
        }
    }

    #[test]
    fn each_bad_entry_is_named() {
        let long = "v".repeat(501);
        assert_eq!(
            rules(&[("a/b", "x\u{7}"), ("", "x"), ("ok", ""), ("z", &long)]),
            [
                "metadata/: the name must not be empty",
                "metadata/a~1b: the value must not contain control characters",
                "metadata/z: the value must have at most 500 characters",
            ]
        );
        let many: Vec<_> = (0..51).map(|n| (n.to_string(), String::new())).collect();
        assert!(Metadata::new(many).is_err());
    }

    #[test]
    fn no_entries_are_the_default() {
        assert_eq!(Metadata::new([]).ok(), Some(Metadata::default()));
        let one = Metadata::new([("a".to_owned(), "1".to_owned())]).expect("valid");
        assert_eq!(one.iter().collect::<Vec<_>>(), [("a", "1")]);
    }
}
