//! Gives every call an end: the caller's `grpc-timeout`, or a default.
//!
//! The limit covers the time until the answer begins. That is all of a unary call; of a
//! stream it is the part in which the server has to do something, and the life of the
//! stream is limited only if the caller said so ([`StreamDeadline`]).

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderName, Request, Response};
use order_core::{Clock, Deadline, Error, RequestId};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{refusal, request_id_of};

const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("grpc-timeout");

/// Until when a stream may live: as long as the caller asked for, without a cap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamDeadline(pub(crate) Deadline);

/// Limits calls and tells the handler with [`Deadline`] and [`StreamDeadline`].
#[derive(Clone)]
pub(crate) struct DeadlineLayer {
    clock: Arc<dyn Clock>,
    timeout_default: Duration,
    timeout_max: Duration,
}

impl DeadlineLayer {
    /// Calls without a timeout get `timeout_default`; longer ones are cut to `timeout_max`.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        timeout_default: Duration,
        timeout_max: Duration,
    ) -> Self {
        Self {
            clock,
            timeout_default,
            timeout_max,
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`DeadlineLayer`].
#[derive(Clone)]
pub(crate) struct DeadlineService<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S, B> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let request_id = request_id_of(request.extensions());
        let asked = match read_timeout(request.headers()) {
            Ok(Some(Duration::ZERO)) => {
                return DeadlineFuture::refused(Error::DeadlineExceeded, request_id);
            }
            Ok(asked) => asked,
            Err(error) => return DeadlineFuture::refused(error, request_id),
        };
        let now = self.layer.clock.instant();
        let timeout = asked
            .unwrap_or(self.layer.timeout_default)
            .min(self.layer.timeout_max);
        let deadline_in = |timeout| {
            now.checked_add(timeout)
                .map_or(Deadline::NONE, Deadline::at)
        };
        let extensions = request.extensions_mut();
        extensions.insert(deadline_in(timeout));
        extensions.insert(StreamDeadline(asked.map_or(Deadline::NONE, deadline_in)));
        DeadlineFuture::Running {
            inner: self.inner.call(request),
            sleep: tokio::time::sleep(timeout),
            request_id,
        }
    }
}

pin_project! {
    /// Races the call against its end.
    #[project = DeadlineProjection]
    pub(crate) enum DeadlineFuture<F> {
        Running { #[pin] inner: F, #[pin] sleep: Sleep, request_id: RequestId },
        Refused { error: Option<Error>, request_id: RequestId },
    }
}

impl<F> DeadlineFuture<F> {
    fn refused(error: Error, request_id: RequestId) -> Self {
        Self::Refused {
            error: Some(error),
            request_id,
        }
    }
}

impl<F, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            DeadlineProjection::Running {
                inner,
                sleep,
                request_id,
            } => {
                if let Poll::Ready(answer) = inner.poll(cx) {
                    return Poll::Ready(answer);
                }
                ready!(sleep.poll(cx));
                Poll::Ready(Ok(refusal(Error::DeadlineExceeded, request_id)))
            }
            DeadlineProjection::Refused { error, request_id } => {
                let error = error.take().unwrap_or(Error::DeadlineExceeded);
                Poll::Ready(Ok(refusal(error, request_id)))
            }
        }
    }
}

/// Reads `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2, "Timeout").
fn read_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else {
        return Ok(None);
    };
    let timeout = value.to_str().ok().and_then(parse_timeout);
    timeout.map(Some).ok_or_else(|| {
        Error::invalid(
            "grpc-timeout",
            "must be 1 to 8 digits and one of H, M, S, m, u, n",
        )
    })
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit());
    let n: u64 = is_number.then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_hours(n),
        "M" => Duration::from_mins(n),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_has_the_grammar_of_the_specification() {
        for (text, timeout) in [
            ("0n", Duration::ZERO),
            ("50m", Duration::from_millis(50)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("7S", Duration::from_secs(7)),
            ("2M", Duration::from_mins(2)),
            ("99999999H", Duration::from_hours(99_999_999)),
        ] {
            assert_eq!(parse_timeout(text), Some(timeout), "{text}");
        }
        for bad in [
            "",
            "m",
            "5",
            "5s",
            "-5m",
            "+5m",
            "5.0m",
            "123456789m",
            "5 m",
            "5ß",
        ] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
