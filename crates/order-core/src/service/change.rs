//! Changing orders: read, decide, commit, and again if somebody else was faster.

use std::sync::Arc;

use crate::{
    CallContext, CancelOrder, Change, Command, Committed, Error, EventBus, Fingerprint,
    IdempotencyKey, IfMatch, JobDispatch, JobEffect, KeyClaim, KeyOperation, Order, OrderEvent,
    OrderId, OrderStore, Receipt, UserId, decide, service::OrderService, span::SharedSpan,
    wait_while_in_progress,
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

    /// The change of `order`, if the precondition and the state allow it.
    fn decide(&self, order: &Order) -> Result<Option<Change>, Error> {
        let is_met = |if_match: &IfMatch| if_match.is_met(order.version);
        if !self.if_match.as_ref().is_none_or(is_met) {
            return Err(Error::EtagMismatch {
                order_id: order.id,
                current: order.version,
            });
        }
        decide(order, self.command.clone())
    }
}

impl OrderService {
    /// Checks in the order of the interface: does the order exist, has the key been used,
    /// does the precondition hold, does the state allow it.
    pub(super) async fn change(&self, ctx: &CallContext, wanted: Wanted) -> Result<Receipt, Error> {
        let order_id = wanted.order_id;
        let new_id = || *self.ids.order_id().as_uuid();
        let id = Some(ctx.change_id.unwrap_or_else(new_id));
        for _ in 0..DECISIONS_MAX {
            let order = self.find(ctx, order_id).await?;
            let key = self.key_claim(&wanted, &order.user_id);
            if let Some(key) = &key
                && self.is_repeated(ctx, key).await?
            {
                return Ok(Receipt {
                    order: self.find_again(ctx, order_id).await?,
                    is_replayed: true,
                });
            }
            let change = match wanted.decide(&order) {
                Ok(Some(change)) => change,
                Ok(None) => {
                    self.store.confirm(ctx).await?;
                    return Ok(Receipt::first(order));
                }
                // The first of two calls may have made the change that is now in the way.
                Err(_) if self.has_change(ctx, order_id).await? => {
                    return Ok(Receipt::first(self.find_again(ctx, order_id).await?));
                }
                Err(refusal) => return Err(refusal),
            };
            let trace_parent = ctx.trace_parent.clone();
            let change = Change {
                key,
                id,
                trace_parent,
                ..change
            };
            let committed = wait_while_in_progress(&*self.clock, ctx, || {
                self.changes.submit(change.clone(), ctx.deadline)
            });
            if let Committed::Applied { order, .. } = committed.await? {
                return Ok(Receipt::first(*order));
            }
        }
        Err(Error::VersionConflict { order_id })
    }

    /// Reads an order that a change was found for: it may have moved since it was last read.
    async fn find_again(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        let order = self.find(ctx, order_id).await?;
        self.store.confirm(ctx).await?;
        Ok(order)
    }

    /// Whether the caller's own change is in the history.
    async fn has_change(&self, ctx: &CallContext, order_id: OrderId) -> Result<bool, Error> {
        match ctx.change_id {
            Some(change_id) => self.store.has_change(ctx, order_id, change_id).await,
            None => Ok(false),
        }
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
    let traces = changes.iter().map(|change| change.trace_parent.as_ref());
    let committing = SharedSpan::begin("commit changes", traces);
    let committed = store.commit(&changes).await;
    drop(committing);
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
    let events: Vec<_> = changes
        .iter()
        .zip(&committed)
        .filter_map(|(change, result)| match result {
            Ok(Committed::Applied { event, .. }) => Some(OrderEvent {
                trace_parent: change.trace_parent.clone(),
                ..event.clone()
            }),
            Ok(Committed::Stale) | Err(_) => None,
        })
        .collect();
    if !events.is_empty() {
        bus.publish(&events);
    }
    committed
}
