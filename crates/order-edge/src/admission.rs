//! How many calls there may be, so that none of them keeps out the others.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use order_core::{BoxError, Error};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    body::{self, BodyLimits},
    facts::{Class, Facts},
    slots::{Slot, Slots, network},
};

pub use crate::body::BodyError;

/// Writes leave one slot of this many to reads: a burst of them must not hide what became of
/// those before.
const READ_SHARE: usize = 8;

/// The unit in which bytes of answers are counted; a shorter answer counts as nothing.
const ANSWER_UNIT: usize = 1024;

/// The limits on the calls of a listener.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionConfig {
    /// Calls at the same time, from the end of the body to the end of the answer.
    pub in_flight_max: usize,
    /// Such calls from one IPv4 address or one IPv6 /64 network.
    pub in_flight_per_address_max: usize,
    /// Calls at the same time that wait for a job. They are not counted among the calls above.
    pub leases_max: usize,
    /// Bodies that arrive at the same time; one more displaces the oldest.
    pub arriving_max: usize,
    /// Such bodies from one address or network; one more displaces the oldest of them.
    pub arriving_per_address_max: usize,
    /// The longest body, in bytes.
    pub body_len_max: usize,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// Bytes of answers that clients have not taken yet.
    pub answer_bytes_max: usize,
}

/// Why a call was not admitted.
#[derive(Debug)]
pub enum Refused {
    /// The server has too much to do.
    Overloaded,
    /// The body could not be read.
    Body(BodyError),
}

impl From<BodyError> for Refused {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

/// What an admitted call holds until its answer is gone.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) slot: Option<Slot>,
    pub(crate) answer: Option<OwnedSemaphorePermit>,
}

/// Admits calls within the limits.
pub struct Admission {
    arriving: Arriving,
    work: Slots,
    leases: Slots,
    n_spared: usize,
    body: BodyLimits,
    answers: Arc<Semaphore>,
}

impl Admission {
    /// Admits calls within the limits of `config`.
    pub fn new(config: &AdmissionConfig) -> Self {
        Self {
            arriving: Arriving::new(config.arriving_max, config.arriving_per_address_max),
            work: Slots::new(config.in_flight_max, config.in_flight_per_address_max),
            leases: Slots::new(config.leases_max, config.leases_max),
            n_spared: config.in_flight_max / READ_SHARE,
            body: BodyLimits {
                len_max: config.body_len_max,
                timeout: config.body_timeout,
            },
            answers: Arc::new(Semaphore::new(config.answer_bytes_max / ANSWER_UNIT)),
        }
    }

    /// Takes a slot for a call whose body has arrived: a body that does not come keeps out
    /// nobody.
    pub(crate) fn admit(&self, facts: &Facts, client: IpAddr) -> Result<Option<Slot>, Error> {
        let slot = match facts.class {
            Class::Free => return Ok(None),
            Class::Read => self.work.try_take(client),
            Class::Write => self.work.try_take_sparing(client, self.n_spared),
            Class::Lease => self.leases.try_take(client),
        };
        slot.map(Some).ok_or_else(Error::overloaded)
    }

    /// Counts an answer of `len` bytes among those that are being sent.
    pub(crate) fn admit_answer(&self, len: usize) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let n_units = u32::try_from(len / ANSWER_UNIT).unwrap_or(u32::MAX);
        if n_units == 0 {
            return Ok(None);
        }
        let permit = Arc::clone(&self.answers).try_acquire_many_owned(n_units);
        permit.map(Some).map_err(|_| Error::overloaded())
    }

    /// Reads the body of a call.
    pub(crate) async fn read<B>(&self, client: IpAddr, body: B) -> Result<Bytes, Refused>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let mut reading = pin!(body::read(body, self.body));
        // Nearly every body is there with its head.
        let read = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
        if let Poll::Ready(read) = read {
            return Ok(read?);
        }
        let (_waiting, displaced) = self.arriving.enter(client);
        tokio::select! {
            read = reading => Ok(read?),
            _ = displaced => Err(Refused::Overloaded),
        }
    }
}

/// The bodies that are still arriving. One too many displaces the oldest, of its own address if
/// that has too many: a client that sends its body is done before that is its own.
struct Arriving {
    total_max: usize,
    per_address_max: usize,
    bodies: Mutex<Bodies>,
}

#[derive(Default)]
struct Bodies {
    n_begun: u64,
    by_age: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    by_address: HashMap<IpAddr, usize>,
}

impl Bodies {
    fn remove(&mut self, number: u64) {
        let Some((address, _)) = self.by_age.remove(&number) else {
            return;
        };
        if let Some(n_here) = self.by_address.get_mut(&address) {
            *n_here -= 1;
            if *n_here == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// The oldest body, of one address if it is given.
    fn oldest(&self, of: Option<IpAddr>) -> Option<u64> {
        let mut bodies = self.by_age.iter();
        let oldest = bodies.find(|(_, (address, _))| of.is_none_or(|of| of == *address));
        oldest.map(|(number, _)| *number)
    }
}

impl Arriving {
    fn new(total_max: usize, per_address_max: usize) -> Self {
        Self {
            total_max,
            per_address_max,
            bodies: Mutex::default(),
        }
    }

    /// Begins to wait for a body; the receiver ends when it is displaced.
    fn enter(&self, client: IpAddr) -> (Waiting<'_>, oneshot::Receiver<()>) {
        let address = network(client);
        let (sender, displaced) = oneshot::channel();
        let mut bodies = self.lock();
        let number = bodies.n_begun;
        bodies.n_begun += 1;
        bodies.by_age.insert(number, (address, sender));
        let n_here = bodies.by_address.entry(address).or_default();
        *n_here += 1;
        let of = (*n_here > self.per_address_max).then_some(address);
        if (of.is_some() || bodies.by_age.len() > self.total_max)
            && let Some(oldest) = bodies.oldest(of)
        {
            bodies.remove(oldest);
        }
        let waiting = Waiting {
            arriving: self,
            number,
        };
        (waiting, displaced)
    }

    /// No code that can panic runs under the lock, so the bodies are still whole.
    fn lock(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is arriving, until it is dropped.
struct Waiting<'a> {
    arriving: &'a Arriving,
    number: u64,
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

    #[test]
    fn body_too_many_displaces_the_oldest() {
        let arriving = Arriving::new(2, 2);
        let (_first, mut first) = arriving.enter(HERE);
        let (second, _) = arriving.enter(HERE);
        drop(second);
        let (_third, mut third) = arriving.enter(HERE);
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty));

        let (_fourth, _displaced) = arriving.enter(HERE);

        assert_eq!(first.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(third.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(arriving.lock().by_age.len(), 2);
    }

    #[test]
    fn address_with_too_many_bodies_displaces_only_its_own() {
        let arriving = Arriving::new(10, 2);
        let (_other, mut other) = arriving.enter(THERE);
        let mine: Vec<_> = (0..20).map(|_| arriving.enter(HERE)).collect();
        assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(arriving.lock().by_age.len(), 3);
        drop(mine);
        assert_eq!(arriving.lock().by_address.len(), 1);
    }

    #[test]
    fn writes_leave_slots_to_reads() {
        let admission = Admission::new(&AdmissionConfig {
            in_flight_max: 8,
            in_flight_per_address_max: 8,
            leases_max: 1,
            arriving_max: 1,
            arriving_per_address_max: 1,
            body_len_max: 1,
            body_timeout: Duration::from_secs(1),
            answer_bytes_max: 2 * ANSWER_UNIT,
        });
        let facts = |class| Facts {
            class,
            ..Facts::new("test")
        };
        let take = |class| admission.admit(&facts(class), HERE);
        let held: Vec<_> = (0..7).map(|_| take(Class::Write).expect("free")).collect();
        assert!(take(Class::Write).is_err());
        let read = take(Class::Read).expect("kept for reads");
        assert!(take(Class::Read).is_err());
        assert!(take(Class::Free).expect("always").is_none());
        assert!(take(Class::Lease).expect("its own").is_some());
        drop((held, read));

        let first = admission.admit_answer(2 * ANSWER_UNIT).expect("free");
        assert!(admission.admit_answer(ANSWER_UNIT).is_err());
        assert!(admission.admit_answer(1).expect("small").is_none());
        drop(first);
        assert!(admission.admit_answer(ANSWER_UNIT).is_ok());
    }
}
