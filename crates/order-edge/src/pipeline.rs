//! What surrounds every call of every transport: request id, trace, deadline, admission, the net
//! under panics, the headers that every answer has, and the access log.
//!
//! In this order: the id and the trace are read, the body is read, a slot is taken, the handler
//! runs, its answer is weighed. Slot and weight are held, and the line of the log is open, until
//! the body of the answer is gone. [`Pipeline::run`] is one future, which its caller boxes.

use std::{
    any::Any,
    future::poll_fn,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response, request::Parts};
use http_body::{Body, Frame, SizeHint};
use order_core::{BoxError, Clock, Deadline, Error, IdGen, RequestId, TraceParent, span::Span};

use crate::{
    admission::{Admission, Held},
    correlation,
    exchange::CallRecord,
    serve::{Connection, UNKNOWN_ADDRESS, find_client},
    stats::CallStats,
};
pub use crate::{
    admission::{Class, Facts},
    exchange::{About, End, Exchange},
};

/// A call on its way to its handler.
pub struct Call<B> {
    /// The id of the call.
    pub request_id: RequestId,
    /// Where the call is in a distributed trace, if it is in one.
    pub trace_parent: Option<TraceParent>,
    /// The head of the request.
    pub parts: Parts,
    /// Its body.
    pub content: Content<B>,
}

/// The body of a request.
pub enum Content<B> {
    /// All of it.
    Whole(Bytes),
    /// Of an operation that does not read it, or as it comes.
    Unread(B),
}

/// Until when a stream may live: as long as the caller asked for, without a cap. An extension of
/// requests with deadlines.
#[derive(Clone, Copy, Debug)]
pub struct StreamDeadline(pub Deadline);

/// How long calls may take until their answer begins.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For a call that does not say.
    pub default: Duration,
    /// Whatever a call says.
    pub max: Duration,
}

/// What the calls of one listener share.
pub struct Pipeline<E: Exchange> {
    /// Ids for calls that come without one.
    pub ids: Arc<dyn IdGen>,
    /// Time, for deadlines and durations.
    pub clock: Arc<dyn Clock>,
    /// `None` for what is answered under any load: probes, and what has limits of its own.
    pub admission: Option<Admission>,
    /// `None` where handlers end calls themselves.
    pub deadlines: Option<Deadlines>,
    /// Counters of calls; `None` for probes, which are neither counted nor logged.
    pub stats: Option<CallStats<E::Labels>>,
}

impl<E: Exchange> Pipeline<E> {
    /// Answers a request with `handle`.
    ///
    /// # Cancel safety
    /// Dropping the future drops the handler, and logs that the client has given up.
    pub async fn run<B, Fut>(
        &self,
        facts: &Facts,
        request: Request<B>,
        handle: impl FnOnce(Call<B>) -> Fut,
    ) -> Response<Answer<E>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
        Fut: Future<Output = Result<Response<E::Body>, E::Rejection>>,
    {
        let (parts, body) = request.into_parts();
        let mut record = self.record(facts, &parts);
        let client = record.about.client.unwrap_or(UNKNOWN_ADDRESS);
        let mut held = Held::default();
        // Authentication belongs here.
        let answered = self
            .in_time(parts, |parts| async {
                let call = self.admit(facts, &record.about, (client, parts, body), &mut held);
                let mut response = AssertUnwindSafe(handle(call.await?))
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|panic| Err(panicked(&*panic).into()))?;
                let peeked = self.weigh(facts, client, &mut response, &mut held).await?;
                Ok((response, peeked))
            })
            .await;
        let (mut response, peeked) = answered.unwrap_or_else(|rejection| {
            held = Held::default();
            (record.exchange.reject(rejection, &record.about), None)
        });
        record.exchange.answer(&mut response, &record.about);
        correlation::echo(&record.about.request_id, response.headers_mut());
        response.map(|body| Answer {
            body: Some(body),
            peeked,
            record,
            _held: held,
        })
    }

    fn record(&self, facts: &Facts, parts: &Parts) -> CallRecord<E> {
        let connection = parts.extensions.get::<Arc<Connection>>();
        let client = correlation::trace_parent(&parts.headers);
        let span = if self.stats.is_some() && facts.class != Class::Free {
            Span::serve(client, facts.name)
        } else {
            Span::passed_on(client)
        };
        let about = About {
            operation: facts.name,
            route: facts.route,
            request_id: correlation::request_id(&parts.headers, &*self.ids),
            trace_parent: span.position().cloned(),
            peer: connection.map(|connection| connection.peer),
            client: find_client(&parts.extensions),
            begun_at: self.clock.instant(),
            clock: Arc::clone(&self.clock),
        };
        CallRecord::begin(E::begin(facts, parts), about, self.stats.clone(), span)
    }

    /// Does `work` until the deadline of the call, of which the request tells the handler.
    async fn in_time<T, Fut>(
        &self,
        mut parts: Parts,
        work: impl FnOnce(Parts) -> Fut,
    ) -> Result<T, E::Rejection>
    where
        Fut: Future<Output = Result<T, E::Rejection>>,
    {
        let Some(deadlines) = self.deadlines else {
            return work(parts).await;
        };
        let asked = E::timeout(&parts.headers)?;
        if asked == Some(Duration::ZERO) {
            return Err(Error::DeadlineExceeded.into());
        }
        let now = self.clock.instant();
        let limit = asked.unwrap_or(deadlines.default).min(deadlines.max);
        let deadline_in = |limit| now.checked_add(limit).map_or(Deadline::NONE, Deadline::at);
        parts.extensions.insert(deadline_in(limit));
        let stream_deadline = asked.map_or(Deadline::NONE, deadline_in);
        parts.extensions.insert(StreamDeadline(stream_deadline));
        tokio::time::timeout(limit, work(parts))
            .await
            .unwrap_or_else(|_| Err(Error::DeadlineExceeded.into()))
    }

    /// Waits for the body, if the operation reads it, and takes a slot.
    async fn admit<B>(
        &self,
        facts: &Facts,
        about: &About,
        (client, parts, body): (IpAddr, Parts, B),
        held: &mut Held,
    ) -> Result<Call<B>, E::Rejection>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let content = match &self.admission {
            Some(admission) if facts.reads_body => {
                Content::Whole(admission.read(client, body).await?)
            }
            _ => Content::Unread(body),
        };
        if let Some(admission) = &self.admission {
            held.slot = admission.admit(facts, client)?;
        }
        Ok(Call {
            request_id: about.request_id.clone(),
            trace_parent: about.trace_parent.clone(),
            parts,
            content,
        })
    }

    /// Counts the bytes of an answer. What is taken of its body to learn their number is
    /// returned: the one message of a gRPC answer, whose length no header tells.
    async fn weigh(
        &self,
        facts: &Facts,
        client: IpAddr,
        response: &mut Response<E::Body>,
        held: &mut Held,
    ) -> Result<Option<Polled<E::Body>>, E::Rejection> {
        let Some(admission) = &self.admission else {
            return Ok(None);
        };
        let body = response.body_mut();
        if let Some(len) = body.size_hint().exact() {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            held.answer = admission.admit_answer(client, len)?;
            return Ok(None);
        }
        if facts.may_stream {
            // It has a limit of its own.
            held.slot = None;
            return Ok(None);
        }
        match poll_fn(|cx| Poll::Ready(poll_body(body, cx))).await? {
            Poll::Pending => Ok(None),
            Poll::Ready(polled) => {
                if let Some(Ok(frame)) = &polled
                    && let Some(data) = frame.data_ref()
                {
                    held.answer = admission.admit_answer(client, data.len())?;
                }
                Ok(Some(polled))
            }
        }
    }
}

/// The result of polling a body: a frame, an error, or the end.
type Polled<B> = Option<Result<Frame<Bytes>, <B as Body>::Error>>;

/// A handler panicked; the place is in the line that the panic hook wrote.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked: {message}")]
struct HandlerPanicked {
    message: String,
}

/// A handler or body that panicked is dropped and never used again. So nobody sees its broken
/// invariants, and `AssertUnwindSafe` is right around it.
fn panicked(payload: &(dyn Any + Send)) -> Error {
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned());
    Error::internal(HandlerPanicked { message })
}

/// Polls a body; `Err` if it panicked.
fn poll_body<B: Body<Data = Bytes> + Unpin>(
    body: &mut B,
    cx: &mut Context<'_>,
) -> Result<Poll<Polled<B>>, Error> {
    catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)))
        .map_err(|payload| panicked(&*payload))
}

/// The body of an answer on its way. Dropping it counts and logs the call and frees its slot.
pub struct Answer<E: Exchange> {
    /// `None` once it panicked.
    body: Option<E::Body>,
    /// The first result of the body, if it was polled to learn the length.
    peeked: Option<Polled<E::Body>>,
    record: CallRecord<E>,
    _held: Held,
}

/// Nothing in it is pinned.
impl<E: Exchange> Unpin for Answer<E> {}

impl<E: Exchange> Answer<E> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Polled<E::Body>> {
        if let Some(peeked) = self.peeked.take() {
            return Poll::Ready(peeked);
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        poll_body(body, cx).unwrap_or_else(|error| {
            self.body = None;
            Poll::Ready(Some(self.record.exchange.broken(error, &self.record.about)))
        })
    }
}

impl<E: Exchange> Body for Answer<E> {
    type Data = Bytes;
    type Error = <E::Body as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = this.poll_next(cx);
        if let Poll::Ready(frame) = &polled {
            let exchange = &mut this.record.exchange;
            match frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        exchange.end(End::Trailers(trailers));
                    }
                }
                Some(Err(_)) => exchange.end(End::Failed),
                None => exchange.end(End::Whole),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.peeked.is_none() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.peeked, &self.body) {
            // Only bodies of unknown length are peeked at.
            (Some(_), _) => SizeHint::default(),
            (None, Some(body)) => body.size_hint(),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}

impl<E: Exchange> Drop for Answer<E> {
    fn drop(&mut self) {
        // A body whose length is known is not asked again after its last byte.
        if self.is_end_stream() {
            self.record.exchange.end(End::Whole);
        }
    }
}
