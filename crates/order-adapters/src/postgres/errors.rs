//! What a failure of the driver, the pool or the server means here.
//!
//! Owns the one translation of SQLSTATE codes (PostgreSQL documentation, appendix A) and
//! decides nothing else: who repeats what is the pool's business.

use std::io;

use deadpool_postgres::PoolError;
use order_core::{BoxError, Error};
use tokio_postgres::error::SqlState;

/// A failed statement, by what can be done about it.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is of no use any more, and whether the statement took effect is not
    /// known. Every statement here may be repeated on another connection.
    Connection(BoxError),
    /// The server undid the statement in favour of a concurrent one; repeated, it sees what
    /// that one did.
    Conflict(BoxError),
    /// Another transaction holds a lock that one item of the batch needs; the others may be free.
    Locked(BoxError),
    /// The server refuses a value: one row of a batch is bad, the others may be good.
    Row(BoxError),
    /// The database cannot do it now.
    Unavailable(BoxError),
    /// The server has no memory, disk or connections left, or the system below it fails. Reads
    /// may still succeed.
    Exhausted(BoxError),
    /// The caller's time ran out.
    DeadlineExceeded,
    /// Nobody foresaw this.
    Defect(BoxError),
}

impl Fault {
    /// Whether the statement may have taken effect.
    pub(super) const fn leaves_outcome_open(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::Unavailable(_) | Self::Exhausted(_)
        )
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Connection(source)
            | Fault::Conflict(source)
            | Fault::Unavailable(source)
            | Fault::Exhausted(source) => Self::store_unavailable(source),
            // The database works; another transaction has the lock.
            Fault::Locked(_) => Self::request_in_progress(),
            Fault::Row(source) | Fault::Defect(source) => Self::internal(source),
            Fault::DeadlineExceeded => Self::DeadlineExceeded,
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) => fault_of_state(code)(error.into()),
            None if error.is_closed() || is_io(&error) => Self::Connection(error.into()),
            // A value that cannot be encoded or decoded.
            None => Self::Defect(error.into()),
        }
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Timeout(_)
            | PoolError::Backend(_)
            | PoolError::Closed
            | PoolError::PostCreateHook(_) => Self::Unavailable(error.into()),
            PoolError::NoRuntimeSpecified => Self::Defect(error.into()),
        }
    }
}

fn fault_of_state(code: &SqlState) -> fn(BoxError) -> Fault {
    if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED {
        return Fault::Conflict;
    }
    // Every statement leaves out what it sees to be taken, so this was taken a moment ago.
    if *code == SqlState::UNIQUE_VIOLATION {
        return Fault::Conflict;
    }
    // A standby: the connection dates from before a failover, and a fresh one finds the primary.
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return Fault::Connection;
    }
    if *code == SqlState::LOCK_NOT_AVAILABLE {
        return Fault::Locked;
    }
    // Cancelled by a timeout.
    if *code == SqlState::QUERY_CANCELED {
        return Fault::Unavailable;
    }
    match code.code().get(..2) {
        // Connection exceptions; the rest of class 57: shutdown, crash, starting up.
        Some("08" | "57") => Fault::Connection,
        // Data exceptions and violated constraints.
        Some("22" | "23") => Fault::Row,
        Some("53" | "58") => Fault::Exhausted,
        _ => Fault::Defect,
    }
}

/// Whether connecting again later may succeed without anybody changing a setting.
pub(super) fn heals_with_time(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => matches!(
            fault_of_state(code)(code.code().into()),
            Fault::Connection(_) | Fault::Locked(_) | Fault::Unavailable(_) | Fault::Exhausted(_)
        ),
        None => error.is_closed() || is_io(error),
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<io::Error>)
}

#[cfg(test)]
mod tests {
    use order_core::Reason;

    use super::*;

    fn kind(code: &str) -> (String, Reason) {
        let fault = fault_of_state(&SqlState::from_code(code))("a source".into());
        let name = format!("{fault:?}");
        let name = name.split('(').next().unwrap_or_default().to_owned();
        (name, Error::from(fault).reason())
    }

    #[test]
    fn states_mean_what_can_be_done_about_them() {
        for (code, name, error) in [
            ("08006", "Connection", Reason::StoreUnavailable),
            ("57P01", "Connection", Reason::StoreUnavailable),
            ("57P03", "Connection", Reason::StoreUnavailable),
            ("25006", "Connection", Reason::StoreUnavailable),
            ("40001", "Conflict", Reason::StoreUnavailable),
            ("40P01", "Conflict", Reason::StoreUnavailable),
            ("23505", "Conflict", Reason::StoreUnavailable),
            ("57014", "Unavailable", Reason::StoreUnavailable),
            ("55P03", "Locked", Reason::RequestInProgress),
            ("53100", "Exhausted", Reason::StoreUnavailable),
            ("53300", "Exhausted", Reason::StoreUnavailable),
            ("58030", "Exhausted", Reason::StoreUnavailable),
            ("22021", "Row", Reason::Internal),
            ("23514", "Row", Reason::Internal),
            ("42P01", "Defect", Reason::Internal),
            ("XX000", "Defect", Reason::Internal),
        ] {
            assert_eq!(kind(code), (name.to_owned(), error), "{code}");
        }
    }
}
