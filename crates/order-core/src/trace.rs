//! The position of a call in a distributed trace (W3C Trace Context, level 1).

use std::{fmt, sync::Arc};

/// A `traceparent` that is passed along from hop to hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(Arc<str>);

impl TraceParent {
    /// Reads a `traceparent`; `None` for one that is not valid, which is ignored like an
    /// absent one (§4.3). Of later versions the part known here is kept.
    pub fn parse(text: &str) -> Option<Self> {
        let known = text.get(..55)?;
        let bytes = known.as_bytes();
        let is_separated = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        let is_hex = |c: &u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        let digits = || known.split('-');
        let is_valid = is_separated
            && digits().flat_map(str::as_bytes).all(is_hex)
            && digits()
                .skip(1)
                .take(2)
                .all(|id| id.bytes().any(|c| c != b'0'));
        let continues_well = match (known.get(..2)?, text.as_bytes().get(55)) {
            ("ff", _) => false,
            ("00", rest) => rest.is_none(),
            (_, rest) => rest.is_none_or(|c| *c == b'-'),
        };
        (is_valid && continues_well).then(|| Self(known.into()))
    }

    /// The whole value, for the next hop.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 32 digits that all spans of the trace share.
    pub fn trace_id(&self) -> &str {
        self.0.get(3..35).unwrap_or_default()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_positions_are_passed_along() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceParent::parse(valid).expect("valid");
        assert_eq!(trace.as_str(), valid);
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let later = format!("cc{}-more", &valid[2..]);
        assert!(TraceParent::parse(&later).is_some());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736+00f067aa0ba902b7-01",
            "ää-ää",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
