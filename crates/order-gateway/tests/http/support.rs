//! A system that can be told to fail, and requests without a socket.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use order_core::{
    CallContext, CancelOrder, Cause, Clock, CreateOrder, Error, IdGen, ListOrders, Money, Order,
    OrderApi, OrderEventStream, OrderId, OrderPage, OrderStatus, UpdateStatus, UserId, WatchOrder,
};
use order_gateway::{
    admin::Readiness,
    http::{HttpConfig, HttpDeps},
};
use tower::ServiceExt as _;
use uuid::Uuid;

/// The only order there is before one is created.
pub(crate) const KNOWN: &str = "00000000-0000-7000-8000-00000000abcd";

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
        failure: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::from_microsecond(1_500_000).expect("a time"),
    }
}

#[async_trait]
impl OrderApi for FakeApi {
    async fn create_order(&self, _: &CallContext, new: CreateOrder) -> Result<Order, Error> {
        self.fail(new.user_id.as_str()).await?;
        let id = new.order_id.expect("the gateway makes the id");
        Ok(Order {
            money: new.money,
            ..order(id, new.user_id.as_str())
        })
    }

    async fn create_orders(
        &self,
        _: &CallContext,
        _: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Order, Error>>, Error> {
        unreachable!("no route creates many orders")
    }

    async fn get_order(&self, _: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        if order_id.to_string() != KNOWN {
            return Err(Error::OrderNotFound { order_id });
        }
        Ok(Order {
            status: OrderStatus::Failed,
            version: 3,
            failure: Some(Cause::new("CARD_DECLINED", "the bank said \"no\"")),
            ..order(order_id, "user-1")
        })
    }

    async fn list_orders(&self, _: &CallContext, list: ListOrders) -> Result<OrderPage, Error> {
        let user = list.user_id.as_ref().map_or("user-1", UserId::as_str);
        self.fail(user).await?;
        Ok(OrderPage {
            orders: vec![order(KNOWN.parse().expect("an id"), user)],
            next_page_token: list.page_token.is_none().then(|| "t0k3n".to_owned()),
        })
    }

    async fn cancel_order(&self, _: &CallContext, cancel: CancelOrder) -> Result<Order, Error> {
        let reason = cancel.reason.unwrap_or_default();
        self.fail(&reason).await?;
        Ok(Order {
            status: OrderStatus::Cancelled,
            version: 2,
            ..order(cancel.order_id, "user-1")
        })
    }

    async fn update_status(&self, _: &CallContext, _: UpdateStatus) -> Result<Order, Error> {
        unreachable!("no route sets a status")
    }

    async fn watch_orders(
        &self,
        _: &CallContext,
        _: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        unreachable!("no route watches orders")
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
}

/// The clock of the runtime, which tests pause.
struct RuntimeClock;

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

pub(crate) fn deps() -> HttpDeps {
    HttpDeps {
        api: Arc::new(FakeApi),
        ids: Arc::new(CountingIds::default()),
        clock: Arc::new(RuntimeClock),
    }
}

pub(crate) fn app(config: HttpConfig) -> Router {
    order_gateway::http::router(deps(), Readiness::new(deps()), config)
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
    let body = body.collect().await.expect("a body").to_bytes();
    let body = std::str::from_utf8(&body).expect("text");
    let mut text = format!("{}\n{}\n", parts.status, headers.join("\n"));
    writeln!(text, "{body}").expect("a string takes everything");
    text
}
