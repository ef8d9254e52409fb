//! Hands orders to an HTTP endpoint: the `http` processor.
//!
//! Each order is one signed `POST` (Standard Webhooks 1.0) whose `Idempotency-Key` and
//! `webhook-id` are the same however often it is repeated. The endpoint sees an order at
//! least once and tells repetitions by the key.
//!
//! # What the answer means
//! | answer | the order |
//! |---|---|
//! | 2xx | PROCESSED |
//! | 408, 425, 429, 5xx, no connection, no answer in time | retried, not before `Retry-After` |
//! | 410 | FAILED with `FULFILMENT_GONE`; other orders wait until the endpoint is back |
//! | 3xx | FAILED with `FULFILMENT_REDIRECTED` |
//! | any other 4xx | FAILED with `FULFILMENT_REFUSED` and the reason the endpoint gave |
//!
//! Once the endpoint is gone, other orders are postponed without a request and without
//! using up attempts, so that none fails for a defect of the configuration. One order at a
//! time is posted as a probe: after 15 seconds, then at growing intervals up to 15 minutes.
//! Any answer but 410 ends the pause.
//!
//! # Invariants
//! No redirect is followed, no proxy of the environment is used, and no address is
//! connected to that is neither public nor allowed by the operator (`network.rs`). What is
//! read of an answer is bounded. Neither a secret nor a body is ever logged.

mod answer;
mod config;
mod message;
mod network;
mod signature;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use order_core::{
    Attempt, Clock, Effects, Order, Outcome, Processor, TraceParent, error_chain,
    span::{Span, SpanKind},
};
use reqwest::{Client, redirect};

use self::{
    answer::Answer,
    network::{AddressPolicy, CheckedResolver},
};
pub use self::{
    config::{FulfilmentConfig, FulfilmentUrl},
    signature::FulfilmentSecrets,
};

/// A setting that breaks a rule. Never repeats the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct FulfilmentConfigError {
    /// The name of the setting, as operators know it.
    pub field: &'static str,
    /// The rule it broke.
    pub rule: String,
}

impl FulfilmentConfigError {
    fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Self {
            field,
            rule: rule.into(),
        }
    }
}

/// How long to wait for a connection, its TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection is kept for the next order. Shorter than the idle timeouts of
/// common servers, so that requests rarely meet a connection that is about to close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many idle connections are kept.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// The bounds of the pause before an endpoint that is gone is probed; it doubles each time.
const PROBE_PAUSE_MIN: Duration = Duration::from_secs(15);
const PROBE_PAUSE_MAX: Duration = Duration::from_mins(15);

/// Time for a probe beyond the timeout of its request.
const PROBE_MARGIN: Duration = Duration::from_secs(1);

/// An endpoint that has answered 410.
#[derive(Clone, Copy)]
struct Gone {
    /// When the next order is posted as a probe.
    probe_at: Instant,
    /// The pause after the next 410.
    pause: Duration,
}

/// Posts orders to the fulfilment endpoint.
///
/// # Cancel safety
/// A request whose future is dropped is cut off; the endpoint may have seen it, and sees
/// the same key with the next attempt.
pub struct HttpProcessor {
    config: FulfilmentConfig,
    client: Client,
    clock: Arc<dyn Clock>,
    /// `Some` while the endpoint is gone.
    gone: Mutex<Option<Gone>>,
}

impl HttpProcessor {
    /// Builds the processor. Connects to nothing yet.
    ///
    /// # Errors
    /// A timeout outside its limits; a URL whose host is an address that is neither public
    /// nor allowed; a TLS library that finds no root certificates.
    pub fn new(
        config: FulfilmentConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FulfilmentConfigError> {
        config.check()?;
        let policy = AddressPolicy::new(config.allowed_networks.clone());
        // Connectors ask no resolver about a literal address, and the URL never changes, so
        // it is checked here and once.
        if let Some(address) = config.url.literal_address() {
            policy.check(address).map_err(|error| {
                FulfilmentConfigError::new("FULFILMENT_URL", format!("must be public: {error}"))
            })?;
        }
        let client = Client::builder()
            .user_agent(concat!("order-system/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            // The retry policy of jobs is the only one.
            .retry(reqwest::retry::never())
            .dns_resolver(CheckedResolver(policy))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(config.timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build()
            .map_err(|error| {
                let rule = format!("cannot be used: {}", error_chain(&error));
                FulfilmentConfigError::new("FULFILMENT_URL", rule)
            })?;
        Ok(Self {
            config,
            client,
            clock,
            gone: Mutex::new(None),
        })
    }

    async fn post(&self, order: &Order, attempt: &Attempt) -> Result<Answer, String> {
        let now = self.clock.now();
        let body = message::body(order, attempt, now).map_err(|error| error.to_string())?;
        // The prefix keeps the id apart from those of other events about the same order.
        let id = format!("fulfilment_{}", order.id);
        let timestamp_s = now.as_second();
        let signature = self.config.secrets.sign(&id, timestamp_s, &body);
        let mut span = self.begin_span(attempt);
        let request = self
            .client
            .post(self.config.url.as_url().clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("idempotency-key", format!("\"{}\"", order.id))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", signature)
            .headers(trace_headers(span.position()))
            .body(body);
        let response = request.send().await.map_err(|error| {
            span.record(|span| span.fail("no_answer"));
            error_chain(&error.without_url())
        })?;
        let status = response.status();
        let answer = Answer::read(response, now).await;
        span.record(|span| {
            span.set("http.response.status_code", i64::from(status.as_u16()));
            if !status.is_success() {
                span.fail(status.as_str().to_owned());
            }
        });
        Ok(answer)
    }

    /// Begins the span of a request. Neither path nor query of the URL is told: they may be secret.
    fn begin_span(&self, attempt: &Attempt) -> Span {
        let mut span = Span::begin(attempt.trace_parent.as_ref(), "POST", SpanKind::Client);
        span.record(|span| {
            let url = self.config.url.as_url();
            span.set("http.request.method", "POST");
            span.set_some("server.address", url.host_str().map(str::to_owned));
            let port = url.port_or_known_default();
            span.set_some("server.port", port.map(i64::from));
        });
        span
    }

    fn gone(&self) -> MutexGuard<'_, Option<Gone>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an order may be posted, and is then the probe of an endpoint that is gone; else
    /// how long it has to wait.
    fn admit(&self) -> Result<bool, Duration> {
        let now = self.clock.instant();
        let mut gone = self.gone();
        let Some(gone) = gone.as_mut() else {
            return Ok(false);
        };
        let pause = gone.probe_at.saturating_duration_since(now);
        if !pause.is_zero() {
            return Err(pause);
        }
        // Whatever becomes of this probe, the next one follows when its time is over.
        gone.probe_at = now + self.config.timeout + PROBE_MARGIN;
        Ok(true)
    }

    /// Notes an answer. Returns how long the order has to wait if this is another 410 of an
    /// endpoint known to be gone, which says nothing about the order.
    fn note(&self, is_gone: bool, is_probe: bool) -> Option<Duration> {
        let mut gone = self.gone();
        if !is_gone {
            if gone.take().is_some() {
                tracing::info!("the fulfilment endpoint answers again");
            }
            return None;
        }
        let now = self.clock.instant();
        let Some(known) = gone.as_mut() else {
            tracing::error!(
                "the fulfilment endpoint answered 410; orders wait and it is probed at intervals: \
                 check FULFILMENT_URL"
            );
            *gone = Some(Gone {
                probe_at: now + PROBE_PAUSE_MIN,
                pause: PROBE_PAUSE_MIN * 2,
            });
            return None;
        };
        // Requests that were under way when the first 410 came do not lengthen the pause.
        if is_probe {
            known.probe_at = now + known.pause;
            known.pause = (known.pause * 2).min(PROBE_PAUSE_MAX);
        }
        Some(known.probe_at.saturating_duration_since(now))
    }
}

/// The headers by which the endpoint continues a trace (W3C Trace Context).
fn trace_headers(position: Option<&TraceParent>) -> HeaderMap {
    let fields = position.map(|trace| {
        let state = trace.state().map(|state| ("tracestate", state));
        [Some(("traceparent", trace.as_str())), state]
    });
    let fields = fields.into_iter().flatten().flatten();
    // Both hold only characters that a header value may have.
    let fields = fields.filter_map(|(name, value)| {
        let value = HeaderValue::from_str(value).ok()?;
        Some((HeaderName::from_static(name), value))
    });
    fields.collect()
}

fn postpone(after: Duration) -> Outcome {
    Outcome::Postpone {
        error: "the endpoint is gone: it answered 410".to_owned(),
        after,
    }
}

#[async_trait]
impl Processor for HttpProcessor {
    fn effects(&self) -> Effects {
        Effects::Outside
    }

    async fn process(&self, order: &Order, attempt: Attempt) -> Outcome {
        let is_probe = match self.admit() {
            Ok(is_probe) => is_probe,
            Err(pause) => return postpone(pause),
        };
        match self.post(order, &attempt).await {
            Ok(answer) => self
                .note(answer.is_gone(), is_probe)
                .map_or_else(|| answer.into_outcome(), postpone),
            Err(error) => Outcome::Retry { error, after: None },
        }
    }
}
