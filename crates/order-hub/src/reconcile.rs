//! Heals what a lossy bus dropped, from the store.
//!
//! A pass asks about orders whose watchers do not know a settled state yet: all orders that are
//! watched by themselves, and a batch of those of watched users, in turn. It also looks for new
//! orders of some of these users, in turn. Without watchers nothing is read. What the store
//! answers is offered to the watchers, and their mailboxes drop what is not newer. A read that
//! fails does not stop the others; a later pass makes up for it.
//!
//! Between two passes a transport may say what it has just begun to hear; that is looked up
//! at once, for what happened before.

use std::{collections::BTreeMap, time::Duration};

use order_core::{Error, OrderEvent, OrderId, OrderState, UserId, supervisor::Beat};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{gap::READ_TIMEOUT, hub::Shared, lookups::Wanted, unsettled::Depth};

/// The most ids of one read.
pub(crate) const BATCH_LEN_MAX: usize = 1_000;

/// FAILED orders move only if somebody redrives them, and the bus tells. Every so many
/// passes they are asked about all the same, in case it did not.
const PASSES_PER_DEEP_PASS: u32 = 15;

/// How many users a pass asks about, in one read; the next pass goes on with the others.
const USERS_LEN_MAX: usize = 100;

/// How many orders of each user, the newest, of which some may be new.
const ORDERS_PER_USER_MAX: usize = 20;

/// How many orders of one user, if all of those may be new. If a user creates more between two
/// looks and the bus loses their events, the oldest of them are missed.
const NEW_ORDERS_MAX: usize = 1_000;

impl Shared {
    pub(crate) async fn reconcile_forever(&self, beat: &Beat) {
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
                    beat.busy();
                    let reconciled = self.run_pass(n_passes, is_behind).await;
                    is_behind &= reconciled.is_err();
                    next_pass = Instant::now() + self.pause();
                    reconciled
                }
                wanted = self.lookups.taken() => {
                    beat.busy();
                    let found = self.look_up(wanted).await;
                    is_behind |= found.is_err();
                    found
                }
            };
            beat.idle();
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
        let orders = self.reconcile_orders(depth).await;
        let unsettled = self.reconcile_unsettled(depth).await;
        let user_ids = self.topics.next_users(USERS_LEN_MAX);
        let users = self.reconcile_users(&user_ids).await;
        orders.and(unsettled).and(users)
    }

    async fn reconcile_everything(&self) -> Result<(), Error> {
        let mut result = self.reconcile_orders(Depth::Redrivable).await;
        for _ in 0..self.topics.n_unsettled().div_ceil(BATCH_LEN_MAX) {
            result = result.and(self.reconcile_unsettled(Depth::Redrivable).await);
        }
        for _ in 0..self.topics.n_users().div_ceil(USERS_LEN_MAX) {
            let user_ids = self.topics.next_users(USERS_LEN_MAX);
            result = result.and(self.reconcile_users(&user_ids).await);
        }
        result
    }

    async fn look_up(&self, wanted: Wanted) -> Result<(), Error> {
        if wanted.is_everything {
            return self.reconcile_everything().await;
        }
        let order_ids: Vec<_> = wanted.order_ids.into_iter().collect();
        let mut result = self.reconcile_batches(&order_ids).await;
        let user_ids: Vec<_> = wanted.user_ids.into_iter().collect();
        for user_ids in user_ids.chunks(USERS_LEN_MAX) {
            result = result.and(self.reconcile_users(user_ids).await);
        }
        result
    }

    async fn reconcile_orders(&self, depth: Depth) -> Result<(), Error> {
        let mut result = Ok(());
        let mut batch = Vec::new();
        for order_ids in self.topics.unsettled(depth) {
            batch.extend(order_ids);
            let rest = batch.split_off(batch.len() - batch.len() % BATCH_LEN_MAX);
            result = result.and(self.reconcile_batches(&batch).await);
            batch = rest;
        }
        result.and(self.reconcile_batches(&batch).await)
    }

    /// Asks about the unfinished orders of watched users whose turn it is, in one read, and in
    /// another one about those that an operator may have redriven.
    async fn reconcile_unsettled(&self, depth: Depth) -> Result<(), Error> {
        let mut result = Ok(());
        for depth in [Depth::Unsettled, Depth::Redrivable]
            .into_iter()
            .filter(|d| *d <= depth)
        {
            let order_ids = self.topics.next_unsettled(depth, BATCH_LEN_MAX);
            result = result.and(self.reconcile_batches(&order_ids).await);
        }
        result
    }

    async fn reconcile_batches(&self, order_ids: &[OrderId]) -> Result<(), Error> {
        let mut result = Ok(());
        for order_ids in order_ids.chunks(BATCH_LEN_MAX) {
            let events = read(self.store.states(order_ids)).await;
            result = result.and(events.map(|events| self.heal(&events)));
        }
        result
    }

    /// Looks for new orders of these users.
    async fn reconcile_users(&self, user_ids: &[UserId]) -> Result<(), Error> {
        if user_ids.is_empty() {
            return Ok(());
        }
        let newest = read(self.store.recent_states(user_ids, ORDERS_PER_USER_MAX)).await?;
        let mut orders_of: BTreeMap<UserId, Vec<OrderEvent>> = BTreeMap::new();
        for event in newest {
            let orders = orders_of.entry(event.user_id.clone()).or_default();
            orders.push(event);
        }
        let mut result = Ok(());
        for (user_id, orders) in orders_of {
            result = result.and(self.reconcile_user(&user_id, orders).await);
        }
        result
    }

    async fn reconcile_user(
        &self,
        user_id: &UserId,
        mut newest: Vec<OrderEvent>,
    ) -> Result<(), Error> {
        if newest.len() >= ORDERS_PER_USER_MAX
            && let Some(oldest) = newest.last()
            && self.topics.is_above_floor(oldest)
        {
            let user_ids = std::slice::from_ref(user_id);
            newest = read(self.store.recent_states(user_ids, NEW_ORDERS_MAX)).await?;
        }
        self.topics
            .note_look(user_id, &mut newest, ORDERS_PER_USER_MAX);
        self.heal(&newest);
        Ok(())
    }
}

/// What a read of the store finds, unless it takes too long.
async fn read(
    states: impl Future<Output = Result<Vec<OrderState>, Error>>,
) -> Result<Vec<OrderEvent>, Error> {
    let states = timeout(READ_TIMEOUT, states)
        .await
        .map_err(|_| Error::DeadlineExceeded)??;
    Ok(states.into_iter().map(OrderState::into_event).collect())
}
