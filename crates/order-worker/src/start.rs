//! Marks before attempts begin: committed first, then told to the watchers.

use order_core::{Error, EventBus, JobQueue, OrderEvent, Start, Started, span::SharedSpan};

/// Sets the marks and publishes the events of the orders that moved.
pub(crate) async fn start_jobs(
    queue: &dyn JobQueue,
    bus: &dyn EventBus,
    starts: &[Start],
) -> Vec<Result<Started, Error>> {
    let traces = starts.iter().map(|start| start.trace_parent.as_ref());
    let committing = SharedSpan::begin("commit starts", traces);
    let started = queue.start(starts).await;
    drop(committing);
    let events: Vec<_> = starts
        .iter()
        .zip(&started)
        .filter_map(|(start, result)| match result {
            Ok(Started::Applied(Some(event))) => Some(OrderEvent {
                trace_parent: start.trace_parent.clone(),
                ..event.clone()
            }),
            Ok(Started::Applied(None) | Started::Stale) | Err(_) => None,
        })
        .collect();
    if !events.is_empty() {
        bus.publish(&events);
    }
    started
}
