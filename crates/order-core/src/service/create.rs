//! Creating orders: alone or many, with and without idempotency keys.

use std::sync::Arc;

use crate::{
    CallContext, Clock, CreateOrder, Created, Error, EventBus, Fingerprint, Insertion, Job,
    JobDispatch, KeyClaim, KeyOperation, NewOrder, OrderEvent, OrderStore, Receipt, Reservation,
    TraceParent,
    group_commit::{GroupCommit, GroupCommitConfig, Lanes},
    metrics::Counter,
    service::OrderService,
    span::SharedSpan,
    wait_while_in_progress,
};

impl OrderService {
    pub(super) async fn create(
        &self,
        ctx: &CallContext,
        request: CreateOrder,
    ) -> Result<Receipt, Error> {
        let order = self.new_order(ctx, request, ctx.trace_parent.as_ref());
        if order.key.is_none() {
            let created = self.creates.submit(order, ctx.deadline).await?;
            return Ok(receipt(created));
        }
        let created = wait_while_in_progress(&*self.clock, ctx, || {
            self.keyed_creates.submit(order.clone(), ctx.deadline)
        });
        created.await.map(receipt)
    }

    pub(super) async fn create_all(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Vec<Result<Receipt, Error>> {
        let mut is_keyed = Vec::with_capacity(requests.len());
        let (mut keyed, mut keyless) = (Vec::new(), Vec::with_capacity(requests.len()));
        for request in requests {
            let trace = request.trace_parent.clone();
            let order = self.new_order(ctx, request, trace.as_ref());
            is_keyed.push(order.key.is_some());
            if order.key.is_some() {
                keyed.push(order);
            } else {
                keyless.push(order);
            }
        }
        let (keyed, keyless) = futures_util::join!(
            self.keyed_creates.submit_all(keyed, ctx.deadline),
            self.creates.submit_all(keyless, ctx.deadline)
        );
        let mut keyed = keyed.into_iter();
        let mut keyless = keyless.into_iter();
        let answers = is_keyed.into_iter().map(|is_keyed| {
            let created = if is_keyed {
                keyed.next()
            } else {
                keyless.next()
            };
            // Both lists are as long as what was put in.
            let answer = created.map(|created| created.map(receipt));
            answer.unwrap_or_else(|| Err(Error::internal("an answer is missing")))
        });
        answers.collect()
    }

    fn new_order(
        &self,
        ctx: &CallContext,
        request: CreateOrder,
        trace: Option<&TraceParent>,
    ) -> NewOrder {
        let request_id = request.request_id.as_ref();
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
            trace_parent: TraceParent::sampled(trace),
            request_id: Some(request_id.unwrap_or(&ctx.request_id).clone()),
            gateway: ctx.gateway.clone().or_else(|| self.process_name.clone()),
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
    /// New orders.
    pub(super) created: Counter,
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
        let traces = orders.iter().map(|order| order.trace_parent.as_ref());
        let mut committing = SharedSpan::begin("commit orders", traces);
        committing.record(|span| span.set_count("batch.size", orders.len()));
        let created = self.store.create(&orders).await;
        drop(committing);
        let mut due_without_worker = Vec::new();
        let mut events = Vec::with_capacity(created.len());
        for ((new, created), reservation) in orders.iter().zip(&created).zip(reservations) {
            // A retry is not new: its job belongs to whoever inserted it.
            let Ok(created) = created else { continue };
            if !created.is_new() {
                continue;
            }
            events.push(OrderEvent {
                trace_parent: new.trace_parent.clone(),
                ..created.order.last_event()
            });
            match reservation {
                Some(reservation) => reservation.dispatch(Job {
                    order: created.order.clone(),
                    attempt: 1,
                    attempts_before: 0,
                    trace_parent: new.trace_parent.clone(),
                }),
                None => due_without_worker.push(created.order.id),
            }
        }
        if !due_without_worker.is_empty() {
            self.dispatch.notify_due(&due_without_worker);
        }
        self.created.inc_by(events.len() as u64);
        if !events.is_empty() {
            self.bus.publish(&events);
        }
        created
    }
}
