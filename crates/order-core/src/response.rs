//! How long an answer may be, and how many elements of a list fit into one.

use crate::{Cause, ExternalId, Order, OrderEvent};

/// The longest answer of any transport, in bytes: what gRPC clients read by default. A page ends
/// before it would be longer, whatever its size.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Kept free for what an answer has beside its list: brackets, a page token.
const FRAME_BYTES: usize = 1024;

/// More than an order or an event takes beside its texts: names of fields, ids, numbers, times.
const FIXED_BYTES: usize = 512;

/// More than a text takes beside its characters: quotes and separators, or tags and lengths.
const TEXT_BYTES: usize = 8;

/// The room that is left for the elements of a list in one answer.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    bytes_left: usize,
    is_empty: bool,
}

impl Room {
    /// The room in an answer that has `n_bytes` beside its list.
    pub const fn beside(n_bytes: usize) -> Self {
        Self {
            bytes_left: RESPONSE_BYTES_MAX.saturating_sub(FRAME_BYTES + n_bytes),
            is_empty: true,
        }
    }

    /// Takes the room of the next element; `false` if it does not fit, and then no later one does.
    /// The first element always fits, so that every page leads on.
    pub fn take(&mut self, n_bytes: usize) -> bool {
        let is_first = std::mem::take(&mut self.is_empty);
        let left = self.bytes_left.checked_sub(n_bytes);
        self.bytes_left = left.unwrap_or(0);
        left.is_some() || is_first
    }

    /// How many elements fit, from the first on.
    pub fn n_fitting(mut self, sizes: impl IntoIterator<Item = usize>) -> usize {
        let fitting = sizes.into_iter().take_while(|n_bytes| self.take(*n_bytes));
        fitting.count()
    }
}

impl Order {
    /// An upper bound of the bytes that the order takes in an answer, as JSON or as protobuf.
    pub fn encoded_len_max(&self) -> usize {
        let metadata = self.metadata.iter();
        let metadata = metadata.map(|(name, value)| text_len_max(name) + text_len_max(value));
        FIXED_BYTES
            + text_len_max(self.user_id.as_str())
            + text_len_max(self.money.currency())
            + metadata.sum::<usize>()
            + text_len_max(self.external_id.as_ref().map_or("", ExternalId::as_str))
            + cause_len_max(self.failure.as_ref())
    }
}

impl OrderEvent {
    /// An upper bound of the bytes that the event takes in an answer, as JSON or as protobuf.
    pub fn encoded_len_max(&self) -> usize {
        FIXED_BYTES + text_len_max(self.user_id.as_str()) + cause_len_max(self.cause.as_ref())
    }
}

fn cause_len_max(cause: Option<&Cause>) -> usize {
    cause.map_or(0, |cause| {
        text_len_max(&cause.code) + text_len_max(&cause.message)
    })
}

/// JSON escapes quotes and backslashes with one more byte and control characters as `\u00XX`.
fn text_len_max(text: &str) -> usize {
    let len_max = |byte| match byte {
        b'"' | b'\\' => 2,
        ..b' ' => 6,
        _ => 1,
    };
    TEXT_BYTES + text.bytes().map(len_max).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{Metadata, Money, OrderId, OrderStatus, PageSize, UserId};

    #[test]
    fn elements_fit_until_one_does_not() {
        let room = Room::beside(0);
        let half = RESPONSE_BYTES_MAX / 2 - FRAME_BYTES;
        assert_eq!(room.n_fitting([half, half, 2 * FRAME_BYTES, 1]), 2);
        assert_eq!(room.n_fitting([half, half, FRAME_BYTES, 1]), 3);
        assert_eq!(Room::beside(half).n_fitting([half, half]), 1);
        assert_eq!(room.n_fitting([]), 0);
        // One that can never fit does not end the list.
        assert_eq!(room.n_fitting([usize::MAX, 1]), 1);
    }

    /// The character that takes the most bytes, on either transport, of those that a text may have.
    const WIDEST: &str = "\u{10ffff}";

    fn largest_order() -> Order {
        let name = |n: usize| format!("{n:02}{}", WIDEST.repeat(Metadata::NAME_CHARS_MAX - 2));
        let value = WIDEST.repeat(Metadata::VALUE_CHARS_MAX);
        let entries = (0..Metadata::LEN_MAX).map(|n| (name(n), value.clone()));
        let currency = Money::CURRENCY_DEFAULT;
        Order {
            id: OrderId::floor_at(Timestamp::MAX),
            user_id: UserId::parse(&WIDEST.repeat(UserId::CHARS_MAX)).expect("valid"),
            money: Money::from_minor_units(Money::MINOR_UNITS_MAX, currency).expect("valid"),
            status: OrderStatus::Failed,
            version: u32::MAX,
            metadata: Metadata::new(entries).expect("valid"),
            external_id: ExternalId::parse(&WIDEST.repeat(ExternalId::CHARS_MAX)).ok(),
            failure: Some(Cause::new(
                "C".repeat(Cause::CODE_LEN_MAX),
                WIDEST.repeat(Cause::MESSAGE_CHARS_MAX),
            )),
            created_at: Timestamp::MIN,
            updated_at: Timestamp::MIN,
        }
    }

    #[test]
    fn a_page_has_room_for_many_of_the_largest_orders_and_for_every_history() {
        let order = largest_order();
        let (order_len, event_len) = (
            order.encoded_len_max(),
            order.last_event().encoded_len_max(),
        );
        let page_size = usize::from(PageSize::MAX.get());
        let n_orders = Room::beside(0).n_fitting(vec![order_len; page_size]);
        assert!((30..page_size).contains(&n_orders), "{n_orders}");
        let history = Room::beside(order_len).n_fitting(vec![event_len; page_size]);
        assert_eq!(history, page_size);
    }
}
