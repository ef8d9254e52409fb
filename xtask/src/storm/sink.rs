//! A system outside that follows every event, and is killed and restarted at random.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use order_testkit::server::redis::RedisServer;
use rand::{RngExt as _, rngs::StdRng};
use redis::{
    AsyncCommands as _, AsyncConnectionConfig,
    streams::{StreamReadOptions, StreamReadReply},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{task::JoinSet, time::Instant};

use super::promise::{Database, Verdict};

/// The stream the services publish to.
const STREAM: &str = "orders";

/// Events that are read at once.
const BATCH: usize = 200;

/// How long a read waits for events, in milliseconds.
const BLOCK_MS: usize = 200;

/// How long an answer may take; longer than a read waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the consumer lives, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 200..2_000;

/// How long the last events may take to arrive when the storm is over.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(20);

/// The time between two looks at what has arrived.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What the consumer has seen, over all of its lives.
#[derive(Debug, Default)]
struct Seen {
    /// The newest version of each order that came with all before it.
    versions: HashMap<String, u64>,
    n_events: u64,
    n_again: u64,
    n_gaps: u64,
    first_gap: Option<String>,
}

/// The stream and what has been read from it.
pub(super) struct Sink {
    redis: RedisServer,
    /// Where the consumer writes down how far it has come.
    directory: TempDir,
    seen: Arc<Mutex<Seen>>,
}

/// A consumer that is killed and restarted. Dropping it ends it.
pub(super) struct Consumer {
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Sink {
    /// Starts a Redis of its own, which no storm wipes.
    pub(super) async fn start() -> anyhow::Result<Self> {
        Ok(Self {
            redis: RedisServer::start(&[]).await?,
            directory: tempfile::tempdir()?,
            seen: Arc::default(),
        })
    }

    /// The address of the stream, for `EVENT_SINK`.
    pub(super) fn url(&self) -> String {
        format!("{}/{STREAM}", self.redis.url())
    }

    /// Reads the stream from now on, with interruptions.
    pub(super) fn consume(&self, mut random: StdRng) -> Consumer {
        let (url, seen) = (self.redis.url(), Arc::clone(&self.seen));
        let position = self.directory.path().join("position");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut n_lives = 0_u64;
            loop {
                let life = Duration::from_millis(random.random_range(LIFE_MS));
                let reading = read(&url, position.clone(), &seen);
                // Whatever it is doing at that moment is cut off, as by a kill.
                match tokio::time::timeout(life, reading).await {
                    Ok(ended) => ended.with_context(|| format!("consumer, life {n_lives}"))?,
                    Err(_) => n_lives += 1,
                }
            }
        });
        Consumer { tasks }
    }

    /// Waits until everything that is stored has arrived, at most for some time, and finds
    /// what is missing.
    pub(super) async fn judge(
        &self,
        mut consumer: Consumer,
        database: &Database,
        verdict: &mut Verdict,
    ) -> anyhow::Result<()> {
        let stored = database.versions().await?;
        let begin = Instant::now();
        let n_missed = loop {
            if let Some(ended) = consumer.tasks.try_join_next() {
                ended??;
            }
            let n_missed = self.n_missed(&stored);
            if n_missed == 0 || begin.elapsed() > CATCH_UP_TIMEOUT {
                break n_missed;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let seen = Seen::lock(&self.seen);
        println!(
            "{} events read from the sink, {} of them again; caught up after {:.1} s",
            seen.n_events,
            seen.n_again,
            begin.elapsed().as_secs_f32()
        );
        verdict.must_be_none(n_missed, "events missing in the sink");
        verdict.must_be_none(seen.n_gaps, "events of the sink out of order");
        if let Some(gap) = &seen.first_gap {
            println!("  first: {gap}");
        }
        Ok(())
    }

    fn n_missed(&self, stored: &[(String, u32)]) -> u64 {
        let seen = Seen::lock(&self.seen);
        stored
            .iter()
            .map(|(order_id, version)| {
                let newest = seen.versions.get(order_id).copied().unwrap_or_default();
                u64::from(*version).saturating_sub(newest)
            })
            .sum()
    }
}

/// One life of the consumer: goes on where the one before had come to.
async fn read(url: &str, position: PathBuf, seen: &Mutex<Seen>) -> anyhow::Result<()> {
    let mut last = fs::read_to_string(&position).unwrap_or_else(|_| "0".to_owned());
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_TIMEOUT));
    let mut connection = redis::Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let options = StreamReadOptions::default().count(BATCH).block(BLOCK_MS);
    loop {
        let reply: Option<StreamReadReply> = connection
            .xread_options(&[STREAM], &[&last], &options)
            .await?;
        // Only now is the batch before given up: one that was taken when the consumer was
        // killed comes again. Replaced in one step, so that it is never half written.
        let next = position.with_extension("next");
        fs::write(&next, &last)?;
        fs::rename(&next, &position)?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys);
        for entry in entries.flat_map(|key| key.ids) {
            let event = entry
                .map
                .values()
                .filter_map(|value| redis::from_redis_value_ref::<String>(value).ok())
                .find_map(|text| serde_json::from_str::<Value>(&text).ok())
                .filter(|event| event.get("specversion").is_some())
                .with_context(|| format!("no CloudEvent in {:?}", entry.map))?;
            Seen::lock(seen).take(&event);
            last = entry.id;
        }
    }
}

impl Seen {
    fn lock(seen: &Mutex<Self>) -> MutexGuard<'_, Self> {
        seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, event: &Value) {
        let data = event.get("data");
        let field = |name: &str| data.and_then(|data| data.get(name));
        let order_id = field("order_id")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let version = field("version").and_then(Value::as_u64).unwrap_or_default();
        self.n_events += 1;
        let newest = self.versions.entry(order_id.to_owned()).or_default();
        if version <= *newest {
            self.n_again += 1;
        } else if version == *newest + 1 {
            *newest = version;
        } else {
            self.n_gaps += 1;
            let gap = format!("{event} after version {newest}");
            self.first_gap.get_or_insert(gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use order_testkit::skip;
    use serde_json::json;

    use super::*;

    fn seen(versions: &[u64]) -> Seen {
        let mut seen = Seen::default();
        for version in versions {
            seen.take(&json!({"data": {"order_id": "a", "version": version}}));
        }
        seen
    }

    #[test]
    fn an_event_that_comes_again_is_no_gap() {
        let seen = seen(&[1, 2, 1, 2, 3]);
        assert_eq!((seen.n_again, seen.n_gaps), (2, 0));
        assert_eq!(seen.versions.get("a"), Some(&3));
    }

    #[test]
    fn a_version_before_its_predecessor_is_a_gap() {
        let seen = seen(&[1, 3, 2]);
        assert_eq!((seen.n_again, seen.n_gaps), (0, 1));
    }

    #[tokio::test]
    async fn a_consumer_that_is_killed_goes_on_where_it_was() {
        const VERSIONS: u64 = 2_000;
        let redis = match RedisServer::start(&[]).await {
            Ok(redis) => redis,
            Err(error) => skip!("Redis: {error:#}"),
        };
        let url = redis.url();
        let mut connection = redis::Client::open(&*url)
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let mut pipe = redis::pipe();
        for version in 1..=VERSIONS {
            let event = json!({
                "specversion": "1.0", "data": {"order_id": "a", "version": version}
            });
            pipe.xadd(STREAM, "*", &[("event", event.to_string())])
                .ignore();
        }
        pipe.query_async::<()>(&mut connection).await.unwrap();

        let (directory, seen) = (tempfile::tempdir().unwrap(), Mutex::default());
        let position = directory.path().join("position");
        let newest = || Seen::lock(&seen).versions.get("a").copied();
        // Each life is cut off after one more event at least, so this ends.
        while newest() != Some(VERSIONS) {
            let before = newest();
            let progress = async {
                while newest() == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                ended = read(&url, position.clone(), &seen) => ended.unwrap(),
                () = progress => {}
            }
        }
        let seen = Seen::lock(&seen);
        assert_eq!(seen.n_gaps, 0);
        assert!(seen.n_again > 0, "a kill repeats what was not given up");
    }
}
