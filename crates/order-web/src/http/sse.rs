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
use futures_util::{StreamExt as _, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_TYPE, VARY},
};
use order_core::{Error, OrderEvent, OrderEventStream, RequestId};
use order_edge::slots::Slot;
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
pub(super) struct EventStream {
    /// What happens to the order, beginning with what the client has not seen.
    pub(super) events: OrderEventStream,
    /// The request that opened it.
    pub(super) request_id: RequestId,
    /// Ends the stream early.
    pub(super) stop: CancellationToken,
}

/// Where a stream is.
enum Progress {
    Opening,
    Open,
    Ended,
}

impl EventStream {
    /// The answer that is this stream. It gives `slot` back when it is dropped.
    pub(super) fn into_response(self, slot: Slot) -> Response {
        let begin = (self, slot, Progress::Opening);
        let frames = stream::unfold(begin, |(mut stream, slot, progress)| async {
            let (frame, progress) = stream.next_frame(progress).await?;
            Some((Ok::<_, Infallible>(frame), (stream, slot, progress)))
        });
        let mut response = Response::new(Body::from_stream(frames));
        add_headers(response.headers_mut());
        response
    }

    /// The next bytes, and where the stream is then. `None` at the end.
    async fn next_frame(&mut self, progress: Progress) -> Option<(Bytes, Progress)> {
        match progress {
            Progress::Opening => {
                let opening = retry_in(RETRY_MILLIS, &self.request_id);
                Some((opening.into(), Progress::Open))
            }
            Progress::Ended => None,
            Progress::Open => tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                event = self.events.next() => frame_of(event?),
                () = tokio::time::sleep(KEEP_ALIVE_INTERVAL) => {
                    Some((Bytes::from_static(KEEP_ALIVE.as_bytes()), Progress::Open))
                }
            },
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

/// An event as it is streamed; `None` if the watch was cut.
fn frame_of(event: Result<OrderEvent, Error>) -> Option<(Bytes, Progress)> {
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
    if !is_last {
        return Some((frame.into(), Progress::Open));
    }
    frame.push_str("event: end\ndata: ");
    frame.push_str(&json);
    frame.push_str("\n\n");
    Some((frame.into(), Progress::Ended))
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
