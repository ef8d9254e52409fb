//! The order itself.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    Error, ExternalId, KeyClaim, Metadata, Money, OrderEvent, OrderId, OrderStatus, RequestId,
    TraceParent, UserId, id::check_text,
};

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
    /// What the client attached to it.
    pub metadata: Metadata,
    /// Its name in the client's own system.
    pub external_id: Option<ExternalId>,
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
            user_id: self.user_id.clone(),
            version: self.version,
            status: self.status,
            at: self.updated_at,
            cause: self.failure.clone(),
            trace_parent: None,
        }
    }

    /// Whether a retried create with this content is the one that made this order.
    pub fn is_same_request(&self, new: &NewOrder) -> bool {
        self.id == new.id
            && self.user_id == new.user_id
            && self.money == new.money
            && self.metadata == new.metadata
            && self.external_id == new.external_id
    }

    /// The order as its creation was answered: nothing of what has happened since.
    #[must_use]
    pub fn as_created(&self) -> Self {
        Self {
            status: OrderStatus::Pending,
            version: 1,
            failure: None,
            updated_at: self.created_at,
            ..self.clone()
        }
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
    /// What the client attached to it.
    pub metadata: Metadata,
    /// Its name in the client's own system.
    pub external_id: Option<ExternalId>,
    /// A key to store with it, whose owner is `user_id`.
    pub key: Option<KeyClaim>,
    /// `Some`: its job is born leased, already claimed for this long by the process that
    /// inserts it, as attempt 1. `None`: the job is due at once, as attempt 0.
    pub lease: Option<Duration>,
    /// Where the request is in a sampled trace. It is stored with the order, so that whoever works
    /// on the order later continues the trace.
    pub trace_parent: Option<TraceParent>,
    /// The id of the request, for the record of the order.
    pub request_id: Option<RequestId>,
    /// The process that took the request from the client, for the record of the order.
    pub gateway: Option<Arc<str>>,
}

impl NewOrder {
    /// An order with nothing but what it needs; its job is due at once.
    pub const fn new(id: OrderId, user_id: UserId, money: Money) -> Self {
        Self {
            id,
            user_id,
            money,
            metadata: Metadata::NONE,
            external_id: None,
            key: None,
            lease: None,
            trace_parent: None,
            request_id: None,
            gateway: None,
        }
    }
}

/// The answer of a store to one [`NewOrder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The order as it is stored now; as it was created if the key was there before.
    pub order: Order,
    /// Why it is there.
    pub insertion: Insertion,
}

impl Created {
    /// Whether this very call inserted the order.
    pub const fn is_new(&self) -> bool {
        matches!(self.insertion, Insertion::New)
    }
}

/// How a new order met what was stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// This very call inserted it, with its job.
    New,
    /// It was there before, under this id and with the same content: the create is a retry
    /// of the same attempt, and its job is somebody else's.
    SameId,
    /// Another create with the same key and the same content was first.
    SameKey,
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
