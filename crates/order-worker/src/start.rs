//! Starts of outside effects: committed first, then told to the watchers.

use order_core::{Error, EventBus, JobQueue, JobToken, Started};

/// Moves the orders to PROCESSING and publishes the events of those that moved.
pub(crate) async fn start_jobs(
    queue: &dyn JobQueue,
    bus: &dyn EventBus,
    tokens: &[JobToken],
) -> Vec<Result<Started, Error>> {
    let started = queue.start(tokens).await;
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
