//! Redis against the contracts of its ports, and what only it promises.
//!
//! Tests share a server, each with a prefix of its own; those that break the server have
//! one for themselves.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests panic like the tests themselves"
)]

use std::time::Duration;

use order_adapters::redis::{RedisHintConfig, RedisHintQueue, RedisUrl};
use order_testkit::{
    server::{
        Backend,
        redis::{RedisServer, is_installed, shared},
    },
    skip,
};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use tokio::time::{Instant, sleep};

/// The value, or the end of the test as skipped.
macro_rules! available {
    ($value:expr) => {
        match $value.await {
            Backend::Available(value) => value,
            Backend::Unavailable(reason) => skip!("Redis: {reason}"),
        }
    };
}

mod errors;
mod events;
mod failover;
mod hints;
mod sink;

/// How long a condition may take to become true. Only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(20);

/// Redis itself, to see what the adapters do there.
struct Raw {
    url: String,
    connection: MultiplexedConnection,
}

impl Raw {
    async fn connect(url: &str) -> Self {
        // The driver does not know the parameters of this project.
        let url = url.split('?').next().unwrap().to_owned();
        let client = redis::Client::open(url.as_str()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        Self { url, connection }
    }

    /// Runs a command whose words have no spaces.
    async fn run<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut built = redis::cmd(words.next().unwrap());
        for word in words {
            built.arg(word);
        }
        let answer = built.query_async(&mut self.connection.clone()).await;
        answer.unwrap_or_else(|error| panic!("{} {command}: {error}", self.url))
    }

    async fn n_blocked_clients(&self) -> usize {
        let info: String = self.run("INFO clients").await;
        let line = info
            .lines()
            .find(|line| line.starts_with("blocked_clients"));
        line.unwrap()
            .split(':')
            .next_back()
            .unwrap()
            .parse()
            .unwrap()
    }
}

/// A URL on the shared server with a prefix that no other test has, and the prefix.
async fn private() -> Backend<(String, String)> {
    match shared().await {
        Backend::Available(server) => {
            let url = server.private_url();
            let prefix = url.rsplit_once("prefix=").unwrap().1.to_owned();
            Backend::Available((url, prefix))
        }
        Backend::Unavailable(reason) => Backend::Unavailable(reason),
    }
}

/// A server that belongs to one test.
async fn own_server(settings: &[(&str, &str)]) -> Backend<RedisServer> {
    match is_installed() {
        Ok(()) => Backend::Available(RedisServer::start(settings).await.unwrap()),
        Err(reason) => Backend::Unavailable(format!("{reason:#}")),
    }
}

fn parse(url: &str) -> RedisUrl {
    url.parse().expect("the url is valid")
}

/// A queue whose consumers do not wait long for those that are gone.
fn queue(url: &str) -> RedisHintQueue {
    let config = RedisHintConfig {
        redeliver_after: Duration::from_secs(2),
        claim_interval: Duration::from_millis(100),
        ..RedisHintConfig::default()
    };
    RedisHintQueue::new(&parse(url), config)
}

/// Waits until a condition holds.
async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
