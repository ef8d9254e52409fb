//! Heals what a lossy bus dropped, from the store.
//!
//! A pass asks only about orders that somebody watches and that are not settled as far as
//! every watcher has been told, and about the newest orders of some of the users that
//! somebody watches, so an idle system reads nothing. The store decides: what it says is
//! offered to the watchers, and their mailboxes drop what is not newer.
//!
//! Between two passes a transport may say what it has just begun to hear; that is looked up
//! at once, for what happened before.

use std::time::Duration;

use order_core::{Error, OrderEvent, OrderId, OrderState, UserId};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{fill::READ_TIMEOUT, hub::Shared, lookups::Wanted, topics::Depth};

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
        let mut n_passes = 0_u32;
        // A look-up between two passes has failed, and the next pass makes up for it.
        let mut is_behind = false;
        let mut next_pass = Instant::now() + self.pause();
        loop {
            let reconciled = tokio::select! {
                // Passes come first, so that no stream of look-ups keeps them away.
                biased;
                () = sleep_until(next_pass) => {
                    n_passes = n_passes.wrapping_add(1);
                    let reconciled = self.run_pass(n_passes, is_behind).await;
                    is_behind &= reconciled.is_err();
                    next_pass = Instant::now() + self.pause();
                    reconciled
                }
                wanted = self.lookups.taken() => {
                    let found = self.look_up(wanted).await;
                    is_behind |= found.is_err();
                    found
                }
            };
            if let Err(error) = reconciled {
                tracing::warn!(error = error.chain(), "reconcile pass failed");
            }
        }
    }

    fn pause(&self) -> Duration {
        let jitter = 0.75 + 0.5 * rand::random::<f64>();
        self.config.reconcile_interval.mul_f64(jitter)
    }

    async fn run_pass(&self, n_passes: u32, is_behind: bool) -> Result<(), Error> {
        if is_behind {
            self.reconcile_everything().await
        } else if n_passes.is_multiple_of(PASSES_PER_DEEP_PASS) {
            self.reconcile(Depth::Redrivable).await
        } else {
            self.reconcile(Depth::Unsettled).await
        }
    }

    pub(crate) async fn reconcile(&self, depth: Depth) -> Result<(), Error> {
        self.reconcile_orders(depth).await?;
        let user_ids = self.topics.next_users(USERS_LEN_MAX);
        self.reconcile_users(&user_ids).await
    }

    async fn reconcile_everything(&self) -> Result<(), Error> {
        self.reconcile_orders(Depth::Redrivable).await?;
        for _ in 0..self.topics.n_users().div_ceil(USERS_LEN_MAX) {
            let user_ids = self.topics.next_users(USERS_LEN_MAX);
            self.reconcile_users(&user_ids).await?;
        }
        Ok(())
    }

    async fn look_up(&self, wanted: Wanted) -> Result<(), Error> {
        if wanted.is_everything {
            return self.reconcile_everything().await;
        }
        let order_ids: Vec<_> = wanted.order_ids.into_iter().collect();
        for order_ids in order_ids.chunks(BATCH_LEN_MAX) {
            self.reconcile_batch(order_ids).await?;
        }
        let user_ids: Vec<_> = wanted.user_ids.into_iter().collect();
        for user_ids in user_ids.chunks(USERS_LEN_MAX) {
            self.reconcile_users(user_ids).await?;
        }
        Ok(())
    }

    async fn reconcile_orders(&self, depth: Depth) -> Result<(), Error> {
        let mut batch = Vec::new();
        for order_ids in self.topics.unsettled(depth) {
            batch.extend(order_ids);
            while batch.len() >= BATCH_LEN_MAX {
                let rest = batch.split_off(BATCH_LEN_MAX);
                self.reconcile_batch(&batch).await?;
                batch = rest;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.reconcile_batch(&batch).await
    }

    async fn reconcile_batch(&self, order_ids: &[OrderId]) -> Result<(), Error> {
        self.heal_from(self.store.states(order_ids)).await
    }

    async fn reconcile_users(&self, user_ids: &[UserId]) -> Result<(), Error> {
        if user_ids.is_empty() {
            return Ok(());
        }
        let states = self.store.recent_states(user_ids, ORDERS_PER_USER_MAX);
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
