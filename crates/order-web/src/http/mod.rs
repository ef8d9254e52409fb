//! The REST API over [`OrderApi`]: requests in, JSON or problem documents out.
//!
//! A request meets one `operation::Operation` and, inside it, one function of `routes`.
//! Whatever goes wrong on the way leaves through `problem`. Nothing here decides about
//! orders; the rules are in `order-core`.
//!
//! Each answered API request is one line of the log with the target `http_access`.

pub mod admin;
pub(crate) mod dto;
mod etag;
pub(crate) mod host;
pub(crate) mod media;
pub(crate) mod operation;
pub(crate) mod pages;
mod prefer;
pub(crate) mod problem;
pub(crate) mod query;
pub(crate) mod rfc3339;
pub(crate) mod routes;
pub(crate) mod span;
pub(crate) mod sse;
mod wait;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{get, post},
};
use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use order_core::{
    BoxError, CallContext, Clock, Deadline, Error, IdGen, OrderApi, RequestId, TraceParent,
};
use order_edge::{CallStats, admission::Admission, slots::Slots};
use tokio_util::sync::CancellationToken;
use tower::{Layer as _, Service};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{Predicate, SizeAbove},
    },
};

use self::{
    admin::Readiness,
    operation::{Frame, Operation, admission_config},
    routes::{
        cancel_order::cancel_order, create_order::create_order, create_orders::create_orders,
        create_stream_ticket::create_stream_ticket, get_order::get_order, list_events::list_events,
        list_orders::list_orders, retry_order::retry_order,
    },
};
pub use self::{host::guarded, operation::HttpLabels};
use crate::origin::{self, Origin};

/// The shortest answer that is worth compressing, in bytes.
const COMPRESSED_LEN_MIN: u16 = 1024;

/// What the API stands on.
#[derive(Clone)]
pub struct HttpDeps {
    /// The system behind it.
    pub api: Arc<dyn OrderApi>,
    /// Ids of orders, and of requests that come without one.
    pub ids: Arc<dyn IdGen>,
    /// Time, for deadlines and durations.
    pub clock: Arc<dyn Clock>,
    /// Ends event streams and waits, so that a drain need not wait for them.
    pub stop: CancellationToken,
    /// Counters of calls.
    pub calls: CallStats<HttpLabels>,
}

/// What the API grants its requests.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// From the end of the body to the answer of the system behind.
    pub request_timeout: Duration,
    /// The longest body, in bytes.
    pub body_len_max: usize,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// Requests at the same time, from the end of the body to the end of the answer; one more is
    /// answered 503 at once. As many bodies may arrive at the same time; one more displaces the
    /// oldest. Together with `body_len_max` this bounds the memory that bodies take. There may be a
    /// sixty-fourth as many lists beside them.
    pub in_flight_max: usize,
    /// Such requests from one IPv4 address or one IPv6 /64 network, and as many event streams.
    pub in_flight_per_address_max: usize,
    /// Batches of orders at the same time; one more is answered 503 at once. Of one address, as
    /// large a part as of the requests. All together fill a quarter of the queue of the commit lanes,
    /// so that they keep no single order out.
    pub batches_max: usize,
    /// Event streams at the same time; one more is answered 503 at once. A stream counts
    /// until its connection is done with it, and not as a request in flight.
    pub streams_max: usize,
    /// Requests that wait for the end of an order at the same time (`Prefer: wait`), three
    /// quarters of them from one address or network; one more is answered without the wait.
    pub waiters_max: usize,
    /// Whether the documents of the API and the page to try it out are served.
    pub docs: bool,
    /// Origins of the web pages that may use the API.
    pub allowed_origins: Vec<Origin>,
    /// The listener of the console, to which a browser that asks for `/` is sent.
    pub console: Option<SocketAddr>,
    /// The longest such wait. It comes on top of `request_timeout`.
    pub wait_max: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            body_len_max: 64 * 1024,
            body_timeout: Duration::from_secs(10),
            in_flight_max: 4096,
            in_flight_per_address_max: 1_000,
            batches_max: 20,
            streams_max: 10_000,
            waiters_max: 1_000,
            docs: true,
            allowed_origins: Vec::new(),
            console: None,
            wait_max: Duration::from_secs(30),
        }
    }
}

/// The REST API, with `/livez` and `/readyz` for whoever can reach no other listener.
pub fn service<B>(
    deps: HttpDeps,
    readiness: Readiness,
    mut config: HttpConfig,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let origins = std::mem::take(&mut config.allowed_origins);
    let mut router = router(deps, readiness, config);
    if !origins.is_empty() {
        // Inside, because the layer is large and what is outside is cloned for each request.
        router = router.layer(origin::cors(origins));
    }
    // Outside the router: a layer inside it boxes every route once more.
    compression().layer(router)
}

/// The path of the console on its listener.
pub const CONSOLE_PATH: &str = "/console/";

const ORDERS: &str = "/orders";
const BATCH: &str = "/orders:batch";
const ORDER: &str = "/orders/{order_id}";
const CANCEL: &str = "/orders/{order_id}/cancel";
const RETRY: &str = "/orders/{order_id}/retry";
const EVENTS: &str = "/orders/{order_id}/events";
const TICKETS: &str = "/stream-tickets";

/// The routes of [`service`], as they are without compression and CORS.
pub fn router(deps: HttpDeps, readiness: Readiness, config: HttpConfig) -> Router {
    let frame = Frame::limited(&deps, Admission::new(&admission_config(&config)));
    let gateway = Arc::new(Gateway::new(deps, config));
    let documents = if gateway.config.docs {
        pages::document_routes(&frame)
    } else {
        Router::new()
    };
    let fallback = match gateway.config.console {
        Some(console) => Router::new().fallback(host::console_or_not_found(&frame, console)),
        None => Router::new().fallback(operation::route_not_found(&frame)),
    };
    Router::new()
        .route(ORDERS, {
            let list = Operation::new(("list_orders", ORDERS), &frame, &gateway, list_orders);
            let create = Operation::new(("create_order", ORDERS), &frame, &gateway, create_order);
            get(list.listing()).post(create.with_body())
        })
        .route(BATCH, {
            let create = Operation::new(("create_orders", BATCH), &frame, &gateway, create_orders);
            post(create.with_body())
        })
        .route(ORDER, {
            get(Operation::new(
                ("get_order", ORDER),
                &frame,
                &gateway,
                get_order,
            ))
        })
        .route(CANCEL, {
            let cancel = Operation::new(("cancel_order", CANCEL), &frame, &gateway, cancel_order);
            post(cancel.with_body().idempotent())
        })
        .route(RETRY, {
            let retry = Operation::new(("retry_order", RETRY), &frame, &gateway, retry_order);
            post(retry.with_body())
        })
        .route(EVENTS, {
            let list = Operation::new(("list_events", EVENTS), &frame, &gateway, list_events);
            get(list.with_stream())
        })
        .route(TICKETS, {
            let name = ("create_stream_ticket", TICKETS);
            let create = Operation::new(name, &frame, &gateway, create_stream_ticket);
            post(create.with_body().idempotent())
        })
        .merge(documents)
        .merge(pages::problem_routes(&frame))
        .merge(admin::probes(readiness))
        .merge(fallback)
        .method_not_allowed_fallback(operation::method_not_allowed(&frame))
        // Without this axum turns handlers into services for every request.
        .with_state(())
}

/// Compresses JSON for clients that ask for it, but no events, which must not wait for more of
/// them. The entity tag stays as it is: it names the version of an order and not these bytes, and
/// `If-Match` takes no weak tag.
fn compression() -> CompressionLayer<impl Predicate> {
    let is_json = |_, _, headers: &HeaderMap, _: &Extensions| {
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        kind.is_some_and(|kind| kind.ends_with(b"json") && !kind.ends_with(b"problem+json"))
    };
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESSED_LEN_MIN).and(is_json))
}

/// What the handlers share.
struct Gateway {
    deps: HttpDeps,
    config: HttpConfig,
    /// For batches of orders.
    batches: Slots,
    /// For event streams.
    streams: Slots,
    /// For requests that wait.
    waiters: Slots,
}

impl Gateway {
    fn new(deps: HttpDeps, config: HttpConfig) -> Self {
        let share = config.batches_max * config.in_flight_per_address_max;
        let batches_per_address_max = share.div_ceil(config.in_flight_max.max(1));
        Self {
            batches: Slots::new(config.batches_max, batches_per_address_max),
            streams: Slots::new(config.streams_max, config.in_flight_per_address_max),
            waiters: Slots::shared(config.waiters_max),
            deps,
            config,
        }
    }

    /// A call that begins now.
    fn context(&self, request_id: RequestId, trace_parent: Option<TraceParent>) -> CallContext {
        let deadline = Deadline::at(self.deps.clock.instant() + self.config.request_timeout);
        CallContext {
            trace_parent,
            ..CallContext::new(request_id, deadline)
        }
    }

    /// Waits for `work` as long as a request may take.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        operation::in_time(self.config.request_timeout, work).await
    }
}
