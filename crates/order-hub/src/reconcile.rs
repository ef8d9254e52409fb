//! Heals what a lossy bus dropped, from the store.
//!
//! A pass asks only about orders that somebody watches and that are not settled as far as
//! every watcher has been told, so an idle system reads nothing. The store decides: what it
//! says is offered to the watchers, and their mailboxes drop what is not newer.

use std::time::Duration;

use order_core::{Error, OrderId};

use crate::{hub::Shared, topics::Depth};

/// The most ids of one read.
const BATCH_LEN_MAX: usize = 1_000;

/// FAILED orders move only if somebody redrives them, and the bus tells. Every so many
/// passes they are asked about all the same, in case it did not.
const PASSES_PER_DEEP_PASS: u32 = 15;

/// How long one read may take before the pass is given up; the next one tries again.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

impl Shared {
    pub(crate) async fn reconcile_forever(&self) {
        for pass in (1..=PASSES_PER_DEEP_PASS).cycle() {
            let jitter = 0.75 + 0.5 * rand::random::<f64>();
            tokio::time::sleep(self.config.reconcile_interval.mul_f64(jitter)).await;
            let depth = if pass == PASSES_PER_DEEP_PASS {
                Depth::Redrivable
            } else {
                Depth::Unsettled
            };
            if let Err(error) = self.reconcile(depth).await {
                tracing::warn!(error = error.chain(), "reconcile pass failed");
            }
        }
    }

    pub(crate) async fn reconcile(&self, depth: Depth) -> Result<(), Error> {
        let mut batch = Vec::new();
        for order_ids in self.topics.unsettled(depth) {
            batch.extend(order_ids);
            while batch.len() >= BATCH_LEN_MAX {
                let rest = batch.split_off(BATCH_LEN_MAX);
                self.reconcile_batch(&batch).await?;
                batch = rest;
            }
        }
        if !batch.is_empty() {
            self.reconcile_batch(&batch).await?;
        }
        Ok(())
    }

    async fn reconcile_batch(&self, order_ids: &[OrderId]) -> Result<(), Error> {
        let states = tokio::time::timeout(READ_TIMEOUT, self.store.states(order_ids))
            .await
            .map_err(|_| Error::DeadlineExceeded)??;
        for state in states {
            self.heal(&state.into_event());
        }
        Ok(())
    }
}
