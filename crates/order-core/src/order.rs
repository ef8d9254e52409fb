//! The order itself.

use std::time::Duration;

use jiff::Timestamp;

use crate::{Error, Money, OrderEvent, OrderId, OrderStatus, UserId, id::check_text};

/// The position of an order in its own history: 1 when it is created, raised by one with
/// every change. The same number in the `ETag`, on the WebSocket and over gRPC.
pub type Version = u32;

/// Why an order moved: a code for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `UPPER_SNAKE_CASE`, at most 64 bytes.
    pub code: String,
    /// At most 500 characters, without control characters.
    pub message: String,
}

impl Cause {
    /// The longest message, in characters.
    pub const MESSAGE_CHARS_MAX: usize = 500;
    /// The longest code, in bytes.
    pub const CODE_LEN_MAX: usize = 64;

    /// Builds a cause, cutting what is too long and dropping control characters: the text
    /// often comes from an error of somebody else, and losing the cause would be worse.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let code: String = code
            .into()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
            .take(Self::CODE_LEN_MAX)
            .collect();
        let message: String = message
            .into()
            .chars()
            .filter(|c| !c.is_control())
            .take(Self::MESSAGE_CHARS_MAX)
            .collect();
        Self { code, message }
    }

    /// Checks a reason given by a client; the error names `field`.
    pub fn check_message(field: &str, message: &str) -> Result<(), Error> {
        check_text(field, message, Self::MESSAGE_CHARS_MAX)
    }
}

/// An order as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Who placed it.
    pub user_id: UserId,
    /// What it is worth.
    pub money: Money,
    /// Where it stands.
    pub status: OrderStatus,
    /// Its position in its own history.
    pub version: Version,
    /// Why it failed, while it is FAILED.
    pub failure: Option<Cause>,
    /// When the database first saw it.
    pub created_at: Timestamp,
    /// When it last changed, by the database's clock.
    pub updated_at: Timestamp,
}

impl Order {
    /// The event that made the order what it is now.
    pub fn last_event(&self) -> OrderEvent {
        OrderEvent {
            order_id: self.id,
            version: self.version,
            status: self.status,
            at: self.updated_at,
            cause: self.failure.clone(),
        }
    }

    /// Whether a retried create with this content is the one that made this order.
    pub fn is_same_request(&self, new: &NewOrder) -> bool {
        self.id == new.id && self.user_id == new.user_id && self.money == new.money
    }
}

/// An order that is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    /// Its id, made by the first process that saw it.
    pub id: OrderId,
    /// Who places it.
    pub user_id: UserId,
    /// What it is worth.
    pub money: Money,
    /// `Some`: its job is born leased, already claimed for this long by the process that
    /// inserts it, as attempt 1. `None`: the job is due at once, as attempt 0.
    pub lease: Option<Duration>,
}

/// The answer of a store to one [`NewOrder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The order as it is stored now.
    pub order: Order,
    /// Whether this very call inserted it. `false`: it was there before, with the same
    /// content, so the create is a retry and its job is somebody else's.
    pub is_new: bool,
}

/// The answer of a store to one [`Change`](crate::Change).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The change is durable.
    Applied {
        /// The order after the change.
        order: Box<Order>,
        /// The event that was appended.
        event: OrderEvent,
    },
    /// The order is no longer at the expected version, or gone; nothing was written.
    Stale,
}
