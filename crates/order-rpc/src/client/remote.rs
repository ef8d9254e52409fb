//! One call: when it ends, and whether and where it is made again.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::Uri;
use order_core::{
    CallContext, Clock, Deadline, Error, RESPONSE_BYTES_MAX, TraceParent,
    metrics::{Durations, Family},
    span::{self, Span, SpanKind},
};
use prometheus_client::encoding::EncodeLabelSet;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};

use super::{
    config::RpcClientConfig,
    connection::{Channel, is_unsent},
    endpoint::Endpoint,
    endpoints::{Choice, Endpoints, Tried},
    outlier::Outcome,
    retry::{ATTEMPTS_MAX, Repeat, RetryBudget, backoff, is_retryable},
};
use crate::{
    GATEWAY_HEADER, REQUEST_ID_HEADER, TRACE_PARENT_HEADER, TRACE_STATE_HEADER,
    proto::{admin_service_client::AdminServiceClient, order_service_client::OrderServiceClient},
    status::{code_name, from_status},
};

/// How the deadline of a call is told to the service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SendDeadline {
    Yes,
    /// The deadline is about the beginning of a stream, which lives on after it.
    No,
}

/// How a call is made.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub(super) repeat: Repeat,
    pub(super) send_deadline: SendDeadline,
}

impl From<Repeat> for Manner {
    /// As most calls are.
    fn from(repeat: Repeat) -> Self {
        Self {
            repeat,
            send_deadline: SendDeadline::Yes,
        }
    }
}

/// A replica that gives no answer in this time is in trouble, whatever it was asked. A call that
/// is harmless to repeat is then sent to another replica too, and the first answer counts. The
/// first attempt goes on, so a call that is only slow loses nothing.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(1);

/// The calls themselves.
pub(super) struct Remote {
    pub(super) endpoints: Arc<Endpoints>,
    places: Semaphore,
    retry_budget: RetryBudget,
    deadline_default: Duration,
    gateway: Option<MetadataValue<Ascii>>,
    clock: Arc<dyn Clock>,
    stats: Family<AttemptLabels, Durations>,
}

/// The labels of an attempt to make a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    rpc_method: &'static str,
    rpc_response_status_code: &'static str,
}

/// The attempts of a call so far.
struct Progress {
    deadline: Deadline,
    tried: Tried,
    n_attempts: u32,
    /// How an attempt failed whose work may have been done nevertheless.
    unknown: Option<Error>,
}

impl Remote {
    /// Calls the `endpoints`.
    pub(super) fn new(
        config: &RpcClientConfig,
        endpoints: Arc<Endpoints>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            endpoints,
            places: Semaphore::new(config.in_flight_max),
            retry_budget: RetryBudget::default(),
            deadline_default: config.deadline_default,
            gateway: config.gateway.as_deref().and_then(|name| name.parse().ok()),
            clock: Arc::clone(clock),
            stats: Family::default(),
        }
    }

    /// Durations of attempts, by their outcome.
    pub(super) fn stats(&self) -> &Family<AttemptLabels, Durations> {
        &self.stats
    }

    /// The name of the process, if it is a gateway.
    pub(super) fn gateway(&self) -> Option<&str> {
        self.gateway.as_ref()?.to_str().ok()
    }

    fn observe(&self, (method, code): (&'static str, Code), begun_at: Instant, ctx: &CallContext) {
        let labels = AttemptLabels {
            rpc_method: method,
            rpc_response_status_code: code_name(code),
        };
        let duration = self.clock.instant().saturating_duration_since(begun_at);
        let attempts = self.stats.get_or_create(&labels);
        attempts.observe(duration, ctx.trace_parent.as_ref());
    }

    /// By which deadlines are measured.
    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The time that is left for the call. Work of the system for itself is limited too:
    /// the other side may never answer.
    pub(super) fn time_left(&self, deadline: Deadline) -> Result<Duration, Error> {
        match deadline.remaining(self.clock.instant()) {
            Some(Duration::ZERO) => Err(Error::DeadlineExceeded),
            Some(left) => Ok(left),
            None => Ok(self.deadline_default),
        }
    }

    /// Makes a call, if necessary and allowed several times and each time on another
    /// address if there is one, and bounds it by its deadline.
    pub(super) async fn call<T, W>(
        &self,
        ctx: &CallContext,
        method: &'static str,
        manner: impl Into<Manner>,
        work: impl Fn(Attempt) -> W,
    ) -> Result<T, Error>
    where
        W: Future<Output = Result<Response<T>, Status>>,
    {
        let left = self.time_left(ctx.deadline)?;
        let _place = self.places.try_acquire().map_err(|_| Error::overloaded())?;
        self.retry_budget.deposit();
        let progress = Progress {
            deadline: Deadline::at(self.clock.instant() + left),
            tried: Tried::default(),
            n_attempts: 0,
            unknown: None,
        };
        let begun_at = self.clock.instant();
        let attempts = self.attempt(ctx, method, progress, manner.into(), work);
        timeout(left, attempts).await.unwrap_or_else(|_| {
            self.observe((method, Code::DeadlineExceeded), begun_at, ctx);
            Err(Error::DeadlineExceeded)
        })
    }

    /// Makes attempts until one of them has the answer.
    async fn attempt<T, W>(
        &self,
        ctx: &CallContext,
        method: &'static str,
        mut progress: Progress,
        manner: Manner,
        work: impl Fn(Attempt) -> W,
    ) -> Result<T, Error>
    where
        W: Future<Output = Result<Response<T>, Status>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            let Choice { endpoint, channel } = self.endpoints.pick(&progress.tried).await?;
            progress.tried.push(endpoint.address);
            progress.n_attempts += 1;
            let left = self.time_left(progress.deadline)?;
            let mut span = begin_span(ctx, method, &endpoint);
            let request = (ctx, span.position());
            let mut attempt = Attempt::new(&endpoint, channel, request, left, manner)?;
            attempt.gateway.clone_from(&self.gateway);
            let answer = work(attempt);
            let answering = Arc::clone(&endpoint);
            let begun_at = self.clock.instant();
            running.push(async move {
                let answer = answer.await;
                let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
                self.observe((method, code), begun_at, ctx);
                end_span(&mut span, &answer);
                (answer, answering)
            });
            let mut is_slow = false;
            loop {
                let ended = tokio::select! {
                    biased;
                    Some(ended) = running.next() => ended,
                    () = sleep(ATTEMPT_TIME_MAX) => {
                        if !is_slow {
                            self.endpoints.record(&endpoint, Outcome::Failed);
                        }
                        is_slow = true;
                        if self.may_hedge(&progress, manner.repeat, &endpoint) {
                            break;
                        }
                        continue;
                    }
                };
                let (status, endpoint) = match ended {
                    (Ok(response), endpoint) => {
                        self.endpoints.record(&endpoint, Outcome::Answered);
                        return Ok(response.into_inner());
                    }
                    (Err(status), endpoint) => (status, endpoint),
                };
                let failed =
                    self.after_failure(ctx, &mut progress, manner.repeat, status, &endpoint);
                match failed.await {
                    Ok(()) => break,
                    // Another attempt may still succeed.
                    Err(error) if is_retryable(&error) && !running.is_empty() => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Whether a call that `endpoint` does not answer is made at another one as well.
    fn may_hedge(&self, progress: &Progress, repeat: Repeat, endpoint: &Endpoint) -> bool {
        repeat == Repeat::Harmless
            && progress.n_attempts < ATTEMPTS_MAX
            && self.endpoints.has_other(&progress.tried)
            && self.may_repeat(endpoint)
    }

    /// Whether a call that failed at `endpoint` may be sent again. The budget keeps retries from
    /// adding to an overload. The calls that were at an address when it was taken out of the
    /// rotation are not charged: others do their work in its place, and once.
    fn may_repeat(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.is_passed_over(endpoint) || self.retry_budget.withdraw()
    }

    /// Waits until the call may be attempted again.
    ///
    /// # Errors
    /// What the call is answered with, if it may not.
    async fn after_failure(
        &self,
        ctx: &CallContext,
        progress: &mut Progress,
        repeat: Repeat,
        status: Status,
        endpoint: &Endpoint,
    ) -> Result<(), Error> {
        let is_unsent = is_unsent(&status);
        let error = from_status(status);
        if is_unsent && progress.tried.has_room() {
            progress.n_attempts -= 1;
            return Ok(());
        }
        let is_failure = is_retryable(&error);
        let outcome = if is_failure {
            Outcome::Failed
        } else {
            Outcome::Answered
        };
        self.endpoints.record(endpoint, outcome);
        if repeat.may_be_own_work(&error)
            && let Some(unknown) = progress.unknown.take()
        {
            return Err(unknown);
        }
        let delay = backoff(progress.n_attempts, rand::random());
        if !is_failure
            || repeat == Repeat::Never
            || progress.n_attempts >= ATTEMPTS_MAX
            || delay >= self.time_left(progress.deadline)?
        {
            return Err(error);
        }
        sleep(delay).await;
        // After the pause: a connection that is lost is known to be by now.
        if !self.may_repeat(endpoint) {
            return Err(error);
        }
        tracing::debug!(
            request.id = ctx.request_id.as_str(),
            error = error.chain(),
            "call is repeated"
        );
        if !matches!(error, Error::ShuttingDown { .. }) {
            progress.unknown = Some(error);
        }
        Ok(())
    }
}

/// Begins the span of one try of one call.
fn begin_span(ctx: &CallContext, method: &'static str, endpoint: &Endpoint) -> Span {
    let mut span = Span::begin(ctx.trace_parent.as_ref(), method, SpanKind::Client);
    span.record(|span| {
        span.set("rpc.system.name", "grpc");
        span.set("rpc.method", method);
        span.set_some("server.address", endpoint.origin.host().map(str::to_owned));
        let address = endpoint.address;
        span.set("network.peer.address", address.ip().to_string());
        span.set("network.peer.port", i64::from(address.port()));
    });
    span
}

fn end_span<T>(span: &mut Span, answer: &Result<T, Status>) {
    span.record(|span| {
        let code = code_name(answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
        span.set("rpc.response.status_code", code);
        if answer.is_err() {
            span.fail(code);
        }
    });
}

/// One try of one call.
pub(super) struct Attempt {
    channel: Channel,
    origin: Uri,
    request_id: MetadataValue<Ascii>,
    trace_parent: Option<MetadataValue<Ascii>>,
    trace_state: Option<MetadataValue<Ascii>>,
    gateway: Option<MetadataValue<Ascii>>,
    timeout: Option<Duration>,
}

impl Attempt {
    pub(super) fn new(
        endpoint: &Endpoint,
        channel: Channel,
        (ctx, trace): (&CallContext, Option<&TraceParent>),
        left: Duration,
        manner: Manner,
    ) -> Result<Self, Error> {
        let value = |text: &str| text.parse().map_err(Error::internal);
        let trace = trace.cloned();
        let trace = trace.or_else(|| span::unsampled(rand::random(), rand::random()));
        let trace = trace.as_ref();
        let trace_state = trace.and_then(TraceParent::state);
        Ok(Self {
            channel,
            origin: endpoint.origin.clone(),
            request_id: value(ctx.request_id.as_str())?,
            trace_parent: trace.map(|trace| value(trace.as_str())).transpose()?,
            trace_state: trace_state.map(value).transpose()?,
            gateway: None,
            timeout: (manner.send_deadline == SendDeadline::Yes).then_some(left),
        })
    }

    pub(super) fn orders(&self) -> OrderServiceClient<Channel> {
        OrderServiceClient::with_origin(self.channel.clone(), self.origin.clone())
            .max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(super) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::with_origin(self.channel.clone(), self.origin.clone())
            .max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(super) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        let metadata = request.metadata_mut();
        metadata.insert(REQUEST_ID_HEADER, self.request_id.clone());
        for (name, value) in [
            (TRACE_PARENT_HEADER, &self.trace_parent),
            (TRACE_STATE_HEADER, &self.trace_state),
            (GATEWAY_HEADER, &self.gateway),
        ] {
            if let Some(value) = value {
                metadata.insert(name, value.clone());
            }
        }
        request
    }
}
