//! The processor that says yes.

use std::time::Duration;

use async_trait::async_trait;
use order_core::{Attempt, Effects, Order, Outcome, Processor};

/// Processes every order successfully, after an optional delay that stands for work.
///
/// Nothing leaves the process, so orders go straight from PENDING to PROCESSED.
#[derive(Clone, Copy, Debug)]
pub struct AutoProcessor {
    delay: Duration,
}

impl AutoProcessor {
    /// A processor that takes `delay` for each order; zero answers at once.
    pub const fn new(delay: Duration) -> Self {
        Self { delay }
    }
}

#[async_trait]
impl Processor for AutoProcessor {
    fn effects(&self) -> Effects {
        Effects::None
    }

    async fn process(&self, _order: &Order, _attempt: Attempt) -> Outcome {
        // Even a sleep of zero costs a timer and a turn of the scheduler.
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        Outcome::Done
    }
}
