//! The order system on the other side of a network.
//!
//! Owns the connections, the deadlines of calls on this side and their retries. Decides
//! nothing about orders and keeps no state of them: [`RemoteOrderApi`] answers what the
//! service answers, and [`Error::ServiceUnavailable`] where it cannot be reached.

mod config;
mod connection;
mod retry;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use order_core::{
    CallContext, CancelOrder, Cause, Clock, CreateOrder, Deadline, Error, ListOrders, Order,
    OrderApi, OrderEventStream, OrderId, OrderPage, UpdateStatus, WatchOrder,
    group_commit::{GroupCommit, GroupCommitConfig, Lanes},
};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

pub use config::{ConfigError, RpcClientConfig};

use crate::{
    REQUEST_ID_HEADER, RESPONSE_BYTES_MAX, SERVICE_NAME, convert,
    proto::{
        self, batch_create_orders_response::result::Result as BatchItem,
        order_service_client::OrderServiceClient,
    },
    status::{from_batch_status, from_status},
};
use connection::{Connection, connections};
use retry::{ATTEMPTS_MAX, RetryBudget, backoff, is_retryable};

/// The service answered a batch with too few or too many results, or with an empty one.
#[derive(Debug, thiserror::Error)]
#[error("the service sent results that do not match the batch")]
struct InvalidBatch;

/// The service is there, and not ready.
#[derive(Debug, thiserror::Error)]
#[error("the order service reports that it is not serving")]
struct NotServing;

/// Whether a call may be sent again when it is not known what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Harmless,
    Never,
}

/// How the deadline of a call is told to the service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SendDeadline {
    Yes,
    /// The deadline is about the beginning of a stream, which lives on after it.
    No,
}

/// The gRPC client as an [`OrderApi`].
///
/// Concurrent creates of orders that have an id share calls, by the same group commit that
/// shares transactions on the other side: a call costs far more than an order in it.
///
/// Connects when it is first called, so it may start before the service does. Calls fail at
/// once with [`Error::ServiceUnavailable`] while nobody answers, and work again when
/// somebody does. Calls whose repetition is harmless are repeated after an UNAVAILABLE, at
/// most twice, within their deadline and within a budget; [`Error::Overloaded`] is final.
pub struct RemoteOrderApi {
    remote: Arc<Remote>,
    creates: GroupCommit<Wanted, Order>,
}

/// A second call leaves while fewer orders than this are on their way: an idle system waits
/// for nothing, and a loaded one shares calls.
const OVERLAP_BELOW: usize = 8;

/// An order to create, with what came with its call.
struct Wanted {
    ctx: CallContext,
    request: CreateOrder,
}

/// The calls themselves.
struct Remote {
    connections: Vec<Connection>,
    next: AtomicUsize,
    places: Semaphore,
    retry_budget: RetryBudget,
    deadline_default: Duration,
    clock: Arc<dyn Clock>,
}

impl RemoteOrderApi {
    /// Prepares the connections; makes none yet. The caller spawns the lanes, which send the
    /// shared calls and end after [`RemoteOrderApi::close`].
    ///
    /// # Errors
    /// [`ConfigError`] if a URL cannot be one of the service.
    pub fn new(
        config: &RpcClientConfig,
        clock: &Arc<dyn Clock>,
    ) -> Result<(Self, Lanes), ConfigError> {
        let remote = Arc::new(Remote {
            connections: connections(config)?,
            next: AtomicUsize::new(0),
            places: Semaphore::new(config.in_flight_max),
            retry_budget: RetryBudget::default(),
            deadline_default: config.deadline_default,
            clock: Arc::clone(clock),
        });
        let lanes = GroupCommitConfig {
            lanes: config.connections,
            queue_len_max: config.in_flight_max,
            overlap_below: OVERLAP_BELOW,
        };
        let calls = Arc::clone(&remote);
        let (creates, lanes) = GroupCommit::new(lanes, clock, move |wanted| {
            let calls = Arc::clone(&calls);
            Box::pin(async move { calls.create_wanted(wanted).await })
        });
        Ok((Self { remote, creates }, lanes))
    }

    /// Refuses new creates; the lanes end when those that wait are answered.
    pub fn close(&self) {
        self.creates.close();
    }
}

impl Remote {
    /// The next connection in turn, past those that are known to fail. There is always one.
    fn pick(&self) -> Option<&Connection> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = self
            .connections
            .iter()
            .cycle()
            .skip(start % self.connections.len().max(1))
            .take(self.connections.len());
        in_turn
            .clone()
            .find(|connection| !connection.is_failing())
            .or_else(|| in_turn.clone().next())
    }

    /// The time that is left for the call. Work of the system for itself is limited too:
    /// the other side may never answer.
    fn time_left(&self, deadline: Deadline) -> Result<Duration, Error> {
        match deadline.remaining(self.clock.instant()) {
            Some(Duration::ZERO) => Err(Error::DeadlineExceeded),
            Some(left) => Ok(left),
            None => Ok(self.deadline_default),
        }
    }

    /// Makes a call, if necessary and allowed several times, and bounds it by its deadline.
    async fn invoke<T, W>(
        &self,
        ctx: &CallContext,
        repeat: Repeat,
        send_deadline: SendDeadline,
        work: impl Fn(Attempt) -> W,
    ) -> Result<T, Error>
    where
        W: Future<Output = Result<Response<T>, Status>>,
    {
        let left = self.time_left(ctx.deadline)?;
        let deadline = Deadline::at(self.clock.instant() + left);
        let _place = self.places.try_acquire().map_err(|_| Error::overloaded())?;
        self.retry_budget.deposit();
        let mut n_attempts = 0;
        loop {
            n_attempts += 1;
            let left = self.time_left(deadline)?;
            let connection = self.pick().ok_or(Error::Internal { source: None })?;
            let attempt = Attempt::new(connection, ctx, left, send_deadline)?;
            let status = match timeout(left, work(attempt)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(Error::DeadlineExceeded),
            };
            let error = from_status(status);
            let delay = backoff(n_attempts, rand::random());
            let may_repeat = repeat == Repeat::Harmless
                && n_attempts < ATTEMPTS_MAX
                && is_retryable(&error)
                && delay < self.time_left(deadline)?
                && self.retry_budget.withdraw();
            if !may_repeat {
                return Err(error);
            }
            tracing::debug!(
                request.id = ctx.request_id.as_str(),
                error = error.chain(),
                "call is repeated"
            );
            tokio::time::sleep(delay).await;
        }
    }

    /// Makes a call that has one answer.
    async fn call<T, W>(
        &self,
        ctx: &CallContext,
        repeat: Repeat,
        work: impl Fn(Attempt) -> W,
    ) -> Result<T, Error>
    where
        W: Future<Output = Result<Response<T>, Status>>,
    {
        self.invoke(ctx, repeat, SendDeadline::Yes, work).await
    }

    async fn create_order(&self, ctx: &CallContext, request: &CreateOrder) -> Result<Order, Error> {
        let repeat = repeat_of(std::slice::from_ref(request));
        let answer = self.call(ctx, repeat, |attempt| {
            let message = attempt.request(convert::create_to_proto(request));
            async move { attempt.orders().create_order(message).await }
        });
        convert::order_from_proto(answer.await?.order)
    }

    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: &[CreateOrder],
    ) -> Result<Vec<Result<Order, Error>>, Error> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let answer = self.call(ctx, repeat_of(requests), |attempt| {
            let requests = requests.iter().map(convert::create_to_proto).collect();
            let message = attempt.request(proto::BatchCreateOrdersRequest { requests });
            async move { attempt.orders().batch_create_orders(message).await }
        });
        let results = answer.await?.results;
        if results.len() != requests.len() {
            return Err(Error::internal(InvalidBatch));
        }
        let item = |result: proto::batch_create_orders_response::Result| match result.result {
            Some(BatchItem::Order(order)) => convert::order_from_proto(Some(order)),
            Some(BatchItem::Error(status)) => Err(from_batch_status(status)),
            None => Err(Error::internal(InvalidBatch)),
        };
        Ok(results.into_iter().map(item).collect())
    }

    /// Creates what several callers want, in one call.
    async fn create_wanted(&self, wanted: Vec<Wanted>) -> Vec<Result<Order, Error>> {
        let deadlines = wanted.iter().map(|wanted| wanted.ctx.deadline.instant());
        let ctx = CallContext {
            // No deadline is later than any.
            deadline: deadlines
                .collect::<Option<Vec<_>>>()
                .and_then(|instants| instants.into_iter().max())
                .map_or(Deadline::NONE, Deadline::at),
            // One of them stands for all: the log of the service then leads to the gateway's.
            request_id: match wanted.first() {
                Some(first) => first.ctx.request_id.clone(),
                None => return Vec::new(),
            },
        };
        let requests: Vec<CreateOrder> = wanted.into_iter().map(|w| w.request).collect();
        if let [request] = requests.as_slice() {
            return vec![self.create_order(&ctx, request).await];
        }
        match self.create_orders(&ctx, &requests).await {
            Ok(answers) => answers,
            Err(error) => {
                // One of them keeps the source, for the log.
                let mut answers: Vec<_> = requests
                    .iter()
                    .skip(1)
                    .map(|_| Err(error.without_source()))
                    .collect();
                answers.push(Err(error));
                answers
            }
        }
    }
}

/// One try of one call.
struct Attempt {
    connection: Connection,
    request_id: MetadataValue<Ascii>,
    timeout: Option<Duration>,
}

impl Attempt {
    fn new(
        connection: &Connection,
        ctx: &CallContext,
        left: Duration,
        send_deadline: SendDeadline,
    ) -> Result<Self, Error> {
        Ok(Self {
            connection: connection.clone(),
            request_id: ctx.request_id.as_str().parse().map_err(Error::internal)?,
            timeout: (send_deadline == SendDeadline::Yes).then_some(left),
        })
    }

    fn orders(&self) -> OrderServiceClient<Connection> {
        let origin = self.connection.origin().clone();
        OrderServiceClient::with_origin(self.connection.clone(), origin)
            .max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    fn health(&self) -> HealthClient<Connection> {
        let origin = self.connection.origin().clone();
        HealthClient::with_origin(self.connection.clone(), origin)
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        let metadata = request.metadata_mut();
        metadata.insert(REQUEST_ID_HEADER, self.request_id.clone());
        request
    }
}

#[async_trait]
impl OrderApi for RemoteOrderApi {
    async fn create_order(&self, ctx: &CallContext, request: CreateOrder) -> Result<Order, Error> {
        // Without an id it must not be repeated, which a shared call might be.
        if request.order_id.is_none() {
            return self.remote.create_order(ctx, &request).await;
        }
        let left = self.remote.time_left(ctx.deadline)?;
        let wanted = Wanted {
            ctx: ctx.clone(),
            request,
        };
        // The call is bounded by the longest deadline in it, the wait here by our own.
        timeout(left, self.creates.submit(wanted, ctx.deadline))
            .await
            .unwrap_or(Err(Error::DeadlineExceeded))
    }

    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Order, Error>>, Error> {
        self.remote.create_orders(ctx, &requests).await
    }

    async fn get_order(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        let answer = self.remote.call(ctx, Repeat::Harmless, |attempt| {
            let order_id = order_id.to_string();
            let message = attempt.request(proto::GetOrderRequest { order_id });
            async move { attempt.orders().get_order(message).await }
        });
        convert::order_from_proto(answer.await?.order)
    }

    async fn list_orders(
        &self,
        ctx: &CallContext,
        request: ListOrders,
    ) -> Result<OrderPage, Error> {
        let answer = self.remote.call(ctx, Repeat::Harmless, |attempt| {
            let message = attempt.request(convert::list_to_proto(&request));
            async move { attempt.orders().list_orders(message).await }
        });
        let page = answer.await?;
        let orders = page.orders.into_iter();
        Ok(OrderPage {
            orders: orders
                .map(|order| convert::order_from_proto(Some(order)))
                .collect::<Result<_, _>>()?,
            next_page_token: Some(page.next_page_token).filter(|token| !token.is_empty()),
        })
    }

    async fn cancel_order(&self, ctx: &CallContext, request: CancelOrder) -> Result<Order, Error> {
        // An empty reason would arrive as none.
        if let Some(reason) = &request.reason {
            Cause::check_message("reason", reason)?;
        }
        let answer = self.remote.call(ctx, Repeat::Harmless, |attempt| {
            let message = attempt.request(convert::cancel_to_proto(&request));
            async move { attempt.orders().cancel_order(message).await }
        });
        convert::order_from_proto(answer.await?.order)
    }

    async fn update_status(
        &self,
        ctx: &CallContext,
        request: UpdateStatus,
    ) -> Result<Order, Error> {
        let answer = self.remote.call(ctx, Repeat::Harmless, |attempt| {
            let message = attempt.request(convert::update_to_proto(&request));
            async move { attempt.orders().update_status(message).await }
        });
        convert::order_from_proto(answer.await?.order)
    }

    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        let stream = self
            .remote
            .invoke(ctx, Repeat::Harmless, SendDeadline::No, |attempt| {
                let message = attempt.request(convert::watches_to_proto(&orders));
                async move { attempt.orders().watch_orders(message).await }
            });
        let events = stream.await?.map(|event| match event {
            Ok(event) => convert::event_from_proto(event),
            Err(status) => Err(from_status(status)),
        });
        Ok(events.boxed())
    }

    async fn check_ready(&self, ctx: &CallContext) -> Result<(), Error> {
        let answer = self.remote.call(ctx, Repeat::Never, |attempt| {
            let service = SERVICE_NAME.to_owned();
            let message = attempt.request(HealthCheckRequest { service });
            async move { attempt.health().check(message).await }
        });
        match answer.await?.status() {
            ServingStatus::Serving => Ok(()),
            ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown => {
                Err(Error::service_unavailable(NotServing))
            }
        }
    }
}

/// Creating is harmless to repeat where the caller made the ids.
fn repeat_of(requests: &[CreateOrder]) -> Repeat {
    if requests.iter().all(|request| request.order_id.is_some()) {
        Repeat::Harmless
    } else {
        Repeat::Never
    }
}
