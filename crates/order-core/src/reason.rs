//! One row for each failure: its names, what it means to a caller, and what to do about it.
//! `/problems`, docs/errors.md and both transports read this table.

use crate::Error;

/// Whether a caller may make a failed call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The same request fails again.
    Never,
    /// After reading the current state, and deciding again.
    AfterReading,
    /// Yes: nothing was done.
    Always,
    /// Whether it took effect is unknown, so only a request that has no effect the second time.
    IfIdempotent,
}

impl Repeat {
    /// Whether a call may be made again without having its effect twice. `is_idempotent` says
    /// whether the call has no effect the second time.
    pub const fn is_safe(self, is_idempotent: bool) -> bool {
        match self {
            Self::Never | Self::AfterReading => false,
            Self::Always => true,
            Self::IfIdempotent => is_idempotent,
        }
    }
}

/// The code of a failure over gRPC, with its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcCode {
    /// 3.
    InvalidArgument = 3,
    /// 4.
    DeadlineExceeded = 4,
    /// 5.
    NotFound = 5,
    /// 6.
    AlreadyExists = 6,
    /// 7.
    PermissionDenied = 7,
    /// 8.
    ResourceExhausted = 8,
    /// 9.
    FailedPrecondition = 9,
    /// 10.
    Aborted = 10,
    /// 13.
    Internal = 13,
    /// 14.
    Unavailable = 14,
    /// 16.
    Unauthenticated = 16,
}

impl GrpcCode {
    /// The name, `UPPER_SNAKE_CASE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

macro_rules! reasons {
    ($($variant:ident = $text:literal, $http:literal, $grpc:ident, $repeat:ident, $title:literal,
        $advice:literal;)+) => {
        /// The stable, machine-readable name of a failure (AIP-193 `ErrorInfo.reason`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(
                #[doc = concat!("See [`Error::", stringify!($variant), "`].")]
                $variant,
            )+
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name on the wire, `UPPER_SNAKE_CASE`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The HTTP status.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)+ }
            }

            /// The gRPC code.
            pub const fn grpc_code(self) -> GrpcCode {
                match self { $(Self::$variant => GrpcCode::$grpc,)+ }
            }

            /// Whether the call may be made again.
            pub const fn repeat(self) -> Repeat {
                match self { $(Self::$variant => Repeat::$repeat,)+ }
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

            /// Whether the system failed, and not the request.
            pub const fn is_fault(self) -> bool {
                self.http_status() >= 500
            }
        }

        impl Error {
            /// The stable name of the failure.
            pub const fn reason(&self) -> Reason {
                match self { $(Self::$variant { .. } => Reason::$variant,)+ }
            }
        }
    };
}

reasons! {
    InvalidArgument = "INVALID_ARGUMENT", 400, InvalidArgument, Never,
        "The request is not valid",
        "Correct the fields that `errors` names, each with the rule it broke.";
    OrderNotFound = "ORDER_NOT_FOUND", 404, NotFound, Never,
        "The order does not exist",
        "Check the id. An order that was acknowledged is never removed.";
    OrderAlreadyExists = "ORDER_ALREADY_EXISTS", 409, AlreadyExists, Never,
        "The order id is taken",
        "The id belongs to an order with other content. Make a new UUIDv7 for a new order.";
    ExternalIdTaken = "EXTERNAL_ID_TAKEN", 409, AlreadyExists, Never,
        "The external id is taken",
        "The user has an order with this external id; `existing_order` is its address.";
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", 422, InvalidArgument, Never,
        "The idempotency key was used before",
        "The key came with a request that asked for something else. Use a new key for a new \
        request; repeat a request with exactly the body it had.";
    RequestInProgress = "REQUEST_IN_PROGRESS", 409, Aborted, Always,
        "Another request is still in progress",
        "A request for the same key or order has not ended. Repeat yours after `Retry-After`.";
    EtagMismatch = "ETAG_MISMATCH", 412, Aborted, AfterReading,
        "The order has changed",
        "The order is not at the version that the request names. Read it again and decide again.";
    OrderNotCancellable = "ORDER_NOT_CANCELLABLE", 409, FailedPrecondition, Never,
        "The order cannot be cancelled",
        "Only a PENDING order can be cancelled. `current_status` is where it stands, `allowed` \
        where it may still move.";
    OrderNotRetryable = "ORDER_NOT_RETRYABLE", 409, FailedPrecondition, Never,
        "The order cannot be retried",
        "Only a FAILED order can be retried. `current_status` is where it stands.";
    TransitionRefused = "TRANSITION_REFUSED", 409, FailedPrecondition, Never,
        "The order cannot move to this status",
        "`current_status` is where the order stands, `allowed` where it may move.";
    VersionConflict = "VERSION_CONFLICT", 409, Aborted, AfterReading,
        "The order was changed at the same time",
        "Others kept changing the order. Read it again and decide again.";
    TicketInvalid = "TICKET_INVALID", 401, Unauthenticated, Never,
        "The ticket is not valid",
        "A ticket can be redeemed once, within 30 seconds. Ask `POST /stream-tickets` for a new \
        one.";
    PermissionDenied = "PERMISSION_DENIED", 403, PermissionDenied, Never,
        "This is not allowed",
        "The caller is known and may not do this; `detail` says what.";
    LimitExceeded = "LIMIT_EXCEEDED", 429, ResourceExhausted, Always,
        "A limit is reached",
        "Use less of what `detail` names, and try later.";
    Overloaded = "OVERLOADED", 503, Unavailable, Always,
        "The service is overloaded",
        "Nothing was stored. Repeat the request after `Retry-After`.";
    StoreUnavailable = "STORE_UNAVAILABLE", 503, Unavailable, IfIdempotent,
        "The order store is unavailable",
        "Whether a write took effect is not known. Repeat it after `Retry-After`, with its \
        idempotency key.";
    ServiceUnavailable = "SERVICE_UNAVAILABLE", 503, Unavailable, IfIdempotent,
        "The order service is unavailable",
        "Whether a write took effect is not known. Repeat it after `Retry-After`, with its \
        idempotency key.";
    ShuttingDown = "SHUTTING_DOWN", 503, Unavailable, Always,
        "The service is shutting down",
        "Repeat the request; another process answers.";
    DeadlineExceeded = "DEADLINE_EXCEEDED", 504, DeadlineExceeded, IfIdempotent,
        "The deadline has passed",
        "Whether a write took effect is not known. Repeat it with its idempotency key.";
    Internal = "INTERNAL", 500, Internal, Never,
        "An internal error occurred",
        "This is a defect. Report it with the request id.";
}
