//! Connections: making them, telling what went wrong with them, and sharing one.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use order_core::{BoxError, BrokerError};
use redis::{
    AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

/// How long a connection may take until it can be used.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer may take. Redis answers in well under a millisecond.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a call on a shared connection may take, with its wait for a connection that
/// another call is making.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// What Redis answers, by its first word, to somebody it does not let in.
const REFUSALS: &[&str] = &["WRONGPASS", "NOAUTH", "NOPERM", "DENIED"];

/// What Redis answers, by its first word, if the server is sound and the command is at
/// fault: a key of another type, a missing privilege, a group that is missing or exists.
const COMMAND_ERRORS: &[&str] = &["WRONGTYPE", "NOPERM", "NOGROUP", "BUSYGROUP"];

/// Why a server that answers cannot be used after a failover.
const REPLICA: &str = "it is a replica";

/// A Redis and how to reach it.
#[derive(Clone)]
pub(super) struct Server {
    client: redis::Client,
    name: Arc<str>,
}

impl Server {
    pub(super) fn new(client: redis::Client, name: String) -> Self {
        let name = name.into();
        Self { client, name }
    }

    /// Scheme, host and port.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    #[cfg(test)]
    pub(super) fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, BrokerError> {
        self.connect_with(AsyncConnectionConfig::new()).await
    }

    /// Connects with what else `config` says, within [`CONNECT_TIMEOUT`].
    pub(super) async fn connect_with(
        &self,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, BrokerError> {
        let config = config
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| self.error(&error))
    }

    /// What an error means to whoever uses the broker.
    pub(super) fn error(&self, error: &RedisError) -> BrokerError {
        let server = self.name.to_string();
        // As text: the error of the driver says the same once more as its own source.
        let source: BoxError = error.to_string().into();
        if is_refusal(error) {
            BrokerError::Refused { server, source }
        } else if error.is_io_error() {
            BrokerError::Unreachable { server, source }
        } else {
            BrokerError::Failed { server, source }
        }
    }

    /// Fails if the server at the other end is a replica: it takes no writes, and publishes
    /// to its own subscribers only. HELLO tells, and every client may send it.
    pub(super) async fn check_role(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), BrokerError> {
        let answer: Value = redis::cmd("HELLO")
            .query_async(connection)
            .await
            .map_err(|error| self.error(&error))?;
        if is_replica(&answer) {
            return Err(self.unreachable(REPLICA));
        }
        Ok(())
    }

    pub(super) fn unreachable(&self, why: &'static str) -> BrokerError {
        BrokerError::Unreachable {
            server: self.name.to_string(),
            source: why.into(),
        }
    }
}

fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| REFUSALS.contains(&code))
        || is_tls_failure(error)
}

/// Whether the other side's TLS, which includes its certificate, is not accepted.
fn is_tls_failure(error: &RedisError) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>())
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// Whether to connect again after this error. A server that lost its role, its data or its
/// password keeps its connections and answers READONLY, LOADING, MASTERDOWN or NOAUTH, inside
/// a script or a transaction also ERR or EXECABORT; a new connection resolves the name again.
fn breaks_connection(error: &RedisError) -> bool {
    !error
        .code()
        .is_some_and(|code| COMMAND_ERRORS.contains(&code))
}

/// Whether this is the answer to HELLO of a replica.
fn is_replica(answer: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::BulkString(text) => String::from_utf8(text.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    };
    let Value::Map(entries) = answer else {
        return false;
    };
    entries.iter().any(|(name, value)| {
        text(name).as_deref() == Some("role")
            && matches!(text(value).as_deref(), Some("replica" | "slave"))
    })
}

/// A connection that concurrent calls share, made by the first of them and anew after an
/// error.
pub(super) struct SharedConnection {
    server: Server,
    current: Mutex<Option<MultiplexedConnection>>,
}

impl SharedConnection {
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            current: Mutex::new(None),
        }
    }

    /// Runs commands in one round trip and ignores their answers, except that a HELLO among
    /// them fails on a replica. If the connection turns out to be broken, or to lead to a
    /// server that no longer takes commands, they run again on a new connection.
    pub(super) async fn run(&self, commands: &Pipeline) -> Result<(), BrokerError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        timeout_at(deadline, self.try_run(commands))
            .await
            .unwrap_or_else(|_| Err(self.server.unreachable("it does not answer")))
    }

    async fn try_run(&self, commands: &Pipeline) -> Result<(), BrokerError> {
        let mut may_repeat = true;
        loop {
            let (mut connection, is_new) = self.connection().await?;
            let answers = commands.query_async::<Vec<Value>>(&mut connection).await;
            let error = match answers {
                Ok(answers) if answers.iter().any(is_replica) => {
                    self.forget().await;
                    self.server.unreachable(REPLICA)
                }
                Ok(_) => return Ok(()),
                Err(error) => {
                    let is_broken = breaks_connection(&error);
                    if is_broken {
                        self.forget().await;
                    }
                    // A server that does not answer in time is not asked twice.
                    may_repeat &= is_broken && !error.is_timeout();
                    self.server.error(&error)
                }
            };
            if is_new || !may_repeat {
                return Err(error);
            }
            may_repeat = false;
        }
    }

    /// The connection, and whether this call made it.
    async fn connection(&self) -> Result<(MultiplexedConnection, bool), BrokerError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &*current {
            return Ok((connection.clone(), false));
        }
        let connection = self.server.connect().await?;
        Ok((current.insert(connection).clone(), true))
    }

    /// Has the next call connect. If another call has done so already, the calls that share
    /// its connection keep it until they are done.
    async fn forget(&self) {
        *self.current.lock().await = None;
    }
}
