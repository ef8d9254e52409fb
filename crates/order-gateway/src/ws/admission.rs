//! How many sockets there may be, in all and from one place.
//!
//! The listener has limits of its own, which close a connection without a word. These are
//! asked once the request is read, so the client gets an answer it understands.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use order_core::Error;

/// Counts open sockets.
#[derive(Debug)]
pub(super) struct Admission {
    total_max: usize,
    per_address_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// The place of one socket. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    network: Option<IpAddr>,
}

impl Admission {
    pub(super) fn new(total_max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self {
            total_max,
            per_address_max,
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
            let n_here = open.by_network.entry(network).or_default();
            if *n_here >= self.per_address_max {
                return Err(Error::LimitExceeded {
                    what: "connections per address".to_owned(),
                    limit: self.per_address_max as u64,
                });
            }
            *n_here += 1;
        }
        open.total += 1;
        Ok(Admitted {
            admission: Arc::clone(self),
            network,
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

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.admission.lock();
        open.total -= 1;
        if let Some(network) = self.network
            && let Some(n_here) = open.by_network.get_mut(&network)
        {
            *n_here -= 1;
            if *n_here == 0 {
                open.by_network.remove(&network);
            }
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

    fn admit(admission: &Arc<Admission>, address: &str) -> Result<Admitted, Error> {
        admission.admit(Some(address.parse().expect("an address")))
    }

    #[test]
    fn place_is_free_again_when_dropped() {
        let admission = Admission::new(2, 1);
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
        let admission = Admission::new(9, 1);
        let _held = admit(&admission, "2001:db8::1").expect("free");
        assert!(admit(&admission, "2001:db8::ffff:1").is_err());
        assert!(admit(&admission, "2001:db8:0:1::1").is_ok());
    }
}
