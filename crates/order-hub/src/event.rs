//! An event on its way to many sessions: shared, and encoded once per form.

use std::sync::OnceLock;

use bytes::Bytes;
use order_core::{OrderEvent, Version};

/// How a subscriber wants to read events. The hub keeps the choice and the bytes; what they
/// look like is the transport's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Order and status, nothing else.
    Bare,
    /// Everything a client needs to resume.
    Full,
}

/// One event, shared by all sessions that get it.
#[derive(Debug)]
pub struct SharedEvent {
    event: OrderEvent,
    bare: OnceLock<Bytes>,
    full: OnceLock<Bytes>,
}

impl SharedEvent {
    pub(crate) const fn new(event: OrderEvent) -> Self {
        Self {
            event,
            bare: OnceLock::new(),
            full: OnceLock::new(),
        }
    }

    /// The event itself.
    pub const fn event(&self) -> &OrderEvent {
        &self.event
    }

    pub(crate) const fn version(&self) -> Version {
        self.event.version
    }

    /// The event in `form`, made by `encode` for the first session that asks and shared by
    /// all others.
    pub fn encoded(&self, form: Form, encode: impl FnOnce(&OrderEvent) -> Bytes) -> Bytes {
        let cache = match form {
            Form::Bare => &self.bare,
            Form::Full => &self.full,
        };
        cache.get_or_init(|| encode(&self.event)).clone()
    }
}
