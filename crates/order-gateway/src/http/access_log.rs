//! One line for each request, when its answer is gone or the client is.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::ConnectInfo,
};
use http::{Method, StatusCode, Uri, request::Parts};
use http_body::{Frame, SizeHint};
use order_core::{Clock, RequestId, TraceParent};

use crate::slots::Slot;

/// The longest path that is logged, in bytes. Paths of this API have at most 51.
const PATH_LEN_MAX: usize = 128;

/// The log line of a request, written when this is dropped.
pub(super) struct Line {
    operation: &'static str,
    method: Method,
    uri: Uri,
    client: Option<SocketAddr>,
    request_id: RequestId,
    trace_parent: Option<TraceParent>,
    clock: Arc<dyn Clock>,
    begun_at: Instant,
    /// The status of the answer, once there is one.
    status: Option<StatusCode>,
    /// Whether the client has all of it, as far as this process knows.
    is_sent: bool,
}

impl Line {
    pub(super) fn new(
        operation: &'static str,
        parts: &Parts,
        clock: &Arc<dyn Clock>,
        (request_id, trace_parent): (&RequestId, Option<&TraceParent>),
    ) -> Self {
        Self {
            operation,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            client: client_of(parts),
            request_id: request_id.clone(),
            trace_parent: trace_parent.cloned(),
            clock: Arc::clone(clock),
            begun_at: clock.instant(),
            status: None,
            is_sent: false,
        }
    }

    /// Takes note of the answer. The body is what ends the line, if there is one.
    pub(super) fn answered(mut self, status: StatusCode, body: Body, slot: Option<Slot>) -> Body {
        self.status = Some(status);
        let has_no_body = self.method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if has_no_body {
            self.is_sent = true;
            return body;
        }
        Body::new(Sent {
            body,
            line: self,
            _slot: slot,
        })
    }
}

/// Where a request comes from, where that is known.
pub(super) fn client_of(parts: &Parts) -> Option<SocketAddr> {
    let client = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    client.map(|ConnectInfo(address)| *address)
}

impl Drop for Line {
    /// The query stays out of the log: it names users.
    fn drop(&mut self) {
        let path = self.uri.path();
        let duration = self
            .clock
            .instant()
            .saturating_duration_since(self.begun_at);
        tracing::event!(
            target: "http_access",
            tracing::Level::INFO,
            request.id = %self.request_id,
            trace.id = self.trace_parent.as_ref().map(TraceParent::trace_id),
            http.operation = self.operation,
            http.method = self.method.as_str(),
            http.path = path.get(..PATH_LEN_MAX).unwrap_or(path),
            http.status = self.status.map(|status| status.as_u16()),
            duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            client.address = self.client.map(tracing::field::display),
            "{}", if self.is_sent { "answered" } else { "abandoned" }
        );
    }
}

/// An answer on its way. It keeps the place of its request until it is gone.
struct Sent {
    body: Body,
    line: Line,
    _slot: Option<Slot>,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) {
            self.line.is_sent = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        // A body whose length is known is not asked again after its last byte.
        self.line.is_sent |= self.body.is_end_stream();
    }
}
