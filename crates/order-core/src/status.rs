//! The state machine: one table, one decision.

use std::fmt;

use uuid::Uuid;

use crate::{Cause, Error, KeyClaim, Order, OrderId, TraceParent, Version};

/// Where an order stands. The discriminants are the codes stored in databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum OrderStatus {
    /// Accepted and durable; nothing has happened yet.
    Pending = 1,
    /// An effect outside the system may have begun.
    Processing = 2,
    /// Done. Final.
    Processed = 3,
    /// Given up after the last attempt or a permanent error; may be redriven.
    Failed = 4,
    /// Withdrawn before processing began. Final.
    Cancelled = 5,
}

impl OrderStatus {
    /// Every status, in the order of the codes.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Processing,
        Self::Processed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The name on every wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Processing => "PROCESSING",
            Self::Processed => "PROCESSED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The code in databases.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The status with this code in databases.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|status| i64::from(status.code()) == code)
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether no automatic move leaves this status: nothing more is to be expected
    /// unless somebody redrives the order.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Processed | Self::Failed | Self::Cancelled)
    }

    /// Whether no move at all leaves this status.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Processed | Self::Cancelled)
    }

    /// The statuses an order may move to from here, in the order of the table.
    pub fn allowed(self) -> Vec<Self> {
        TRANSITIONS
            .iter()
            .filter(|t| t.from == self)
            .map(|t| t.to)
            .collect()
    }
}

impl fmt::Display for OrderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What becomes of an order's job when the order moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEffect {
    /// The job stays as it is.
    Keep,
    /// The job is done with and its row deleted.
    Delete,
    /// The job stays for a redrive and is never claimed until then.
    Bury,
    /// The job is due at once, with a new round of attempts.
    Requeue,
}

/// One row of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Where the order stands.
    pub from: OrderStatus,
    /// Where it moves.
    pub to: OrderStatus,
    /// What becomes of its job.
    pub job: JobEffect,
    /// When this happens, for the documentation.
    pub when: &'static str,
}

const fn transition(
    from: OrderStatus,
    to: OrderStatus,
    job: JobEffect,
    when: &'static str,
) -> Transition {
    Transition {
        from,
        to,
        job,
        when,
    }
}

/// Every move there is. `docs/state-machine.md` is rendered from this table.
pub const TRANSITIONS: &[Transition] = {
    use JobEffect::{Bury, Delete, Keep, Requeue};
    use OrderStatus::{Cancelled, Failed, Pending, Processed, Processing};
    &[
        transition(
            Pending,
            Processing,
            Keep,
            "a processor with outside effects is about to begin",
        ),
        transition(
            Pending,
            Processed,
            Delete,
            "a processor without outside effects is done",
        ),
        transition(
            Pending,
            Failed,
            Bury,
            "attempts ran out, or the error is permanent",
        ),
        transition(Pending, Cancelled, Delete, "the client withdraws the order"),
        transition(Processing, Processed, Delete, "the effect is confirmed"),
        transition(
            Processing,
            Failed,
            Bury,
            "attempts ran out, or the error is permanent",
        ),
        transition(Failed, Pending, Requeue, "an operator redrives the order"),
    ]
};

/// What somebody wants of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Withdraw the order, with the client's reason.
    Cancel {
        /// Why, in the client's words.
        reason: Option<String>,
    },
    /// Redrive a FAILED order: a new round of attempts.
    Retry,
    /// Move the order to a status by name.
    MoveTo {
        /// The wanted status.
        status: OrderStatus,
        /// Why, kept with the event, and with the order when it failed.
        cause: Option<Cause>,
    },
}

impl Command {
    /// The status this command leads to.
    pub const fn target(&self) -> OrderStatus {
        match self {
            Self::Cancel { .. } => OrderStatus::Cancelled,
            Self::Retry => OrderStatus::Pending,
            Self::MoveTo { status, .. } => *status,
        }
    }

    fn into_cause(self) -> Option<Cause> {
        match self {
            Self::Cancel { reason } => {
                reason.map(|message| Cause::new("CANCELLED_BY_CLIENT", message))
            }
            Self::Retry => None,
            Self::MoveTo {
                status: OrderStatus::Failed,
                cause,
            } => cause.or_else(|| {
                Some(Cause::new(
                    "FAILED_BY_REQUEST",
                    "moved to FAILED by request",
                ))
            }),
            Self::MoveTo { cause, .. } => cause,
        }
    }
}

/// A decided move that has not been committed. A store applies it only if the order is
/// still at `expected_version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The order that moves.
    pub order_id: OrderId,
    /// The version the decision was made on.
    pub expected_version: Version,
    /// The new status.
    pub status: OrderStatus,
    /// What becomes of the job in the same transaction.
    pub job: JobEffect,
    /// Why the order moves. A move to FAILED always has one.
    pub cause: Option<Cause>,
    /// A key to store with it, whose owner is the user of the order.
    pub key: Option<KeyClaim>,
    /// Names the change, so that a store recognises it when it is sent again because its
    /// commit was not answered. `None`: it is never recognised.
    pub id: Option<Uuid>,
    /// Where the request is in a trace.
    pub trace_parent: Option<TraceParent>,
}

/// Decides whether `command` may move `order`; `None` means it already stands there and
/// nothing is left to do.
///
/// # Errors
/// [`Error::OrderNotCancellable`], [`Error::OrderNotRetryable`] or
/// [`Error::TransitionRefused`] when [`TRANSITIONS`] has no such move, with the moves it
/// does have.
pub fn decide(order: &Order, command: Command) -> Result<Option<Change>, Error> {
    let (from, to) = (order.status, command.target());
    if from == to {
        return Ok(None);
    }
    let Some(transition) = TRANSITIONS.iter().find(|t| t.from == from && t.to == to) else {
        let (order_id, current, allowed) = (order.id, from, from.allowed());
        return Err(match command {
            Command::Cancel { .. } => Error::OrderNotCancellable {
                order_id,
                current,
                allowed,
            },
            Command::Retry => Error::OrderNotRetryable {
                order_id,
                current,
                allowed,
            },
            Command::MoveTo {
                status: requested, ..
            } => Error::TransitionRefused {
                order_id,
                current,
                requested,
                allowed,
            },
        });
    };
    Ok(Some(Change {
        order_id: order.id,
        expected_version: order.version,
        status: to,
        job: transition.job,
        cause: command.into_cause(),
        key: None,
        id: None,
        trace_parent: None,
    }))
}
