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
//! | 410 | FAILED with `FULFILMENT_GONE`; the endpoint is asked no more until a restart |
//! | 3xx | FAILED with `FULFILMENT_REDIRECTED` |
//! | any other 4xx | FAILED with `FULFILMENT_REFUSED` and the reason the endpoint gave |
//!
//! Once the endpoint is gone, other orders are put off without a request, so that none is
//! failed for a defect of the configuration before somebody could look.
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
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{HeaderValue, header::CONTENT_TYPE};
use order_core::{Attempt, Clock, Effects, Order, Outcome, Processor, error_chain};
use reqwest::{Client, redirect};

use self::{
    answer::Answer,
    network::{AddressPolicy, CheckedResolver},
};
pub use self::{
    config::{FulfilmentConfig, FulfilmentConfigError, FulfilmentUrl},
    network::IpNetwork,
    signature::FulfilmentSecrets,
};

/// How long to wait for a connection, its TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection is kept for the next order. Shorter than the idle timeouts of
/// common servers, so that requests rarely meet a connection that is about to close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many idle connections are kept.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// How long an order is put off while the endpoint is gone: with the default of five
/// attempts, operators have an hour before the first order fails.
const GONE_PAUSE: Duration = Duration::from_mins(15);

/// Posts orders to the fulfilment endpoint.
///
/// # Cancel safety
/// A request whose future is dropped is cut off; the endpoint may have seen it, and sees
/// the same key with the next attempt.
pub struct HttpProcessor {
    config: FulfilmentConfig,
    client: Client,
    clock: Arc<dyn Clock>,
    /// The endpoint has answered 410.
    is_gone: AtomicBool,
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
            is_gone: AtomicBool::new(false),
        })
    }

    async fn post(&self, order: &Order, attempt: Attempt) -> Result<Answer, String> {
        let now = self.clock.now();
        let body = message::body(order, attempt, now).map_err(|error| error.to_string())?;
        // The prefix keeps the id apart from those of other events about the same order.
        let id = format!("fulfilment_{}", order.id);
        let timestamp_s = now.as_second();
        let signature = self.config.secrets.sign(&id, timestamp_s, &body);
        let request = self
            .client
            .post(self.config.url.as_url().clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("idempotency-key", format!("\"{}\"", order.id))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", signature)
            .body(body);
        let response = request
            .send()
            .await
            .map_err(|error| error_chain(&error.without_url()))?;
        Ok(Answer::read(response, now).await)
    }

    fn disable(&self) {
        if !self.is_gone.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the fulfilment endpoint answered 410 and is asked no more; \
                 correct FULFILMENT_URL and restart"
            );
        }
    }
}

#[async_trait]
impl Processor for HttpProcessor {
    fn effects(&self) -> Effects {
        Effects::Outside
    }

    async fn process(&self, order: &Order, attempt: Attempt) -> Outcome {
        if self.is_gone.load(Ordering::Relaxed) {
            return Outcome::Retry {
                error: "the endpoint is gone; it answered 410 to an earlier order".to_owned(),
                after: Some(GONE_PAUSE),
            };
        }
        match self.post(order, attempt).await {
            Ok(answer) => {
                if answer.is_gone() {
                    self.disable();
                }
                answer.into_outcome()
            }
            Err(error) => Outcome::Retry { error, after: None },
        }
    }
}
