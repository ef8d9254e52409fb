//! What surrounds each handler: the request id, the limit on requests in flight, the net
//! under panics, the headers that every answer has, and the access log.
//!
//! One [`Operation`] is one entry of the router and the only layer there is, so a request
//! costs one boxed future however much is done around its handler.

use std::{
    any::Any, convert::Infallible, net::SocketAddr, panic::AssertUnwindSafe, pin::Pin, sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    handler::Handler,
    response::Response,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri, Version,
    header::{CACHE_CONTROL, CONNECTION, ETAG, X_CONTENT_TYPE_OPTIONS},
    request::Parts,
};
use order_core::{Clock, Error, IdGen, RequestId, TraceParent};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    HttpDeps,
    problem::{Problem, ProtocolError},
    request_id,
    routes::IDEMPOTENCY_KEY,
};

/// The longest path that is logged, in bytes. Paths of this API have at most 51.
const LOGGED_PATH_LEN_MAX: usize = 128;

/// Refusals of a body that has not been read to its end.
const LEAVES_BODY: [StatusCode; 3] = [
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
];

/// A request on its way to a handler.
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    /// Where the call is in a distributed trace, if the client takes part in one.
    pub(crate) trace_parent: Option<TraceParent>,
    pub(crate) parts: Parts,
    pub(crate) body: Body,
}

/// What the operations of one router share.
pub(crate) struct Frame {
    ids: Arc<dyn IdGen>,
    clock: Arc<dyn Clock>,
    /// `None` for probes: they are answered under any load, and not logged.
    in_flight: Option<Semaphore>,
}

impl Frame {
    /// A frame for the API.
    pub(crate) fn limited(deps: &HttpDeps, in_flight_max: usize) -> Arc<Self> {
        Arc::new(Self {
            in_flight: Some(Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS))),
            ..Self::bare(deps)
        })
    }

    /// A frame for probes.
    pub(crate) fn unlimited(deps: &HttpDeps) -> Arc<Self> {
        Arc::new(Self::bare(deps))
    }

    fn bare(deps: &HttpDeps) -> Self {
        Self {
            ids: Arc::clone(&deps.ids),
            clock: Arc::clone(&deps.clock),
            in_flight: None,
        }
    }

    fn admit(&self) -> Result<Option<SemaphorePermit<'_>>, Error> {
        self.in_flight
            .as_ref()
            .map(|in_flight| in_flight.try_acquire().map_err(|_| Error::overloaded()))
            .transpose()
    }

    async fn answer<Fut>(
        &self,
        operation: &'static str,
        is_idempotent: bool,
        request: Request,
        handle: impl FnOnce(Call) -> Fut,
    ) -> Response
    where
        Fut: Future<Output = Result<Response, Problem>>,
    {
        let started = self.clock.instant();
        let (parts, body) = request.into_parts();
        let request_id = request_id::accept(&parts.headers, &*self.ids);
        let trace_parent = trace_parent(&parts.headers);
        let seen = Seen::new(operation, &parts);
        let version = parts.version;
        // A key that an operation does not know is refused by it.
        let is_idempotent =
            is_idempotent || parts.method.is_safe() || parts.headers.contains_key(IDEMPOTENCY_KEY);
        let answered = match self.admit() {
            Ok(_permit) => {
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
            }
            Err(error) => Err(error.into()),
        };
        let mut response = answered.unwrap_or_else(|problem| {
            problem.into_traced_response(&request_id, trace_parent.as_ref(), is_idempotent)
        });
        complete(&mut response, version);
        request_id::echo(&request_id, response.headers_mut());
        if self.in_flight.is_some() {
            let duration = self.clock.instant().saturating_duration_since(started);
            seen.log(&request_id, trace_parent.as_ref(), &response, duration);
        }
        response
    }
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

/// What the access log keeps of a request.
struct Seen {
    operation: &'static str,
    method: Method,
    uri: Uri,
    client: Option<SocketAddr>,
}

impl Seen {
    fn new(operation: &'static str, parts: &Parts) -> Self {
        Self {
            operation,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            client: parts
                .extensions
                .get::<ConnectInfo<SocketAddr>>()
                .map(|ConnectInfo(address)| *address),
        }
    }

    /// The query stays out of the log: it names users.
    fn log(
        &self,
        request_id: &RequestId,
        trace_parent: Option<&TraceParent>,
        response: &Response,
        duration: Duration,
    ) {
        let path = self.uri.path();
        tracing::event!(
            target: "http_access",
            tracing::Level::INFO,
            request.id = %request_id,
            trace.id = trace_parent.map(TraceParent::trace_id),
            http.operation = self.operation,
            http.method = self.method.as_str(),
            http.path = path.get(..LOGGED_PATH_LEN_MAX).unwrap_or(path),
            http.status = response.status().as_u16(),
            duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            client.address = self.client.map(tracing::field::display),
            "answered"
        );
    }
}

/// A handler in its [`Frame`].
pub(crate) struct Operation<S, Fut> {
    name: &'static str,
    frame: Arc<Frame>,
    state: Arc<S>,
    handle: fn(Arc<S>, Call) -> Fut,
    is_idempotent: bool,
}

impl<S, Fut> Operation<S, Fut> {
    pub(crate) fn new(
        name: &'static str,
        frame: &Arc<Frame>,
        state: &Arc<S>,
        handle: fn(Arc<S>, Call) -> Fut,
    ) -> Self {
        Self {
            name,
            frame: Arc::clone(frame),
            state: Arc::clone(state),
            handle,
            is_idempotent: false,
        }
    }

    /// An operation that has no effect the second time, also without a key.
    pub(crate) fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }
}

impl<S, Fut> Clone for Operation<S, Fut> {
    fn clone(&self) -> Self {
        Self {
            is_idempotent: self.is_idempotent,
            ..Self::new(self.name, &self.frame, &self.state, self.handle)
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
                name,
                frame,
                state,
                handle,
                is_idempotent,
            } = self;
            frame
                .answer(name, is_idempotent, request, |call| handle(state, call))
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
