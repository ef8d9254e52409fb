//! The bodies that are still arriving: how many, and how much of them is in memory.
//!
//! One too many, or a byte too many, displaces the oldest body, of its own address if that has too
//! much: a client that sends its body is done before that is its own.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::slots::network;

/// A number of bodies, and the bytes of them that have come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) n: usize,
    pub(crate) bytes: usize,
}

impl Load {
    const fn exceeds(self, max: Self) -> bool {
        self.n > max.n || self.bytes > max.bytes
    }
}

/// The bodies that are still arriving.
pub(crate) struct Arriving {
    max: Load,
    per_address_max: Load,
    bodies: Mutex<Bodies>,
}

#[derive(Default)]
struct Bodies {
    n_begun: u64,
    by_age: BTreeMap<u64, Part>,
    by_address: HashMap<IpAddr, Load>,
    bytes: usize,
}

/// The received part of a body. Dropping it displaces the body.
struct Part {
    address: IpAddr,
    len: usize,
    _displaces: oneshot::Sender<()>,
}

impl Bodies {
    fn remove(&mut self, number: u64) {
        let Some(part) = self.by_age.remove(&number) else {
            return;
        };
        self.bytes -= part.len;
        if let Some(here) = self.by_address.get_mut(&part.address) {
            here.n -= 1;
            here.bytes -= part.len;
            if here.n == 0 {
                self.by_address.remove(&part.address);
            }
        }
    }

    fn load(&self) -> Load {
        Load {
            n: self.by_age.len(),
            bytes: self.bytes,
        }
    }

    /// The oldest body, of one address if it is given.
    fn oldest(&self, of: Option<IpAddr>) -> Option<u64> {
        let mut bodies = self.by_age.iter();
        let oldest = bodies.find(|(_, part)| of.is_none_or(|of| of == part.address));
        oldest.map(|(number, _)| *number)
    }
}

impl Arriving {
    /// At most `max` in all, and `per_address_max` of it from one IPv4 address or one IPv6 /64
    /// network.
    pub(crate) fn new(max: Load, per_address_max: Load) -> Self {
        Self {
            max,
            per_address_max,
            bodies: Mutex::default(),
        }
    }

    /// Begins to wait for a body of which `len` bytes have come; the receiver ends when it is
    /// displaced.
    pub(crate) fn enter(&self, client: IpAddr, len: usize) -> (Waiting<'_>, oneshot::Receiver<()>) {
        let address = network(client);
        let (sender, displaced) = oneshot::channel();
        let mut bodies = self.lock();
        let number = bodies.n_begun;
        bodies.n_begun += 1;
        let part = Part {
            address,
            len: 0,
            _displaces: sender,
        };
        bodies.by_age.insert(number, part);
        bodies.by_address.entry(address).or_default().n += 1;
        drop(bodies);
        let waiting = Waiting {
            arriving: self,
            number,
        };
        waiting.grow(len);
        (waiting, displaced)
    }

    /// Displaces bodies until those of `address`, and all, are within the limits.
    fn displace(&self, bodies: &mut Bodies, address: IpAddr) {
        loop {
            let here = bodies.by_address.get(&address).copied();
            let is_here = here.unwrap_or_default().exceeds(self.per_address_max);
            if !is_here && !bodies.load().exceeds(self.max) {
                return;
            }
            match bodies.oldest(is_here.then_some(address)) {
                Some(oldest) => bodies.remove(oldest),
                None => return,
            }
        }
    }

    /// No code that can panic runs under the lock, so the bodies are still whole.
    fn lock(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is arriving, until it is dropped.
pub(crate) struct Waiting<'a> {
    arriving: &'a Arriving,
    number: u64,
}

impl Waiting<'_> {
    /// Notes that `len` bytes have come.
    pub(crate) fn grow(&self, len: usize) {
        let mut bodies = self.arriving.lock();
        // Displaced bodies are gone.
        let Some(part) = bodies.by_age.get_mut(&self.number) else {
            return;
        };
        let (address, n_more) = (part.address, len.saturating_sub(part.len));
        part.len += n_more;
        bodies.bytes += n_more;
        if let Some(here) = bodies.by_address.get_mut(&address) {
            here.bytes += n_more;
        }
        self.arriving.displace(&mut bodies, address);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.arriving.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn arriving(n: usize, per_address: usize) -> Arriving {
        let load = |n| Load { n, bytes: 10 * n };
        Arriving::new(load(n), load(per_address))
    }

    #[test]
    fn body_too_many_displaces_the_oldest() {
        let arriving = arriving(2, 2);
        let (_first, mut first) = arriving.enter(HERE, 1);
        let (second, _) = arriving.enter(HERE, 1);
        drop(second);
        let (_third, mut third) = arriving.enter(HERE, 1);
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty));

        let (_fourth, _displaced) = arriving.enter(HERE, 1);

        assert_eq!(first.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(third.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(arriving.lock().by_age.len(), 2);
    }

    #[test]
    fn byte_too_many_displaces_the_oldest() {
        let arriving = arriving(10, 2);
        let (_other, mut other) = arriving.enter(THERE, 20);
        let (_first, mut first) = arriving.enter(HERE, 1);
        let (second, mut second_displaced) = arriving.enter(HERE, 1);
        second.grow(19);
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
        second.grow(20);
        assert_eq!(first.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(second_displaced.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(arriving.lock().bytes, 40);
        drop(second);
        assert_eq!(arriving.lock().bytes, 20);
    }

    #[test]
    fn address_with_too_many_bodies_displaces_only_its_own() {
        let arriving = arriving(10, 2);
        let (_other, mut other) = arriving.enter(THERE, 1);
        let mine: Vec<_> = (0..20).map(|_| arriving.enter(HERE, 1)).collect();
        assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(arriving.lock().by_age.len(), 3);
        drop(mine);
        assert_eq!(arriving.lock().by_address.len(), 1);
    }
}
