//! One call: when it ends, and whether and where it is made again.

use std::{future::Future, sync::Arc, time::Duration};

use order_core::{CallContext, Clock, Deadline, Error};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};
use tonic_health::pb::health_client::HealthClient;

use super::{
    config::RpcClientConfig,
    connection::{Connection, is_unsent},
    endpoints::{Endpoints, Tried},
    outlier::Outcome,
    retry::{ATTEMPTS_MAX, RetryBudget, backoff, is_retryable},
    turn::{Rotate, Turns},
};
use crate::{
    REQUEST_ID_HEADER, RESPONSE_BYTES_MAX, TRACE_PARENT_HEADER,
    proto::order_service_client::OrderServiceClient, status::from_status,
};

/// Whether a call may be sent again when it is not known what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Harmless,
    /// Only if the process refused it because it stops, before it did anything.
    IfRefused,
    Never,
}

impl Repeat {
    const fn is_allowed_after(self, error: &Error) -> bool {
        match self {
            Self::Harmless => is_retryable(error),
            Self::IfRefused => matches!(error, Error::ShuttingDown { .. }),
            Self::Never => false,
        }
    }
}

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
    pub(super) rotate: Rotate,
    pub(super) send_deadline: SendDeadline,
}

impl From<Repeat> for Manner {
    /// As most calls are.
    fn from(repeat: Repeat) -> Self {
        Self {
            repeat,
            rotate: Rotate::EachCall,
            send_deadline: SendDeadline::Yes,
        }
    }
}

/// A replica that gives no answer in this time is in trouble, whatever it was asked. Calls
/// with less time say nothing about it.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// The calls themselves.
pub(super) struct Remote {
    endpoints: Arc<Endpoints>,
    turns: Turns,
    places: Semaphore,
    retry_budget: RetryBudget,
    deadline_default: Duration,
    clock: Arc<dyn Clock>,
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
            turns: Turns::new(),
            places: Semaphore::new(config.in_flight_max),
            retry_budget: RetryBudget::default(),
            deadline_default: config.deadline_default,
            clock: Arc::clone(clock),
        }
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
        manner: impl Into<Manner>,
        work: impl Fn(Attempt) -> W,
    ) -> Result<T, Error>
    where
        W: Future<Output = Result<Response<T>, Status>>,
    {
        let Manner {
            repeat,
            rotate,
            send_deadline,
        } = manner.into();
        let left = self.time_left(ctx.deadline)?;
        let deadline = Deadline::at(self.clock.instant() + left);
        let _place = self.places.try_acquire().map_err(|_| Error::overloaded())?;
        self.retry_budget.deposit();
        timeout(left, self.endpoints.looked_up())
            .await
            .map_err(|_| Error::DeadlineExceeded)?;
        let mut tried = Tried::default();
        let mut n_attempts = 0;
        loop {
            let left = self.time_left(deadline)?;
            let turn = self.turns.next(rotate, self.clock.instant());
            let may_probe = repeat == Repeat::Harmless;
            let choice = self.endpoints.pick(turn, &tried, may_probe)?;
            tried.push(choice.address());
            let attempt = Attempt::new(&choice.connection, ctx, left, send_deadline)?;
            let answer = timeout(left, work(attempt)).await;
            let status = match answer {
                Ok(Ok(response)) => {
                    choice.record(Outcome::Answered);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => {
                    if left >= SILENCE_MIN {
                        choice.record(Outcome::Failed);
                    }
                    return Err(Error::DeadlineExceeded);
                }
            };
            let is_unsent = is_unsent(&status);
            let (outcome, error) = read_failure(status);
            if is_unsent && tried.has_room() && self.endpoints.has_healthy() {
                continue;
            }
            if !is_unsent {
                choice.record(outcome);
            }
            n_attempts += 1;
            let delay = backoff(n_attempts, rand::random());
            let may_repeat = repeat.is_allowed_after(&error)
                && n_attempts < ATTEMPTS_MAX
                && delay < self.time_left(deadline)?
                && self.retry_budget.withdraw();
            if !may_repeat {
                return Err(error);
            }
            tracing::debug!(
                request.id = ctx.request_id.as_str(),
                error = error.chain(),
                "call is repeated"
            );
            tokio::time::sleep(delay).await;
        }
    }
}

/// What a failed call says about its address, and to the caller.
///
/// Everything the service itself answers has details, so UNAVAILABLE without any is of the
/// connection or of a proxy.
fn read_failure(status: Status) -> (Outcome, Error) {
    let is_transport = status.code() == Code::Unavailable && status.details().is_empty();
    let error = from_status(status);
    let outcome = match error {
        Error::ShuttingDown { .. } => Outcome::Draining,
        _ if is_transport => Outcome::Failed,
        _ => Outcome::Answered,
    };
    (outcome, error)
}

/// One try of one call.
pub(super) struct Attempt {
    connection: Connection,
    request_id: MetadataValue<Ascii>,
    trace_parent: Option<MetadataValue<Ascii>>,
    timeout: Option<Duration>,
}

impl Attempt {
    fn new(
        connection: &Connection,
        ctx: &CallContext,
        left: Duration,
        send_deadline: SendDeadline,
    ) -> Result<Self, Error> {
        Ok(Self {
            connection: connection.clone(),
            request_id: ctx.request_id.as_str().parse().map_err(Error::internal)?,
            trace_parent: ctx
                .trace_parent
                .as_ref()
                .map(|trace| trace.as_str().parse())
                .transpose()
                .map_err(Error::internal)?,
            timeout: (send_deadline == SendDeadline::Yes).then_some(left),
        })
    }

    pub(super) fn orders(&self) -> OrderServiceClient<Connection> {
        let origin = self.connection.origin().clone();
        OrderServiceClient::with_origin(self.connection.clone(), origin)
            .max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(super) fn health(&self) -> HealthClient<Connection> {
        let origin = self.connection.origin().clone();
        HealthClient::with_origin(self.connection.clone(), origin)
    }

    pub(super) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        let metadata = request.metadata_mut();
        metadata.insert(REQUEST_ID_HEADER, self.request_id.clone());
        if let Some(trace_parent) = &self.trace_parent {
            metadata.insert(TRACE_PARENT_HEADER, trace_parent.clone());
        }
        request
    }
}
