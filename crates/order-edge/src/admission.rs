//! How many calls there may be, so that none of them keeps out the others, and how large their bodies
//! may be.

use std::{net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body::Body;
use http_body_util::BodyExt as _;
use order_core::{BoxError, Error};
use tokio::time::timeout;

use crate::{
    arriving::{Arriving, Load},
    slots::{Slot, Slots, share_of_one_address},
};

/// Writes leave one slot of this many to reads: a burst of them must not hide what became of
/// those before.
const READ_SHARE: usize = 8;

/// There is one slot for lists to this many for other calls: more would wait for the database for so
/// long that a list of another address came too late.
const LIST_SHARE: usize = 64;

/// The unit in which bytes of answers are counted; a shorter answer counts as nothing.
const ANSWER_UNIT: usize = 1024;

/// The fixed properties of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Its name in the log.
    pub name: &'static str,
    /// Its path, with the names of parameters in place of their values.
    pub route: &'static str,
    /// The slots it takes one of.
    pub class: Class,
    /// Whether the handler gets the whole body. It takes no slot before that has arrived.
    pub reads_body: bool,
    /// Whether it can answer with a stream, which holds no slot once it has begun.
    pub may_stream: bool,
    /// Whether it has no effect the second time, also without a key.
    pub is_idempotent: bool,
}

impl Facts {
    /// An operation that only reads.
    pub const fn new(name: &'static str, route: &'static str) -> Self {
        Self {
            name,
            route,
            class: Class::Read,
            reads_body: false,
            may_stream: false,
            is_idempotent: false,
        }
    }
}

/// Which slots an operation takes one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// None: probes, and what has limits of its own.
    Free,
    /// Any of those for work.
    Read,
    /// Those for work that are not kept for reads.
    Write,
    /// Those of lists, of which the database answers few at a time.
    List,
    /// Those of workers that wait for a job.
    Lease,
}

/// The limits on the calls of a listener.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionConfig {
    /// Calls at the same time, from the end of the body to the end of the answer. There may be a
    /// sixty-fourth as many lists beside them.
    pub in_flight_max: usize,
    /// Such calls from one IPv4 address or one IPv6 /64 network.
    pub in_flight_per_address_max: usize,
    /// Calls at the same time that wait for a job, three quarters of them from one address or
    /// network. They are not counted among the calls above.
    pub leases_max: usize,
    /// Bodies that arrive at the same time; one more displaces the oldest.
    pub arriving_max: usize,
    /// Such bodies from one address or network; one more displaces the oldest of them.
    pub arriving_per_address_max: usize,
    /// The longest body, in bytes.
    pub body_len_max: usize,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// Bytes of bodies that are arriving, and as many of answers that clients have not taken yet;
    /// three quarters of them of one address or network.
    pub bytes_max: usize,
}

impl AdmissionConfig {
    /// The usual number of bytes: 64 of the longest answers.
    pub const BYTES_MAX: usize = 256 * 1024 * 1024;
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
    pub(crate) answer: Option<Slot>,
}

/// Admits calls within the limits.
pub struct Admission {
    arriving: Arriving,
    work: Slots,
    lists: Slots,
    leases: Slots,
    n_spared: usize,
    body_len_max: usize,
    body_timeout: Duration,
    answers: Slots,
}

impl Admission {
    /// Admits calls within the limits of `config`.
    pub fn new(config: &AdmissionConfig) -> Self {
        Self {
            arriving: Arriving::new(
                Load {
                    n: config.arriving_max,
                    bytes: config.bytes_max,
                },
                Load {
                    n: config.arriving_per_address_max,
                    bytes: share_of_one_address(config.bytes_max),
                },
            ),
            work: Slots::new(config.in_flight_max, config.in_flight_per_address_max),
            lists: Slots::new(
                config.in_flight_max.div_ceil(LIST_SHARE),
                config.in_flight_per_address_max.div_ceil(LIST_SHARE),
            ),
            leases: Slots::shared(config.leases_max),
            n_spared: config.in_flight_max / READ_SHARE,
            body_len_max: config.body_len_max,
            body_timeout: config.body_timeout,
            answers: Slots::shared(config.bytes_max / ANSWER_UNIT),
        }
    }

    /// Takes a slot for a call whose body has arrived: a body that does not come keeps out
    /// nobody.
    pub(crate) fn admit(&self, facts: &Facts, client: IpAddr) -> Result<Option<Slot>, Error> {
        let slot = match facts.class {
            Class::Free => return Ok(None),
            Class::Read => self.work.try_take(client),
            Class::Write => self.work.try_take_many(client, 1, self.n_spared),
            Class::List => self.lists.try_take(client),
            Class::Lease => self.leases.try_take(client),
        };
        Ok(Some(slot?))
    }

    /// Counts an answer of `len` bytes among those that are being sent.
    pub(crate) fn admit_answer(&self, client: IpAddr, len: usize) -> Result<Option<Slot>, Error> {
        let n_units = len / ANSWER_UNIT;
        if n_units == 0 {
            return Ok(None);
        }
        Ok(Some(self.answers.try_take_many(client, n_units, 0)?))
    }

    /// Reads the body of a call.
    pub(crate) async fn read<B>(&self, client: IpAddr, body: B) -> Result<Bytes, Refused>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let mut reader = Reader::new(body, self.body_len_max)?;
        // Nearly every body is there with its head.
        while let Some(has_more) = reader.read_part().now_or_never() {
            if !has_more? {
                return Ok(reader.into_bytes());
            }
        }
        reader.note_slow();
        let (waiting, mut displaced) = self.arriving.enter(client, reader.len());
        let arrived = timeout(self.body_timeout, async {
            loop {
                let has_more = tokio::select! {
                    has_more = reader.read_part() => has_more?,
                    _ = &mut displaced => return Err(Refused::Overloaded),
                };
                if !has_more {
                    return Ok(());
                }
                waiting.grow(reader.len());
            }
        });
        arrived.await.unwrap_or(Err(BodyError::Timeout.into()))?;
        Ok(reader.into_bytes())
    }
}

/// A request body could not be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("the body has more than {len_max} bytes")]
    TooLarge {
        /// The limit, in bytes.
        len_max: usize,
    },
    /// It took too long.
    #[error("the body did not arrive in time")]
    Timeout,
    /// The client stopped in the middle.
    #[error("the body ends too early")]
    Broken,
}

/// A body that is being read.
struct Reader<B> {
    body: B,
    len_max: usize,
    /// The only part so far, as nearly every body has one.
    only: Bytes,
    /// Copies of several parts.
    all: BytesMut,
    is_slow: bool,
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads a body of at most `len_max` bytes. One that announces more is refused unread.
    fn new(body: B, len_max: usize) -> Result<Self, BodyError> {
        if usize::try_from(body.size_hint().lower()).map_or(true, |len| len > len_max) {
            return Err(BodyError::TooLarge { len_max });
        }
        Ok(Self {
            body,
            len_max,
            only: Bytes::new(),
            all: BytesMut::new(),
            is_slow: false,
        })
    }

    /// Waits for the next part; `false` if that was the last.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn read_part(&mut self) -> Result<bool, BodyError> {
        let part = match self.body.frame().await {
            None => return Ok(false),
            Some(Err(_)) => return Err(BodyError::Broken),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        if self.len() + part.len() > self.len_max {
            let len_max = self.len_max;
            return Err(BodyError::TooLarge { len_max });
        }
        if self.len() == 0 && !self.is_slow {
            self.only = part;
        } else {
            self.copy_only_part();
            self.all.extend_from_slice(&part);
        }
        Ok(true)
    }

    /// The body will take its time. A part of a few bytes keeps the whole buffer that it was read
    /// into, so from now on all parts are copied.
    fn note_slow(&mut self) {
        self.is_slow = true;
        self.copy_only_part();
    }

    fn copy_only_part(&mut self) {
        self.all.extend_from_slice(&std::mem::take(&mut self.only));
    }

    /// The number of bytes received so far.
    fn len(&self) -> usize {
        self.only.len() + self.all.len()
    }

    /// The bytes received so far.
    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() {
            self.only
        } else {
            self.all.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

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
            bytes_max: 4 * ANSWER_UNIT,
        });
        let facts = |class| Facts {
            class,
            ..Facts::new("test", "/test")
        };
        let take = |class| admission.admit(&facts(class), HERE);
        let held: Vec<_> = (0..7).map(|_| take(Class::Write).expect("free")).collect();
        assert!(take(Class::Write).is_err());
        let read = take(Class::Read).expect("kept for reads");
        assert!(take(Class::Read).is_err());
        assert!(take(Class::Free).expect("always").is_none());
        assert!(take(Class::Lease).expect("its own").is_some());
        assert!(take(Class::List).expect("its own").is_some());
        drop((held, read));

        let answer = |client, len| admission.admit_answer(client, len);
        let first = answer(HERE, 3 * ANSWER_UNIT).expect("free");
        assert!(answer(HERE, ANSWER_UNIT).is_err(), "its share");
        assert!(answer(HERE, 1).expect("small").is_none());
        let _other = answer(THERE, ANSWER_UNIT).expect("the share of others");
        assert!(answer(THERE, ANSWER_UNIT).is_err());
        drop(first);
        assert!(answer(HERE, ANSWER_UNIT).is_ok());
    }
}
