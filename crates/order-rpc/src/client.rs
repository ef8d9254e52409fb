//! The order system on the other side of a network.
//!
//! Owns the connections, the deadlines of calls on this side and their retries. Decides
//! nothing about orders and keeps no state of them: [`RemoteOrderApi`] answers what the
//! service answers, and [`Error::ServiceUnavailable`] where it cannot be reached.

mod config;
mod connection;
mod create;
mod endpoint;
mod endpoints;
mod follow;
mod outlier;
mod pushes;
mod remote;
mod resolve;
mod retry;
mod source;

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use futures_util::{StreamExt as _, future::BoxFuture};
use order_core::{
    AdminApi, CallContext, CancelOrder, Cause, Clock, ClusterState, CreateOrder, DeadLetterGroup,
    Directive, Error, EventPage, IfMatch, ListEvents, ListOrders, Order, OrderApi,
    OrderEventStream, OrderId, OrderPage, OrderRecord, OrderWatch, ProcessId, ProcessReport,
    PushRecord, Receipt, Redrive, RedriveStream, RetryOrder, StreamTicket, TicketGrant,
    UpdateStatus, WatchOrder,
    group_commit::GroupCommitStats,
    metrics::{Durations, Family},
    supervisor::{STEP_TIME_MAX, Supervisor, Task},
};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use config::{ConfigError, RpcClientConfig};
pub use remote::AttemptLabels;
pub use resolve::Resolve;

use crate::{convert, proto, status::from_status};
use config::targets;
use create::{Creates, Wanted};
use endpoints::Endpoints;
use remote::{Manner, Remote, SendDeadline};
use resolve::{Resolver, SystemResolver};
use retry::Repeat;

/// The gRPC client as an [`OrderApi`].
///
/// Concurrent creates of orders that have an id or a key share calls, by the same group
/// commit that shares transactions on the other side. [`OrderApi::create_orders`] is sent as
/// it comes, in as few calls as their limits allow (1000 orders, 1 MiB).
///
/// Calls go round all addresses of all names, which are looked up again every few seconds. Each
/// connection is watched through the standard health service: an address that cannot be
/// reached, is silent or says that it does not serve gets no calls while another one serves. An
/// address that fails most of its calls is left alone for some seconds if others do not.
///
/// Connects as soon as the names are looked up, so it may start before the service does. Calls
/// fail at once with [`Error::ServiceUnavailable`] while no address can be reached, and work
/// again when one can. Calls whose repetition is harmless are repeated after an UNAVAILABLE or
/// a second of silence, at most twice, within their deadline and within a budget, and on
/// another address if there is one; [`Error::Overloaded`] is final. A call that was not sent
/// goes to another address in any case.
pub struct RemoteOrderApi {
    endpoints: Arc<Endpoints>,
    remote: Arc<Remote>,
    creates: Creates,
    /// Follows orders for all callers over one stream, if there is somebody who does.
    watch: OnceLock<Weak<dyn OrderWatch>>,
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
        let supervisor = Supervisor::new(clock);
        let endpoints = Arc::new(Endpoints::new(config, &supervisor));
        let remote = Arc::new(Remote::new(config, Arc::clone(&endpoints), clock));
        let (creates, mut lanes) =
            Creates::new(&remote, clock, config.connections, config.in_flight_max);
        let resolver = Resolver {
            resolve,
            endpoints: Arc::clone(&endpoints),
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
        let lanes = lanes.into_iter().map(|lane| supervisor.run(lane)).collect();
        let remote = Self {
            endpoints,
            remote,
            creates,
            watch: OnceLock::new(),
            supervisor,
            _close_on_drop: closing.clone().drop_guard(),
            closing,
        };
        Ok((remote, lanes))
    }

    /// Durations of attempts to make calls, by their outcome.
    pub fn attempts(&self) -> Family<AttemptLabels, Durations> {
        self.remote.stats().clone()
    }

    /// Counters of the calls that creates share, by operation.
    pub fn commits(&self) -> [(&'static str, GroupCommitStats); 2] {
        self.creates.commits()
    }

    /// How many addresses of the service are known, and how many of them take calls.
    pub fn n_addresses(&self) -> (usize, usize) {
        self.endpoints.count()
    }

    /// The supervisor of the tasks.
    pub fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
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
        let wanted: Vec<Wanted> = requests.into_iter().map(Wanted::from).collect();
        self.remote.create_orders(ctx, &wanted).await
    }

    async fn get_order(&self, ctx: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        let answer = self.remote.call(
            ctx,
            "order.v1.OrderService/GetOrder",
            Repeat::Harmless,
            |attempt| {
                let order_id = order_id.to_string();
                let message = attempt.request(proto::GetOrderRequest { order_id });
                async move { attempt.orders().get_order(message).await }
            },
        );
        convert::order_from_proto(answer.await?.order)
    }

    async fn list_orders(
        &self,
        ctx: &CallContext,
        request: ListOrders,
    ) -> Result<OrderPage, Error> {
        let answer = self.remote.call(
            ctx,
            "order.v1.OrderService/ListOrders",
            Repeat::Harmless,
            |attempt| {
                let message = attempt.request(convert::list_to_proto(&request));
                async move { attempt.orders().list_orders(message).await }
            },
        );
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
        let is_harmless = request.idempotency_key.is_some()
            || !matches!(request.if_match, Some(IfMatch::Versions(_)));
        let repeat = if is_harmless {
            Repeat::Harmless
        } else {
            Repeat::Change
        };
        let change_id = change_id(ctx);
        let answer = self.remote.call(
            ctx,
            "order.v1.OrderService/CancelOrder",
            repeat,
            |attempt| {
                let message = attempt.request(proto::CancelOrderRequest {
                    change_id: change_id.clone(),
                    ..convert::cancel_to_proto(&request)
                });
                async move { attempt.orders().cancel_order(message).await }
            },
        );
        let answer = answer.await?;
        Ok(Receipt {
            order: convert::order_from_proto(answer.order)?,
            is_replayed: answer.replayed,
        })
    }

    async fn retry_order(&self, ctx: &CallContext, request: RetryOrder) -> Result<Order, Error> {
        let change_id = change_id(ctx);
        let answer = self.remote.call(
            ctx,
            "order.v1.OrderService/RetryOrder",
            Repeat::Change,
            |attempt| {
                let message = attempt.request(proto::RetryOrderRequest {
                    change_id: change_id.clone(),
                    ..convert::retry_to_proto(&request)
                });
                async move { attempt.orders().retry_order(message).await }
            },
        );
        convert::order_from_proto(answer.await?.order)
    }

    async fn update_status(
        &self,
        ctx: &CallContext,
        request: UpdateStatus,
    ) -> Result<Order, Error> {
        let change_id = change_id(ctx);
        let answer = self.remote.call(
            ctx,
            "order.v1.AdminService/UpdateStatus",
            Repeat::Change,
            |attempt| {
                let message = attempt.request(proto::UpdateStatusRequest {
                    change_id: change_id.clone(),
                    ..convert::update_to_proto(&request)
                });
                async move { attempt.admin().update_status(message).await }
            },
        );
        convert::order_from_proto(answer.await?.order)
    }

    async fn list_events(
        &self,
        ctx: &CallContext,
        request: ListEvents,
    ) -> Result<EventPage, Error> {
        let answer = self.remote.call(
            ctx,
            "order.v1.OrderService/ListOrderEvents",
            Repeat::Harmless,
            |attempt| {
                let message = attempt.request(convert::events_to_proto(&request));
                async move { attempt.orders().list_order_events(message).await }
            },
        );
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
        let answer = self.remote.call(
            ctx,
            "order.v1.OrderService/CreateStreamTicket",
            Repeat::Harmless,
            |attempt| {
                let user_id = grant.user_id.as_str().to_owned();
                let message = attempt.request(proto::CreateStreamTicketRequest { user_id });
                async move { attempt.orders().create_stream_ticket(message).await }
            },
        );
        convert::ticket_from_proto(&answer.await?, grant)
    }

    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        if let Some(watch) = self.watch.get().and_then(Weak::upgrade) {
            return watch.watch(ctx, orders).await;
        }
        let manner = Manner {
            send_deadline: SendDeadline::No,
            ..Repeat::Harmless.into()
        };
        let stream = self.remote.call(
            ctx,
            "order.v1.OrderService/WatchOrders",
            manner,
            |attempt| {
                let message = attempt.request(convert::watches_to_proto(&orders));
                async move { attempt.orders().watch_orders(message).await }
            },
        );
        let events = stream.await?.map(|event| match event {
            Ok(event) => convert::event_from_proto(event),
            Err(status) => Err(from_status(status)),
        });
        Ok(events.boxed())
    }

    async fn check_ready(&self, ctx: &CallContext) -> Result<(), Error> {
        self.supervisor.check()?;
        let left = self.remote.time_left(ctx.deadline)?;
        match timeout(left, self.endpoints.is_serving()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(Error::service_unavailable(
                "the order service is not serving",
            )),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }
}

#[async_trait]
impl AdminApi for RemoteOrderApi {
    async fn dead_letters(&self, ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        let answer = self.remote.call(
            ctx,
            "order.v1.AdminService/ListDeadLetters",
            Repeat::Harmless,
            |attempt| {
                let message = attempt.request(proto::ListDeadLettersRequest {});
                async move { attempt.admin().list_dead_letters(message).await }
            },
        );
        convert::dead_letters_from_proto(answer.await?)
    }

    async fn redrive(&self, ctx: &CallContext, request: Redrive) -> Result<RedriveStream, Error> {
        let manner = Manner {
            send_deadline: SendDeadline::No,
            // A second one would redrive as many orders again.
            ..Repeat::Never.into()
        };
        let stream = self
            .remote
            .call(ctx, "order.v1.AdminService/Redrive", manner, |attempt| {
                let message = attempt.request(convert::redrive_to_proto(&request));
                async move { attempt.admin().redrive(message).await }
            });
        let steps = stream.await?.map(|step| match step {
            Ok(step) => Ok(convert::progress_from_proto(step)),
            Err(status) => Err(from_status(status)),
        });
        Ok(steps.boxed())
    }

    async fn record(&self, ctx: &CallContext, order_id: OrderId) -> Result<OrderRecord, Error> {
        let answer = self.remote.call(
            ctx,
            "order.v1.AdminService/GetOrderRecord",
            Repeat::Harmless,
            |attempt| {
                let order_id = order_id.to_string();
                let message = attempt.request(proto::GetOrderRecordRequest {
                    order_id,
                    pushes_only: false,
                });
                async move { attempt.admin().get_order_record(message).await }
            },
        );
        let pushes = self.all_pushes(ctx, order_id);
        let (answer, (pushes, silent_processes)) = tokio::try_join!(answer, pushes)?;
        Ok(OrderRecord {
            pushes,
            silent_processes,
            ..convert::record_from_proto(answer)?
        })
    }

    fn pushes(&self, order_id: OrderId) -> Vec<PushRecord> {
        self.own_pushes(order_id)
    }

    async fn cluster(&self, ctx: &CallContext) -> Result<ClusterState, Error> {
        let answer = self.remote.call(
            ctx,
            "order.v1.AdminService/GetCluster",
            Repeat::Harmless,
            |attempt| {
                let message = attempt.request(proto::GetClusterRequest {});
                async move { attempt.admin().get_cluster(message).await }
            },
        );
        convert::cluster_from_proto(answer.await?)
    }

    async fn report(&self, ctx: &CallContext, report: ProcessReport) -> Result<Directive, Error> {
        let report = convert::report_to_proto(report);
        let answer = self.remote.call(
            ctx,
            "order.v1.AdminService/ReportProcess",
            Repeat::Harmless,
            |attempt| {
                let report = Some(report.clone());
                let message = attempt.request(proto::ReportProcessRequest { report });
                async move { attempt.admin().report_process(message).await }
            },
        );
        Ok(Directive {
            is_paused: answer.await?.paused,
        })
    }

    async fn set_paused(
        &self,
        ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<(), Error> {
        let answer = self.remote.call(
            ctx,
            "order.v1.AdminService/SetPaused",
            Repeat::Harmless,
            |attempt| {
                let message = attempt.request(proto::SetPausedRequest {
                    process_id: convert::process_id_to_proto(process_id),
                    paused: is_paused,
                });
                async move { attempt.admin().set_paused(message).await }
            },
        );
        answer.await.map(|_| ())
    }
}

/// The id under which all attempts of a call make their change: the caller's, or a new one.
fn change_id(ctx: &CallContext) -> String {
    let new = || uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    ctx.change_id.unwrap_or_else(new).to_string()
}
