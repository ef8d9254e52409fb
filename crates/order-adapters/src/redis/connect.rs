//! Connections: making them, telling what went wrong with them, and sharing one.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use order_core::{BoxError, BrokerError};
use redis::{AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, aio::MultiplexedConnection};
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

/// Whether the connection is of no use after this error.
fn breaks_connection(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
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

    /// Runs commands in one round trip and ignores what they answer. If the server was
    /// restarted since the last call, they run again on a new connection.
    pub(super) async fn run(&self, commands: &Pipeline) -> Result<(), BrokerError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        timeout_at(deadline, self.try_run(commands))
            .await
            .unwrap_or_else(|_| Err(self.server.unreachable("it does not answer")))
    }

    async fn try_run(&self, commands: &Pipeline) -> Result<(), BrokerError> {
        let (mut connection, is_new) = self.connection().await?;
        let Err(error) = commands.query_async::<()>(&mut connection).await else {
            return Ok(());
        };
        if breaks_connection(&error) {
            self.forget().await;
        }
        if is_new || !error.is_connection_dropped() {
            return Err(self.server.error(&error));
        }
        let (mut connection, _) = self.connection().await?;
        let again = commands.query_async::<()>(&mut connection).await;
        if again.as_ref().is_err_and(breaks_connection) {
            self.forget().await;
        }
        again.map_err(|error| self.server.error(&error))
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
