//! The one closed set of failures, and what each means to a caller.
//!
//! Adapters translate into it at their edge, transports out of it: by its row in
//! [`reason`](crate::Reason), which every variant has, and by the fields that only some have.

use std::{sync::Arc, time::Duration};

use crate::{ExternalId, OrderId, OrderStatus, Version};

/// A source error of any type, kept for the log and never shown to a client.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A source error that the copies of an [`Error`] share.
pub type SharedError = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// One rule that one field of a request broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the field in `snake_case`, nested parts joined by `/` and list
    /// positions as numbers: `user_id`, `orders/3/amount`. Empty means the whole message.
    pub field: String,
    /// The rule in one lowercase sentence without a final stop.
    pub rule: String,
}

impl Violation {
    /// Names the field and the rule it broke.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
        }
    }
}

/// Everything that can go wrong in a call to the system.
///
/// `Display` is safe to show to a client: it is built from the variant's own
/// fields and never from a source.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks the rules of one or more fields.
    #[error("{}", invalid_argument_text(.violations))]
    InvalidArgument {
        /// Every broken rule that was found, at least one.
        violations: Vec<Violation>,
    },
    /// No order has this id.
    #[error("order {order_id} does not exist")]
    OrderNotFound {
        /// The id that was asked for.
        order_id: OrderId,
    },
    /// The id is taken by an order with other content.
    #[error("order {order_id} already exists with other content")]
    OrderAlreadyExists {
        /// The id that is taken.
        order_id: OrderId,
    },
    /// The user has an order with this external id already.
    #[error("external id {external_id} is taken by order {order_id} of this user")]
    ExternalIdTaken {
        /// The name that is taken.
        external_id: ExternalId,
        /// The order that has it.
        order_id: OrderId,
    },
    /// The idempotency key was used for a request that asks for something else.
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    /// Another request for the same idempotency key or order has not ended yet.
    #[error("another request for the same idempotency key or order is still in progress")]
    RequestInProgress {
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// The order is not at the version the caller named.
    #[error("order {order_id} is at version {current}, which the precondition excludes")]
    EtagMismatch {
        /// The order.
        order_id: OrderId,
        /// Its version now.
        current: Version,
    },
    /// The order has not failed, so there is nothing to retry.
    #[error("order {order_id} is {current} and cannot be retried")]
    OrderNotRetryable {
        /// The order.
        order_id: OrderId,
        /// Its status now.
        current: OrderStatus,
        /// The statuses it may still move to.
        allowed: Vec<OrderStatus>,
    },
    /// The ticket was never issued, has been redeemed, or is too old.
    #[error("the ticket is not valid, or no longer")]
    TicketInvalid,
    /// The caller is known and may not do this.
    #[error("this is not allowed: {what}")]
    PermissionDenied {
        /// What is not allowed, as a sentence part.
        what: String,
    },
    /// The order is past the point where it can be cancelled.
    #[error("order {order_id} is {current} and can no longer be cancelled")]
    OrderNotCancellable {
        /// The order.
        order_id: OrderId,
        /// Its status now.
        current: OrderStatus,
        /// The statuses it may still move to.
        allowed: Vec<OrderStatus>,
    },
    /// The state machine has no such move.
    #[error("order {order_id} is {current} and cannot become {requested}")]
    TransitionRefused {
        /// The order.
        order_id: OrderId,
        /// Its status now.
        current: OrderStatus,
        /// The status that was asked for.
        requested: OrderStatus,
        /// The statuses it may move to.
        allowed: Vec<OrderStatus>,
    },
    /// Others kept changing the order while this call tried to.
    #[error("order {order_id} was changed by another request at the same time")]
    VersionConflict {
        /// The order.
        order_id: OrderId,
    },
    /// A limit on what one caller may hold or send was reached.
    #[error("the limit of {limit} {what} is reached")]
    LimitExceeded {
        /// What is limited, in the plural: `subscriptions per connection`.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// More work is waiting than can be done in time; nothing was stored.
    #[error("the service is overloaded; nothing was stored")]
    Overloaded {
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// The database cannot be reached or did not answer.
    #[error("the order store is unavailable")]
    StoreUnavailable {
        /// When a new attempt makes sense.
        retry_after: Duration,
        /// What the driver said.
        #[source]
        source: Option<SharedError>,
    },
    /// The order service cannot be reached.
    #[error("the order service is unavailable")]
    ServiceUnavailable {
        /// When a new attempt makes sense.
        retry_after: Duration,
        /// What the connection said.
        #[source]
        source: Option<SharedError>,
    },
    /// The process is stopping and takes no new work.
    #[error("the service is shutting down")]
    ShuttingDown {
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// The time the caller allows for the call has run out.
    #[error("the deadline of the request has passed")]
    DeadlineExceeded,
    /// A defect or a condition nobody foresaw.
    #[error("an internal error occurred")]
    Internal {
        /// What happened, for the log.
        #[source]
        source: Option<SharedError>,
    },
}

/// The field and its rule; the rule alone if it is about the whole message.
impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.rule);
        }
        write!(f, "{}: {}", self.field, self.rule)
    }
}

fn invalid_argument_text(violations: &[Violation]) -> String {
    let rules: Vec<String> = violations.iter().map(Violation::to_string).collect();
    format!("the request is not valid: {}", rules.join("; "))
}

impl Error {
    /// How long a client is asked to wait when nothing better is known.
    pub const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

    /// One broken rule of one field.
    pub fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::InvalidArgument {
            violations: vec![Violation::new(field, rule)],
        }
    }

    /// The database failed with `source`.
    pub fn store_unavailable(source: impl Into<BoxError>) -> Self {
        Self::StoreUnavailable {
            retry_after: Self::RETRY_AFTER_DEFAULT,
            source: Some(Arc::from(source.into())),
        }
    }

    /// The order service failed with `source`.
    pub fn service_unavailable(source: impl Into<BoxError>) -> Self {
        Self::ServiceUnavailable {
            retry_after: Self::RETRY_AFTER_DEFAULT,
            source: Some(Arc::from(source.into())),
        }
    }

    /// More work waits than the queue holds.
    pub fn overloaded() -> Self {
        Self::Overloaded {
            retry_after: Self::RETRY_AFTER_DEFAULT,
        }
    }

    /// Another request for the same key or order has not ended yet.
    pub fn request_in_progress() -> Self {
        Self::RequestInProgress {
            retry_after: Self::RETRY_AFTER_DEFAULT,
        }
    }

    /// The process takes no new work.
    pub fn shutting_down() -> Self {
        Self::ShuttingDown {
            retry_after: Self::RETRY_AFTER_DEFAULT,
        }
    }

    /// A defect with the error that shows it.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::Internal {
            source: Some(Arc::from(source.into())),
        }
    }

    /// When a new attempt makes sense, where that is known.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::LimitExceeded { .. } => Some(Self::RETRY_AFTER_DEFAULT),
            Self::RequestInProgress { retry_after }
            | Self::Overloaded { retry_after }
            | Self::StoreUnavailable { retry_after, .. }
            | Self::ServiceUnavailable { retry_after, .. }
            | Self::ShuttingDown { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// A copy without sources, for handing one failure to several callers: it is logged once.
    #[must_use]
    pub fn without_source(&self) -> Self {
        let mut copy = self.clone();
        if let Self::StoreUnavailable { source, .. }
        | Self::ServiceUnavailable { source, .. }
        | Self::Internal { source } = &mut copy
        {
            *source = None;
        }
        copy
    }

    /// The same failure for `n` callers. The first keeps the source, for the log.
    pub fn copies<T>(self, n: usize) -> Vec<Result<T, Self>> {
        let others: Vec<_> = (1..n).map(|_| Err(self.without_source())).collect();
        let mut copies = vec![Err(self)];
        copies.extend(others);
        copies
    }

    /// The error and all its sources in one line, for the log.
    pub fn chain(&self) -> String {
        error_chain(self)
    }
}

/// An error and all its sources in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
