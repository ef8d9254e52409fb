//! Creating orders: alone or many, with and without idempotency keys.

use std::{sync::Arc, time::Duration};

use crate::{
    CallContext, Clock, CreateOrder, Created, Error, EventBus, Fingerprint, Insertion, Job,
    JobDispatch, KeyClaim, KeyOperation, NewOrder, OrderStore, Receipt, Reservation,
    group_commit::{GroupCommit, GroupCommitConfig, Lanes},
    service::OrderService,
};

/// How long a request waits for a twin with the same key.
const TWIN_WAIT_MAX: Duration = Duration::from_secs(2);

/// The pause before the first look at whether the twin has ended; it doubles each time.
const TWIN_PAUSE_MIN: Duration = Duration::from_millis(10);

/// The longest pause.
const TWIN_PAUSE_MAX: Duration = Duration::from_millis(200);

impl OrderService {
    pub(super) async fn create(
        &self,
        ctx: &CallContext,
        request: CreateOrder,
    ) -> Result<Receipt, Error> {
        let order = self.new_order(request);
        if order.key.is_none() {
            let created = self.creates.submit(order, ctx.deadline).await?;
            return Ok(receipt(created));
        }
        let mut answers = self.create_keyed(ctx, vec![order]).await;
        answers.pop().unwrap_or(Err(Error::DeadlineExceeded))
    }

    pub(super) async fn create_all(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Vec<Result<Receipt, Error>> {
        let mut is_keyed = Vec::with_capacity(requests.len());
        let (mut keyed, mut keyless) = (Vec::new(), Vec::with_capacity(requests.len()));
        for request in requests {
            let order = self.new_order(request);
            is_keyed.push(order.key.is_some());
            if order.key.is_some() {
                keyed.push(order);
            } else {
                keyless.push(order);
            }
        }
        let (keyed, keyless) = futures_util::join!(
            self.create_keyed(ctx, keyed),
            self.creates.submit_all(keyless, ctx.deadline)
        );
        let mut keyed = keyed.into_iter();
        let mut keyless = keyless.into_iter();
        let answers = is_keyed.into_iter().map(|is_keyed| {
            let answer = if is_keyed {
                keyed.next()
            } else {
                keyless.next().map(|created| created.map(receipt))
            };
            // Both lists are as long as what was put in.
            answer.unwrap_or_else(|| Err(Error::internal("an answer is missing")))
        });
        answers.collect()
    }

    /// Creates orders with keys. One whose twin is under way waits for it, within limits.
    async fn create_keyed(
        &self,
        ctx: &CallContext,
        orders: Vec<NewOrder>,
    ) -> Vec<Result<Receipt, Error>> {
        let give_up_at = self.clock.instant() + TWIN_WAIT_MAX;
        let mut pause = TWIN_PAUSE_MIN;
        let mut answers = self.submit_keyed(ctx, orders.clone()).await;
        loop {
            let waiting: Vec<usize> = answers
                .iter()
                .enumerate()
                .filter(|(_, answer)| matches!(answer, Err(Error::RequestInProgress { .. })))
                .map(|(n, _)| n)
                .collect();
            let now = self.clock.instant();
            let time_left = ctx.deadline.remaining(now).unwrap_or(TWIN_WAIT_MAX);
            if waiting.is_empty() || now >= give_up_at || time_left <= pause {
                return answers;
            }
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(TWIN_PAUSE_MAX);
            let again = waiting.iter().filter_map(|n| orders.get(*n).cloned());
            let again = self.submit_keyed(ctx, again.collect()).await;
            for (n, answer) in waiting.into_iter().zip(again) {
                if let Some(slot) = answers.get_mut(n) {
                    *slot = answer;
                }
            }
        }
    }

    async fn submit_keyed(
        &self,
        ctx: &CallContext,
        orders: Vec<NewOrder>,
    ) -> Vec<Result<Receipt, Error>> {
        let created = self.keyed_creates.submit_all(orders, ctx.deadline).await;
        created
            .into_iter()
            .map(|created| created.map(receipt))
            .collect()
    }

    fn new_order(&self, request: CreateOrder) -> NewOrder {
        let fingerprint = request
            .idempotency_key
            .is_some()
            .then(|| Fingerprint::of_create(&request));
        let key = request.idempotency_key.zip(fingerprint);
        NewOrder {
            id: request.order_id.unwrap_or_else(|| self.ids.order_id()),
            key: key.map(|(key, fingerprint)| KeyClaim {
                owner: request.user_id.clone(),
                operation: KeyOperation::CreateOrder,
                key,
                fingerprint,
                retention: self.key_retention,
            }),
            user_id: request.user_id,
            money: request.money,
            metadata: request.metadata,
            external_id: request.external_id,
            lease: None,
        }
    }
}

fn receipt(created: Created) -> Receipt {
    Receipt {
        is_replayed: created.insertion == Insertion::SameKey,
        order: created.order,
    }
}

/// What commits a batch of new orders.
#[derive(Clone)]
pub(super) struct Creator {
    pub(super) store: Arc<dyn OrderStore>,
    pub(super) dispatch: Arc<dyn JobDispatch>,
    pub(super) bus: Arc<dyn EventBus>,
}

impl Creator {
    pub(super) fn group_commit(
        &self,
        config: GroupCommitConfig,
        clock: &Arc<dyn Clock>,
    ) -> (GroupCommit<NewOrder, Created>, Lanes) {
        let creator = self.clone();
        GroupCommit::new(config, clock, move |orders| {
            Box::pin(creator.clone().create_batch(orders))
        })
    }

    /// Commits new orders, hands their jobs to the local workers and tells who watches
    /// their users. It runs in a lane, so a caller that hangs up between the commit and
    /// the hand-over loses nothing.
    async fn create_batch(self, mut orders: Vec<NewOrder>) -> Vec<Result<Created, Error>> {
        let reservations: Vec<Option<Reservation>> = orders
            .iter_mut()
            .map(|order| {
                let reservation = self.dispatch.try_reserve();
                order.lease = reservation.as_ref().map(Reservation::lease);
                reservation
            })
            .collect();
        let created = self.store.create(&orders).await;
        let mut due_without_worker = Vec::new();
        let mut events = Vec::with_capacity(created.len());
        for (created, reservation) in created.iter().zip(reservations) {
            // A retry is not new: its job belongs to whoever inserted it.
            let Ok(created) = created else { continue };
            if !created.is_new() {
                continue;
            }
            events.push(created.order.last_event());
            match reservation {
                Some(reservation) => reservation.dispatch(Job {
                    order: created.order.clone(),
                    attempt: 1,
                    attempts_before: 0,
                }),
                None => due_without_worker.push(created.order.id),
            }
        }
        if !due_without_worker.is_empty() {
            self.dispatch.notify_due(&due_without_worker);
        }
        if !events.is_empty() {
            self.bus.publish(&events);
        }
        created
    }
}
