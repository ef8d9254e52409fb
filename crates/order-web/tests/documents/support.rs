//! A router over a system that is down: documents and pages need none.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use http::{Request, Response, StatusCode, request::Builder};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use order_core::{
    CallContext, CancelOrder, Clock, CreateOrder, Error, EventPage, IdGen, ListEvents, ListOrders,
    Order, OrderApi, OrderEventStream, OrderId, OrderPage, Receipt, RetryOrder, StreamTicket,
    TicketGrant, UpdateStatus, WatchOrder,
};
use order_edge::CallStats;
use order_web::{
    admin::Readiness,
    http::{HttpConfig, HttpDeps},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

struct Down;

#[async_trait]
impl OrderApi for Down {
    async fn create_order(&self, _: &CallContext, _: CreateOrder) -> Result<Receipt, Error> {
        Err(Error::shutting_down())
    }

    async fn create_orders(
        &self,
        _: &CallContext,
        _: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        Err(Error::shutting_down())
    }

    async fn get_order(&self, _: &CallContext, _: OrderId) -> Result<Order, Error> {
        Err(Error::shutting_down())
    }

    async fn list_orders(&self, _: &CallContext, _: ListOrders) -> Result<OrderPage, Error> {
        Err(Error::shutting_down())
    }

    async fn cancel_order(&self, _: &CallContext, _: CancelOrder) -> Result<Receipt, Error> {
        Err(Error::shutting_down())
    }

    async fn retry_order(&self, _: &CallContext, _: RetryOrder) -> Result<Order, Error> {
        Err(Error::shutting_down())
    }

    async fn update_status(&self, _: &CallContext, _: UpdateStatus) -> Result<Order, Error> {
        Err(Error::shutting_down())
    }

    async fn list_events(&self, _: &CallContext, _: ListEvents) -> Result<EventPage, Error> {
        Err(Error::shutting_down())
    }

    async fn create_ticket(&self, _: &CallContext, _: TicketGrant) -> Result<StreamTicket, Error> {
        Err(Error::shutting_down())
    }

    async fn watch_orders(
        &self,
        _: &CallContext,
        _: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        Err(Error::shutting_down())
    }

    async fn check_ready(&self, _: &CallContext) -> Result<(), Error> {
        Err(Error::shutting_down())
    }
}

/// Makes the same id for everything.
struct OneId;

impl IdGen for OneId {
    fn order_id(&self) -> OrderId {
        OrderId::floor_at(Timestamp::UNIX_EPOCH)
    }

    fn secret(&self) -> [u8; 32] {
        [7; 32]
    }
}

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

pub(crate) fn app() -> Router {
    let deps = HttpDeps {
        api: Arc::new(Down),
        ids: Arc::new(OneId),
        clock: Arc::new(RuntimeClock),
        stop: CancellationToken::new(),
        calls: CallStats::default(),
    };
    let config = HttpConfig {
        request_timeout: Duration::from_secs(1),
        ..HttpConfig::default()
    };
    order_web::http::router(deps.clone(), Readiness::new(deps), config)
}

pub(crate) async fn send(request: Builder) -> Response<Body> {
    let request = request.body(Body::empty()).expect("a request");
    app().oneshot(request).await.expect("infallible")
}

pub(crate) async fn get(path: &str) -> Response<Body> {
    send(Request::get(path)).await
}

pub(crate) async fn get_json(path: &str) -> Value {
    let request = Request::get(path).header("accept", "application/json");
    let response = send(request).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    assert_eq!(header(&response, "content-type"), "application/json");
    serde_json::from_str(&text(response).await).expect("JSON")
}

/// A header that must be there.
pub(crate) fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    let value = response.headers().get(name);
    let value = value.unwrap_or_else(|| panic!("no {name}"));
    value.to_str().expect("text")
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8")
}
