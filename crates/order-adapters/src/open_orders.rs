//! Which orders have a job: the way to lists of those that are not settled.
//!
//! An order has a job exactly while it is PENDING, PROCESSING or FAILED, and a FAILED one has a
//! buried job. There are few of them among millions of orders, and no index on the status, which
//! changes too often.

use order_core::{OrderQuery, OrderStatus};

/// The jobs of the orders that a list asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jobs {
    /// Those of FAILED orders.
    Buried,
    /// Those of PENDING and PROCESSING orders.
    Unfinished,
    /// All jobs.
    All,
}

/// The jobs of the orders that `query` asks for; `None` if orders without a job are among them,
/// or if it names a user or an external id, which has an index of its own.
pub(crate) fn jobs_of(query: &OrderQuery) -> Option<Jobs> {
    use OrderStatus::{Cancelled, Failed, Processed};
    let wants = |status| query.statuses.contains(&status);
    let is_named = query.user_id.is_some() || query.external_id.is_some();
    if is_named || query.statuses.is_empty() || wants(Processed) || wants(Cancelled) {
        return None;
    }
    Some(
        match query.statuses.iter().filter(|s| **s != Failed).count() {
            0 => Jobs::Buried,
            _ if wants(Failed) => Jobs::All,
            _ => Jobs::Unfinished,
        },
    )
}
