//! The position of a call in a distributed trace (W3C Trace Context, level 1).

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// A `traceparent` that is passed along from hop to hop, with the `tracestate` it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(
    /// The `traceparent`, [`PARENT_LEN`] bytes, and right behind it the `tracestate`, if there is one.
    Arc<str>,
);

/// The length of the part of a `traceparent` that is known.
const PARENT_LEN: usize = 55;

/// The longest `tracestate` that is passed along, in bytes, and the most members it has: what §3.3.1
/// asks of everybody.
const STATE_LEN_MAX: usize = 512;
const STATE_MEMBERS_MAX: usize = 32;

impl TraceParent {
    /// Reads a `traceparent`; `None` for one that is not valid, which is ignored like an
    /// absent one (§4.3). Of later versions the part known here is kept.
    pub fn parse(text: &str) -> Option<Self> {
        let known = text.get(..PARENT_LEN)?;
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
        let continues_well = match (known.get(..2)?, text.as_bytes().get(PARENT_LEN)) {
            ("ff", _) => false,
            ("00", rest) => rest.is_none(),
            (_, rest) => rest.is_none_or(|c| *c == b'-'),
        };
        (is_valid && continues_well).then(|| Self(known.into()))
    }

    /// The position of a span, whose ids are not zero.
    pub(crate) fn of_span(trace_id: [u8; 16], span_id: u64, is_sampled: bool) -> Self {
        let (trace_id, span_id) = (Uuid::from_bytes(trace_id), Uuid::from_u64_pair(span_id, 0));
        let mut digits = Uuid::encode_buffer();
        let mut text = String::with_capacity(PARENT_LEN);
        text.push_str("00-");
        text.push_str(trace_id.simple().encode_lower(&mut digits));
        text.push('-');
        let span_id = span_id.simple().encode_lower(&mut digits);
        text.push_str(span_id.get(..16).unwrap_or_default());
        text.push_str(if is_sampled { "-01" } else { "-00" });
        Self(text.into())
    }

    /// Adds the lines of a `tracestate`. One that is not valid or too long is left out, like an
    /// absent one; the position is kept (§3.3).
    #[must_use]
    pub fn with_state<'a>(self, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let is_member = |member: &str| member.is_empty() || member.contains('=');
        let mut lines = lines.into_iter();
        let mut text = lines.next().unwrap_or_default().to_owned();
        for line in lines {
            text.push(',');
            text.push_str(line);
        }
        let is_valid = (1..=STATE_LEN_MAX).contains(&text.len())
            && text.bytes().all(|c| matches!(c, b' '..=b'~' | b'\t'))
            && text.split(',').count() <= STATE_MEMBERS_MAX
            && text.split(',').map(str::trim_ascii).all(is_member);
        let state = if is_valid { text.as_str() } else { "" };
        if self.state().unwrap_or_default() == state {
            return self;
        }
        Self([self.as_str(), state].concat().into())
    }

    /// The `tracestate` of the trace (vendor-specific data), for the next hop.
    pub fn state(&self) -> Option<&str> {
        self.0.get(PARENT_LEN..).filter(|state| !state.is_empty())
    }

    /// The whole `traceparent`, for the next hop.
    pub fn as_str(&self) -> &str {
        self.0.get(..PARENT_LEN).unwrap_or_default()
    }

    /// The 32 digits that all spans of the trace share.
    pub fn trace_id(&self) -> &str {
        self.0.get(3..35).unwrap_or_default()
    }

    /// The 16 digits of the span that is the parent of what comes next.
    pub fn span_id(&self) -> &str {
        self.0.get(36..52).unwrap_or_default()
    }

    /// Whether the caller records the trace.
    pub fn is_sampled(&self) -> bool {
        let flags = self.0.as_bytes().get(PARENT_LEN - 1);
        // The last of the eight flags, in the last hexadecimal digit.
        flags.is_some_and(|digit| {
            matches!(digit, b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f')
        })
    }

    /// The position, if there is something to record at it.
    pub fn sampled(position: Option<&Self>) -> Option<Self> {
        position.filter(|position| position.is_sampled()).cloned()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
        assert_eq!(trace.span_id(), "00f067aa0ba902b7");
        for (flags, is_sampled) in [
            ("00", false),
            ("01", true),
            ("02", false),
            ("03", true),
            ("fe", false),
        ] {
            let trace = TraceParent::parse(&format!("{}{flags}", &valid[..53])).expect("valid");
            assert_eq!(trace.is_sampled(), is_sampled, "{flags}");
            assert_eq!(TraceParent::sampled(Some(&trace)).is_some(), is_sampled);
        }
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

    #[test]
    fn only_valid_states_are_passed_along() {
        let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let trace = trace.expect("valid");
        let state = |lines: &[&str]| {
            let with = trace.clone().with_state(lines.iter().copied());
            with.state().map(str::to_owned)
        };
        let long = format!("a={}", "b".repeat(510));
        for (lines, expected) in [
            (&["a=1"][..], Some("a=1")),
            (&["a=1, b@c=2 ,", "d=3"], Some("a=1, b@c=2 ,,d=3")),
            (&[long.as_str()], Some(long.as_str())),
            (&[], None),
            (&[""], None),
            (&["a"], None),
            (&["a=\u{e4}"], None),
            (&["a=1\r\nb=2"], None),
            (&[long.as_str(), "c=1"], None),
        ] {
            assert_eq!(state(lines).as_deref(), expected, "{lines:?}");
        }
        let many = |n| vec!["a=1"; n];
        assert!(state(&many(32)).is_some());
        assert_eq!(state(&many(33)), None);
    }
}
