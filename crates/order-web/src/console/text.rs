//! How the console writes texts of others, times, durations and numbers.

use std::{fmt::Write as _, time::Duration};

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use order_core::{Money, OrderId, OrderStatus, visible};

/// The most characters of a text that are shown.
const CHARS_MAX: usize = 2_000;

/// A text of others, as one line: characters that act on what is around them are shown by their
/// number, as in logs.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars();
    for character in characters.by_ref().take(CHARS_MAX) {
        if visible::is_harmless(character) {
            shown.push(character);
        } else {
            // Writing to a string does not fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(character));
        }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The same as an element of its own, so that text from right to left leaves its surroundings alone.
pub(super) fn foreign(text: &str) -> Markup {
    html! { bdi { (plain(text)) } }
}

/// A link to an order. Narrow screens show the end of the id, which no other order has.
pub(super) fn order_link(id: OrderId) -> Markup {
    let text = id.to_string();
    let (head, tail) = text.split_at_checked(24).unwrap_or(("", &text));
    html! {
        a.mono href=(order_path(id)) { span.wide { (head) } (tail) }
    }
}

/// The path of the page of an order.
pub(super) fn order_path(id: OrderId) -> String {
    format!("/console/orders/{id}")
}

/// A status as a label.
pub(super) fn badge(status: OrderStatus) -> Markup {
    let class = match status {
        OrderStatus::Pending => "badge",
        OrderStatus::Processing => "badge busy",
        OrderStatus::Processed => "badge good",
        OrderStatus::Failed => "badge bad",
        OrderStatus::Cancelled => "badge off",
    };
    html! { span class=(class) { (status.as_str()) } }
}

/// An amount with its currency.
pub(super) fn money(money: &Money) -> Markup {
    html! { span.number { (money) } " " (money.currency()) }
}

/// A point in time, in UTC, to the second.
pub(super) fn time(at: Timestamp) -> Markup {
    let text = format!("{at:.0}");
    let shown = text.trim_end_matches('Z').replace('T', " ");
    html! { time.number datetime=(machine(at)) { (shown) } }
}

/// The time of day of a point in time, to the millisecond, for what happens within one day.
pub(super) fn time_of_day(at: Timestamp) -> Markup {
    let text = format!("{at:.3}");
    let shown = text.split('T').nth(1).unwrap_or(&text);
    html! { time.number datetime=(machine(at)) { (shown.trim_end_matches('Z')) } }
}

/// The time of day of a point in time, to the second.
pub(super) fn clock(at: Timestamp) -> Markup {
    let text = format!("{at:.0}");
    let shown = text.split('T').nth(1).unwrap_or(&text);
    html! { time.number datetime=(machine(at)) { (shown.trim_end_matches('Z')) } }
}

fn machine(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// The time from one point to a later one; zero if clocks disagree.
pub(super) fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    let elapsed: SignedDuration = later.duration_since(earlier);
    Duration::try_from(elapsed).unwrap_or_default()
}

/// A duration with two places that mean something: `1.4 s`, `3 min 20 s`.
pub(super) fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let seconds = duration.as_secs();
    match seconds {
        0 if micros == 0 => "0 s".to_owned(),
        0 if micros < 1_000 => format!("{micros} µs"),
        0 if micros < 10_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        0 => format!("{} ms", micros / 1_000),
        1..10 => format!("{seconds}.{} s", duration.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => parts((seconds / 60, "min"), (seconds % 60, "s")),
        3_600..86_400 => parts((seconds / 3_600, "h"), (seconds % 3_600 / 60, "min")),
        _ => parts((seconds / 86_400, "d"), (seconds % 86_400 / 3_600, "h")),
    }
}

fn parts((large, unit): (u64, &str), (small, small_unit): (u64, &str)) -> String {
    if small == 0 {
        format!("{large} {unit}")
    } else {
        format!("{large} {unit} {small} {small_unit}")
    }
}

/// A number with its thousands apart.
pub(super) fn count(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and its noun.
pub(super) fn n_of(number: u32, one: &str, many: &str) -> String {
    let noun = if number == 1 { one } else { many };
    format!("{} {noun}", count(number))
}

/// A rate a second.
pub(super) fn rate(rate: f64) -> String {
    if rate == 0.0 || rate >= 100.0 {
        format!("{rate:.0}")
    } else {
        format!("{rate:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_are_one_line_that_shows_what_is_in_it() {
        assert_eq!(plain("größer 家"), "größer 家");
        assert_eq!(
            plain("a\u{202e}b\nc\u{1b}[0m\u{2066}"),
            "a\\u202eb\\u000ac\\u001b[0m\\u2066"
        );
        assert_eq!(plain(&"x".repeat(3_000)).chars().count(), CHARS_MAX + 1);
        let shown = foreign("<script>alert(1)</script>").into_string();
        assert_eq!(shown, "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;</bdi>");
    }

    #[test]
    fn durations_have_two_places() {
        for (micros, expected) in [
            (0, "0 s"),
            (950, "950 µs"),
            (1_250, "1.2 ms"),
            (12_345, "12 ms"),
            (1_450_000, "1.4 s"),
            (59_000_000, "59 s"),
            (200_000_000, "3 min 20 s"),
            (7_200_000_000, "2 h"),
            (100_000_000_000, "1 d 3 h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), expected);
        }
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (number, expected) in [
            (0_u32, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(count(number), expected);
        }
        assert_eq!(
            (rate(0.0), rate(3.25), rate(1_234.5)),
            ("0".into(), "3.2".into(), "1234".into())
        );
    }
}
