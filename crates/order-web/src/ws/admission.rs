//! How many sockets there may be: in all, from one place, and of one user.
//!
//! The listener has limits of its own, which close a connection without a word. These are
//! asked once the request is read, so the client gets an answer it understands.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use order_core::{Error, UserId, metrics::Gauge};
use order_edge::slots::{Full, Slot, Slots};

use super::{WsConfig, WsStats};

/// Counts open sockets.
pub(super) struct Admission {
    sockets: Slots,
    open: Gauge,
    per_address_max: usize,
    per_user_max: usize,
    /// Only sockets that showed a ticket.
    by_user: Mutex<HashMap<UserId, usize>>,
}

/// The place of one socket. Dropping it gives the place back.
pub(super) struct Admitted {
    admission: Arc<Admission>,
    user_id: Option<UserId>,
    _slot: Slot,
}

impl Admission {
    pub(super) fn new(config: &WsConfig, stats: &WsStats) -> Arc<Self> {
        Arc::new(Self {
            open: stats.open.clone(),
            sockets: Slots::new(config.connections_max, config.connections_per_address_max),
            per_address_max: config.connections_per_address_max,
            per_user_max: config.connections_per_user_max,
            by_user: Mutex::default(),
        })
    }

    /// Takes a place for a socket from `address`.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if all places are taken, [`Error::LimitExceeded`] if those of
    /// the address are.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admitted, Error> {
        let slot = self.sockets.try_take(address).map_err(|full| match full {
            Full::Total => full.into(),
            Full::Address => too_many("connections per address", self.per_address_max),
        })?;
        self.open.inc();
        Ok(Admitted {
            admission: Arc::clone(self),
            user_id: None,
            _slot: slot,
        })
    }

    /// How many sockets are open.
    pub(super) fn n_open(&self) -> usize {
        self.sockets.n_taken()
    }

    fn by_user(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        // No code that holds the lock can panic.
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// Counts the socket as one of a user as well, until it is dropped. A socket shows one
    /// ticket at most.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] if the user has all the places of a user.
    pub(super) fn assign_to(&mut self, user_id: &UserId) -> Result<(), Error> {
        let mut by_user = self.admission.by_user();
        let n_open = by_user.get(user_id).copied().unwrap_or_default();
        if n_open >= self.admission.per_user_max {
            return Err(too_many(
                "connections per user",
                self.admission.per_user_max,
            ));
        }
        by_user.insert(user_id.clone(), n_open + 1);
        self.user_id = Some(user_id.clone());
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.dec();
        let Some(user_id) = &self.user_id else {
            return;
        };
        let mut by_user = self.admission.by_user();
        if let Some(n_open) = by_user.get_mut(user_id) {
            *n_open -= 1;
            if *n_open == 0 {
                by_user.remove(user_id);
            }
        }
    }
}

fn too_many(what: &str, limit: usize) -> Error {
    Error::LimitExceeded {
        what: what.to_owned(),
        limit: limit as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(
        connections_max: usize,
        connections_per_address_max: usize,
        connections_per_user_max: usize,
    ) -> Arc<Admission> {
        let config = WsConfig {
            connections_max,
            connections_per_address_max,
            connections_per_user_max,
            ..WsConfig::default()
        };
        Admission::new(&config, &WsStats::default())
    }

    fn admit(admission: &Arc<Admission>, address: &str) -> Result<Admitted, Error> {
        admission.admit(address.parse().expect("an address"))
    }

    #[test]
    fn place_is_free_again_when_dropped() {
        let admission = admission(2, 1, 9);
        let first = admit(&admission, "10.0.0.1").expect("free");
        let refused = admit(&admission, "10.0.0.1").err();
        assert!(matches!(
            refused,
            Some(Error::LimitExceeded { limit: 1, .. })
        ));
        let _second = admit(&admission, "10.0.0.2").expect("free");
        let refused = admit(&admission, "10.0.0.3").err();
        assert!(matches!(refused, Some(Error::Overloaded { .. })));
        drop(first);
        assert!(admit(&admission, "10.0.0.1").is_ok());
    }

    #[test]
    fn sockets_of_one_user_are_limited_wherever_they_come_from() {
        let admission = admission(9, 9, 1);
        let user = |text| UserId::parse(text).expect("valid");
        let mut first = admit(&admission, "10.0.0.1").expect("free");
        first.assign_to(&user("user-1")).expect("free");
        let mut second = admit(&admission, "10.0.0.2").expect("free");
        let refused = second.assign_to(&user("user-1"));
        assert!(matches!(
            refused,
            Err(Error::LimitExceeded { limit: 1, .. })
        ));
        second.assign_to(&user("user-2")).expect("free");
        drop(first);
        let mut third = admit(&admission, "10.0.0.1").expect("free");
        third.assign_to(&user("user-1")).expect("free again");
        drop((second, third));
        assert!(admission.by_user().is_empty());
    }
}
