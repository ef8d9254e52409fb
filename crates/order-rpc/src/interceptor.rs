//! What happens to every call before and after its handler, one tower layer per concern.
//!
//! From the outside in: [`correlation`], [`access_log`], [`recover`], [`deadline`] and
//! [`overload`]. They pass [`RequestId`](order_core::RequestId),
//! [`TraceParent`](order_core::TraceParent), [`Connection`] and [`StreamDeadline`](deadline::StreamDeadline) along as extensions of
//! the request. None of them allocates for itself or spawns on the way of a call that
//! succeeds, apart from the extensions, and none holds a reservation between `poll_ready`
//! and `call`.

pub(crate) mod access_log;
pub(crate) mod correlation;
pub(crate) mod deadline;
pub(crate) mod overload;
pub(crate) mod recover;

use std::net::SocketAddr;

use http::{Extensions, Response};
use order_core::{Error, RequestId};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use uuid::Uuid;

use crate::status::to_status;

/// What a call knows of the connection it came over; an extension of the request, behind
/// an `Arc`.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Cancelled when the connection is to go away: streams end themselves then.
    pub(crate) draining: CancellationToken,
}

/// The request id that [`correlation`] put there.
fn request_id_of(extensions: &Extensions) -> RequestId {
    extensions
        .get::<RequestId>()
        .cloned()
        .unwrap_or_else(unknown_request_id)
}

/// Stands in where no interceptor gave the request an id.
pub(crate) fn unknown_request_id() -> RequestId {
    RequestId::from_uuid(Uuid::nil())
}

/// An answer without a handler.
fn refusal(error: Error, request_id: &RequestId) -> Response<Body> {
    to_status(error, request_id).into_http()
}
