//! A handler as one entry of the router, and what is particular to HTTP in the pipeline around it:
//! problem documents, common headers and the target `http_access` of the log.
//!
//! One [`Operation`] is the only layer there is on this side of the pipeline, so a request
//! costs one boxed future however much is done around its handler.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{body::Body, extract::Request, handler::Handler, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{CACHE_CONTROL, CONNECTION, ETAG, LOCATION, X_CONTENT_TYPE_OPTIONS},
    request::Parts,
};
use http_body::Frame as BodyFrame;
use order_core::{Clock, Error, IdGen, OrderId, RequestId, TraceParent, span::Record};
use order_edge::{
    CallStats,
    admission::{Admission, AdmissionConfig, BodyError, Refused},
    pipeline::{self, About, Class, Content, End, Exchange, Facts, Pipeline},
};

use prometheus_client::encoding::EncodeLabelSet;

use super::{
    HttpConfig, HttpDeps,
    media::{self, EVENT_STREAM, JSON},
    problem::{Problem, ProtocolError},
    routes::IDEMPOTENCY_KEY,
    span, sse,
};

/// A request on its way to a handler.
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    /// Where the call is in a distributed trace, if it is in one.
    pub(crate) trace_parent: Option<TraceParent>,
    pub(crate) parts: Parts,
    /// Empty if the operation reads none.
    pub(crate) body: Bytes,
}

impl From<pipeline::Call<Body>> for Call {
    fn from(call: pipeline::Call<Body>) -> Self {
        Self {
            request_id: call.request_id,
            trace_parent: call.trace_parent,
            parts: call.parts,
            body: match call.content {
                Content::Whole(body) => body,
                Content::Unread(_) => Bytes::new(),
            },
        }
    }
}

/// What the operations of one router share.
pub(crate) struct Frame(Pipeline<HttpExchange>);

impl Frame {
    /// A frame for the API.
    pub(crate) fn limited(deps: &HttpDeps, admission: Admission) -> Arc<Self> {
        let stats = Some(deps.calls.clone());
        Self::new(&deps.ids, &deps.clock, Some(admission), stats)
    }

    /// A frame for operations with limits of their own.
    pub(crate) fn recorded(
        ids: &Arc<dyn IdGen>,
        clock: &Arc<dyn Clock>,
        calls: CallStats<HttpLabels>,
    ) -> Arc<Self> {
        Self::new(ids, clock, None, Some(calls))
    }

    /// A frame for pages that operators read: limited, and neither counted nor logged.
    pub(crate) fn quiet(deps: &HttpDeps, admission: Admission) -> Arc<Self> {
        Self::new(&deps.ids, &deps.clock, Some(admission), None)
    }

    /// A frame for probes, which are neither counted nor logged.
    pub(crate) fn unlimited(deps: &HttpDeps) -> Arc<Self> {
        Self::new(&deps.ids, &deps.clock, None, None)
    }

    fn new(
        ids: &Arc<dyn IdGen>,
        clock: &Arc<dyn Clock>,
        admission: Option<Admission>,
        stats: Option<CallStats<HttpLabels>>,
    ) -> Arc<Self> {
        Arc::new(Self(Pipeline {
            ids: Arc::clone(ids),
            clock: Arc::clone(clock),
            admission,
            deadlines: None,
            stats,
        }))
    }
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
        (name, route): (&'static str, &'static str),
        frame: &Arc<Frame>,
        state: &Arc<S>,
        handle: fn(Arc<S>, Call) -> Fut,
    ) -> Self {
        Self {
            facts: Facts::new(name, route),
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

    /// An operation that lists orders.
    pub(crate) fn listing(mut self) -> Self {
        self.facts.class = Class::List;
        self
    }

    /// An operation that has the body of its request, and writes.
    pub(crate) fn with_body(mut self) -> Self {
        self.facts.reads_body = true;
        self.facts.class = Class::Write;
        self
    }
}

impl<S, Fut> Clone for Operation<S, Fut> {
    fn clone(&self) -> Self {
        Self {
            facts: self.facts,
            frame: Arc::clone(&self.frame),
            state: Arc::clone(&self.state),
            handle: self.handle,
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
            let run = frame
                .0
                .run(&facts, request, |call| handle(state, call.into()));
            run.await.map(Body::new)
        })
    }
}

/// The route of what nothing serves, and the method of what HTTP does not define, under the name that
/// OpenTelemetry gives them.
pub(super) const OTHER: &str = "_OTHER";

/// The answer to a path that nothing serves.
pub(crate) fn route_not_found(frame: &Arc<Frame>) -> impl Handler<(), ()> {
    Operation::new(
        ("route_not_found", OTHER),
        frame,
        &Arc::new(()),
        |_, _| async { Err(ProtocolError::RouteNotFound.into()) },
    )
}

/// The answer to a method that the path does not serve; axum adds `Allow`.
pub(crate) fn method_not_allowed(frame: &Arc<Frame>) -> impl Handler<(), ()> {
    Operation::new(
        ("method_not_allowed", OTHER),
        frame,
        &Arc::new(()),
        |_, _| async { Err(ProtocolError::MethodNotAllowed.into()) },
    )
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

/// The longest path that is logged, in bytes. Paths of this API have at most 51.
const PATH_LEN_MAX: usize = 128;

/// Rejections that may be over soon.
const TEMPORARY: [StatusCode; 3] = [
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// Rejections of a body that has not been read to its end.
const LEAVES_BODY: [StatusCode; 2] = [StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE];

/// The limits on the requests of the API.
pub(super) fn admission_config(config: &HttpConfig) -> AdmissionConfig {
    AdmissionConfig {
        in_flight_max: config.in_flight_max,
        in_flight_per_address_max: config.in_flight_per_address_max,
        leases_max: 0,
        arriving_max: config.in_flight_max,
        arriving_per_address_max: config.in_flight_per_address_max,
        body_len_max: config.body_len_max,
        body_timeout: config.body_timeout,
        bytes_max: AdmissionConfig::BYTES_MAX,
    }
}

/// The limits on requests with short bodies of operators, of whom any may have all of it.
pub(crate) fn small_admission(in_flight_max: usize, body_len_max: usize) -> Admission {
    Admission::new(&AdmissionConfig {
        in_flight_max,
        in_flight_per_address_max: in_flight_max,
        leases_max: 0,
        arriving_max: in_flight_max,
        arriving_per_address_max: in_flight_max,
        body_len_max,
        body_timeout: Duration::from_secs(5),
        bytes_max: AdmissionConfig::BYTES_MAX,
    })
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Error::overloaded().into(),
            Refused::Body(BodyError::TooLarge { len_max }) => {
                ProtocolError::BodyTooLarge { len_max }.into()
            }
            Refused::Body(BodyError::Timeout) => ProtocolError::RequestTimeout.into(),
            Refused::Body(BodyError::Broken) => ProtocolError::InvalidJson {
                rule: "it ends too early".to_owned(),
            }
            .into(),
        }
    }
}

/// The labels of a call over HTTP, by the semantic conventions of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(clippy::struct_field_names, reason = "the names of the labels")]
pub struct HttpLabels {
    http_request_method: &'static str,
    http_route: &'static str,
    /// Empty if the client gave the call up.
    http_response_status_code: Option<u16>,
}

/// A client may invent methods, and labels must not be without limit.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => OTHER,
    }
}

/// One request.
pub(crate) struct HttpExchange {
    method: Method,
    /// A copy: a part of the URI would keep the read buffer of the connection for as long as the
    /// answer lasts.
    path: Box<str>,
    /// The order in the path, or the one that was created.
    order_id: Option<OrderId>,
    version: Version,
    /// Whether it may be repeated although its outcome is unknown.
    is_idempotent: bool,
    /// Whether the client waits for a stream of events.
    is_stream: bool,
    /// The status of the answer, once there is one.
    status: Option<StatusCode>,
    /// Whether the client has all of it, as far as this process knows.
    is_sent: bool,
}

impl Exchange for HttpExchange {
    type Body = Body;
    type Rejection = Problem;
    type Labels = HttpLabels;

    fn begin(facts: &Facts, parts: &Parts) -> Self {
        let path = parts.uri.path();
        let (logged, _) = path.split_at(path.floor_char_boundary(PATH_LEN_MAX));
        Self {
            method: parts.method.clone(),
            path: logged.into(),
            order_id: order_in(path),
            version: parts.version,
            // A key that an operation does not know is refused by it.
            is_idempotent: facts.is_idempotent
                || parts.method.is_safe()
                || parts.headers.contains_key(IDEMPOTENCY_KEY),
            is_stream: facts.may_stream && wants_stream(&parts.headers),
            status: None,
            is_sent: false,
        }
    }

    fn reject(&mut self, problem: Problem, about: &About) -> Response<Body> {
        let trace_parent = about.trace_parent.as_ref();
        let rejection = problem.into_response(&about.request_id, trace_parent, self.is_idempotent);
        if self.is_stream && TEMPORARY.contains(&rejection.status()) {
            return sse::come_back_later(&rejection, &about.request_id);
        }
        rejection
    }

    fn answer(&mut self, response: &mut Response<Body>, _: &About) {
        let status = response.status();
        self.status = Some(status);
        let location = response.headers().get(LOCATION);
        let created = location.and_then(|location| order_in(location.to_str().ok()?));
        self.order_id = created.or(self.order_id);
        let is_empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.is_sent = is_empty || self.method == Method::HEAD || status.is_informational();
        if is_empty {
            // An empty body of known length would be announced as `Content-Length: 0`, which
            // these answers must not have (RFC 9110 §8.6).
            *response.body_mut() = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
        }
        let headers = response.headers_mut();
        // The client may store an answer with an ETag, and revalidates it each time.
        let is_kept = headers.contains_key(ETAG)
            && (status.is_success() || status == StatusCode::NOT_MODIFIED);
        let caching = if is_kept {
            "private, no-cache"
        } else {
            "no-store"
        };
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static(caching));
        // The rest of the body is not read, so the connection cannot be used again.
        if self.version <= Version::HTTP_11 && LEAVES_BODY.contains(&status) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }

    fn end(&mut self, end: End<'_>) {
        self.is_sent |= matches!(end, End::Whole);
    }

    fn broken(&mut self, error: Error, about: &About) -> Result<BodyFrame<Bytes>, axum::Error> {
        tracing::error!(
            request.id = %about.request_id,
            error.chain = error.chain(),
            "answer panicked"
        );
        Err(axum::Error::new(error))
    }

    fn labels(&self, about: &About) -> HttpLabels {
        HttpLabels {
            http_request_method: method_label(&self.method),
            http_route: about.route,
            http_response_status_code: self.status.map(|status| status.as_u16()),
        }
    }

    fn describe(&self, about: &About, record: &mut Record<'_>) {
        let call = span::Call {
            method: &self.method,
            path: &self.path,
            version: self.version,
            status: self.status,
            is_sent: self.is_sent,
        };
        call.describe(about, record);
    }

    /// The query stays out of the log: it names users.
    fn log(&self, about: &About) {
        tracing::event!(
            target: "http_access",
            tracing::Level::INFO,
            request.id = %about.request_id,
            trace.id = about.trace_parent.as_ref().map(TraceParent::trace_id),
            order.id = self.order_id.map(tracing::field::display),
            span.id = about.trace_parent.as_ref().map(TraceParent::span_id),
            http.operation = about.operation,
            http.method = self.method.as_str(),
            http.path = &*self.path,
            http.status = self.status.map(|status| status.as_u16()),
            duration_us = micros(about.elapsed()),
            client.address = about.client.map(tracing::field::display),
            network.peer.address = about.peer.map(tracing::field::display),
            "{}", if self.is_sent { "answered" } else { "abandoned" }
        );
    }
}

/// The order that a path is about.
fn order_in(path: &str) -> Option<OrderId> {
    let id = path.strip_prefix("/orders/")?.split('/').next()?;
    id.parse().ok()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn wants_stream(headers: &HeaderMap) -> bool {
    media::negotiate(headers, &[JSON, EVENT_STREAM]).is_ok_and(|chosen| chosen == EVENT_STREAM)
}
