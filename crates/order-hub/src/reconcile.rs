//! Heals what a lossy bus dropped, from the store.
//!
//! A pass asks only about orders that somebody watches and that are not settled as far as
//! every watcher has been told, and about the newest orders of some of the users that
//! somebody watches, so an idle system reads nothing. The store decides: what it says is
//! offered to the watchers, and their mailboxes drop what is not newer.

use order_core::{Error, OrderEvent, OrderId, OrderState};
use tokio::time::timeout;

use crate::{fill::READ_TIMEOUT, hub::Shared, topics::Depth};

/// The most ids of one read.
const BATCH_LEN_MAX: usize = 1_000;

/// FAILED orders move only if somebody redrives them, and the bus tells. Every so many
/// passes they are asked about all the same, in case it did not.
const PASSES_PER_DEEP_PASS: u32 = 15;

/// How many users a pass asks about, in one read; the next pass goes on with the others.
const USERS_LEN_MAX: usize = 100;

/// How many orders of each user, the newest. Older ones have moved long ago, or somebody
/// who waits for them watches them by themselves.
const ORDERS_PER_USER_MAX: usize = 20;

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
        self.reconcile_users().await
    }

    async fn reconcile_batch(&self, order_ids: &[OrderId]) -> Result<(), Error> {
        self.heal_from(self.store.states(order_ids)).await
    }

    async fn reconcile_users(&self) -> Result<(), Error> {
        let user_ids = self.topics.next_users(USERS_LEN_MAX);
        if user_ids.is_empty() {
            return Ok(());
        }
        let states = self.store.recent_states(&user_ids, ORDERS_PER_USER_MAX);
        self.heal_from(states).await
    }

    /// Offers what a read finds. One that takes too long ends the pass; the next one tries
    /// again.
    async fn heal_from(
        &self,
        states: impl Future<Output = Result<Vec<OrderState>, Error>>,
    ) -> Result<(), Error> {
        let states = timeout(READ_TIMEOUT, states)
            .await
            .map_err(|_| Error::DeadlineExceeded)??;
        let events: Vec<OrderEvent> = states.into_iter().map(OrderState::into_event).collect();
        self.heal(&events);
        Ok(())
    }
}
