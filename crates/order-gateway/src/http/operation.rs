//! What surrounds each handler: the request id, the limit on requests in flight, the net
//! under panics, the headers that every answer has, and the access log.
//!
//! One [`Operation`] is one entry of the router and the only layer there is, so a request
//! costs one boxed future however much is done around its handler.

use std::{
    any::Any, convert::Infallible, net::IpAddr, panic::AssertUnwindSafe, pin::Pin, sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    handler::Handler,
    response::Response,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::{
    HeaderMap, HeaderValue, StatusCode, Version,
    header::{CACHE_CONTROL, CONNECTION, ETAG, X_CONTENT_TYPE_OPTIONS},
    request::Parts,
};
use order_core::{Clock, Error, IdGen, RequestId, TraceParent};

use super::{
    HttpDeps,
    access_log::{Line, client_of},
    admission::Admission,
    media::{self, EVENT_STREAM, JSON},
    problem::{Problem, ProtocolError},
    request_id,
    routes::IDEMPOTENCY_KEY,
    sse,
};
use crate::slots::Slot;

/// Refusals that may be over soon.
const TEMPORARY: [StatusCode; 3] = [
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// Refusals of a body that has not been read to its end.
const LEAVES_BODY: [StatusCode; 2] = [StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE];

/// A request on its way to a handler.
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    /// Where the call is in a distributed trace, if the client takes part in one.
    pub(crate) trace_parent: Option<TraceParent>,
    pub(crate) parts: Parts,
    /// Empty if the operation reads none.
    pub(crate) body: Bytes,
}

/// What the operations of one router share.
pub(crate) struct Frame {
    ids: Arc<dyn IdGen>,
    clock: Arc<dyn Clock>,
    /// `None` for what is answered under any load: probes, and what has limits of its own.
    admission: Option<Admission>,
    is_logged: bool,
}

impl Frame {
    /// A frame for the API.
    pub(crate) fn limited(deps: &HttpDeps, admission: Admission) -> Arc<Self> {
        Self::new(&deps.ids, &deps.clock, Some(admission), true)
    }

    /// A frame for operations with limits of their own.
    pub(crate) fn logged(ids: &Arc<dyn IdGen>, clock: &Arc<dyn Clock>) -> Arc<Self> {
        Self::new(ids, clock, None, true)
    }

    /// A frame for probes, which are not logged.
    pub(crate) fn unlimited(deps: &HttpDeps) -> Arc<Self> {
        Self::new(&deps.ids, &deps.clock, None, false)
    }

    fn new(
        ids: &Arc<dyn IdGen>,
        clock: &Arc<dyn Clock>,
        admission: Option<Admission>,
        is_logged: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            ids: Arc::clone(ids),
            clock: Arc::clone(clock),
            admission,
            is_logged,
        })
    }

    /// Waits for the body, if the operation reads it, and takes a place.
    async fn admit(
        &self,
        reads_body: bool,
        parts: &Parts,
        body: Body,
    ) -> Result<(Bytes, Option<Slot>), Problem> {
        let Some(admission) = &self.admission else {
            return Ok((Bytes::new(), None));
        };
        // Requests without an address count as one address.
        let client = client_of(parts).map_or(IpAddr::from([0; 4]), |client| client.ip());
        if !reads_body {
            return Ok((Bytes::new(), Some(admission.admit(client)?)));
        }
        let (body, slot) = admission.receive(client, body).await?;
        Ok((body, Some(slot)))
    }

    async fn answer<Fut>(
        &self,
        facts: Facts,
        request: Request,
        handle: impl FnOnce(Call) -> Fut,
    ) -> Response
    where
        Fut: Future<Output = Result<Response, Problem>>,
    {
        let (parts, body) = request.into_parts();
        let request_id = request_id::accept(&parts.headers, &*self.ids);
        let trace_parent = trace_parent(&parts.headers);
        let named = (&request_id, trace_parent.as_ref());
        let line = self
            .is_logged
            .then(|| Line::new(facts.name, &parts, &self.clock, named));
        let version = parts.version;
        // A key that an operation does not know is refused by it.
        let is_idempotent = facts.is_idempotent
            || parts.method.is_safe()
            || parts.headers.contains_key(IDEMPOTENCY_KEY);
        let is_stream = facts.may_stream && wants_stream(&parts.headers);
        let mut slot = None;
        let answered = async {
            let (body, taken) = self.admit(facts.reads_body, &parts, body).await?;
            slot = taken;
            let call = Call {
                request_id: request_id.clone(),
                trace_parent: trace_parent.clone(),
                parts,
                body,
            };
            // A handler shares nothing with others that a panic could leave half done.
            AssertUnwindSafe(handle(call))
                .catch_unwind()
                .await
                .unwrap_or_else(|panic| Err(panicked(&*panic).into()))
        };
        let mut response = answered.await.unwrap_or_else(|problem| {
            let refusal = problem.into_response(&request_id, trace_parent.as_ref(), is_idempotent);
            if is_stream && TEMPORARY.contains(&refusal.status()) {
                return sse::come_back_later(&refusal, &request_id);
            }
            refusal
        });
        complete(&mut response, version);
        request_id::echo(&request_id, response.headers_mut());
        match line {
            Some(line) => keep(response, line, slot),
            None => response,
        }
    }
}

/// Keeps the line of an answer open, and the place of its request, until the answer is gone. A
/// stream of events, which ends at some time, has a limit of its own.
fn keep(response: Response, line: Line, slot: Option<Slot>) -> Response {
    let (parts, body) = response.into_parts();
    let slot = slot.filter(|_| body.size_hint().exact().is_some());
    let body = line.answered(parts.status, body, slot);
    Response::from_parts(parts, body)
}

/// Adds what every answer has.
fn complete(response: &mut Response, version: Version) {
    let status = response.status();
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        // An empty body of known length would be announced as `Content-Length: 0`, which
        // these answers must not have (RFC 9110 §8.6).
        *response.body_mut() = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    }
    let headers = response.headers_mut();
    // What has a validator may be kept by the client, which asks each time whether it changed.
    let is_kept =
        headers.contains_key(ETAG) && (status.is_success() || status == StatusCode::NOT_MODIFIED);
    let caching = if is_kept {
        "private, no-cache"
    } else {
        "no-store"
    };
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static(caching));
    // The rest of the body is not read, so the connection cannot be used again.
    if version <= Version::HTTP_11 && LEAVES_BODY.contains(&status) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn wants_stream(headers: &HeaderMap) -> bool {
    media::negotiate(headers, &[JSON, EVENT_STREAM]).is_ok_and(|chosen| chosen == EVENT_STREAM)
}

/// The position in a trace that the client sent. One that is not valid counts as absent, and
/// so do several (W3C Trace Context §3.2 and §4.3).
fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all("traceparent").iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    TraceParent::parse(value.to_str().ok()?)
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    Error::internal(format!("the handler panicked: {message}"))
}

/// What never changes about an operation.
#[derive(Clone, Copy)]
struct Facts {
    /// Its name in the log.
    name: &'static str,
    /// Whether it has no effect the second time, also without a key.
    is_idempotent: bool,
    reads_body: bool,
    /// Whether it can answer with a stream of events.
    may_stream: bool,
}

/// A handler in its [`Frame`].
pub(crate) struct Operation<S, Fut> {
    facts: Facts,
    frame: Arc<Frame>,
    state: Arc<S>,
    handle: fn(Arc<S>, Call) -> Fut,
}

impl<S, Fut> Operation<S, Fut> {
    pub(crate) fn new(
        name: &'static str,
        frame: &Arc<Frame>,
        state: &Arc<S>,
        handle: fn(Arc<S>, Call) -> Fut,
    ) -> Self {
        Self {
            facts: Facts {
                name,
                is_idempotent: false,
                reads_body: false,
                may_stream: false,
            },
            frame: Arc::clone(frame),
            state: Arc::clone(state),
            handle,
        }
    }

    /// An operation that has no effect the second time, also without a key.
    pub(crate) fn idempotent(mut self) -> Self {
        self.facts.is_idempotent = true;
        self
    }

    /// An operation that can answer with a stream of events.
    pub(crate) fn with_stream(mut self) -> Self {
        self.facts.may_stream = true;
        self
    }

    /// An operation that has the body of its request.
    pub(crate) fn with_body(mut self) -> Self {
        self.facts.reads_body = true;
        self
    }
}

impl<S, Fut> Clone for Operation<S, Fut> {
    fn clone(&self) -> Self {
        Self {
            facts: self.facts,
            ..Self::new(self.facts.name, &self.frame, &self.state, self.handle)
        }
    }
}

impl<S, Fut> Handler<(), ()> for Operation<S, Fut>
where
    S: Send + Sync + 'static,
    Fut: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn call(self, request: Request, (): ()) -> Self::Future {
        Box::pin(async move {
            let Self {
                facts,
                frame,
                state,
                handle,
            } = self;
            frame
                .answer(facts, request, |call| handle(state, call))
                .await
        })
    }
}

/// The answer to a path that nothing serves.
pub(crate) fn route_not_found(frame: &Arc<Frame>) -> impl Handler<(), ()> {
    Operation::new("route_not_found", frame, &Arc::new(()), |_, _| async {
        Err(ProtocolError::RouteNotFound.into())
    })
}

/// The answer to a method that the path does not serve; axum adds `Allow`.
pub(crate) fn method_not_allowed(frame: &Arc<Frame>) -> impl Handler<(), ()> {
    Operation::new("method_not_allowed", frame, &Arc::new(()), |_, _| async {
        Err(ProtocolError::MethodNotAllowed.into())
    })
}

/// Waits for `work` until `limit`.
pub(crate) async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(Error::DeadlineExceeded))
}
