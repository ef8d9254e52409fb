//! One address of the service: whether it can be reached, and how its calls went.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use http::Uri;
use order_core::BoxError;
use tokio::sync::Mutex;

use super::outlier::Record;

/// The service does not answer at its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}")]
pub(super) struct ConnectFailed {
    pub(super) address: SocketAddr,
    #[source]
    pub(super) source: BoxError,
}

/// One address of the service.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// Scheme and authority of requests: the name, not the address.
    pub(super) origin: Uri,
    pub(super) record: Record,
    /// Held by the one connection that is being made. Counts attempts that failed in a row.
    pub(super) dialling: Mutex<u32>,
    /// Why the last attempt to connect failed, if it did.
    pub(super) failure: RwLock<Option<Arc<ConnectFailed>>>,
}

impl Endpoint {
    /// Notes how an attempt to connect ended, and logs it if the one before ended otherwise.
    pub(super) fn note(&self, failure: Option<ConnectFailed>) {
        let mut last = self.failure.write().unwrap_or_else(PoisonError::into_inner);
        let address = self.address;
        match (&*last, &failure) {
            (None, Some(error)) => tracing::warn!(
                network.peer.address = %address,
                error = error as &dyn std::error::Error,
                "address of the order service cannot be reached"
            ),
            (Some(_), None) => tracing::info!(
                network.peer.address = %address,
                "address of the order service is back"
            ),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *last = failure.map(Arc::new);
    }

    pub(super) fn failure(&self) -> Option<Arc<ConnectFailed>> {
        let failure = self.failure.read();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }
}
