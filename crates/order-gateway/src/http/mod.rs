//! The REST API over [`OrderApi`]: requests in, JSON or problem documents out.
//!
//! A request meets one `operation::Operation` and, inside it, one function of `routes`.
//! Whatever goes wrong on the way leaves through `problem`. Nothing here decides about
//! orders; the rules are in `order-core`.
//!
//! Each answered API request is one line of the log with the target `http_access`.

mod body;
mod dto;
mod fields;
mod media;
pub(crate) mod operation;
pub(crate) mod problem;
pub(crate) mod request_id;
mod routes;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use order_core::{CallContext, Clock, Deadline, Error, IdGen, OrderApi, RequestId};

use self::{
    body::BodyLimits,
    operation::{Frame, Operation},
    problem::ProtocolError,
};
use crate::admin::{self, Readiness};

/// What the API stands on.
#[derive(Clone)]
pub struct HttpDeps {
    /// The system behind it.
    pub api: Arc<dyn OrderApi>,
    /// Ids of orders, and of requests that come without one.
    pub ids: Arc<dyn IdGen>,
    /// Time, for deadlines and durations.
    pub clock: Arc<dyn Clock>,
}

/// What the API grants its requests.
#[derive(Clone, Copy, Debug)]
pub struct HttpConfig {
    /// From the end of the body to the answer of the system behind.
    pub request_timeout: Duration,
    /// The longest body, in bytes.
    pub body_len_max: usize,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// Requests at the same time; one more is answered 503 at once. Together with
    /// `body_len_max` this bounds the memory that bodies take.
    pub in_flight_max: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            body_len_max: 64 * 1024,
            body_timeout: Duration::from_secs(10),
            in_flight_max: 4096,
        }
    }
}

/// The REST API, with `/livez` and `/readyz` for whoever can reach no other listener.
pub fn router(deps: HttpDeps, readiness: Readiness, config: HttpConfig) -> Router {
    let frame = Frame::limited(&deps, config.in_flight_max);
    let gateway = Arc::new(Gateway { deps, config });
    Router::new()
        .route(
            "/orders",
            get(Operation::new(
                "list_orders",
                &frame,
                &gateway,
                routes::list_orders,
            ))
            .post(Operation::new(
                "create_order",
                &frame,
                &gateway,
                routes::create_order,
            )),
        )
        .route(
            "/orders/{order_id}",
            get(Operation::new(
                "get_order",
                &frame,
                &gateway,
                routes::get_order,
            )),
        )
        .route(
            "/orders/{order_id}/cancel",
            post(Operation::new(
                "cancel_order",
                &frame,
                &gateway,
                routes::cancel_order,
            )),
        )
        .merge(admin::probes(readiness))
        .fallback(operation::route_not_found(&frame))
        .method_not_allowed_fallback(operation::method_not_allowed(&frame))
}

/// What the handlers share.
struct Gateway {
    deps: HttpDeps,
    config: HttpConfig,
}

impl Gateway {
    async fn read(&self, body: Body) -> Result<Bytes, ProtocolError> {
        let limits = BodyLimits {
            len_max: self.config.body_len_max,
            timeout: self.config.body_timeout,
        };
        body::read(body, limits).await
    }

    /// A call that begins now.
    fn context(&self, request_id: RequestId) -> CallContext {
        CallContext {
            request_id,
            deadline: Deadline::at(self.deps.clock.instant() + self.config.request_timeout),
        }
    }

    /// Waits for `work` as long as a request may take.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        operation::in_time(self.config.request_timeout, work).await
    }
}
