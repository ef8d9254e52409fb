//! How a transport answers and logs: all that differs between them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Response, request::Parts};
use http_body::{Body, Frame};
use order_core::{
    Clock, Error, RequestId, TraceParent,
    span::{Record, Span},
};

use crate::{
    admission::{Facts, Refused},
    stats::{CallLabels, CallStats},
};

/// What the log says about a call of any transport.
pub struct About {
    /// The name of the operation.
    pub operation: &'static str,
    /// Its path, with the names of parameters in place of their values.
    pub route: &'static str,
    /// The id of the call.
    pub request_id: RequestId,
    /// Its position in a trace: that of its own span, or of the client's while nothing is traced.
    pub trace_parent: Option<TraceParent>,
    /// The other end, where that is known. It may be a proxy.
    pub peer: Option<SocketAddr>,
    /// The address of the client, where that is known.
    pub client: Option<IpAddr>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) begun_at: Instant,
}

impl About {
    /// The time since the call began.
    pub fn elapsed(&self) -> Duration {
        self.clock
            .instant()
            .saturating_duration_since(self.begun_at)
    }
}

/// How the body of an answer ended.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// With trailers.
    Trailers(&'a HeaderMap),
    /// Without.
    Whole,
    /// In the middle.
    Failed,
}

/// One call of a transport: how its rejections look, and what the log says about its outcome.
pub trait Exchange: Send + Unpin + 'static {
    /// The bodies of answers.
    type Body: Body<Data = Bytes> + Send + Unpin + 'static;
    /// Why a call gets no other answer.
    type Rejection: From<Error> + From<Refused> + Send;
    /// What calls are counted by.
    type Labels: CallLabels;

    /// Notes what is needed later of a request.
    fn begin(facts: &Facts, parts: &Parts) -> Self;

    /// The time that the client gives the call, in a transport that has
    /// [`Deadlines`](crate::pipeline::Deadlines).
    fn timeout(_headers: &HeaderMap) -> Result<Option<Duration>, Self::Rejection> {
        Ok(None)
    }

    /// Makes the answer to a rejected call.
    fn reject(&mut self, rejection: Self::Rejection, about: &About) -> Response<Self::Body>;

    /// Notes the outcome of an answer that begins, and adds the headers that each has.
    fn answer(&mut self, response: &mut Response<Self::Body>, about: &About);

    /// Notes how the body ended. May come more than once; the first counts.
    fn end(&mut self, end: End<'_>);

    /// Makes the last frame of a body that panicked.
    fn broken(
        &mut self,
        error: Error,
        about: &About,
    ) -> Result<Frame<Bytes>, <Self::Body as Body>::Error>;

    /// What the call counts as. Without an answer the client has given the call up.
    fn labels(&self, about: &About) -> Self::Labels;

    /// Describes the call in its span, when it is over.
    fn describe(&self, about: &About, span: &mut Record<'_>);

    /// Writes the line of the call. Without an answer the client has given the call up.
    fn log(&self, about: &About);
}

/// The record of a call: counted, and a line of the access log, when this is dropped.
pub(crate) struct CallRecord<E: Exchange> {
    pub(crate) exchange: E,
    pub(crate) about: About,
    stats: Option<CallStats<E::Labels>>,
    span: Span,
}

impl<E: Exchange> CallRecord<E> {
    /// Begins a record. Without `stats` the call is neither counted nor logged.
    pub(crate) fn begin(
        exchange: E,
        about: About,
        stats: Option<CallStats<E::Labels>>,
        span: Span,
    ) -> Self {
        if let Some(stats) = &stats {
            stats.begin();
        }
        Self {
            exchange,
            about,
            stats,
            span,
        }
    }
}

impl<E: Exchange> Drop for CallRecord<E> {
    fn drop(&mut self) {
        self.span
            .record(|span| self.exchange.describe(&self.about, span));
        let Some(stats) = &self.stats else {
            return;
        };
        let (exchange, about) = (&self.exchange, &self.about);
        let labels = exchange.labels(about);
        stats.end(&labels, about.elapsed(), about.trace_parent.as_ref());
        exchange.log(about);
    }
}
