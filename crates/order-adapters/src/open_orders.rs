//! The tables that a list by status reads instead of all orders.
//!
//! No index has the status of an order, which changes too often. But an order has a job exactly
//! while it is PENDING, PROCESSING or FAILED, and one that was cancelled has an event that says
//! so. Each source here is read by the id of the order, from a small table or a partial index.

use order_core::{OrderQuery, OrderStatus};

/// Orders among which there are all of a status and few others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Those whose job was never claimed; all are PENDING.
    Unclaimed,
    /// Those whose job was claimed at least once: PROCESSING, or PENDING again or still.
    Claimed,
    /// Those whose job is buried: FAILED.
    Buried,
    /// Those with an event that says CANCELLED, which is final.
    Cancelled,
}

/// The sources of the orders that `query` asks for; `None` if all orders are, or if it names a
/// user or an external id, which has an index of its own. No order is in two of them.
pub(crate) fn sources(query: &OrderQuery) -> Option<Vec<Source>> {
    use OrderStatus::{Cancelled, Failed, Pending, Processed, Processing};
    let wants = |status| query.statuses.contains(&status);
    let is_named = query.user_id.is_some() || query.external_id.is_some();
    if is_named || query.statuses.is_empty() || wants(Processed) {
        return None;
    }
    let wanted = [
        (Source::Unclaimed, wants(Pending)),
        (Source::Claimed, wants(Pending) || wants(Processing)),
        (Source::Buried, wants(Failed)),
        (Source::Cancelled, wants(Cancelled)),
    ];
    Some(
        wanted
            .into_iter()
            .filter_map(|(source, is_wanted)| is_wanted.then_some(source))
            .collect(),
    )
}
