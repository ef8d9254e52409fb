//! What producers, consumers and administration share: settings, log lines, errors, and the
//! topic that must exist.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use order_core::{BoxError, BrokerError};
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{sync::oneshot, time::timeout};
use tracing::{debug, info, warn};

use crate::kafka_url::KafkaUrl;

/// How long one question to the cluster may take, with the connection it needs.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a broker may leave a request unanswered before its connection counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The bounds of the pause between two attempts to reach one broker.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// A cluster with the one topic that is used in it.
#[derive(Clone)]
pub(super) struct Cluster {
    url: KafkaUrl,
    topic: String,
}

impl Cluster {
    pub(super) fn new(url: &KafkaUrl, topic: &str) -> Self {
        Self {
            url: url.clone(),
            topic: topic.to_owned(),
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// How many partitions the topic gets when it is created.
    pub(super) fn partitions(&self) -> usize {
        self.url.partitions().into()
    }

    /// Makes a client with these settings beyond those that all have.
    pub(super) fn client<T>(&self, settings: &[(&str, &str)]) -> Result<Detached<T>, BrokerError>
    where
        T: FromClientConfigAndContext<Context> + Send + Sync,
    {
        let context = Context::default();
        let mut config = ClientConfig::new();
        // Lines that are not wanted are not even made.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
            .set("bootstrap.servers", self.url.brokers())
            .set("client.id", "order-system")
            .set("socket.keepalive.enable", "true")
            .set(
                "socket.connection.setup.timeout.ms",
                millis(REQUEST_TIMEOUT),
            )
            .set("socket.timeout.ms", millis(SILENCE_MAX))
            .set("reconnect.backoff.ms", millis(RECONNECT_MIN))
            .set("reconnect.backoff.max.ms", millis(RECONNECT_MAX))
            // Topics are created with the partitions they need, or not at all.
            .set("allow.auto.create.topics", "false");
        if let Some(credentials) = self.url.credentials() {
            config
                .set("security.protocol", "SASL_PLAINTEXT")
                .set("sasl.mechanism", "PLAIN")
                .set("sasl.username", &credentials.user)
                .set("sasl.password", &credentials.password);
        }
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config
            .create_with_context(context.clone())
            .map(|client| Detached::new(client, context.clone()))
            .map_err(|error| self.error(error, &context))
    }

    /// Creates the topic unless it exists. Where we may not create topics, it has to exist
    /// already, which whoever uses it will see.
    ///
    /// # Cancel safety
    /// May be dropped; the topic is then created or not.
    pub(super) async fn create_topic(&self) -> Result<(), BrokerError> {
        let admin: Detached<AdminClient<Context>> = self.client(&[])?;
        let topic = NewTopic::new(
            &self.topic,
            self.url.partitions().into(),
            // As many copies as the cluster makes by default.
            TopicReplication::Fixed(-1),
        );
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        let result = match admin.create_topics([&topic], &options).await {
            Ok(results) => results.into_iter().next(),
            Err(error) => return Err(self.error(error, admin.context())),
        };
        match result {
            None | Some(Ok(_)) => info!(kafka.topic = self.topic, "created a topic"),
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((_, code))) if is_refusal(code) => {
                debug!(kafka.topic = self.topic, error = %code, "may not create a topic");
            }
            Some(Err((_, code))) => {
                return Err(self.error(KafkaError::AdminOp(code), admin.context()));
            }
        }
        Ok(())
    }

    /// What a failure means here. `context` is of the client that failed: where a broker
    /// cannot be used, an operation only learns that its time is up, the client why.
    pub(super) fn error(&self, error: KafkaError, context: &Context) -> BrokerError {
        let server = format!("kafka://{}", self.url.brokers());
        let cause = context.cause();
        let code = error.rdkafka_error_code();
        if let Some(reason) = cause.as_ref().and_then(Cause::refusal) {
            let source = reason.into();
            return BrokerError::Refused { server, source };
        }
        if code.is_some_and(is_refusal) {
            let source = describe(error);
            return BrokerError::Refused { server, source };
        }
        if code.is_some_and(is_absence) {
            let source = cause.map_or_else(|| describe(error), |cause| cause.reason.into());
            return BrokerError::Unreachable { server, source };
        }
        let source = describe(error);
        BrokerError::Failed { server, source }
    }
}

pub(super) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// The error as a source, without the value of a setting, which may be the password.
fn describe(error: KafkaError) -> BoxError {
    match error {
        KafkaError::ClientConfig(_, _, name, _) => format!("the setting {name} is refused").into(),
        other => other.into(),
    }
}

/// Whether somebody has to change a setting.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
            | RDKafkaErrorCode::IllegalSASLState
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}

/// Whether nobody answered, or nobody who is able to.
fn is_absence(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::TimedOutQueue
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::BrokerNotAvailable
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::NotEnoughReplicas
    )
}

/// What a client last said about its brokers.
#[derive(Clone)]
struct Cause {
    code: Option<RDKafkaErrorCode>,
    reason: String,
}

impl Cause {
    fn refusal(&self) -> Option<String> {
        self.code
            .is_some_and(is_refusal)
            .then(|| self.reason.clone())
    }
}

/// Passes on what a client says, and remembers its last trouble. Nothing that librdkafka
/// says has a password in it.
#[derive(Clone, Default)]
pub(super) struct Context {
    cause: Arc<Mutex<Option<Cause>>>,
}

impl Context {
    fn cause(&self) -> Option<Cause> {
        self.cause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                warn!(kafka.facility = facility, "{line}");
            }
            // Lost connections, above all: whoever uses the client hears of what matters.
            _ => debug!(kafka.facility = facility, "{line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(error = %error, "{reason}");
        let code = error.rdkafka_error_code();
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        // That all are gone says less than what was said about one of them.
        if cause.is_none() || code != Some(RDKafkaErrorCode::AllBrokersDown) {
            let reason = reason.to_owned();
            *cause = Some(Cause { code, reason });
        }
    }
}

impl ConsumerContext for Context {}

/// Whether the cluster does not know the topic, or lost it while it was in use.
pub(super) fn is_topic_missing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopicId
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::BrokerDestroy
        )
    )
}

/// A client that is dropped on a thread of its own: it says goodbye to the cluster first,
/// which blocks, and for long if nobody answers.
pub(super) struct Detached<T: Send + Sync + 'static> {
    // The order matters: the last reference is the one of the closer.
    client: Arc<T>,
    closer: Closer<T>,
    context: Context,
}

impl<T: Send + Sync + 'static> Detached<T> {
    fn new(client: T, context: Context) -> Self {
        let client = Arc::new(client);
        let closer = Closer(Some(Arc::clone(&client)));
        Self {
            client,
            closer,
            context,
        }
    }

    /// What the client said.
    pub(super) const fn context(&self) -> &Context {
        &self.context
    }

    /// Drops the client and waits for that, at most this long.
    pub(super) async fn close(self, limit: Duration) {
        let Self {
            client, mut closer, ..
        } = self;
        drop(client);
        // It goes on closing by itself if the time is up.
        let _closed_or_late = timeout(limit, closer.close()).await;
    }
}

impl<T: Send + Sync + 'static> Deref for Detached<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.client
    }
}

struct Closer<T: Send + Sync + 'static>(Option<Arc<T>>);

impl<T: Send + Sync + 'static> Closer<T> {
    /// Ends when the client is gone.
    fn close(&mut self) -> oneshot::Receiver<()> {
        let (closed, wait) = oneshot::channel();
        let client = self.0.take();
        // Without a thread it blocks here.
        let _started = thread::Builder::new()
            .name("kafka-close".to_owned())
            .spawn(move || {
                drop(client);
                let _nobody_may_wait = closed.send(());
            });
        wait
    }
}

impl<T: Send + Sync + 'static> Drop for Closer<T> {
    fn drop(&mut self) {
        if self.0.is_some() {
            drop(self.close());
        }
    }
}
