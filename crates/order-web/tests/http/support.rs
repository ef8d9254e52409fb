//! A system that can be told to fail, and requests without a socket.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use order_core::{
    CallContext, CancelOrder, Cause, Clock, CreateOrder, Error, EventPage, ExternalId, IdGen,
    IfMatch, ListEvents, ListOrders, Metadata, Money, Order, OrderApi, OrderEvent,
    OrderEventStream, OrderId, OrderPage, OrderStatus, Receipt, RetryOrder, StreamTicket,
    TicketGrant, TicketSecret, UpdateStatus, UserId, Version, WatchOrder,
};
use order_edge::CallStats;
use order_web::{
    admin::Readiness,
    http::{HttpConfig, HttpDeps},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An order that failed.
pub(crate) const KNOWN: &str = "00000000-0000-7000-8000-00000000abcd";

/// The same, but processed.
pub(crate) const DONE: &str = "00000000-0000-7000-8000-00000000d04e";

/// Does what the user id says: `ok` or one of the failures of [`FakeApi::fail`].
#[derive(Default)]
pub(crate) struct FakeApi;

impl FakeApi {
    async fn fail(&self, how: &str) -> Result<(), Error> {
        let order_id = KNOWN.parse().expect("an id");
        let (current, allowed) = (OrderStatus::Processing, OrderStatus::Processing.allowed());
        Err(match how {
            "hang" => std::future::pending().await,
            "panic" => panic!("a secret"),
            "exists" => Error::OrderAlreadyExists { order_id },
            "taken" => Error::ExternalIdTaken {
                external_id: ExternalId::parse("cart-17").expect("an external id"),
                order_id,
            },
            "reused" => Error::IdempotencyKeyReused,
            "twin" => Error::request_in_progress(),
            "ticket" => Error::TicketInvalid,
            "forbidden" => Error::PermissionDenied {
                what: "watching the orders of others".to_owned(),
            },
            "retry" => Error::OrderNotRetryable {
                order_id,
                current,
                allowed,
            },
            "cancel" => Error::OrderNotCancellable {
                order_id,
                current,
                allowed,
            },
            "refused" => Error::TransitionRefused {
                order_id,
                current,
                requested: OrderStatus::Cancelled,
                allowed,
            },
            "conflict" => Error::VersionConflict { order_id },
            "limit" => Error::LimitExceeded {
                what: "orders per user".to_owned(),
                limit: 7,
            },
            "overloaded" => Error::overloaded(),
            "store" => Error::store_unavailable("a secret"),
            "service" => Error::service_unavailable("a secret"),
            "stopping" => Error::shutting_down(),
            "deadline" => Error::DeadlineExceeded,
            "internal" => Error::internal("a secret"),
            _ => return Ok(()),
        })
    }
}

pub(crate) fn order(id: OrderId, user: &str) -> Order {
    Order {
        id,
        user_id: UserId::parse(user).expect("a user"),
        money: Money::parse("99.95", "USD").expect("money"),
        status: OrderStatus::Pending,
        version: 1,
        metadata: Metadata::NONE,
        external_id: None,
        failure: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::from_microsecond(1_500_000).expect("a time"),
    }
}

/// The order that is known: it failed, and everything about it is there.
fn known_order() -> Order {
    let metadata = [("channel", "web"), ("empty", "")];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Order {
        status: OrderStatus::Failed,
        version: 3,
        metadata: Metadata::new(metadata).expect("metadata"),
        external_id: ExternalId::parse("cart-17").ok(),
        failure: Some(Cause::new("CARD_DECLINED", "the bank said \"no\"")),
        ..order(KNOWN.parse().expect("an id"), "user-1")
    }
}

fn done_order() -> Order {
    Order {
        id: DONE.parse().expect("an id"),
        status: OrderStatus::Processed,
        failure: None,
        ..known_order()
    }
}

fn check_known(order_id: OrderId) -> Result<Order, Error> {
    [known_order(), done_order()]
        .into_iter()
        .find(|order| order.id == order_id)
        .ok_or(Error::OrderNotFound { order_id })
}

/// Refuses a change as the system does.
fn check_version(if_match: Option<&IfMatch>, order: &Order) -> Result<(), Error> {
    if if_match.is_none_or(|if_match| if_match.is_met(order.version)) {
        return Ok(());
    }
    Err(Error::EtagMismatch {
        order_id: order.id,
        current: order.version,
    })
}

/// The history of a known order.
fn known_events(order: &Order) -> Vec<OrderEvent> {
    let event = |version: Version, status, cause| OrderEvent {
        order_id: order.id,
        user_id: order.user_id.clone(),
        version,
        status,
        at: Timestamp::from_second(i64::from(version)).expect("a time"),
        cause,
        trace_parent: None,
    };
    vec![
        event(1, OrderStatus::Pending, None),
        event(2, OrderStatus::Processing, None),
        event(3, order.status, order.failure.clone()),
    ]
}

#[async_trait]
impl OrderApi for FakeApi {
    /// A key that begins with `again` has been used before.
    async fn create_order(&self, _: &CallContext, new: CreateOrder) -> Result<Receipt, Error> {
        self.fail(new.user_id.as_str()).await?;
        let id = new.order_id.expect("the gateway makes the id");
        let key = new.idempotency_key.as_ref();
        let is_replayed = key.is_some_and(|key| key.as_str().starts_with("again"));
        let id = if is_replayed { known_order().id } else { id };
        Ok(Receipt {
            order: Order {
                money: new.money,
                metadata: new.metadata,
                external_id: new.external_id,
                ..order(id, new.user_id.as_str())
            },
            is_replayed,
        })
    }

    async fn create_orders(
        &self,
        ctx: &CallContext,
        new: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        self.fail(ctx.request_id.as_str()).await?;
        let mut answers = Vec::new();
        for new in new {
            answers.push(self.create_order(ctx, new).await);
        }
        Ok(answers)
    }

    async fn get_order(&self, _: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        check_known(order_id)
    }

    async fn list_orders(&self, _: &CallContext, list: ListOrders) -> Result<OrderPage, Error> {
        if list.page_token.as_deref() == Some("forged") {
            return Err(Error::invalid(
                "page_token",
                "is not a token of this service",
            ));
        }
        let user = list.user_id.as_ref().map_or("user-1", UserId::as_str);
        self.fail(user).await?;
        Ok(OrderPage {
            orders: vec![order(KNOWN.parse().expect("an id"), user)],
            next_page_token: list.page_token.is_none().then(|| "t0k3n".to_owned()),
        })
    }

    async fn cancel_order(&self, _: &CallContext, cancel: CancelOrder) -> Result<Receipt, Error> {
        let reason = cancel.reason.unwrap_or_default();
        self.fail(&reason).await?;
        let before = order(cancel.order_id, "user-1");
        check_version(cancel.if_match.as_ref(), &before)?;
        let key = cancel.idempotency_key.as_ref();
        Ok(Receipt {
            order: Order {
                status: OrderStatus::Cancelled,
                version: 2,
                ..before
            },
            is_replayed: key.is_some_and(|key| key.as_str().starts_with("again")),
        })
    }

    async fn retry_order(&self, ctx: &CallContext, retry: RetryOrder) -> Result<Order, Error> {
        self.fail(ctx.request_id.as_str()).await?;
        let failed = check_known(retry.order_id)?;
        check_version(retry.if_match.as_ref(), &failed)?;
        Ok(Order {
            status: OrderStatus::Pending,
            version: 4,
            failure: None,
            ..failed
        })
    }

    async fn update_status(&self, _: &CallContext, _: UpdateStatus) -> Result<Order, Error> {
        unreachable!("no route sets a status")
    }

    async fn list_events(&self, _: &CallContext, list: ListEvents) -> Result<EventPage, Error> {
        let order = check_known(list.order_id)?;
        let mut events = known_events(&order);
        events.retain(|event| event.version > list.after);
        let page_size = usize::from(list.page_size.get());
        let has_more = events.len() > page_size;
        events.truncate(page_size);
        Ok(EventPage {
            events,
            order,
            has_more,
        })
    }

    async fn create_ticket(
        &self,
        _: &CallContext,
        grant: TicketGrant,
    ) -> Result<StreamTicket, Error> {
        self.fail(grant.user_id.as_str()).await?;
        Ok(StreamTicket {
            secret: TicketSecret::from_bytes([0xfb; 32]),
            grant,
            expires_at: Timestamp::from_second(30).expect("a time"),
        })
    }

    async fn watch_orders(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        self.fail(ctx.request_id.as_str()).await?;
        let [order] = orders.as_slice() else {
            unreachable!("one order is watched at a time")
        };
        let since = order.since.unwrap_or_default();
        let events = known_events(&check_known(order.order_id)?).into_iter();
        let missed = events.filter(move |event| event.version > since).map(Ok);
        Ok(stream::iter(missed).chain(stream::pending()).boxed())
    }

    async fn check_ready(&self, ctx: &CallContext) -> Result<(), Error> {
        self.fail(ctx.request_id.as_str()).await
    }
}

/// Ids that count from 1.
#[derive(Default)]
struct CountingIds(AtomicU64);

impl IdGen for CountingIds {
    fn order_id(&self) -> OrderId {
        let n = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let base = 0x0000_0000_0000_7000_8000_0000_0000_0000;
        OrderId::from_uuid(Uuid::from_u128(base + u128::from(n)))
    }

    fn secret(&self) -> [u8; 32] {
        unreachable!("the gateway makes no secrets")
    }
}

/// The clock of the runtime, which tests pause.
struct RuntimeClock;

#[async_trait]
impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

pub(crate) fn deps() -> HttpDeps {
    deps_over(Arc::new(FakeApi))
}

pub(crate) fn deps_over(api: Arc<dyn OrderApi>) -> HttpDeps {
    HttpDeps {
        api,
        ids: Arc::new(CountingIds::default()),
        clock: Arc::new(RuntimeClock),
        stop: CancellationToken::new(),
        calls: CallStats::default(),
    }
}

pub(crate) fn app(config: HttpConfig) -> Router {
    app_over(deps(), config)
}

pub(crate) fn app_over(deps: HttpDeps, config: HttpConfig) -> Router {
    let service = order_web::http::service(deps.clone(), Readiness::new(deps), config);
    Router::new().fallback_service(service)
}

/// Sends a request to a fresh app.
pub(crate) async fn send(request: Request<Body>) -> Response<Body> {
    let answered = app(HttpConfig::default()).oneshot(request).await;
    answered.expect("infallible")
}

pub(crate) fn request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(body.into())
        .expect("a request")
}

pub(crate) fn post(body: impl Into<Body>) -> Request<Body> {
    with(request("POST", "/orders", body), "content-type", JSON)
}

/// A batch of orders, each as JSON.
pub(crate) fn post_batch(orders: &[&str]) -> Request<Body> {
    let body = format!(r#"{{"orders":[{}]}}"#, orders.join(","));
    with(request("POST", "/orders:batch", body), "content-type", JSON)
}

pub(crate) const JSON: &str = "application/json";

pub(crate) fn with(
    mut request: Request<Body>,
    name: &'static str,
    value: &'static str,
) -> Request<Body> {
    let value = http::HeaderValue::from_static(value);
    request.headers_mut().insert(name, value);
    request
}

/// The whole answer as text: status, headers by name, body.
pub(crate) async fn render(response: Response<Body>) -> String {
    let (parts, body) = response.into_parts();
    let mut headers: Vec<String> = parts
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        .collect();
    headers.sort();
    let body = timeout(PATIENCE, body.collect()).await;
    let body = body.expect("the body ends").expect("a body").to_bytes();
    let body = std::str::from_utf8(&body).expect("text");
    let mut text = format!("{}\n{}\n", parts.status, headers.join("\n"));
    writeln!(text, "{body}").expect("a string takes everything");
    text
}
