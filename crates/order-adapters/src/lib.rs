//! The ports of `order-core`, by technology. Each module holds what that technology can
//! serve; none knows another, a transport or the worker pool.

pub mod event_message;
mod figures;
pub mod fulfilment;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "kafka")]
pub mod kafka_url;
mod open_orders;
mod order_record;
mod pool_stats;
pub mod postgres;
pub mod redis;
pub mod sqlite;
pub mod system;

pub use pool_stats::{MeasuredPool, PoolStats, PoolUsage};

/// How long a job rests whose row or order cannot be read, before a claim looks at it again:
/// a newer program may be able to read it, or an operator repairs the row.
const UNREADABLE_REST: std::time::Duration = std::time::Duration::from_mins(1);
