//! Counters of database connections.

use std::fmt;

use order_core::metrics::{Counter, Steps};

/// Counters of one connection pool.
#[derive(Clone, Debug, Default)]
pub struct PoolStats {
    /// How long statements waited for a connection.
    pub waits: Steps,
    /// How long statements took, from the connection to the last row.
    pub operations: Steps,
    /// Statements that failed, for whatever reason.
    pub errors: Counter,
    /// Statements that got no connection in time, or no answer.
    pub timeouts: Counter,
}

/// The connections of a pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Connections that are open and free.
    pub idle: usize,
    /// Connections with a statement.
    pub used: usize,
    /// The most there may be.
    pub max: usize,
}

/// A pool, for the metrics.
pub struct MeasuredPool {
    /// The kind of work it serves.
    pub name: &'static str,
    /// Its counters.
    pub stats: PoolStats,
    /// Looks at its connections.
    pub usage: Box<dyn Fn() -> PoolUsage + Send + Sync>,
}

impl fmt::Debug for MeasuredPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeasuredPool")
            .field("name", &self.name)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
