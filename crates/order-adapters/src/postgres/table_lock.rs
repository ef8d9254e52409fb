//! Locks of whole tables, which a change of the schema needs.
//!
//! A statement that waits for such a lock holds up every later statement on the table. One
//! long transaction would so stop the service for as long as the wait lasts. Therefore each
//! try waits briefly, and the caller tries again after a pause.

use order_core::BoxError;
use tokio_postgres::error::SqlState;

/// An SQL expression: how long one try waits. A vacuum gives way, but only to a statement
/// that waits for longer than `deadlock_timeout` (1 s), so one that is under way is waited
/// for a little longer than that.
pub(super) const TRY_TIMEOUT_SQL: &str = "CASE WHEN EXISTS (SELECT FROM pg_locks \
    WHERE locktype = 'relation' AND mode = 'ShareUpdateExclusiveLock' AND granted \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) \
    THEN '1500ms' ELSE '100ms' END";

/// Whether a table was in use.
pub(super) fn is_lock_timeout(error: &BoxError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = source {
        let error_of_server = error.downcast_ref::<tokio_postgres::Error>();
        if error_of_server.is_some_and(|e| e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)) {
            return true;
        }
        source = error.source();
    }
    false
}
