//! The clients that post orders, and what they were told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

/// How long a client waits for an answer; longer than the gateway takes to give up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a client repeats a post. Nothing is down for so long.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a client waits before it repeats a post.
const PAUSE: Duration = Duration::from_millis(50);

/// Posts under way at the same time; more wait for these. Far more than it takes while
/// everything answers, and below what a gateway accepts from one address.
const IN_FLIGHT_MAX: usize = 900;

/// Users the orders are spread over.
const USERS: usize = 64;

/// How often a client posts an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tries {
    /// Until it is acknowledged, by one gateway after the other with the same key.
    UntilAcknowledged,
    /// Once: whatever else comes back is a failure.
    One,
}

/// What the clients were told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The id of every order that was acknowledged, one for each post.
    pub(super) acknowledged: Vec<String>,
    /// Every other answer and broken connection, by what it was.
    pub(super) refusals: BTreeMap<String, u64>,
    /// Orders that were offered.
    pub(super) n_offered: u64,
    /// Orders that were never acknowledged.
    pub(super) n_given_up: u64,
    /// Acknowledgements that repeated an earlier one that did not arrive.
    pub(super) n_replayed: u64,
    /// The other acknowledgements, and the time of the last of them.
    pub(super) n_created: u64,
    pub(super) created_at: Option<Instant>,
    /// The time of the last refusal.
    pub(super) refused_at: Option<Instant>,
}

/// Posts orders at a steady rate.
pub(super) struct Posts {
    client: Client<HttpConnector, Full<Bytes>>,
    urls: Vec<String>,
    tries: Tries,
    ledger: Mutex<Ledger>,
    is_paused: AtomicBool,
    is_over: AtomicBool,
}

/// An acknowledgement, or what came instead of it.
enum Answer {
    Created { order_id: String, is_replay: bool },
    Refused { why: String, is_final: bool },
}

impl Posts {
    /// Clients of these addresses of `/orders`.
    pub(super) fn new(urls: Vec<String>, tries: Tries) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(10))
                .build_http(),
            urls,
            tries,
            ledger: Mutex::default(),
            is_paused: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    /// Offers no orders for a while; clients go on repeating what was not acknowledged.
    pub(super) fn pause(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// Offers no more orders.
    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// What was answered so far.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers `rate` orders per second until told to stop, and waits for what is under way.
    /// Acknowledged orders go to `watched` as far as there is room.
    pub(super) async fn offer(
        self: Arc<Self>,
        rate: u32,
        watched: mpsc::Sender<String>,
    ) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        // What could not be offered in time is made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut posts = JoinSet::new();
        let mut n = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            ticks.tick().await;
            if self.is_paused.load(Ordering::Relaxed) {
                continue;
            }
            while posts.len() >= IN_FLIGHT_MAX {
                join_one(&mut posts).await?;
            }
            while let Some(post) = posts.try_join_next() {
                post??;
            }
            posts.spawn(Arc::clone(&self).post(n, watched.clone()));
            self.ledger().n_offered += 1;
            n += 1;
        }
        while !posts.is_empty() {
            join_one(&mut posts).await?;
        }
        Ok(())
    }

    async fn post(self: Arc<Self>, n: usize, watched: mpsc::Sender<String>) -> anyhow::Result<()> {
        let deadline = Instant::now() + ACKNOWLEDGE_TIMEOUT;
        for url in self.urls.iter().cycle().skip(n % self.urls.len()) {
            match self.try_once(url, n).await? {
                Answer::Created {
                    order_id,
                    is_replay,
                } => {
                    // Full means that enough orders are watched.
                    let _full = watched.try_send(order_id.clone());
                    let mut ledger = self.ledger();
                    if is_replay {
                        ledger.n_replayed += 1;
                    } else {
                        ledger.n_created += 1;
                        ledger.created_at = Some(Instant::now());
                    }
                    ledger.acknowledged.push(order_id);
                    return Ok(());
                }
                Answer::Refused { why, is_final } => {
                    let mut ledger = self.ledger();
                    *ledger.refusals.entry(why).or_default() += 1;
                    ledger.refused_at = Some(Instant::now());
                    if is_final || self.tries == Tries::One || Instant::now() >= deadline {
                        ledger.n_given_up += 1;
                        return Ok(());
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn try_once(&self, url: &str, n: usize) -> anyhow::Result<Answer> {
        let user = n % USERS;
        let body =
            format!(r#"{{"user_id":"storm-{user}","amount":100,"metadata":{{"post":"{n}"}}}}"#);
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", format!("post-{n}"))
            .body(Full::from(body))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            let is_replay = response.headers().contains_key("idempotent-replayed");
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, is_replay, body))
        };
        let broken = |why: String| Answer::Refused {
            why,
            is_final: false,
        };
        let (status, is_replay, body) = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Ok(broken(format!("no answer: {error:#}"))),
            Err(_) => return Ok(broken(format!("no answer within {ANSWER_TIMEOUT:?}"))),
        };
        let text = |name: &str| -> Option<String> {
            let body: Value = serde_json::from_slice(&body).ok()?;
            Some(body.get(name)?.as_str()?.to_owned())
        };
        if status == StatusCode::CREATED {
            let order_id = text("order_id").context("an answer without order_id")?;
            return Ok(Answer::Created {
                order_id,
                is_replay,
            });
        }
        let is_refused_for_now = status.is_server_error() || status == StatusCode::CONFLICT;
        Ok(Answer::Refused {
            why: format!("{} {}", status.as_u16(), text("code").unwrap_or_default()),
            is_final: !is_refused_for_now,
        })
    }
}

async fn join_one(posts: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    match posts.join_next().await {
        Some(post) => post?,
        None => Ok(()),
    }
}
