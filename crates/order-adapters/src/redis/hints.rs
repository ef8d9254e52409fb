//! Hints in a stream that one group of consumers shares.
//!
//! What is acknowledged is deleted, so the stream is as long as the backlog. What a consumer
//! got and did not acknowledge stays pending under its name, until another consumer finds it
//! there and takes it over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use order_core::{BrokerError, HintCapabilities, HintConsumer, HintQueue, OrderId};
use redis::{
    RedisError, RedisResult,
    aio::MultiplexedConnection,
    streams::{
        StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamPendingCountReply,
        StreamReadReply,
    },
};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    RedisUrl,
    connect::{RESPONSE_TIMEOUT, Server, SharedConnection},
};

/// The group that all processes share.
const GROUP: &str = "workers";

/// The field of an entry that holds the id of the order.
const FIELD: &str = "id";

/// About how many hints the stream holds. Older ones are lost: the store still has their
/// jobs.
const STREAM_LEN_MAX: usize = 100_000;

/// How long one read waits for hints.
const BLOCK: Duration = Duration::from_secs(2);

/// Adds hints. A script, so that a consumer that waits gets them all, not the first alone, and
/// one command with one answer, which costs far less than one for each hint.
const SEND: &str = r"
for i = 3, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', ARGV[2], ARGV[i])
end";

/// How long leaving the group may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many consumers that are gone are removed at once.
const FORGOTTEN_MAX: usize = 16;

/// How often one call makes the group that it finds missing.
const GROUPS_MAX: u32 = 3;

/// When consumers step in for others.
#[derive(Clone, Debug)]
pub struct RedisHintConfig {
    /// How long a hint is left to the consumer that got it. Default: 30 s.
    pub redeliver_after: Duration,
    /// How often a consumer looks for hints that others have left. Default: 5 s.
    pub claim_interval: Duration,
    /// How long a consumer that has nothing pending may be silent before it counts as gone
    /// and is removed. Default: 10 min.
    pub forget_after: Duration,
}

impl Default for RedisHintConfig {
    fn default() -> Self {
        Self {
            redeliver_after: Duration::from_secs(30),
            claim_interval: Duration::from_secs(5),
            forget_after: Duration::from_mins(10),
        }
    }
}

/// A [`HintQueue`] in the stream `{prefix}:jobs`.
pub struct RedisHintQueue {
    sender: SharedConnection,
    shared: Arc<Shared>,
}

/// What the consumers of a queue have in common.
struct Shared {
    server: Server,
    key: String,
    config: RedisHintConfig,
    n_foreign: AtomicU64,
}

impl RedisHintQueue {
    /// A queue that connects when it is used.
    pub fn new(url: &RedisUrl, config: RedisHintConfig) -> Self {
        Self {
            sender: SharedConnection::new(url.server.clone()),
            shared: Arc::new(Shared {
                server: url.server.clone(),
                key: format!("{}:jobs", url.prefix),
                config,
                n_foreign: AtomicU64::new(0),
            }),
        }
    }
}

#[async_trait]
impl HintQueue for RedisHintQueue {
    fn capabilities(&self) -> HintCapabilities {
        HintCapabilities {
            is_shared: true,
            redelivers: true,
        }
    }

    async fn send(&self, order_ids: &[OrderId]) -> Result<(), BrokerError> {
        if order_ids.is_empty() {
            return Ok(());
        }
        let mut commands = redis::pipe();
        let send = commands
            .cmd("EVAL")
            .arg(SEND)
            .arg(1)
            .arg(&self.shared.key)
            .arg(STREAM_LEN_MAX)
            .arg(FIELD);
        for order_id in order_ids {
            send.arg(order_id.to_string());
        }
        self.sender.run(&commands).await
    }

    fn consumer(&self) -> Box<dyn HintConsumer> {
        let now = Instant::now();
        Box::new(RedisHintConsumer {
            shared: Arc::clone(&self.shared),
            name: Uuid::from_u128(rand::random()).simple().to_string(),
            connection: None,
            unacknowledged: Vec::new(),
            claim_from: FIRST.to_owned(),
            claim_at: now,
            forget_at: now + jittered(self.shared.config.forget_after),
        })
    }

    fn n_foreign(&self) -> u64 {
        self.shared.n_foreign.load(Ordering::Relaxed)
    }
}

/// The place before the first entry of a stream.
const FIRST: &str = "0-0";

struct RedisHintConsumer {
    shared: Arc<Shared>,
    /// Nobody else has it.
    name: String,
    connection: Option<MultiplexedConnection>,
    /// Entries that were handed out.
    unacknowledged: Vec<String>,
    /// Where the search for left hints goes on, and when.
    claim_from: String,
    claim_at: Instant,
    /// When consumers that are gone are looked for.
    forget_at: Instant,
}

#[async_trait]
impl HintConsumer for RedisHintConsumer {
    async fn receive(&mut self, limit: usize) -> Result<Vec<OrderId>, BrokerError> {
        let limit = limit.max(1);
        let mut n_groups = 0;
        loop {
            // Taken out, so that a call that is dropped takes the connection with it: the
            // server would go on waiting on it, and give to nobody what then arrives.
            let mut connection = self.take_connection().await?;
            match self.read(&mut connection, limit).await {
                Ok(entries) => {
                    let hints = self.accept(&mut connection, entries).await;
                    let hints = hints.map_err(|error| self.shared.server.error(&error))?;
                    self.connection = Some(connection);
                    if !hints.is_empty() {
                        return Ok(hints);
                    }
                }
                Err(error) if is_without_group(&error) && n_groups < GROUPS_MAX => {
                    n_groups += 1;
                    self.create_group(&mut connection).await?;
                    self.connection = Some(connection);
                }
                Err(error) => return Err(self.shared.server.error(&error)),
            }
        }
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        if self.unacknowledged.is_empty() {
            return Ok(());
        }
        let mut connection = self.take_connection().await?;
        self.remove(&mut connection, &self.unacknowledged)
            .await
            .map_err(|error| self.shared.server.error(&error))?;
        self.unacknowledged.clear();
        self.connection = Some(connection);
        Ok(())
    }

    async fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            let _best_effort = timeout(CLOSE_TIMEOUT, self.leave(&mut connection)).await;
        }
        self.unacknowledged.clear();
    }
}

impl RedisHintConsumer {
    async fn take_connection(&mut self) -> Result<MultiplexedConnection, BrokerError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut connection = self.shared.server.connect().await?;
        connection.set_response_timeout(BLOCK + RESPONSE_TIMEOUT);
        self.create_group(&mut connection).await?;
        Ok(connection)
    }

    /// Makes the stream and the group, if they are not there. The group begins with the
    /// oldest entry.
    async fn create_group(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), BrokerError> {
        let created = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.shared.key)
            .arg(GROUP)
            .arg(FIRST)
            .arg("MKSTREAM")
            .exec_async(connection)
            .await;
        match created {
            Err(error) if error.code() != Some("BUSYGROUP") => {
                Err(self.shared.server.error(&error))
            }
            _ => Ok(()),
        }
    }

    /// Takes what others have left, if it is time to look for that, else what is new. Empty
    /// if nothing comes for a while.
    async fn read(
        &mut self,
        connection: &mut MultiplexedConnection,
        limit: usize,
    ) -> RedisResult<Vec<StreamId>> {
        if Instant::now() >= self.claim_at {
            let left = self.claim(connection, limit).await?;
            if !left.is_empty() {
                return Ok(left);
            }
        }
        let patience = self.claim_at.saturating_duration_since(Instant::now());
        // To Redis, 0 is for ever.
        let block = patience.clamp(Duration::from_millis(1), BLOCK);
        let reply: Option<StreamReadReply> = redis::cmd("XREADGROUP")
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.name)
            .arg("COUNT")
            .arg(limit)
            .arg("BLOCK")
            .arg(millis(block))
            .arg("STREAMS")
            .arg(&self.shared.key)
            .arg(">")
            .query_async(connection)
            .await?;
        let keys = reply.unwrap_or_default().keys;
        Ok(keys.into_iter().flat_map(|key| key.ids).collect())
    }

    async fn claim(
        &mut self,
        connection: &mut MultiplexedConnection,
        limit: usize,
    ) -> RedisResult<Vec<StreamId>> {
        let reply: StreamAutoClaimReply = redis::cmd("XAUTOCLAIM")
            .arg(&self.shared.key)
            .arg(GROUP)
            .arg(&self.name)
            .arg(millis(self.shared.config.redeliver_after))
            .arg(&self.claim_from)
            .arg("COUNT")
            .arg(limit)
            .query_async(connection)
            .await?;
        self.claim_from = reply.next_stream_id;
        if self.claim_from == FIRST {
            self.claim_at = Instant::now() + jittered(self.shared.config.claim_interval);
        }
        if Instant::now() >= self.forget_at {
            self.forget_others(connection).await?;
            self.forget_at = Instant::now() + jittered(self.shared.config.forget_after);
        }
        Ok(reply.claimed)
    }

    /// Removes consumers that are gone and have left nothing.
    async fn forget_others(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let reply: StreamInfoConsumersReply = redis::cmd("XINFO")
            .arg("CONSUMERS")
            .arg(&self.shared.key)
            .arg(GROUP)
            .query_async(connection)
            .await?;
        let silence = millis(self.shared.config.forget_after);
        let gone = reply.consumers.into_iter().filter(|consumer| {
            consumer.pending == 0 && consumer.idle as u64 > silence && consumer.name != self.name
        });
        for consumer in gone.take(FORGOTTEN_MAX) {
            self.delete_consumer(connection, &consumer.name).await?;
        }
        Ok(())
    }

    async fn delete_consumer(
        &self,
        connection: &mut MultiplexedConnection,
        name: &str,
    ) -> RedisResult<()> {
        redis::cmd("XGROUP")
            .arg("DELCONSUMER")
            .arg(&self.shared.key)
            .arg(GROUP)
            .arg(name)
            .exec_async(connection)
            .await
    }

    /// The hints in entries. What is no hint is removed, so that it does not come again.
    async fn accept(
        &mut self,
        connection: &mut MultiplexedConnection,
        entries: Vec<StreamId>,
    ) -> RedisResult<Vec<OrderId>> {
        let mut hints = Vec::with_capacity(entries.len());
        let mut accepted = Vec::with_capacity(entries.len());
        let mut foreign = Vec::new();
        for entry in entries {
            let text: Option<String> = entry.get(FIELD);
            if let Some(hint) = text.and_then(|text| text.parse().ok()) {
                hints.push(hint);
                accepted.push(entry.id);
            } else {
                foreign.push(entry.id);
            }
        }
        if !foreign.is_empty() {
            self.remove(connection, &foreign).await?;
            let n_foreign = &self.shared.n_foreign;
            n_foreign.fetch_add(foreign.len() as u64, Ordering::Relaxed);
        }
        // Last, so that nothing is acknowledged that is not handed out.
        self.unacknowledged.append(&mut accepted);
        // Whoever never acknowledges gets the oldest ones again.
        let excess = self.unacknowledged.len().saturating_sub(STREAM_LEN_MAX);
        self.unacknowledged.drain(..excess);
        Ok(hints)
    }

    async fn remove(
        &self,
        connection: &mut MultiplexedConnection,
        entries: &[String],
    ) -> RedisResult<()> {
        let mut commands = redis::pipe();
        let key = &self.shared.key;
        commands
            .cmd("XACK")
            .arg(key)
            .arg(GROUP)
            .arg(entries)
            .ignore();
        commands.cmd("XDEL").arg(key).arg(entries).ignore();
        commands.query_async(connection).await
    }

    async fn leave(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        if !self.unacknowledged.is_empty() {
            // Makes the entries look as old as they must be for others to take them over.
            redis::cmd("XCLAIM")
                .arg(&self.shared.key)
                .arg(GROUP)
                .arg(&self.name)
                .arg(0)
                .arg(&self.unacknowledged)
                .arg("IDLE")
                .arg(millis(self.shared.config.redeliver_after))
                .arg("JUSTID")
                .exec_async(connection)
                .await?;
        }
        // A read that was dropped may have left more pending than this consumer knows of.
        // Removing it would lose that.
        let pending: StreamPendingCountReply = redis::cmd("XPENDING")
            .arg(&self.shared.key)
            .arg(GROUP)
            .arg("-")
            .arg("+")
            .arg(1)
            .arg(&self.name)
            .query_async(connection)
            .await?;
        if pending.ids.is_empty() {
            self.delete_consumer(connection, &self.name).await?;
        }
        Ok(())
    }
}

/// Whether the stream or the group is gone, or went while this consumer waited for it.
fn is_without_group(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps consumers that started together from doing the same all at the same time.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::random_range(0.5..=1.0))
}
