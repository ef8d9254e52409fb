//! Health and metrics, for whoever starts, stops and balances processes, and the log level.
//!
//! `/livez` says that the process runs and touches nothing else: a database that is down
//! must not get every process restarted. `/readyz` says whether requests should come here.

mod log_level;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, response::Response, routing::get};
use http::{HeaderValue, header::CONTENT_TYPE};
use order_core::{CallContext, Deadline, Error, metrics::Registry};
use prometheus_client::encoding::{prometheus_text, text};

pub use self::log_level::LogFilter;
use super::{
    HttpDeps, media,
    operation::{self, Call, Frame, OTHER, Operation},
    problem::Problem,
};

/// How long a readiness check may take: less than the 5 s after which probes give up.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether requests should come here: not while draining, and not while the system
/// behind cannot answer.
#[derive(Clone)]
pub struct Readiness(Arc<Shared>);

struct Shared {
    deps: HttpDeps,
    is_draining: AtomicBool,
}

impl Readiness {
    /// Ready whenever the API of `deps` is.
    pub fn new(deps: HttpDeps) -> Self {
        Self(Arc::new(Shared {
            deps,
            is_draining: AtomicBool::new(false),
        }))
    }

    /// Says "not ready" from now on; there is no way back.
    pub fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Release);
    }
}

impl Shared {
    async fn check(&self, call: Call) -> Result<(), Error> {
        if self.is_draining.load(Ordering::Acquire) {
            return Err(Error::shutting_down());
        }
        let deadline = Deadline::at(self.deps.clock.instant() + CHECK_TIMEOUT);
        let ctx = CallContext::new(call.request_id, deadline);
        // Whatever the reason, the answer to a probe is "not now".
        operation::in_time(CHECK_TIMEOUT, self.deps.api.check_ready(&ctx))
            .await
            .map_err(|error| match error {
                Error::StoreUnavailable { .. }
                | Error::ServiceUnavailable { .. }
                | Error::Overloaded { .. }
                | Error::ShuttingDown { .. } => error,
                other => Error::service_unavailable(other),
            })
    }
}

/// `/livez`, `/readyz`, `/metrics` and `/log-level`, and a problem for anything else.
pub fn router(readiness: Readiness, metrics: &Arc<Registry>, log: Arc<dyn LogFilter>) -> Router {
    let frame = Frame::unlimited(&readiness.0.deps);
    let scrape = Operation::new(("metrics", "/metrics"), &frame, metrics, scrape);
    let log_level = log_level::routes(&readiness.0.deps, log);
    probes(readiness)
        .route("/metrics", get(scrape))
        .merge(log_level)
        .fallback(operation::route_not_found(&frame))
        .method_not_allowed_fallback(operation::method_not_allowed(&frame))
}

/// `/livez` and `/readyz` of a process that is starting; anything else is answered like
/// `/readyz`: not now.
pub fn starting_router(readiness: Readiness) -> Router {
    let frame = Frame::unlimited(&readiness.0.deps);
    let state = Arc::clone(&readiness.0);
    let not_now = Operation::new(("starting", OTHER), &frame, &state, readyz);
    probes(readiness)
        .fallback(not_now)
        .method_not_allowed_fallback(operation::method_not_allowed(&frame))
}

/// `/livez` and `/readyz`, for a router that has fallbacks.
pub(crate) fn probes(readiness: Readiness) -> Router {
    let frame = Frame::unlimited(&readiness.0.deps);
    let state = readiness.0;
    Router::new()
        .route(
            "/livez",
            get(Operation::new(("livez", "/livez"), &frame, &state, livez)),
        )
        .route(
            "/readyz",
            get(Operation::new(
                ("readyz", "/readyz"),
                &frame,
                &state,
                readyz,
            )),
        )
}

async fn livez(_: Arc<Shared>, _: Call) -> Result<Response, Problem> {
    Ok(plain("alive\n"))
}

async fn readyz(state: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    state.check(call).await?;
    Ok(plain("ready\n"))
}

const OPEN_METRICS: &str = "application/openmetrics-text";
const TEXT: &str = "text/plain";

/// The metrics of the process: as `OpenMetrics`, which has examples of traces, if the client asks for
/// it, else in the text format of Prometheus.
async fn scrape(metrics: Arc<Registry>, call: Call) -> Result<Response, Problem> {
    let kind = media::negotiate(&call.parts.headers, &[TEXT, OPEN_METRICS])?;
    let mut text = String::new();
    let (encoded, content_type) = if kind == OPEN_METRICS {
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        (text::encode(&mut text, &metrics), content_type)
    } else {
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        (prometheus_text::encode(&mut text, &metrics), content_type)
    };
    encoded.map_err(Error::internal)?;
    let mut response = Response::new(Body::from(text));
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

fn plain(text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
