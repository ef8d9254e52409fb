//! From names to addresses, again and again.
//!
//! Invariant: an address leaves the rotation only because a lookup that succeeded no longer
//! has it. A lookup that fails, or finds nothing, changes nothing.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use http::Uri;
use order_core::{BoxError, supervisor::Beat};
use tokio::{
    net::lookup_host,
    time::{sleep, timeout},
};

use super::{
    config::Target,
    endpoints::{Endpoints, ResolveFailed},
};

/// How far the pauses between lookups are apart, as a part of the configured one: ± 10 %, so
/// that the clients of a name do not ask for it at the same time.
const INTERVAL_SPREAD: f64 = 0.2;

/// Lookups that failed calls ask for are at least this part of the interval apart.
const HURRY_DIVISOR: u32 = 5;

/// Finds the addresses behind the names of the service.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of `host`, which is a name or an IP address without brackets, each
    /// with `port`. The order has no meaning.
    ///
    /// # Errors
    /// Whatever keeps it from knowing; the addresses known before are used on.
    ///
    /// # Cancel safety
    /// The future is dropped when it takes longer than the connect timeout.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Asks the operating system.
#[derive(Debug)]
pub(super) struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }
}

/// Keeps the endpoints up to date.
pub(super) struct Resolver {
    pub(super) resolve: Arc<dyn Resolve>,
    pub(super) endpoints: Arc<Endpoints>,
    /// The names, each with what was found last.
    pub(super) names: Vec<(Target, Vec<SocketAddr>)>,
    /// Between two lookups of a name.
    pub(super) interval: Duration,
    /// For one lookup.
    pub(super) timeout: Duration,
}

impl Resolver {
    /// Looks up all names, at once and then every interval, sooner after a call has failed.
    /// Never ends by itself.
    pub(super) async fn run(&mut self, beat: &Beat) {
        loop {
            beat.busy();
            self.look_up().await;
            beat.idle();
            let factor = 1.0 + INTERVAL_SPREAD * (rand::random::<f64>() - 0.5);
            let hurried = async {
                sleep(self.interval / HURRY_DIVISOR).await;
                self.endpoints.failed().await;
            };
            tokio::select! {
                () = sleep(self.interval.mul_f64(factor)) => {}
                () = hurried => {}
            }
        }
    }

    async fn look_up(&mut self) {
        let lookups = self.names.iter().map(|(target, _)| self.addresses(target));
        let found = join_all(lookups).await;
        let mut failure = None;
        for ((_, known), found) in self.names.iter_mut().zip(found) {
            match found {
                Ok(addresses) => *known = addresses,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        n_addresses = known.len(),
                        "name of the order service cannot be resolved"
                    );
                    failure = Some(error);
                }
            }
        }
        let mut found: BTreeMap<SocketAddr, Uri> = BTreeMap::new();
        for (target, addresses) in &self.names {
            for address in addresses {
                let origin = || target.origin.clone();
                found.entry(*address).or_insert_with(origin);
            }
        }
        self.endpoints.update(&found, failure);
    }

    /// All addresses of a name; at least one.
    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, ResolveFailed> {
        let lookup = self.resolve.resolve(&target.host, target.port);
        let source: BoxError = match timeout(self.timeout, lookup).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => return Ok(addresses),
            Ok(Ok(_)) => io::Error::from(io::ErrorKind::AddrNotAvailable).into(),
            Ok(Err(error)) => error.into(),
            Err(elapsed) => elapsed.into(),
        };
        Err(ResolveFailed {
            host: target.host.clone(),
            port: target.port,
            source,
        })
    }
}
