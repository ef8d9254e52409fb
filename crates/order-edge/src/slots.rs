//! How many connections or requests there may be, in all and from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The places for the connections of a listener, or for requests.
#[derive(Clone)]
pub struct Slots(Arc<Shared>);

struct Shared {
    total_max: usize,
    per_address_max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Slots {
    /// At most `total_max` slots, and `per_address_max` of them for one IPv4 address or one IPv6
    /// /64 network.
    pub fn new(total_max: usize, per_address_max: usize) -> Self {
        Self(Arc::new(Shared {
            total_max,
            per_address_max,
            held: Mutex::default(),
        }))
    }

    /// Takes a slot for a client at `address`; `None` if there is none left.
    pub fn try_take(&self, address: IpAddr) -> Option<Slot> {
        self.try_take_sparing(address, 0)
    }

    /// Takes a slot and leaves at least `n_spared` of all slots to others.
    pub fn try_take_sparing(&self, address: IpAddr, n_spared: usize) -> Option<Slot> {
        let address = network(address);
        let mut held = self.0.lock();
        if held.total >= self.0.total_max.saturating_sub(n_spared) {
            return None;
        }
        let n_here = held.by_address.entry(address).or_default();
        if *n_here >= self.0.per_address_max {
            return None;
        }
        *n_here += 1;
        held.total += 1;
        Some(Slot {
            shared: Arc::clone(&self.0),
            address,
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        // No code that holds the lock can panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place. Dropping it gives it back.
pub struct Slot {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.shared.lock();
        held.total -= 1;
        if let Some(n_here) = held.by_address.get_mut(&self.address) {
            *n_here -= 1;
            if *n_here == 0 {
                held.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one place: an IPv4 address, or the /64 network that one IPv6 customer
/// gets and can pick any address from.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn slot_is_free_again_when_dropped() {
        let slots = Slots::new(2, 1);
        let first = slots.try_take(address("10.0.0.1")).expect("free");
        assert!(slots.try_take(address("10.0.0.1")).is_none());
        let _second = slots.try_take(address("10.0.0.2")).expect("free");
        assert!(slots.try_take(address("10.0.0.3")).is_none());
        drop(first);
        assert!(slots.try_take(address("10.0.0.3")).is_some());
        assert!(slots.0.lock().by_address.len() <= 2);
    }

    #[test]
    fn one_network_is_one_place() {
        for (a, b, is_same) in [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            assert_eq!(
                network(address(a)) == network(address(b)),
                is_same,
                "{a} {b}"
            );
        }
    }
}
