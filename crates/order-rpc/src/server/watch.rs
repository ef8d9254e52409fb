//! The answers of `WatchOrders` and `Follow`: what happens to orders, until something ends it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{
    FutureExt as _, Stream, StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::BoxStream,
};
use order_core::{Error, RequestId};
use order_edge::slots::Slot;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::status::to_status;

/// When a stream ends by itself.
pub(super) struct StreamEnd {
    /// Cancelled when the connection leaves.
    pub(super) draining: Option<CancellationToken>,
    /// Until the deadline of the caller.
    pub(super) time_left: Option<Duration>,
}

impl StreamEnd {
    /// Waits for the end and returns the reason.
    async fn reached(self) -> Error {
        let drained = self.draining.map(CancellationToken::cancelled_owned);
        let expired = self.time_left.map(tokio::time::sleep);
        let (drained, expired) = (OptionFuture::from(drained), OptionFuture::from(expired));
        tokio::select! {
            Some(()) = drained => Error::shutting_down(),
            Some(()) = expired => Error::DeadlineExceeded,
            else => std::future::pending().await,
        }
    }
}

/// Messages of the API. Ends with a status that says why, unless the API just ended them.
pub(super) struct WatchStream<T> {
    /// `None` once the last item is out.
    events: Option<BoxStream<'static, Result<T, Error>>>,
    end: BoxFuture<'static, Error>,
    request_id: RequestId,
    _slot: Slot,
}

impl<T> WatchStream<T> {
    /// Cuts `events` at the `end`.
    pub(super) fn new(
        events: BoxStream<'static, Result<T, Error>>,
        request_id: RequestId,
        end: StreamEnd,
        slot: Slot,
    ) -> Self {
        Self {
            events: Some(events),
            end: end.reached().boxed(),
            request_id,
            _slot: slot,
        }
    }

    fn cut(&mut self, error: Error) -> Status {
        self.events = None;
        // Trailers bring the access log a code and no error.
        tracing::debug!(
            request.id = self.request_id.as_str(),
            error = error.chain(),
            "watch was cut"
        );
        to_status(error, &self.request_id)
    }
}

impl<T> Stream for WatchStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(events) = &mut this.events else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(error) = this.end.poll_unpin(cx) {
            return Poll::Ready(Some(Err(this.cut(error))));
        }
        Poll::Ready(match ready!(events.poll_next_unpin(cx)) {
            Some(Ok(message)) => Some(Ok(message)),
            Some(Err(error)) => Some(Err(this.cut(error))),
            None => None,
        })
    }
}
