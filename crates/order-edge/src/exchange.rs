//! How a transport answers and logs: all that differs between them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Response, request::Parts};
use http_body::{Body, Frame};
use order_core::{Clock, Error, RequestId, TraceParent};

use crate::admission::{Facts, Refused};

/// What the log says about a call of any transport.
pub struct About {
    /// The name of the operation.
    pub operation: &'static str,
    /// The id of the call.
    pub request_id: RequestId,
    /// Its position in a trace.
    pub trace_parent: Option<TraceParent>,
    /// The other end, where that is known.
    pub peer: Option<SocketAddr>,
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

    /// Writes the line of the call. Without an answer the client has given the call up.
    fn log(&self, about: &About);
}

/// The line of a call in the access log, written when this is dropped.
pub(crate) struct Line<E: Exchange> {
    pub(crate) exchange: E,
    pub(crate) about: About,
    pub(crate) is_logged: bool,
}

impl<E: Exchange> Drop for Line<E> {
    fn drop(&mut self) {
        if self.is_logged {
            self.exchange.log(&self.about);
        }
    }
}
