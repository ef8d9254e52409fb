//! One line per call, written when the call is over, whatever ends it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, combinators::MapErr};
use order_core::{RequestId, TraceParent};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::{Connection, request_id_of};
use crate::status::source_chain;

/// The methods of this server. Paths come from the caller, so the log takes its names from
/// here.
pub(crate) const METHODS: [&str; 18] = [
    "order.v1.OrderService/CreateOrder",
    "order.v1.OrderService/BatchCreateOrders",
    "order.v1.OrderService/GetOrder",
    "order.v1.OrderService/ListOrders",
    "order.v1.OrderService/CancelOrder",
    "order.v1.OrderService/UpdateStatus",
    "order.v1.OrderService/RetryOrder",
    "order.v1.OrderService/ListOrderEvents",
    "order.v1.OrderService/CreateStreamTicket",
    "order.v1.OrderService/WatchOrders",
    "order.v1.WorkerService/Lease",
    "order.v1.WorkerService/Heartbeat",
    "order.v1.WorkerService/Complete",
    "order.v1.WorkerService/Fail",
    "order.v1.WorkerService/Release",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// The name OpenTelemetry gives to methods that do not exist.
const METHOD_OTHER: &str = "_OTHER";

/// Writes the line.
#[derive(Clone, Copy)]
pub(crate) struct AccessLogLayer;

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLogService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessLogService { inner }
    }
}

/// Notes that the body of a request failed, and passes the error on.
type NoteError<B> = Box<dyn FnMut(<B as Body>::Error) -> <B as Body>::Error + Send>;

/// See [`AccessLogLayer`].
#[derive(Clone)]
pub(crate) struct AccessLogService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for AccessLogService<S>
where
    S: Service<Request<MapErr<B, NoteError<B>>>, Response = Response<R>>,
    B: Body,
{
    type Response = Response<LoggedBody<R>>;
    type Error = S::Error;
    type Future = AccessLogFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_broken_off = Arc::new(AtomicBool::new(false));
        let call = Call {
            method: method(request.uri().path()),
            request_id: request_id_of(request.extensions()),
            trace_parent: request.extensions().get().cloned(),
            connection: request.extensions().get::<Arc<Connection>>().cloned(),
            started: Instant::now(),
            // A call without an answer was given up by its caller, or lost its connection.
            code: Code::Cancelled,
            source: None,
            is_broken_off: Arc::clone(&is_broken_off),
        };
        let request = request.map(|body| {
            let note: NoteError<B> = Box::new(move |error| {
                is_broken_off.store(true, Ordering::Relaxed);
                error
            });
            body.map_err(note)
        });
        AccessLogFuture {
            inner: self.inner.call(request),
            call: Some(call),
        }
    }
}

fn method(path: &str) -> &'static str {
    let name = path.strip_prefix('/').unwrap_or(path);
    METHODS
        .into_iter()
        .find(|method| *method == name)
        .unwrap_or(METHOD_OTHER)
}

/// A call under way. Dropping it ends it and writes the line.
struct Call {
    method: &'static str,
    request_id: RequestId,
    trace_parent: Option<TraceParent>,
    connection: Option<Arc<Connection>>,
    started: Instant,
    code: Code,
    source: Option<Status>,
    /// The request broke off: its caller gave it up, or its connection is lost. To what reads
    /// it that is the same as a malformed one.
    is_broken_off: Arc<AtomicBool>,
}

impl Drop for Call {
    fn drop(&mut self) {
        // What became of half a request is nobody's fault but the caller's, who is gone.
        if self.is_broken_off.load(Ordering::Relaxed) {
            self.code = Code::Cancelled;
        }
        let error = self.source.as_ref().map(source_chain);
        let peer = self.connection.as_ref().map(|connection| connection.peer);
        let trace_id = self.trace_parent.as_ref().map(TraceParent::trace_id);
        let duration_ms = self.started.elapsed().as_secs_f64() * 1_000.0;
        // The level has to be a constant of each call site.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    rpc.method = self.method,
                    rpc.response.status_code = code_name(self.code),
                    request.id = self.request_id.as_str(),
                    trace.id = trace_id,
                    network.peer.address = peer.map(tracing::field::display),
                    duration_ms,
                    error,
                    "call finished"
                )
            };
        }
        match self.code {
            Code::Internal | Code::Unknown | Code::DataLoss => line!(tracing::Level::ERROR),
            Code::Unavailable | Code::DeadlineExceeded => line!(tracing::Level::WARN),
            Code::Ok
            | Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => line!(tracing::Level::INFO),
        }
    }
}

/// The name of a code in the gRPC specification.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

pin_project! {
    /// Ends the call where the answer is a refusal, else leaves that to the body.
    pub(crate) struct AccessLogFuture<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F, R, E> Future for AccessLogFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<LoggedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let mut call = this.call.take();
        Poll::Ready(answer.map(|mut response| {
            // A refusal has its status in the headers, and tonic leaves the original here.
            if let Some(status) = response.extensions_mut().remove::<Status>()
                && let Some(mut call) = call.take()
            {
                call.code = status.code();
                call.source = Some(status);
            }
            response.map(|inner| LoggedBody { inner, call })
        }))
    }
}

pin_project! {
    /// Ends the call with the trailers.
    pub(crate) struct LoggedBody<B> {
        #[pin]
        inner: B,
        call: Option<Call>,
    }
}

impl<B: Body> Body for LoggedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code_of)
                    && let Some(mut call) = this.call.take()
                {
                    call.code = code;
                }
            }
            Some(Err(_)) | None => {
                // Without trailers the other side cannot know how the call went.
                if let Some(mut call) = this.call.take() {
                    call.code = Code::Unknown;
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn code_of(trailers: &HeaderMap) -> Option<Code> {
    trailers
        .get(Status::GRPC_STATUS)
        .map(|value| Code::from_bytes(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn log_knows_every_method_of_the_contract() {
        let files = FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).expect("valid");
        let mut n_methods = 0;
        for file in files.file {
            for service in &file.service {
                for rpc in &service.method {
                    let name = format!("{}.{}/{}", file.package(), service.name(), rpc.name());
                    assert_eq!(method(&format!("/{name}")), name);
                    n_methods += 1;
                }
            }
        }
        assert_eq!(n_methods, 15);
        assert_eq!(method("/order.v1.OrderService/Nope"), METHOD_OTHER);
    }
}
