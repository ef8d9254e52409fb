//! A handler as one entry of the router.
//!
//! One [`Operation`] is the only layer there is on this side of the pipeline, so a request
//! costs one boxed future however much is done around its handler.

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::{body::Body, extract::Request, handler::Handler, response::Response};
use bytes::Bytes;
use http::request::Parts;
use order_core::{Clock, Error, IdGen, RequestId, TraceParent};
use order_edge::{
    admission::Admission,
    pipeline::{self, Class, Content, Facts, Pipeline},
};

use super::{
    HttpDeps,
    exchange::HttpExchange,
    problem::{Problem, ProtocolError},
};

/// A request on its way to a handler.
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    /// Where the call is in a distributed trace, if the client takes part in one.
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
pub(crate) struct Frame(Pipeline);

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
        Arc::new(Self(Pipeline {
            ids: Arc::clone(ids),
            clock: Arc::clone(clock),
            admission,
            deadlines: None,
            is_logged,
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
        name: &'static str,
        frame: &Arc<Frame>,
        state: &Arc<S>,
        handle: fn(Arc<S>, Call) -> Fut,
    ) -> Self {
        Self {
            facts: Facts::new(name),
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
            let run = frame
                .0
                .run::<HttpExchange, _, _>(&facts, request, |call| handle(state, call.into()));
            run.await.map(Body::new)
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
