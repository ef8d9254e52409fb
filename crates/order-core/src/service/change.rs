//! Changing orders: read, decide, commit, and again if somebody else was faster.

use std::sync::Arc;

use crate::{
    CallContext, CancelOrder, Change, Command, Committed, Error, EventBus, Fingerprint,
    IdempotencyKey, IfMatch, JobDispatch, JobEffect, KeyClaim, KeyOperation, OrderId, OrderStore,
    Receipt, UserId, decide, service::OrderService, wait_while_in_progress,
};

/// How often a change is decided anew when others keep changing the order.
const DECISIONS_MAX: usize = 5;

/// What a client wants of an order.
pub(super) struct Wanted {
    order_id: OrderId,
    command: Command,
    if_match: Option<IfMatch>,
    key: Option<(KeyOperation, IdempotencyKey, Fingerprint)>,
}

impl Wanted {
    pub(super) const fn new(
        order_id: OrderId,
        command: Command,
        if_match: Option<IfMatch>,
    ) -> Self {
        Self {
            order_id,
            command,
            if_match,
            key: None,
        }
    }

    pub(super) fn cancel(request: CancelOrder) -> Self {
        let fingerprint = Fingerprint::of_cancel(&request);
        let CancelOrder {
            order_id,
            reason,
            if_match,
            idempotency_key,
        } = request;
        Self {
            key: idempotency_key.map(|key| (KeyOperation::CancelOrder, key, fingerprint)),
            ..Self::new(order_id, Command::Cancel { reason }, if_match)
        }
    }
}

impl OrderService {
    /// Checks in the order of the interface: does the order exist, has the key been used,
    /// does the precondition hold, does the state allow it.
    pub(super) async fn change(&self, ctx: &CallContext, wanted: Wanted) -> Result<Receipt, Error> {
        let Wanted {
            order_id, command, ..
        } = &wanted;
        let id = Some(*self.ids.order_id().as_uuid());
        for _ in 0..DECISIONS_MAX {
            let order = self.find(ctx, *order_id).await?;
            let key = self.key_claim(&wanted, &order.user_id);
            if let Some(key) = &key
                && self.is_repeated(ctx, key).await?
            {
                // Read again: the first request may have ended after the read above.
                let order = self.find(ctx, *order_id).await?;
                self.store.confirm(ctx).await?;
                return Ok(Receipt {
                    order,
                    is_replayed: true,
                });
            }
            let is_met = |if_match: &IfMatch| if_match.is_met(order.version);
            if !wanted.if_match.as_ref().is_none_or(is_met) {
                return Err(Error::EtagMismatch {
                    order_id: *order_id,
                    current: order.version,
                });
            }
            let Some(change) = decide(&order, command.clone())? else {
                self.store.confirm(ctx).await?;
                return Ok(Receipt::first(order));
            };
            let change = Change { key, id, ..change };
            let committed = wait_while_in_progress(&*self.clock, ctx, || {
                self.changes.submit(change.clone(), ctx.deadline)
            });
            if let Committed::Applied { order, .. } = committed.await? {
                return Ok(Receipt::first(*order));
            }
        }
        Err(Error::VersionConflict {
            order_id: *order_id,
        })
    }

    fn key_claim(&self, wanted: &Wanted, owner: &UserId) -> Option<KeyClaim> {
        let (operation, key, fingerprint) = wanted.key.as_ref()?;
        Some(KeyClaim {
            owner: owner.clone(),
            operation: *operation,
            key: key.clone(),
            fingerprint: *fingerprint,
            retention: self.key_retention,
        })
    }

    /// Whether the work was done under this key before.
    async fn is_repeated(&self, ctx: &CallContext, claim: &KeyClaim) -> Result<bool, Error> {
        let stored = self
            .store
            .find_key(ctx, &claim.owner, claim.operation, &claim.key)
            .await?;
        match stored {
            Some(stored) => stored.check(claim.fingerprint).map(|()| true),
            None => Ok(false),
        }
    }
}

/// Commits changes, and tells the workers of jobs that are due again and the watchers.
pub(super) async fn commit_batch(
    store: Arc<dyn OrderStore>,
    dispatch: Arc<dyn JobDispatch>,
    bus: Arc<dyn EventBus>,
    changes: Vec<Change>,
) -> Vec<Result<Committed, Error>> {
    let committed = store.commit(&changes).await;
    let is_applied = |result: &Result<_, _>| matches!(result, Ok(Committed::Applied { .. }));
    let requeued: Vec<_> = changes
        .iter()
        .zip(&committed)
        .filter(|(change, result)| change.job == JobEffect::Requeue && is_applied(result))
        .map(|(change, _)| change.order_id)
        .collect();
    if !requeued.is_empty() {
        dispatch.notify_due(&requeued);
    }
    let events: Vec<_> = committed
        .iter()
        .filter_map(|result| match result {
            Ok(Committed::Applied { event, .. }) => Some(event.clone()),
            Ok(Committed::Stale) | Err(_) => None,
        })
        .collect();
    if !events.is_empty() {
        bus.publish(&events);
    }
    committed
}
