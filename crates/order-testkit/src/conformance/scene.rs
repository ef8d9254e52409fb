//! Short names for what every case does with its subject.

use std::{sync::Arc, time::Duration};

use order_core::{
    AdminStore, CallContext, Cause, Change, Command, Committed, Completed, Completion, Created,
    Deadline, Extended, Fingerprint, IdGen as _, IdempotencyKey, Job, JobQueue, JobToken, KeyClaim,
    KeyOperation, Money, NewOrder, NewTicket, Order, OrderEvent, OrderId, OrderStatus, OrderStore,
    RequestId, Start, TicketGrant, UserId, Verdict, decide,
};
use uuid::Uuid;

use super::{LEASE, Subject};
use crate::clock::SeededIds;

/// A case with its subject: the ports, fresh ids, and steps that must succeed.
pub(super) struct Scene<'a> {
    pub(super) subject: &'a dyn Subject,
    pub(super) store: Arc<dyn OrderStore>,
    pub(super) queue: Arc<dyn JobQueue>,
    pub(super) admin: Arc<dyn AdminStore>,
    ids: SeededIds,
}

/// A call without a deadline.
pub(super) fn ctx() -> CallContext {
    CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE)
}

pub(super) fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a valid user id")
}

/// The fingerprint of a request: equal for those with the same `content`.
pub(super) fn fingerprint(content: u8) -> Fingerprint {
    Fingerprint::from_bytes([content; 32])
}

/// The key of `user-1` for creating an order, kept longer than any case takes.
pub(super) fn create_key(text: &str, content: u8) -> KeyClaim {
    KeyClaim {
        owner: user("user-1"),
        operation: KeyOperation::CreateOrder,
        key: IdempotencyKey::parse(text).expect("a valid key"),
        fingerprint: fingerprint(content),
        retention: 24 * LEASE,
    }
}

/// A ticket of `user-1` with the digest `[n; 32]`.
pub(super) fn new_ticket(n: u8, lifetime: Duration) -> NewTicket {
    NewTicket {
        digest: [n; 32],
        grant: TicketGrant {
            user_id: user("user-1"),
        },
        lifetime,
    }
}

/// The mark before an effect outside.
pub(super) fn processing(token: JobToken) -> Start {
    Start {
        token,
        moves_order: true,
        counts: true,
        trace_parent: None,
    }
}

pub(super) fn completion(token: JobToken, verdict: Verdict) -> Completion {
    Completion {
        took: None,
        token,
        verdict,
        trace_parent: None,
    }
}

/// The only element of `answers`, which must be a success.
pub(super) fn only<T>(answers: Vec<Result<T, order_core::Error>>) -> T {
    let [answer] = <[_; 1]>::try_from(answers)
        .unwrap_or_else(|answers| panic!("{} answers to one element", answers.len()));
    answer.unwrap_or_else(|error| panic!("the call failed: {}", error.chain()))
}

impl<'a> Scene<'a> {
    pub(super) fn new(subject: &'a dyn Subject) -> Self {
        Self {
            subject,
            admin: subject.admin(),
            store: subject.store(),
            queue: subject.queue(),
            ids: SeededIds::new(1),
        }
    }

    pub(super) fn id(&self) -> OrderId {
        self.ids.order_id()
    }

    /// An order nobody has stored yet; ids rise from call to call.
    pub(super) fn new_order(&self, lease: Option<Duration>) -> NewOrder {
        let money = Money::from_minor_units(10_000, "USD").expect("a valid amount");
        NewOrder {
            lease,
            ..NewOrder::new(self.id(), user("user-1"), money)
        }
    }

    pub(super) fn new_orders(&self, n_orders: usize, lease: Option<Duration>) -> Vec<NewOrder> {
        (0..n_orders).map(|_| self.new_order(lease)).collect()
    }

    /// A new order with a key.
    pub(super) fn keyed_order(&self, key: &str, content: u8) -> NewOrder {
        NewOrder {
            key: Some(create_key(key, content)),
            ..self.new_order(None)
        }
    }

    pub(super) async fn create_one(&self, new: &NewOrder) -> Created {
        only(self.store.create(std::slice::from_ref(new)).await)
    }

    /// Stores an order that is not there.
    pub(super) async fn create(&self, new: &NewOrder) -> Order {
        let created = self.create_one(new).await;
        assert!(created.is_new(), "{} was there before", new.id);
        created.order
    }

    /// Stores an order whose job is due.
    pub(super) async fn create_due(&self) -> Order {
        self.create(&self.new_order(None)).await
    }

    /// Stores an order whose job is born leased, and returns its token.
    pub(super) async fn create_leased(&self) -> (Order, JobToken) {
        let order = self.create(&self.new_order(Some(LEASE))).await;
        let token = JobToken {
            order_id: order.id,
            attempt: 1,
        };
        (order, token)
    }

    /// Stores orders born leased, and returns their tokens.
    pub(super) async fn create_many_leased(&self, n_orders: usize) -> Vec<JobToken> {
        let created = self
            .store
            .create(&self.new_orders(n_orders, Some(LEASE)))
            .await;
        created
            .into_iter()
            .map(|created| JobToken {
                order_id: created.expect("a new order is stored").order.id,
                attempt: 1,
            })
            .collect()
    }

    pub(super) async fn find(&self, order_id: OrderId) -> Order {
        self.store
            .find(&ctx(), order_id)
            .await
            .expect("find answers")
            .expect("the order is stored")
    }

    pub(super) async fn events(&self, order_id: OrderId) -> Vec<OrderEvent> {
        self.store
            .events(&ctx(), order_id, 0, 100)
            .await
            .expect("events answer")
    }

    pub(super) async fn claim(&self, limit: usize) -> Vec<Job> {
        self.queue.claim(limit, LEASE).await.expect("claim answers")
    }

    /// Claims the only due job.
    pub(super) async fn claim_only(&self) -> Job {
        let [job] = <[_; 1]>::try_from(self.claim(10).await)
            .unwrap_or_else(|jobs| panic!("{} jobs are due instead of one", jobs.len()));
        job
    }

    /// Claims the only abandoned job.
    pub(super) async fn claim_abandoned(&self) -> Job {
        let job = self.queue.claim_abandoned(LEASE).await;
        job.expect("claim answers").expect("a job is abandoned")
    }

    /// Claims the only due job, lets its lease run out, and claims it again, so that the first
    /// token is overtaken by the second.
    pub(super) async fn overtake(&self) -> [JobToken; 2] {
        let overtaken = self.claim_only().await.token();
        self.subject.expire_leases().await;
        [overtaken, self.claim_abandoned().await.token()]
    }

    pub(super) async fn assert_nothing_due(&self) {
        assert_eq!(self.claim(10).await, [], "a job is due too early");
        let abandoned = self.queue.claim_abandoned(LEASE).await;
        assert_eq!(abandoned.ok(), Some(None), "a job counts as abandoned");
    }

    /// Lets every lease run out; nothing may be due after it but buried or missing jobs.
    pub(super) async fn assert_never_due(&self) {
        self.subject.expire_leases().await;
        self.assert_nothing_due().await;
    }

    pub(super) async fn commit(&self, change: Change) -> Committed {
        only(self.store.commit(&[change]).await)
    }

    /// Moves an order along the state machine and returns it as it is then.
    pub(super) async fn move_to(&self, order: &Order, status: OrderStatus) -> Order {
        let change = change_to(order, status, None);
        match self.commit(change).await {
            Committed::Applied { order, .. } => *order,
            Committed::Stale => panic!("{} is stale at version {}", order.id, order.version),
        }
    }

    pub(super) async fn complete(&self, token: JobToken, verdict: Verdict) -> Completed {
        only(self.queue.complete(&[completion(token, verdict)]).await)
    }

    /// Whether a heartbeat is still accepted for `token`.
    pub(super) async fn is_current(&self, token: JobToken) -> bool {
        let extended = self.queue.extend(&[token], LEASE).await;
        extended.expect("extend answers") == [Extended::Applied]
    }

    /// Buries the job of a token by failing the order.
    pub(super) async fn fail(&self, token: JobToken) -> Order {
        let cause = Cause::new("DECLINED", "the card was declined");
        let completed = self.complete(token, Verdict::Failed(cause)).await;
        assert!(matches!(completed, Completed::Applied(Some(_))));
        self.find(token.order_id).await
    }
}

/// The decided move of `order` to `status`.
pub(super) fn change_to(order: &Order, status: OrderStatus, cause: Option<Cause>) -> Change {
    decide(order, Command::MoveTo { status, cause })
        .expect("the state machine has this move")
        .expect("the order is not there yet")
}
