//! The body of an answer, and what it holds until it is gone.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use order_core::Error;

use crate::{
    admission::Held,
    exchange::{End, Exchange, Line},
};

/// What a body gives: a frame, an error, or its end.
pub(crate) type Polled<B> = Option<Result<Frame<Bytes>, <B as Body>::Error>>;

/// A handler panicked; the place is in the line that the panic hook wrote.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked: {message}")]
struct HandlerPanicked {
    message: String,
}

/// What panicked is dropped and never touched again, so a broken invariant inside of it is never
/// seen: that is what `AssertUnwindSafe` states around handlers and bodies.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Error {
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned());
    Error::internal(HandlerPanicked { message })
}

/// Polls a body; `Err` if it panicked.
pub(crate) fn poll_body<B: Body<Data = Bytes> + Unpin>(
    body: &mut B,
    cx: &mut Context<'_>,
) -> Result<Poll<Polled<B>>, Error> {
    catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)))
        .map_err(|payload| panicked(&*payload))
}

/// The body of an answer on its way. Dropping it writes the line of the access log and frees
/// the slot of the call.
pub struct Answer<E: Exchange> {
    /// `None` once it panicked.
    pub(crate) body: Option<E::Body>,
    /// What was taken of the body to learn its length.
    pub(crate) peeked: Option<Polled<E::Body>>,
    pub(crate) line: Line<E>,
    pub(crate) _held: Held,
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
            Poll::Ready(Some(self.line.exchange.broken(error, &self.line.about)))
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
            let exchange = &mut this.line.exchange;
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
            self.line.exchange.end(End::Whole);
        }
    }
}
