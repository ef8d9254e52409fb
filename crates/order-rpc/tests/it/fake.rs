//! A scripted [`OrderApi`].

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use order_core::{
    AdminApi, AttemptOutcome, AttemptRecord, Backlog, CallContext, CancelOrder, Cause,
    ClusterState, CreateOrder, DeadLetterGroup, Directive, Error, EventPage, Figures, Follower,
    IdempotencyKey, Identity, IfMatch, JobRecord, JobState, ListEvents, ListOrders, Order,
    OrderApi, OrderEventStream, OrderFollow, OrderId, OrderPage, OrderRecord, Origin, ProcessId,
    ProcessReport, ProcessState, Push, PushRecord, Receipt, Redrive, RedriveEnd, RedriveProgress,
    RedriveStream, RetryOrder, StreamTicket, TicketGrant, TicketSecret, UpdateStatus, Version,
    WatchOrder,
};
use tokio::sync::{oneshot, watch};

use crate::support::{id, order, soon};

/// What the api does with one call.
pub(crate) enum Act {
    Answer,
    Fail(Error),
    Panic,
    Hang,
    AnswerAfter(oneshot::Receiver<()>),
}

/// Acts by its script, and answers plausibly when the script is over.
pub(crate) struct FakeApi {
    script: Mutex<VecDeque<Act>>,
    /// Streams for watches, in turn; without one a watch never has an event.
    pub(crate) streams: Mutex<VecDeque<OrderEventStream>>,
    pub(crate) is_ready: AtomicBool,
    /// Whether calls fail for want of a database.
    pub(crate) is_down: AtomicBool,
    /// What was asked for in batches.
    pub(crate) batches: Mutex<Vec<Vec<CreateOrder>>>,
    /// The ids of orders that came alone, whatever became of them.
    pub(crate) created: Mutex<Vec<OrderId>>,
    /// What the last redrive asked for.
    pub(crate) redrive: Mutex<Option<Redrive>>,
    /// The reports of processes.
    pub(crate) reports: Mutex<Vec<ProcessReport>>,
    /// The pushes of this process.
    pub(crate) pushes: Mutex<Vec<PushRecord>>,
    /// The pauses and resumptions.
    pub(crate) pauses: Mutex<Vec<(Option<ProcessId>, bool)>>,
    calls: watch::Sender<Vec<CallContext>>,
}

impl FakeApi {
    pub(crate) fn new(script: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            streams: Mutex::default(),
            is_ready: AtomicBool::new(true),
            is_down: AtomicBool::new(false),
            batches: Mutex::default(),
            created: Mutex::default(),
            redrive: Mutex::default(),
            reports: Mutex::default(),
            pushes: Mutex::new(pushes()),
            pauses: Mutex::default(),
            calls: watch::Sender::default(),
        })
    }

    /// Goes on with the script.
    pub(crate) fn then(&self, acts: impl IntoIterator<Item = Act>) {
        self.script.lock().expect("not poisoned").extend(acts);
    }

    pub(crate) fn calls(&self) -> Vec<CallContext> {
        self.calls.borrow().clone()
    }

    pub(crate) async fn wait_for_calls(&self, n: usize) {
        let mut calls = self.calls.subscribe();
        soon(calls.wait_for(|calls| calls.len() >= n))
            .await
            .expect("the api lives");
    }

    async fn act(&self, ctx: &CallContext) -> Result<(), Error> {
        self.calls.send_modify(|calls| calls.push(ctx.clone()));
        if self.is_down.load(Ordering::Relaxed) {
            return Err(Error::store_unavailable("down"));
        }
        let act = self.script.lock().expect("not poisoned").pop_front();
        match act.unwrap_or(Act::Answer) {
            Act::Answer => Ok(()),
            Act::Fail(error) => Err(error),
            Act::Panic => panic!("a bug in the api"),
            Act::Hang => std::future::pending().await,
            Act::AnswerAfter(signal) => {
                let _ = signal.await;
                Ok(())
            }
        }
    }
}

/// Says what was asked for in the answer, so that a test sees what arrived.
fn echo(order_id: OrderId, if_match: Option<IfMatch>) -> Result<Order, Error> {
    let order = order(order_id);
    match if_match {
        Some(if_match) if !if_match.is_met(order.version) => Err(Error::EtagMismatch {
            order_id,
            current: order.version,
        }),
        Some(IfMatch::Versions(versions)) => Ok(Order {
            version: versions.iter().sum::<Version>(),
            ..order
        }),
        Some(IfMatch::Any) | None => Ok(order),
    }
}

fn receipt(order_id: OrderId, request: CreateOrder) -> Receipt {
    Receipt {
        order: Order {
            user_id: request.user_id,
            money: request.money,
            metadata: request.metadata,
            external_id: request.external_id,
            failure: request
                .idempotency_key
                .as_ref()
                .map(|key| Cause::new("KEY", key.as_str())),
            ..order(order_id)
        },
        is_replayed: request.idempotency_key.is_some(),
    }
}

#[async_trait]
impl AdminApi for FakeApi {
    async fn dead_letters(&self, ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        self.act(ctx).await?;
        Ok(vec![dead_letters()])
    }

    async fn redrive(&self, ctx: &CallContext, request: Redrive) -> Result<RedriveStream, Error> {
        self.act(ctx).await?;
        *self.redrive.lock().expect("not poisoned") = Some(request);
        Ok(stream::iter(redrive_steps()).boxed())
    }

    async fn record(&self, ctx: &CallContext, order_id: OrderId) -> Result<OrderRecord, Error> {
        self.act(ctx).await?;
        Ok(record(order_id))
    }

    fn pushes(&self, _: OrderId) -> Vec<PushRecord> {
        self.pushes.lock().expect("not poisoned").clone()
    }

    async fn cluster(&self, ctx: &CallContext) -> Result<ClusterState, Error> {
        self.act(ctx).await?;
        Ok(cluster())
    }

    /// Is not in the script: it is answered whatever becomes of other calls.
    async fn report(&self, _: &CallContext, report: ProcessReport) -> Result<Directive, Error> {
        self.reports.lock().expect("not poisoned").push(report);
        Ok(Directive { is_paused: true })
    }

    async fn set_paused(
        &self,
        ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<(), Error> {
        self.act(ctx).await?;
        let mut pauses = self.pauses.lock().expect("not poisoned");
        pauses.push((process_id, is_paused));
        Ok(())
    }
}

/// A record in which every field is set.
pub(crate) fn record(order_id: OrderId) -> OrderRecord {
    let order = order(order_id);
    let at = order.created_at;
    let attempt = AttemptRecord {
        attempt: 2,
        worker: Some("order-service host:7".to_owned()),
        begun_at: Some(at),
        ended_at: at,
        outcome: AttemptOutcome::Retried,
        error: Some("no answer".to_owned()),
        next_at: Some(at),
    };
    OrderRecord {
        origin: Origin {
            request_id: Some("r-1".to_owned()),
            gateway: Some("api-gateway host:8".to_owned()),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        },
        events: vec![order.last_event()],
        attempts: vec![attempt],
        job: Some(JobRecord {
            attempt: 3,
            attempts_before: 1,
            state: JobState::Leased(at),
            holder: Some(ProcessId::from_u64(9)),
            last_error: Some("no answer".to_owned()),
        }),
        unpublished: Some(vec![3]),
        pushes: pushes(),
        silent_processes: 0,
        order,
    }
}

/// The pushes of an order.
pub(crate) fn pushes() -> Vec<PushRecord> {
    let push = |version, clients| Push {
        version,
        at: order(id(1)).created_at,
        clients,
        gateways: 2,
    };
    PushRecord::of("order-service host:7", vec![push(2, 0), push(3, 1)])
}

/// A process that reports all it can.
pub(crate) fn report() -> ProcessReport {
    ProcessReport {
        identity: Identity {
            id: ProcessId::from_u64(9),
            program: "order-worker".to_owned(),
            place: "host:7".to_owned(),
        },
        version: "1.2.3".to_owned(),
        started_at: order(id(1)).created_at,
        figures: Figures {
            workers: 5,
            created: u64::MAX,
            request_times: vec![1; Figures::BOUNDS.len()],
            failures: [("TIMEOUT".to_owned(), 3)].into(),
            ..Figures::default()
        },
    }
}

/// A cluster of that process.
pub(crate) fn cluster() -> ClusterState {
    let at = order(id(1)).created_at;
    ClusterState {
        at,
        is_paused: true,
        backlog: Backlog {
            due: 3,
            oldest_due: Some(Duration::from_millis(1_500)),
            ..Backlog::default()
        },
        processes: vec![ProcessState {
            report: report(),
            seen_at: at,
            is_paused: true,
        }],
    }
}

pub(crate) fn dead_letters() -> DeadLetterGroup {
    DeadLetterGroup {
        code: "TIMEOUT".to_owned(),
        count: 7,
        example: id(1),
    }
}

/// Two steps, and a failure of the store.
pub(crate) fn redrive_steps() -> Vec<Result<RedriveProgress, Error>> {
    let begun = RedriveProgress {
        matched: 7,
        redriven: 6,
        skipped: 1,
        ..RedriveProgress::default()
    };
    let ended = RedriveProgress {
        processed: 2,
        failed: 4,
        end: Some(RedriveEnd::TooManyFailures),
        ..begun
    };
    vec![Ok(begun), Ok(ended), Err(Error::store_unavailable("down"))]
}

impl OrderFollow for FakeApi {
    fn follow(&self) -> Result<(Box<dyn Follower>, OrderEventStream), Error> {
        Err(Error::store_unavailable("not in the script"))
    }
}

#[async_trait]
impl OrderApi for FakeApi {
    async fn create_order(
        &self,
        ctx: &CallContext,
        request: CreateOrder,
    ) -> Result<Receipt, Error> {
        let order_id = request.order_id.unwrap_or(id(1));
        self.created.lock().expect("not poisoned").push(order_id);
        self.act(ctx).await?;
        Ok(receipt(order_id, request))
    }

    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        match self.act(ctx).await {
            // As in the service: each order fails, and the call succeeds.
            Err(error) if self.is_down.load(Ordering::Relaxed) => {
                return Ok(error.copies(requests.len()));
            }
            acted => acted?,
        }
        self.batches
            .lock()
            .expect("not poisoned")
            .push(requests.clone());
        // Every third order fails on its own.
        let answer = |(n, request): (usize, CreateOrder)| {
            let order_id = request.order_id.unwrap_or(id(1));
            if n % 3 == 1 {
                Err(Error::OrderAlreadyExists { order_id })
            } else {
                Ok(receipt(order_id, request))
            }
        };
        Ok(requests.into_iter().enumerate().map(answer).collect())
    }

    async fn get_order(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        self.act(ctx).await?;
        Ok(order(order_id))
    }

    async fn list_orders(
        &self,
        ctx: &CallContext,
        request: ListOrders,
    ) -> Result<OrderPage, Error> {
        self.act(ctx).await?;
        let n_orders = u128::from(request.page_size.get());
        let order = |n| Order {
            external_id: request.external_id.clone(),
            created_at: request.created_after.unwrap_or(Timestamp::UNIX_EPOCH),
            updated_at: request.created_before.unwrap_or(Timestamp::UNIX_EPOCH),
            ..order(id(n))
        };
        Ok(OrderPage {
            orders: (0..n_orders).map(order).collect(),
            next_page_token: request.page_token,
        })
    }

    async fn cancel_order(
        &self,
        ctx: &CallContext,
        request: CancelOrder,
    ) -> Result<Receipt, Error> {
        if let Some(reason) = &request.reason {
            Cause::check_message("reason", reason)?;
        }
        self.act(ctx).await?;
        let key = request.idempotency_key.as_ref().map(IdempotencyKey::as_str);
        let code = key.unwrap_or("NONE");
        let failure = request.reason.map(|reason| Cause::new(code, reason));
        Ok(Receipt {
            order: Order {
                failure,
                ..echo(request.order_id, request.if_match)?
            },
            is_replayed: request.idempotency_key.is_some(),
        })
    }

    async fn retry_order(&self, ctx: &CallContext, request: RetryOrder) -> Result<Order, Error> {
        self.act(ctx).await?;
        echo(request.order_id, request.if_match)
    }

    async fn update_status(
        &self,
        ctx: &CallContext,
        request: UpdateStatus,
    ) -> Result<Order, Error> {
        self.act(ctx).await?;
        Ok(Order {
            status: request.status,
            failure: request.cause,
            ..echo(request.order_id, request.if_match)?
        })
    }

    async fn list_events(
        &self,
        ctx: &CallContext,
        request: ListEvents,
    ) -> Result<EventPage, Error> {
        self.act(ctx).await?;
        let order = order(request.order_id);
        let event = |n| {
            let mut event = order.last_event();
            event.version = request.after + u32::from(n) + 1;
            event
        };
        Ok(EventPage {
            events: (0..request.page_size.get()).map(event).collect(),
            has_more: request.after == 0,
            order,
        })
    }

    async fn create_ticket(
        &self,
        ctx: &CallContext,
        grant: TicketGrant,
    ) -> Result<StreamTicket, Error> {
        self.act(ctx).await?;
        Ok(StreamTicket {
            secret: TicketSecret::from_bytes([9; 32]),
            grant,
            expires_at: order(id(1)).created_at,
        })
    }

    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        self.act(ctx).await?;
        if let Some(stream) = self.streams.lock().expect("not poisoned").pop_front() {
            return Ok(stream);
        }
        let first = orders.into_iter().map(|watch| {
            let mut event = order(watch.order_id).last_event();
            event.version = watch.since.unwrap_or(0) + 1;
            Ok(event)
        });
        let first: Vec<_> = first.collect();
        Ok(stream::iter(first).chain(stream::pending()).boxed())
    }

    async fn check_ready(&self, _: &CallContext) -> Result<(), Error> {
        if self.is_ready.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Error::store_unavailable("down"))
        }
    }
}
