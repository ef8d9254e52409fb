//! Marks before attempts begin: committed first, then told to the watchers.

use order_core::{Error, EventBus, JobQueue, Start, Started};

/// Sets the marks and publishes the events of the orders that moved.
pub(crate) async fn start_jobs(
    queue: &dyn JobQueue,
    bus: &dyn EventBus,
    starts: &[Start],
) -> Vec<Result<Started, Error>> {
    let started = queue.start(starts).await;
    let events: Vec<_> = started
        .iter()
        .filter_map(|result| match result {
            Ok(Started::Applied(event)) => event.clone(),
            Ok(Started::Stale) | Err(_) => None,
        })
        .collect();
    if !events.is_empty() {
        bus.publish(&events);
    }
    started
}
