//! How many connections, calls, streams or bytes there may be, in all and from one address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use order_core::Error;

/// The part of `total` that one address may have where many clients can share an address, as those
/// of a gateway do: three quarters. It needs most of them, and the others are not kept out.
pub const fn share_of_one_address(total: usize) -> usize {
    total - total / 4
}

/// The places for the connections of a listener, for calls, for streams, or for bytes in memory.
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
    by_address: BTreeMap<IpAddr, usize>,
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

    /// At most `total_max` slots, and [`share_of_one_address`] of them for one.
    pub fn shared(total_max: usize) -> Self {
        Self::new(total_max, share_of_one_address(total_max))
    }

    /// Takes a slot for a client at `address`.
    pub fn try_take(&self, address: IpAddr) -> Result<Slot, Full> {
        self.try_take_many(address, 1, 0)
    }

    /// Takes a slot that counts for no address.
    pub(crate) fn try_take_for_all(&self) -> Result<Slot, Full> {
        let mut held = self.0.lock();
        if held.total >= self.0.total_max {
            return Err(Full::Total);
        }
        held.total += 1;
        Ok(Slot {
            shared: Arc::clone(&self.0),
            address: None,
            n: 1,
        })
    }

    /// Takes `n` slots as one, and leaves at least `n_spared` of all slots to others.
    pub fn try_take_many(&self, address: IpAddr, n: usize, n_spared: usize) -> Result<Slot, Full> {
        let address = network(address);
        let mut held = self.0.lock();
        let n_here = held.by_address.get(&address).copied().unwrap_or_default();
        let total_max = self.0.total_max.saturating_sub(n_spared);
        if held.total + n > total_max {
            return Err(Full::Total);
        }
        if n_here + n > self.0.per_address_max {
            return Err(Full::Address);
        }
        held.by_address.insert(address, n_here + n);
        held.total += n;
        Ok(Slot {
            shared: Arc::clone(&self.0),
            address: Some(address),
            n,
        })
    }

    /// How many slots are taken.
    pub fn n_taken(&self) -> usize {
        self.0.lock().total
    }
}

/// There is no slot left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Of all.
    Total,
    /// Of those that one address may have.
    Address,
}

impl From<Full> for Error {
    fn from(_: Full) -> Self {
        Self::overloaded()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        // No code that holds the lock can panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot, or several. Dropping it gives them back.
#[must_use]
pub struct Slot {
    shared: Arc<Shared>,
    /// `None` if it counts for no address.
    address: Option<IpAddr>,
    n: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.shared.lock();
        held.total -= self.n;
        if let Some(address) = &self.address
            && let Some(n_here) = held.by_address.get_mut(address)
        {
            *n_here -= self.n;
            if *n_here == 0 {
                held.by_address.remove(address);
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
        assert_eq!(
            slots.try_take(address("10.0.0.1")).err(),
            Some(Full::Address)
        );
        let _second = slots.try_take(address("10.0.0.2")).expect("free");
        assert_eq!(slots.try_take(address("10.0.0.3")).err(), Some(Full::Total));
        drop(first);
        assert!(slots.try_take(address("10.0.0.3")).is_ok());
        assert!(slots.0.lock().by_address.len() <= 2);
    }

    #[test]
    fn slot_that_counts_for_no_address_counts_for_all() {
        let slots = Slots::new(2, 1);
        let held = slots.try_take_for_all().expect("free");
        let _other = slots.try_take(address("10.0.0.1")).expect("free");
        assert_eq!(slots.try_take_for_all().err(), Some(Full::Total));
        drop(held);
        assert!(slots.try_take_for_all().is_ok());
        assert_eq!(slots.n_taken(), 1);
    }

    #[test]
    fn several_slots_are_taken_together_or_not_at_all() {
        let slots = Slots::shared(8);
        let many = slots.try_take_many(address("10.0.0.1"), 6, 0);
        assert!(many.is_ok());
        assert_eq!(
            slots.try_take(address("10.0.0.1")).err(),
            Some(Full::Address)
        );
        let other = |n, n_spared| slots.try_take_many(address("10.0.0.2"), n, n_spared).err();
        assert_eq!(other(3, 0), Some(Full::Total));
        assert_eq!(other(2, 1), Some(Full::Total));
        assert_eq!(other(2, 0), None);
        drop(many);
        assert_eq!(slots.n_taken(), 0);
        assert!(slots.0.lock().by_address.is_empty());
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
