//! What is particular to gRPC in the pipeline: the table of methods, statuses, `grpc-timeout` and
//! the levels of the access log.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request::Parts};
use http_body::Frame;
use http_body_util::Full;
use hyper::body::Incoming;
use order_core::{Clock, Error, IdGen, TraceParent, span::Record};
use order_edge::{
    Answer, CallStats,
    admission::{Admission, AdmissionConfig, BodyError, Refused},
    pipeline::{About, Call, Class, Content, Deadlines, End, Exchange, Facts, Pipeline},
    slots::share_of_one_address,
};
use prometheus_client::encoding::EncodeLabelSet;
use tonic::{Code, Status, body::Body};
use tower::Service;

use super::{RpcServerConfig, call::ACCESS_LOG, dispatch::Dispatch};
use crate::{
    REQUEST_BYTES_MAX, TRACE_PARENT_HEADER,
    status::{code_name, source_chain, to_status, too_long},
};

const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("grpc-timeout");
const TRACE_PARENT: HeaderName = HeaderName::from_static(TRACE_PARENT_HEADER);

/// What comes before a message: whether it is compressed, and its length.
const PREFIX_LEN: usize = 5;

const fn reads(name: &'static str) -> Facts {
    Facts {
        reads_body: true,
        ..Facts::new(name, name)
    }
}

const fn writes(name: &'static str) -> Facts {
    Facts {
        class: Class::Write,
        ..reads(name)
    }
}

/// Calls that are answered under any load.
const fn free(name: &'static str) -> Facts {
    Facts {
        class: Class::Free,
        may_stream: true,
        ..Facts::new(name, name)
    }
}

/// The heartbeats of processes.
const REPORT_PROCESS: Facts = Facts {
    may_stream: false,
    ..free("order.v1.AdminService/ReportProcess")
};

/// The methods of this server. Paths come from the caller, so the log takes its names from
/// here.
const METHODS: [Facts; 27] = [
    writes("order.v1.AdminService/UpdateStatus"),
    Facts {
        class: Class::List,
        ..reads("order.v1.AdminService/ListDeadLetters")
    },
    Facts {
        may_stream: true,
        ..writes("order.v1.AdminService/Redrive")
    },
    reads("order.v1.AdminService/GetOrderRecord"),
    reads("order.v1.AdminService/GetCluster"),
    // A process under load is the one to hear of.
    REPORT_PROCESS,
    writes("order.v1.AdminService/SetPaused"),
    writes("order.v1.OrderService/CreateOrder"),
    writes("order.v1.OrderService/BatchCreateOrders"),
    reads("order.v1.OrderService/GetOrder"),
    Facts {
        class: Class::List,
        ..reads("order.v1.OrderService/ListOrders")
    },
    writes("order.v1.OrderService/CancelOrder"),
    writes("order.v1.OrderService/UpdateStatus"),
    writes("order.v1.OrderService/RetryOrder"),
    reads("order.v1.OrderService/ListOrderEvents"),
    writes("order.v1.OrderService/CreateStreamTicket"),
    Facts {
        may_stream: true,
        ..reads("order.v1.OrderService/WatchOrders")
    },
    // A gateway follows the orders of all its clients; the streams have a limit of their own.
    free("order.v1.OrderService/Follow"),
    Facts {
        class: Class::Lease,
        ..reads("order.v1.WorkerService/Lease")
    },
    // What ends work goes before what begins it.
    reads("order.v1.WorkerService/Heartbeat"),
    reads("order.v1.WorkerService/Complete"),
    reads("order.v1.WorkerService/Fail"),
    reads("order.v1.WorkerService/Release"),
    free("grpc.health.v1.Health/Check"),
    free("grpc.health.v1.Health/Watch"),
    free("grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    free("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
];

/// Methods that do not exist, under the name OpenTelemetry gives them.
static OTHER: Facts = free("_OTHER");

fn facts_of(path: &str) -> &'static Facts {
    static FACTS: [Facts; METHODS.len()] = METHODS;
    let name = path.strip_prefix('/').unwrap_or(path);
    FACTS
        .iter()
        .find(|facts| facts.name == name)
        .unwrap_or(&OTHER)
}

/// The pipeline of a server with these limits.
pub(super) fn pipeline(
    config: &RpcServerConfig,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    stats: CallStats<RpcLabels>,
) -> Pipeline<RpcExchange> {
    let admission = AdmissionConfig {
        in_flight_max: config.in_flight_max,
        in_flight_per_address_max: share_of_one_address(config.in_flight_max),
        leases_max: config.leases_max,
        arriving_max: config.in_flight_max,
        arriving_per_address_max: share_of_one_address(config.in_flight_max),
        body_len_max: PREFIX_LEN + REQUEST_BYTES_MAX,
        // The deadline of the call ends it before that.
        body_timeout: config.deadline_max,
        bytes_max: AdmissionConfig::BYTES_MAX,
    };
    Pipeline {
        ids,
        clock,
        admission: Some(Admission::new(&admission)),
        deadlines: Some(Deadlines {
            default: config.deadline_default,
            max: config.deadline_max,
        }),
        stats: Some(stats),
    }
}

/// The services behind the pipeline.
#[derive(Clone)]
pub(super) struct Guarded {
    pub(super) pipeline: Arc<Pipeline<RpcExchange>>,
    pub(super) services: Dispatch,
}

impl Service<Request<Incoming>> for Guarded {
    type Response = Response<Answer<RpcExchange>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let Self { pipeline, services } = self.clone();
        Box::pin(async move {
            let facts = facts_of(request.uri().path());
            let handle = |call| async { Ok(services.answer(to_request(call)).await) };
            Ok(pipeline.run(facts, request, handle).await)
        })
    }
}

/// The request as its handler gets it.
fn to_request(call: Call<Incoming>) -> Request<Body> {
    let mut parts = call.parts;
    parts.extensions.insert(call.request_id);
    if let Some(trace_parent) = call.trace_parent {
        parts.extensions.insert(trace_parent);
    }
    let body = match call.content {
        Content::Whole(bytes) => Body::new(Full::new(bytes)),
        Content::Unread(body) => Body::new(body),
    };
    Request::from_parts(parts, body)
}

/// Why a call does not get to its handler.
pub(super) enum Rejection {
    /// For this reason.
    Error(Error),
    /// The message is too long.
    TooLong,
    /// The caller gave the call up, or its connection is lost.
    BrokenOff,
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Refused> for Rejection {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::Error(Error::overloaded()),
            Refused::Body(BodyError::TooLarge { .. }) => Self::TooLong,
            Refused::Body(BodyError::Timeout) => Self::Error(Error::DeadlineExceeded),
            Refused::Body(BodyError::Broken) => Self::BrokenOff,
        }
    }
}

/// The labels of a call over gRPC, by the semantic conventions of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RpcLabels {
    rpc_method: &'static str,
    rpc_response_status_code: &'static str,
}

/// One call. Without an answer it was given up by its caller, or lost its connection.
pub(super) struct RpcExchange {
    code: Code,
    source: Option<Status>,
    is_over: bool,
}

impl RpcExchange {
    fn finish(&mut self, code: Code) {
        if !self.is_over {
            self.code = code;
            self.is_over = true;
        }
    }
}

impl Exchange for RpcExchange {
    type Body = Body;
    type Rejection = Rejection;
    type Labels = RpcLabels;

    fn begin(_: &Facts, _: &Parts) -> Self {
        Self {
            code: Code::Cancelled,
            source: None,
            is_over: false,
        }
    }

    fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Rejection> {
        Ok(read_timeout(headers)?)
    }

    fn reject(&mut self, rejection: Rejection, about: &About) -> Response<Body> {
        let status = match rejection {
            Rejection::Error(error) => to_status(error, &about.request_id),
            Rejection::TooLong => too_long(REQUEST_BYTES_MAX, &about.request_id),
            Rejection::BrokenOff => Status::cancelled("the caller gave up the call"),
        };
        status.into_http()
    }

    fn answer(&mut self, response: &mut Response<Body>, about: &About) {
        // A rejection has its status in the headers, and tonic leaves the original here.
        if let Some(status) = response.extensions_mut().remove::<Status>() {
            self.finish(status.code());
            self.source = Some(status);
        }
        if let Some(trace_parent) = &about.trace_parent
            && let Ok(value) = HeaderValue::from_str(trace_parent.as_str())
        {
            response.headers_mut().insert(TRACE_PARENT, value);
        }
    }

    fn end(&mut self, end: End<'_>) {
        let code = match end {
            End::Trailers(trailers) => trailers
                .get(Status::GRPC_STATUS)
                .map(|value| Code::from_bytes(value.as_bytes())),
            // Without trailers the other side cannot know how the call went.
            End::Whole | End::Failed => None,
        };
        self.finish(code.unwrap_or(Code::Unknown));
    }

    fn broken(&mut self, error: Error, about: &About) -> Result<Frame<Bytes>, Status> {
        let status = to_status(error, &about.request_id);
        // Trailers bring the access log a code and no error.
        tracing::error!(
            request.id = about.request_id.as_str(),
            error = source_chain(&status),
            "stream panicked"
        );
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }

    fn labels(&self, about: &About) -> RpcLabels {
        RpcLabels {
            rpc_method: about.operation,
            rpc_response_status_code: code_name(self.code),
        }
    }

    fn describe(&self, about: &About, span: &mut Record<'_>) {
        span.set("rpc.system.name", "grpc");
        span.set("rpc.method", about.operation);
        span.set("rpc.response.status_code", code_name(self.code));
        span.set_some(
            "network.peer.address",
            about.peer.map(|peer| peer.ip().to_string()),
        );
        span.set("request.id", about.request_id.as_str().to_owned());
        // The other codes tell the client what it has done wrong.
        if matches!(
            self.code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ) {
            span.fail(code_name(self.code));
        }
    }

    fn log(&self, about: &About) {
        let error = self.source.as_ref().map(source_chain);
        let trace = about.trace_parent.as_ref();
        let duration_ms = about.elapsed().as_secs_f64() * 1_000.0;
        // The level has to be a constant of each call site.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: ACCESS_LOG,
                    $level,
                    rpc.method = about.operation,
                    rpc.response.status_code = code_name(self.code),
                    request.id = about.request_id.as_str(),
                    trace.id = trace.map(TraceParent::trace_id),
                    span.id = trace.map(TraceParent::span_id),
                    network.peer.address = about.peer.map(tracing::field::display),
                    duration_ms,
                    error,
                    "call finished"
                )
            };
        }
        match self.code {
            // One line every 2 s for each gateway would say nothing.
            Code::Ok if about.operation == REPORT_PROCESS.name => line!(tracing::Level::DEBUG),
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
                    assert_eq!(facts_of(&format!("/{name}")).name, name);
                    n_methods += 1;
                }
            }
        }
        assert_eq!(n_methods, 23);
        assert_eq!(facts_of("/order.v1.OrderService/Nope").name, OTHER.name);
    }

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
