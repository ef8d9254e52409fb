//! Why the server closes a socket: every code it sends, by name.
//!
//! | code | name | what a client does |
//! |---|---|---|
//! | 1002 | [`PROTOCOL_ERROR`] | fix itself |
//! | 1003 | [`UNSUPPORTED_DATA`] | send text |
//! | 1007 | [`INVALID_TEXT`] | send UTF-8 |
//! | 1009 | [`MESSAGE_TOO_BIG`] | send less at a time |
//! | 1012 | [`RESTARTING`] | reconnect after the time in the reason |
//! | 4008 | [`SLOW_READER`] | reconnect, and read |
//! | 4009 | [`PONG_TIMEOUT`] | reconnect |
//! | 4010 | [`HISTORY_UNAVAILABLE`] | reconnect, and resume with `since` |
//! | 4011 | [`TOO_MANY_CONNECTIONS`] | close another connection, then reconnect |
//! | 4501 | [`TICKET_INVALID`] | reconnect only with a new ticket |
//!
//! Codes below 4000 are those of RFC 6455 §7.4.1 and its IANA registry. Of ours, 4000 to
//! 4499 ask for a reconnect and 4500 to 4999 forbid one with what the client has.

/// A close code with the reason that goes with it on the wire, at most 123 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The code.
    pub code: u16,
    /// The reason, in words.
    pub reason: &'static str,
}

/// A frame broke RFC 6455 itself.
pub const PROTOCOL_ERROR: Close = Close {
    code: 1002,
    reason: "the frame breaks the WebSocket protocol",
};

/// A binary message: this endpoint understands text only.
pub const UNSUPPORTED_DATA: Close = Close {
    code: 1003,
    reason: "binary messages are not understood",
};

/// A text message that is not UTF-8.
pub const INVALID_TEXT: Close = Close {
    code: 1007,
    reason: "the text is not UTF-8",
};

/// A message or frame above the limit.
pub const MESSAGE_TOO_BIG: Close = Close {
    code: 1009,
    reason: "the message is too big",
};

/// The process stops and another takes over. The reason on the wire goes on with
/// `; retry_after_ms=<n>`, different for each socket, so that not all come back at once.
pub const RESTARTING: Close = Close {
    code: 1012,
    reason: "the server restarts",
};

/// The client has taken no bytes for longer than the write timeout, or too many orders of
/// a user have changed since it last took some.
pub const SLOW_READER: Close = Close {
    code: 4008,
    reason: "the client does not read",
};

/// Neither a pong nor anything else came after a ping.
pub const PONG_TIMEOUT: Close = Close {
    code: 4009,
    reason: "no pong came",
};

/// Changes that the client was too slow for could not be read from the history. Going on
/// without them would hide a gap.
pub const HISTORY_UNAVAILABLE: Close = Close {
    code: 4010,
    reason: "the history cannot be read",
};

/// The user whose ticket the client showed has as many sockets as are allowed.
pub const TOO_MANY_CONNECTIONS: Close = Close {
    code: 4011,
    reason: "too many connections of this user",
};

/// The client showed a ticket that was never issued, has been redeemed or is too old.
pub const TICKET_INVALID: Close = Close {
    code: 4501,
    reason: "the ticket is not valid",
};
