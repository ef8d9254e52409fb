//! `GET` and `PUT /log-level`: shows and changes what the process logs while it runs.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, response::Response, routing::get};
use order_core::{Error, RequestId};
use order_edge::serve::Connection;

use super::plain;
use crate::http::{
    HttpDeps,
    operation::{self, Call, Frame, Operation},
    problem::Problem,
};

/// The longest filter, in bytes.
const FILTER_LEN_MAX: usize = 1024;

/// Requests at the same time.
const REQUESTS_MAX: usize = 64;

/// What the process logs, in the form of `RUST_LOG`.
pub trait LogFilter: Send + Sync {
    /// The filter that is in force.
    fn get(&self) -> String;

    /// Replaces the filter, and logs the change with the client that asked for it.
    ///
    /// # Errors
    /// The rule that `filter` breaks. Nothing changes then.
    fn set(
        &self,
        filter: &str,
        request_id: &RequestId,
        client: Option<SocketAddr>,
    ) -> Result<(), String>;
}

/// The routes of `/log-level`.
pub(super) fn routes(deps: &HttpDeps, filter: Arc<dyn LogFilter>) -> Router {
    let admission = operation::small_admission(REQUESTS_MAX, FILTER_LEN_MAX);
    let frame = Frame::limited(deps, admission);
    let state = Arc::new(filter);
    let show = Operation::new(("get_log_level", "/log-level"), &frame, &state, show);
    let change = Operation::new(("set_log_level", "/log-level"), &frame, &state, change);
    Router::new().route("/log-level", get(show).put(change.with_body().idempotent()))
}

async fn show(filter: Arc<Arc<dyn LogFilter>>, _: Call) -> Result<Response, Problem> {
    Ok(plain(filter.get() + "\n"))
}

async fn change(filter: Arc<Arc<dyn LogFilter>>, call: Call) -> Result<Response, Problem> {
    let wanted = std::str::from_utf8(&call.body)
        .map_err(|_| Error::invalid("", "must be a log filter in UTF-8"))?;
    let connection = call.parts.extensions.get::<Arc<Connection>>();
    let client = connection.map(|connection| connection.peer);
    filter
        .set(wanted.trim(), &call.request_id, client)
        .map_err(|rule| Error::invalid("", rule))?;
    Ok(plain(filter.get() + "\n"))
}
