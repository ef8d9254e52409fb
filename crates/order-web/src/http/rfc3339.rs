//! Points in time as clients write them (RFC 3339 §5.6).
//!
//! The database counts microseconds and a client may write more digits than that. Which
//! way the rest is rounded depends on what the time is compared with, so the caller says.

use jiff::{SignedDuration, Timestamp, civil::DateTime};

/// What becomes of the part of a time below a microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Down,
    Up,
}

/// Microseconds in a second have this many digits.
const DIGITS: usize = 6;

/// Reads a time in UTC or with an offset, and rounds it to whole microseconds. `None` if
/// it is not one. Times at the very ends of the calendar count as the nearest that can be
/// represented.
pub(super) fn parse(text: &str, rounding: Rounding) -> Option<Timestamp> {
    // `2026-11-23T09:30:00`, then perhaps a fraction, then the offset.
    let (seconds, rest) = text.split_at_checked(19)?;
    has_shape(seconds, "0000-00-00T00:00:00").then_some(())?;
    let date_time: DateTime = seconds.to_ascii_uppercase().parse().ok()?;
    let (fraction, offset) = split_fraction(rest)?;
    let is_behind_utc = parse_offset(offset)?;
    let micros = parse_micros(fraction, rounding)?;
    let local = date_time.to_zoned(jiff::tz::TimeZone::UTC);
    let local = local.map_or(Timestamp::MAX, |zoned| zoned.timestamp());
    let shift = SignedDuration::from_micros(micros) - is_behind_utc;
    Some(local.checked_add(shift).unwrap_or(if shift.is_negative() {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    }))
}

/// Whether `text` has a digit where `shape` has one, and the same characters elsewhere.
fn has_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(c, wanted)| match wanted {
                b'0' => c.is_ascii_digit(),
                _ => c.eq_ignore_ascii_case(&wanted),
            })
}

/// The digits after the point, if there is one, and what follows them.
fn split_fraction(text: &str) -> Option<(&str, &str)> {
    let Some(fraction) = text.strip_prefix('.') else {
        return Some(("", text));
    };
    let end = fraction.find(|c: char| !c.is_ascii_digit())?;
    (end > 0).then(|| fraction.split_at(end))
}

fn parse_micros(fraction: &str, rounding: Rounding) -> Option<i64> {
    let (kept, cut) = fraction.split_at(fraction.len().min(DIGITS));
    let micros: i64 = format!("{kept:0<DIGITS$}").parse().ok()?;
    let is_cut = cut.bytes().any(|digit| digit != b'0');
    Some(micros + i64::from(is_cut && rounding == Rounding::Up))
}

/// How far local time is ahead of UTC.
fn parse_offset(text: &str) -> Option<SignedDuration> {
    if text.eq_ignore_ascii_case("z") {
        return Some(SignedDuration::ZERO);
    }
    let (sign, clock) = match text.split_at_checked(1)? {
        ("+", clock) => (1, clock),
        ("-", clock) => (-1, clock),
        _ => return None,
    };
    has_shape(clock, "00:00").then_some(())?;
    let (hours, minutes) = clock.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let is_valid = hours < 24 && minutes < 60;
    is_valid.then(|| SignedDuration::from_mins(sign * (hours * 60 + minutes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(text: &str) -> Option<(String, String)> {
        let rounded = |rounding| parse(text, rounding).map(|time| format!("{time:.9}"));
        rounded(Rounding::Down).zip(rounded(Rounding::Up))
    }

    #[test]
    fn times_are_exact_to_the_microsecond() {
        for (text, down, up) in [
            (
                "2026-11-23T09:30:00Z",
                "2026-11-23T09:30:00.000000000Z",
                None,
            ),
            (
                "2026-11-23t11:30:00.5+02:00",
                "2026-11-23T09:30:00.500000000Z",
                None,
            ),
            (
                "2026-11-23T00:00:00-23:59",
                "2026-11-23T23:59:00.000000000Z",
                None,
            ),
            (
                "2026-11-23T09:30:00.123456000z",
                "2026-11-23T09:30:00.123456000Z",
                None,
            ),
            (
                "2026-11-23T09:30:00.1234560001Z",
                "2026-11-23T09:30:00.123456000Z",
                Some("2026-11-23T09:30:00.123457000Z"),
            ),
            (
                "2026-12-31T23:59:59.99999999999999999999999Z",
                "2026-12-31T23:59:59.999999000Z",
                Some("2027-01-01T00:00:00.000000000Z"),
            ),
            (
                "0000-01-01T00:00:00Z",
                "0000-01-01T00:00:00.000000000Z",
                None,
            ),
        ] {
            let expected = (down.to_owned(), up.unwrap_or(down).to_owned());
            assert_eq!(both(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn ends_of_the_calendar_are_taken() {
        for text in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59"] {
            assert_eq!(parse(text, Rounding::Up), Some(Timestamp::MAX), "{text}");
        }
        assert!(parse("0000-01-01T00:00:00+23:59", Rounding::Down).is_some());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T09:30:00",
            "2026-11-23 09:30:00Z",
            "2026-11-23T09:30:00 02:00",
            "2026-11-23T09:30Z",
            "2026-11-23T09:30:00.Z",
            "2026-11-23T09:30:00,5Z",
            "2026-11-23T09:30:00+0200",
            "2026-11-23T09:30:00+02",
            "2026-11-23T09:30:00+24:00",
            "2026-11-23T09:30:00+02:60",
            "2026-11-23T09:30:00Z[UTC]",
            "2026-02-30T09:30:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T09:60:00Z",
            "+002026-11-23T09:30:00Z",
            "1700000000",
            "2026-11-23T09:30:0ß+02:00",
        ] {
            assert_eq!(both(text), None, "{text}");
        }
    }
}
