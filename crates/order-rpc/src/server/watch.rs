//! The answer of `WatchOrders`: the events of the API until something ends them.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use order_core::{Error, OrderEventStream, RequestId};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{convert, proto, status::to_status};

/// Events as messages. Ends with a status that says why, unless the API just ended them.
pub(super) struct WatchStream {
    /// `None` once the last item is out.
    events: Option<OrderEventStream>,
    end: BoxFuture<'static, Error>,
    request_id: RequestId,
    _place: OwnedSemaphorePermit,
}

impl WatchStream {
    /// Ends `events` when `draining` is cancelled, or after `time_left`.
    pub(super) fn new(
        events: OrderEventStream,
        request_id: RequestId,
        draining: Option<CancellationToken>,
        time_left: Option<Duration>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let drained = async move {
            match draining {
                Some(draining) => draining.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let expired = async move {
            match time_left {
                Some(time_left) => tokio::time::sleep(time_left).await,
                None => std::future::pending().await,
            }
        };
        let end = async move {
            tokio::select! {
                () = drained => Error::shutting_down(),
                () = expired => Error::DeadlineExceeded,
            }
        };
        Self {
            events: Some(events),
            end: end.boxed(),
            request_id,
            _place: place,
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

impl Stream for WatchStream {
    type Item = Result<proto::OrderEvent, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(events) = &mut this.events else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(error) = this.end.poll_unpin(cx) {
            return Poll::Ready(Some(Err(this.cut(error))));
        }
        Poll::Ready(match ready!(events.poll_next_unpin(cx)) {
            Some(Ok(event)) => Some(Ok(convert::event_to_proto(event))),
            Some(Err(error)) => Some(Err(this.cut(error))),
            None => None,
        })
    }
}
