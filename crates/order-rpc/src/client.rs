//! The order system on the other side of a network.
//!
//! Owns the connections, the deadlines of calls on this side and their retries. Decides
//! nothing about orders and keeps no state of them: [`RemoteOrderApi`] answers what the
//! service answers, and [`Error::ServiceUnavailable`] where it cannot be reached.

mod config;
mod connection;
mod create;
mod endpoints;
mod outlier;
mod remote;
mod resolve;
mod retry;
mod turn;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, future::BoxFuture};
use order_core::{
    CallContext, CancelOrder, Cause, Clock, CreateOrder, Error, EventPage, IfMatch, ListEvents,
    ListOrders, Order, OrderApi, OrderEventStream, OrderId, OrderPage, Receipt, RetryOrder,
    StreamTicket, TicketGrant, UpdateStatus, WatchOrder,
    supervisor::{STEP_TIME_MAX, Supervisor, Task},
};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

pub use config::{ConfigError, RpcClientConfig};
pub use resolve::Resolve;

use crate::{SERVICE_NAME, convert, proto, status::from_status};
use config::targets;
use create::Creates;
use endpoints::Endpoints;
use remote::{Manner, Remote, Repeat, SendDeadline};
use resolve::{Resolver, SystemResolver};

/// The gRPC client as an [`OrderApi`].
///
/// Concurrent creates of orders that have an id or a key share calls, by the same group
/// commit that shares transactions on the other side. [`OrderApi::create_orders`] is sent as
/// it comes, in as few calls as their limits allow (1000 orders, 1 MiB).
///
/// Calls go round all addresses of all names, which are looked up again every few seconds; a
/// rush of creates stays with each address for a moment. An address that cannot be reached,
/// breaks several calls in a row or says that it is shutting down is left alone for a while,
/// unless no other is left.
///
/// Connects when it is first called, so it may start before the service does. Calls fail at
/// once with [`Error::ServiceUnavailable`] while nobody answers, and work again when
/// somebody does. Calls whose repetition is harmless are repeated after an UNAVAILABLE, at
/// most twice, within their deadline and within a budget, and on another address if there is
/// one; [`Error::Overloaded`] is final. A call that never left goes to another address in
/// any case.
pub struct RemoteOrderApi {
    remote: Arc<Remote>,
    creates: Creates,
    supervisor: Arc<Supervisor>,
    closing: CancellationToken,
    _close_on_drop: DropGuard,
}

/// The lanes of a client. Each is a future that its owner spawns and waits for.
pub type RunningLanes = Vec<BoxFuture<'static, ()>>;

impl RemoteOrderApi {
    /// Prepares the connections; makes none yet. The caller spawns the lanes, which look up
    /// names and send the shared calls, and end after [`RemoteOrderApi::close`]. No call is
    /// answered before they run.
    ///
    /// # Errors
    /// [`ConfigError`] if a URL cannot be one of the service.
    pub fn new(
        config: &RpcClientConfig,
        clock: &Arc<dyn Clock>,
    ) -> Result<(Self, RunningLanes), ConfigError> {
        Self::with_resolver(config, clock, Arc::new(SystemResolver))
    }

    /// As [`RemoteOrderApi::new`], with names looked up by `resolve` instead of the
    /// operating system.
    ///
    /// # Errors
    /// As for [`RemoteOrderApi::new`].
    pub fn with_resolver(
        config: &RpcClientConfig,
        clock: &Arc<dyn Clock>,
        resolve: Arc<dyn Resolve>,
    ) -> Result<(Self, RunningLanes), ConfigError> {
        let targets = targets(&config.urls)?;
        let endpoints = Arc::new(Endpoints::new(config));
        let remote = Arc::new(Remote::new(config, Arc::clone(&endpoints), clock));
        let (creates, mut lanes) =
            Creates::new(&remote, clock, config.connections, config.in_flight_max);
        let resolver = Resolver {
            resolve,
            endpoints,
            names: targets.into_iter().map(|name| (name, vec![])).collect(),
            interval: config.resolve_interval,
            timeout: config.connect_timeout,
        };
        let closing = CancellationToken::new();
        let closed = closing.clone();
        let resolver = Arc::new(Mutex::new(resolver));
        lanes.push(Task::new("resolver", STEP_TIME_MAX, move |beat| {
            let (closed, resolver) = (closed.clone(), Arc::clone(&resolver));
            async move {
                let running = async { resolver.lock().await.run(&beat).await };
                closed.run_until_cancelled(running).await;
            }
        }));
        let supervisor = Supervisor::new(clock);
        let lanes = lanes.into_iter().map(|lane| supervisor.run(lane)).collect();
        let remote = Self {
            remote,
            creates,
            supervisor,
            _close_on_drop: closing.clone().drop_guard(),
            closing,
        };
        Ok((remote, lanes))
    }

    /// Refuses new creates; the lanes end when those that wait are answered. Other calls
    /// work on, with the addresses known by then.
    pub fn close(&self) {
        self.creates.close();
        self.closing.cancel();
    }
}

#[async_trait]
impl OrderApi for RemoteOrderApi {
    async fn create_order(
        &self,
        ctx: &CallContext,
        request: CreateOrder,
    ) -> Result<Receipt, Error> {
        self.creates.submit(&self.remote, ctx, request).await
    }

    async fn create_orders(
        &self,
        ctx: &CallContext,
        requests: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
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
        Ok(OrderPage {
            orders: convert::page_from_proto(page.orders),
            next_page_token: Some(page.next_page_token).filter(|token| !token.is_empty()),
        })
    }

    async fn cancel_order(
        &self,
        ctx: &CallContext,
        request: CancelOrder,
    ) -> Result<Receipt, Error> {
        // An empty reason would arrive as none.
        if let Some(reason) = &request.reason {
            Cause::check_message("reason", reason)?;
        }
        // Without a key, a precondition that the first attempt met fails at the second.
        let is_repeatable = request.idempotency_key.is_some()
            || !matches!(request.if_match, Some(IfMatch::Versions(_)));
        let repeat = if is_repeatable {
            Repeat::Harmless
        } else {
            Repeat::IfRefused
        };
        let answer = self.remote.call(ctx, repeat, |attempt| {
            let message = attempt.request(convert::cancel_to_proto(&request));
            async move { attempt.orders().cancel_order(message).await }
        });
        let answer = answer.await?;
        Ok(Receipt {
            order: convert::order_from_proto(answer.order)?,
            is_replayed: answer.replayed,
        })
    }

    async fn retry_order(&self, ctx: &CallContext, request: RetryOrder) -> Result<Order, Error> {
        // After the first attempt a worker may have moved the order, and the second would fail.
        let answer = self.remote.call(ctx, Repeat::IfRefused, |attempt| {
            let message = attempt.request(convert::retry_to_proto(&request));
            async move { attempt.orders().retry_order(message).await }
        });
        convert::order_from_proto(answer.await?.order)
    }

    async fn update_status(
        &self,
        ctx: &CallContext,
        request: UpdateStatus,
    ) -> Result<Order, Error> {
        // As for a retry.
        let answer = self.remote.call(ctx, Repeat::IfRefused, |attempt| {
            let message = attempt.request(convert::update_to_proto(&request));
            async move { attempt.orders().update_status(message).await }
        });
        convert::order_from_proto(answer.await?.order)
    }

    async fn list_events(
        &self,
        ctx: &CallContext,
        request: ListEvents,
    ) -> Result<EventPage, Error> {
        let answer = self.remote.call(ctx, Repeat::Harmless, |attempt| {
            let message = attempt.request(convert::events_to_proto(&request));
            async move { attempt.orders().list_order_events(message).await }
        });
        let page = answer.await?;
        let events = page.events.into_iter().map(convert::event_from_proto);
        Ok(EventPage {
            events: events.collect::<Result<_, _>>()?,
            order: convert::order_from_proto(page.order)?,
            has_more: page.has_more,
        })
    }

    async fn create_ticket(
        &self,
        ctx: &CallContext,
        grant: TicketGrant,
    ) -> Result<StreamTicket, Error> {
        // A ticket that nobody was told of is worth nothing, so a second one is harmless.
        let answer = self.remote.call(ctx, Repeat::Harmless, |attempt| {
            let user_id = grant.user_id.as_str().to_owned();
            let message = attempt.request(proto::CreateStreamTicketRequest { user_id });
            async move { attempt.orders().create_stream_ticket(message).await }
        });
        convert::ticket_from_proto(&answer.await?, grant)
    }

    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        let manner = Manner {
            send_deadline: SendDeadline::No,
            ..Repeat::Harmless.into()
        };
        let stream = self.remote.call(ctx, manner, |attempt| {
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
        self.supervisor.check()?;
        // One address that does not serve, perhaps because it is about to stop, says nothing
        // of the others: asking is repeated at another one.
        let answer = self.remote.call(ctx, Repeat::Harmless, |attempt| {
            let service = SERVICE_NAME.to_owned();
            let message = attempt.request(HealthCheckRequest { service });
            async move {
                let answer = attempt.health().check(message).await?;
                match answer.get_ref().status() {
                    ServingStatus::Serving => Ok(answer),
                    ServingStatus::Unknown
                    | ServingStatus::NotServing
                    | ServingStatus::ServiceUnknown => {
                        Err(Status::unavailable("the order service is not serving"))
                    }
                }
            }
        });
        answer.await?;
        Ok(())
    }
}
