//! How many sockets there may be: in all, from one place, and of one user.
//!
//! The listener has limits of its own, which close a connection without a word. These are
//! asked once the request is read, so the client gets an answer it understands.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use order_core::{Error, UserId};

use super::WsConfig;

/// Counts open sockets.
#[derive(Debug)]
pub(super) struct Admission {
    total_max: usize,
    per_address_max: usize,
    per_user_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_network: HashMap<IpAddr, usize>,
    /// Only sockets that showed a ticket.
    by_user: HashMap<UserId, usize>,
}

/// The place of one socket. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    network: Option<IpAddr>,
    user_id: Option<UserId>,
}

impl Admission {
    pub(super) fn new(config: &WsConfig) -> Arc<Self> {
        Arc::new(Self {
            total_max: config.connections_max,
            per_address_max: config.connections_per_address_max,
            per_user_max: config.connections_per_user_max,
            open: Mutex::default(),
        })
    }

    /// Takes a place for a socket from `address`. Without an address, as on a local
    /// socket, only the total counts.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if all places are taken, [`Error::LimitExceeded`] if those of
    /// the address are.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Admitted, Error> {
        let network = address.map(network_of);
        let mut open = self.lock();
        if open.total >= self.total_max {
            return Err(Error::overloaded());
        }
        if let Some(network) = network {
            let limit = self.per_address_max;
            take_place(
                &mut open.by_network,
                network,
                limit,
                "connections per address",
            )?;
        }
        open.total += 1;
        Ok(Admitted {
            admission: Arc::clone(self),
            network,
            user_id: None,
        })
    }

    /// How many sockets are open.
    pub(super) fn n_open(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // No code that holds the lock can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// Counts the socket as one of a user as well, until it is dropped. A socket shows one
    /// ticket at most.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] if the user has all the places of a user.
    pub(super) fn assign_to(&mut self, user_id: &UserId) -> Result<(), Error> {
        let limit = self.admission.per_user_max;
        let mut open = self.admission.lock();
        let user = user_id.clone();
        take_place(&mut open.by_user, user, limit, "connections per user")?;
        self.user_id = Some(user_id.clone());
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.admission.lock();
        open.total -= 1;
        if let Some(network) = &self.network {
            give_place_back(&mut open.by_network, network);
        }
        if let Some(user_id) = &self.user_id {
            give_place_back(&mut open.by_user, user_id);
        }
    }
}

fn take_place<K: Eq + Hash>(
    places: &mut HashMap<K, usize>,
    key: K,
    limit: usize,
    what: &str,
) -> Result<(), Error> {
    let n_taken = places.get(&key).copied().unwrap_or_default();
    if n_taken >= limit {
        return Err(Error::LimitExceeded {
            what: what.to_owned(),
            limit: limit as u64,
        });
    }
    places.insert(key, n_taken + 1);
    Ok(())
}

fn give_place_back<K: Eq + Hash>(places: &mut HashMap<K, usize>, key: &K) {
    if let Some(n_taken) = places.get_mut(key) {
        *n_taken -= 1;
        if *n_taken == 0 {
            places.remove(key);
        }
    }
}

/// What counts as one place: an IPv4 address, or the /64 network that one IPv6 customer
/// gets and can pick any address from.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
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
        Admission::new(&WsConfig {
            connections_max,
            connections_per_address_max,
            connections_per_user_max,
            ..WsConfig::default()
        })
    }

    fn admit(admission: &Arc<Admission>, address: &str) -> Result<Admitted, Error> {
        admission.admit(Some(address.parse().expect("an address")))
    }

    #[test]
    fn place_is_free_again_when_dropped() {
        let admission = admission(2, 1, 9);
        let first = admit(&admission, "10.0.0.1").expect("free");
        let refused = admit(&admission, "::ffff:10.0.0.1");
        assert!(matches!(
            refused,
            Err(Error::LimitExceeded { limit: 1, .. })
        ));
        let _local = admission.admit(None).expect("free");
        let refused = admit(&admission, "10.0.0.2");
        assert!(matches!(refused, Err(Error::Overloaded { .. })));
        drop(first);
        assert!(admit(&admission, "10.0.0.1").is_ok());
        assert!(admission.lock().by_network.is_empty());
    }

    #[test]
    fn ipv6_network_is_one_place() {
        let admission = admission(9, 1, 9);
        let _held = admit(&admission, "2001:db8::1").expect("free");
        assert!(admit(&admission, "2001:db8::ffff:1").is_err());
        assert!(admit(&admission, "2001:db8:0:1::1").is_ok());
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
        assert!(admission.lock().by_user.is_empty());
    }
}
