//! Where hyper spawns the tasks of its connections, so that each has an owner.

use std::future::Future;

use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

/// Spawns on a tracker that its owner waits for.
#[derive(Clone, Debug)]
pub(crate) struct TrackedExecutor(pub(crate) TaskTracker);

impl<F> Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
