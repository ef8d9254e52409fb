//! The history of one order as it happens: Server-Sent Events (WHATWG HTML §9.2).
//!
//! A stream begins after the version that the client has seen and ends with the order: the
//! event that makes it PROCESSED or CANCELLED is followed by `event: end`. A FAILED order may
//! be retried, so its stream stays open. Whatever else ends a stream, ends it without that,
//! and the client comes back with the id of the last event it got. So does one that is refused
//! for a time.
//!
//! A stream holds one slot of the server until its body is dropped, a watch, and no
//! buffer: the next event is asked for when the last one was taken.

use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    ops::Range,
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_TYPE, VARY},
};
use order_core::{Error, OrderEvent, OrderEventStream, RequestId};
use tokio_util::sync::CancellationToken;

use super::{dto::event_json, media::EVENT_STREAM, span};

/// How long a client waits before it comes back, in milliseconds. Each is told another time, so
/// that those of a server that stops do not come back together.
const RETRY_MILLIS: Range<u64> = 1_000..3_000;

/// The same after a refusal.
const RETRY_REFUSED_MILLIS: Range<u64> = 2_000..10_000;

/// How long a stream is silent before it says that it is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A comment, which clients skip.
const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// Asks reverse proxies not to hold the stream back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// An open stream.
pub(crate) struct EventStream<S> {
    /// What the client gets, each with the empty line at its end.
    pub(crate) frames: S,
    /// The request that opened it.
    pub(crate) request_id: RequestId,
    /// Ends the stream early.
    pub(crate) stop: CancellationToken,
}

impl<S: Stream<Item = Bytes> + Send + Unpin + 'static> EventStream<S> {
    /// The answer that is this stream. It drops `held` with its body.
    pub(crate) fn into_response(self, held: impl Send + 'static) -> Response {
        let opening = Bytes::from(retry_in(RETRY_MILLIS, &self.request_id));
        let frames = stream::unfold((self, held), |(mut stream, held)| async {
            let frame = stream.next_frame().await?;
            Some((frame, (stream, held)))
        });
        let frames = stream::iter([opening]).chain(frames);
        let mut response = Response::new(Body::from_stream(frames.map(Ok::<_, Infallible>)));
        add_headers(response.headers_mut());
        response
    }

    /// The next bytes; `None` at the end.
    async fn next_frame(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            frame = self.frames.next() => frame,
            () = tokio::time::sleep(KEEP_ALIVE_INTERVAL) => {
                Some(Bytes::from_static(KEEP_ALIVE.as_bytes()))
            }
        }
    }
}

/// The first thing on a stream. Its time follows from the name of the request, of which no two are
/// the same.
fn retry_in(millis: Range<u64>, request_id: &RequestId) -> String {
    let mut hasher = DefaultHasher::new();
    request_id.as_str().hash(&mut hasher);
    let millis = millis.start + hasher.finish() % (millis.end - millis.start);
    format!("retry: {millis}\n\n")
}

/// The answer to a stream that is refused for a time. A browser gives a stream up for good when
/// it is answered with an error (WHATWG HTML §9.2.3), so this is a stream that ends at once.
pub(super) fn come_back_later(refusal: &Response, request_id: &RequestId) -> Response {
    let status = refusal.status();
    let text = format!(": {status}\n{}", retry_in(RETRY_REFUSED_MILLIS, request_id));
    let mut response = Response::new(Body::from(text));
    add_headers(response.headers_mut());
    response
}

fn add_headers(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
}

/// What happens to an order, as it is streamed, up to its end or until the watch is cut.
pub(super) fn frames_of(events: OrderEventStream) -> impl Stream<Item = Bytes> + Send + Unpin {
    let frames = stream::unfold(Some(events), |events| async {
        let mut events = events?;
        let (frame, is_last) = frame_of(events.next().await?)?;
        Some((frame, (!is_last).then_some(events)))
    });
    frames.boxed()
}

/// An event as it is streamed, and whether none follows; `None` if the watch was cut.
fn frame_of(event: Result<OrderEvent, Error>) -> Option<(Bytes, bool)> {
    let _pushing = event.as_ref().ok().and_then(span::push);
    let written = event.and_then(|event| Ok((event_json(&event)?, event)));
    let (json, event) = written
        .inspect_err(|error| {
            tracing::warn!(error.chain = error.chain(), "event stream cut");
        })
        .ok()?;
    let is_last = event.status.is_final();
    let mut frame = format!(
        "id: {}\nevent: order.status\ndata: {json}\n\n",
        event.version
    );
    if is_last {
        frame.push_str("event: end\ndata: ");
        frame.push_str(&json);
        frame.push_str("\n\n");
    }
    Some((frame.into(), is_last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_names_the_intervals() {
        let document = include_str!(concat!(env!("OUT_DIR"), "/asyncapi.json"));
        let silence = KEEP_ALIVE_INTERVAL.as_secs();
        let (again, later) = (RETRY_MILLIS, RETRY_REFUSED_MILLIS);
        for words in [
            format!("`retry` is {} to {} ms", again.start, again.end),
            format!("`retry` of {} to {} ms", later.start, later.end),
            format!("every {silence} s without an event"),
        ] {
            assert!(document.contains(&words), "{words}");
        }
    }
}
