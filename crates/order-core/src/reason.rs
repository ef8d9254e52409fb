//! The names of failures, and what to tell a developer who meets one.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $title:literal, $advice:literal;)+) => {
        /// The stable, machine-readable name of a failure (AIP-193 `ErrorInfo.reason`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)+ }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name on the wire, `UPPER_SNAKE_CASE`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The short text that never changes for a reason (RFC 9457 `title`).
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// What a developer who meets the failure should know and do, in sentences.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)+ }
            }

            /// Reads the name on the wire; `None` for one this version does not know.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// See [`Error::InvalidArgument`](crate::Error::InvalidArgument).
    InvalidArgument = "INVALID_ARGUMENT", "The request is not valid",
        "Correct the fields that `errors` names, each with the rule it broke.";
    /// See [`Error::OrderNotFound`](crate::Error::OrderNotFound).
    OrderNotFound = "ORDER_NOT_FOUND", "The order does not exist",
        "Check the id. An order that was acknowledged is never removed.";
    /// See [`Error::OrderAlreadyExists`](crate::Error::OrderAlreadyExists).
    OrderAlreadyExists = "ORDER_ALREADY_EXISTS", "The order id is taken",
        "The id belongs to an order with other content. Make a new UUIDv7 for a new order.";
    /// See [`Error::ExternalIdTaken`](crate::Error::ExternalIdTaken).
    ExternalIdTaken = "EXTERNAL_ID_TAKEN", "The external id is taken",
        "The user has an order with this external id; `existing_order` is its address.";
    /// See [`Error::IdempotencyKeyReused`](crate::Error::IdempotencyKeyReused).
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", "The idempotency key was used before",
        "The key came with a request that asked for something else. Use a new key for a new \
        request; repeat a request with exactly the body it had.";
    /// See [`Error::RequestInProgress`](crate::Error::RequestInProgress).
    RequestInProgress = "REQUEST_IN_PROGRESS", "Another request is still in progress",
        "A request for the same key or order has not ended. Repeat yours after `Retry-After`.";
    /// See [`Error::EtagMismatch`](crate::Error::EtagMismatch).
    EtagMismatch = "ETAG_MISMATCH", "The order has changed",
        "The order is not at the version that the request names. Read it again and decide again.";
    /// See [`Error::OrderNotCancellable`](crate::Error::OrderNotCancellable).
    OrderNotCancellable = "ORDER_NOT_CANCELLABLE", "The order cannot be cancelled",
        "Only a PENDING order can be cancelled. `current_status` is where it stands, `allowed` \
        where it may still move.";
    /// See [`Error::OrderNotRetryable`](crate::Error::OrderNotRetryable).
    OrderNotRetryable = "ORDER_NOT_RETRYABLE", "The order cannot be retried",
        "Only a FAILED order can be retried. `current_status` is where it stands.";
    /// See [`Error::TransitionRefused`](crate::Error::TransitionRefused).
    TransitionRefused = "TRANSITION_REFUSED", "The order cannot move to this status",
        "`current_status` is where the order stands, `allowed` where it may move.";
    /// See [`Error::VersionConflict`](crate::Error::VersionConflict).
    VersionConflict = "VERSION_CONFLICT", "The order was changed at the same time",
        "Others kept changing the order. Read it again and decide again.";
    /// See [`Error::TicketInvalid`](crate::Error::TicketInvalid).
    TicketInvalid = "TICKET_INVALID", "The ticket is not valid",
        "A ticket can be redeemed once, within 30 seconds. Ask `POST /stream-tickets` for a new \
        one.";
    /// See [`Error::PermissionDenied`](crate::Error::PermissionDenied).
    PermissionDenied = "PERMISSION_DENIED", "This is not allowed",
        "The caller is known and may not do this; `detail` says what.";
    /// See [`Error::LimitExceeded`](crate::Error::LimitExceeded).
    LimitExceeded = "LIMIT_EXCEEDED", "A limit is reached",
        "Use less of what `detail` names, and try later.";
    /// See [`Error::Overloaded`](crate::Error::Overloaded).
    Overloaded = "OVERLOADED", "The service is overloaded",
        "Nothing was stored. Repeat the request after `Retry-After`.";
    /// See [`Error::StoreUnavailable`](crate::Error::StoreUnavailable).
    StoreUnavailable = "STORE_UNAVAILABLE", "The order store is unavailable",
        "Whether a write took effect is not known. Repeat it after `Retry-After`, with its \
        idempotency key.";
    /// See [`Error::ServiceUnavailable`](crate::Error::ServiceUnavailable).
    ServiceUnavailable = "SERVICE_UNAVAILABLE", "The order service is unavailable",
        "Whether a write took effect is not known. Repeat it after `Retry-After`, with its \
        idempotency key.";
    /// See [`Error::ShuttingDown`](crate::Error::ShuttingDown).
    ShuttingDown = "SHUTTING_DOWN", "The service is shutting down",
        "Repeat the request; another process answers.";
    /// See [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded).
    DeadlineExceeded = "DEADLINE_EXCEEDED", "The deadline has passed",
        "Whether a write took effect is not known. Repeat it with its idempotency key.";
    /// See [`Error::Internal`](crate::Error::Internal).
    Internal = "INTERNAL", "An internal error occurred",
        "This is a defect. Report it with the request id.";
}
