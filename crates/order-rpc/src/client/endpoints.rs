//! The addresses of the service, and which of them gets the next call.
//!
//! Invariants: a call is refused for want of an address only if no name was ever resolved or
//! the last attempt to connect failed everywhere; an address that left the rotation keeps the
//! calls it has until they end.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::Uri;
use order_core::{BoxError, Error, supervisor::Supervisor};
use tokio::sync::{Mutex, Notify};
use tokio_util::task::TaskTracker;

use super::{
    config::RpcClientConfig,
    connection::{Channel, Connection, Dialler, Phase},
    endpoint::Endpoint,
    outlier::{Outcome, Record},
};

/// The most addresses of all names together.
const ADDRESSES_MAX: usize = 256;

/// How often a call may be tried at most, attempts that never left included.
pub(super) const TRIES_MAX: usize = 6;

/// A name has no addresses, as far as can be told.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {host}:{port}")]
pub(super) struct ResolveFailed {
    pub(super) host: String,
    pub(super) port: u16,
    #[source]
    pub(super) source: BoxError,
}

/// An address with its connections.
struct Member {
    endpoint: Arc<Endpoint>,
    connections: Vec<Arc<Connection>>,
}

/// How good a choice an address is for a call; the least is the best.
///
/// An address that failed this call once is better than one that is ejected, and one that is
/// ejected is better than one that says itself that it does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    phase: Phase,
    is_ejected: bool,
    is_tried: bool,
}

impl Rank {
    const WORST: Self = Self {
        phase: Phase::Failed,
        is_ejected: true,
        is_tried: true,
    };

    /// Whether the address is as good as any.
    fn is_fresh(self) -> bool {
        self.phase == Phase::Serving && !self.is_ejected && !self.is_tried
    }
}

impl Member {
    fn rank(&self, tried: &Tried) -> Rank {
        Rank {
            phase: self.phase(),
            is_ejected: self.endpoint.record.is_ejected(),
            is_tried: tried.contains(self.endpoint.address),
        }
    }

    /// That of the best connection. A connection that is lost is made again at once, so a call
    /// waits for it; it does not wait after an attempt has failed.
    fn phase(&self) -> Phase {
        let phases = self.connections.iter().map(|connection| connection.phase());
        match phases.min().unwrap_or(Phase::Pending) {
            Phase::Pending if self.endpoint.failure().is_some() => Phase::Failed,
            phase => phase,
        }
    }

    /// The best of the connections, in turn among the equals.
    fn channel(&self, lap: usize) -> Option<Channel> {
        let n = self.connections.len();
        let in_turn = self.connections.iter().cycle().skip(lap % n.max(1)).take(n);
        let best = in_turn.min_by_key(|connection| connection.phase())?;
        best.channel()
    }

    /// Whether calls to the address succeed, as far as is known.
    fn is_good(&self) -> bool {
        self.phase() == Phase::Serving && self.endpoint.record.is_good()
    }
}

/// Which of the `ranks` gets call number `call`, and a number that goes up with each call that
/// it gets.
///
/// Round robin among the best only. Going past the others instead would give the successor
/// of an address that is out the share of both.
fn choose(ranks: &[Rank], call: usize) -> Option<(usize, usize)> {
    let best = ranks.iter().min()?;
    let is_best = |(n, rank): (usize, &Rank)| (rank == best).then_some(n);
    let mut best = ranks.iter().enumerate().filter_map(is_best);
    let n_best = best.clone().count().max(1);
    Some((best.nth(call % n_best)?, call / n_best))
}

/// The addresses that a call was tried on.
#[derive(Default)]
pub(super) struct Tried {
    addresses: [Option<SocketAddr>; TRIES_MAX],
    n: usize,
}

impl Tried {
    /// Notes an address.
    pub(super) fn push(&mut self, address: SocketAddr) {
        if let Some(place) = self.addresses.get_mut(self.n) {
            *place = Some(address);
            self.n += 1;
        }
    }

    /// Whether the call may be tried once more.
    pub(super) fn has_room(&self) -> bool {
        self.n < TRIES_MAX
    }

    fn contains(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&Some(address))
    }
}

/// The connection that carries a call.
pub(super) struct Choice {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) channel: Channel,
}

/// What is known of the addresses.
#[derive(Default)]
struct Rotation {
    /// By address.
    members: Vec<Member>,
    /// Why there is none. Without it the names have not been looked up yet.
    failure: Option<Arc<ResolveFailed>>,
}

/// All addresses of the service.
pub(super) struct Endpoints {
    rotation: RwLock<Rotation>,
    n_connections: usize,
    n_calls: AtomicUsize,
    dialler: Arc<Dialler>,
}

impl Endpoints {
    /// None yet.
    pub(super) fn new(config: &RpcClientConfig, supervisor: &Arc<Supervisor>) -> Self {
        Self {
            rotation: RwLock::default(),
            n_connections: config.connections,
            // Clients that start together do not go round together.
            n_calls: AtomicUsize::new(rand::random::<u16>().into()),
            dialler: Arc::new(Dialler {
                connect_timeout: config.connect_timeout,
                supervisor: Arc::clone(supervisor),
                tasks: TaskTracker::new(),
                changed: Notify::new(),
                failed: Notify::new(),
            }),
        }
    }

    /// Takes the addresses of all names. Those known before keep their connections and
    /// their record, those that are gone leave when their calls have ended. Without any,
    /// `failure` is what calls are told.
    pub(super) fn update(&self, found: &BTreeMap<SocketAddr, Uri>, failure: Option<ResolveFailed>) {
        if found.len() > ADDRESSES_MAX {
            tracing::warn!(
                n_addresses = found.len(),
                limit = ADDRESSES_MAX,
                "order service has more addresses than are used"
            );
        }
        let found = found.iter().take(ADDRESSES_MAX);
        let mut rotation = self
            .rotation
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known = rotation.members.iter().map(|m| &m.endpoint.address);
        if !rotation.members.is_empty() && known.eq(found.clone().map(|(a, _)| a)) {
            return;
        }
        let n_each = self.n_connections.div_ceil(found.len().max(1)).max(1);
        let members = found.map(|(address, origin)| {
            let known = rotation
                .members
                .binary_search_by_key(address, |member| member.endpoint.address)
                .ok()
                .and_then(|n| rotation.members.get(n));
            self.member(known, *address, origin, n_each)
        });
        rotation.members = members.collect();
        rotation.failure = failure.map(Arc::new);
        let n_addresses = rotation.members.len();
        drop(rotation);
        self.dialler.changed.notify_waiters();
        if n_addresses > 0 {
            tracing::info!(n_addresses, "addresses of the order service changed");
        }
    }

    fn member(
        &self,
        known: Option<&Member>,
        address: SocketAddr,
        origin: &Uri,
        n_connections: usize,
    ) -> Member {
        let fresh = || {
            Arc::new(Endpoint {
                address,
                origin: origin.clone(),
                record: Record::default(),
                dialling: Mutex::default(),
                failure: RwLock::default(),
            })
        };
        let (endpoint, mut connections) = known.map_or_else(
            || (fresh(), Vec::new()),
            |known| (Arc::clone(&known.endpoint), known.connections.clone()),
        );
        connections.resize_with(n_connections, || {
            Connection::start(&endpoint, &self.dialler)
        });
        Member {
            endpoint,
            connections,
        }
    }

    /// Waits until a call or an attempt to connect has failed.
    pub(super) async fn failed(&self) {
        self.dialler.failed.notified().await;
    }

    /// The connection for the next try of a call. Waits while it is not known which address
    /// can be reached, which is at most as long as looking up and connecting may take.
    ///
    /// # Errors
    /// [`Error::ServiceUnavailable`] if no address can be reached.
    pub(super) async fn pick(&self, tried: &Tried) -> Result<Choice, Error> {
        loop {
            // Registered before the look, so that no change is missed.
            let changed = self.dialler.changed.notified();
            match self.try_pick(tried) {
                Some(choice) => return choice,
                None => changed.await,
            }
        }
    }

    /// The addresses. Waits while their names are looked up.
    pub(super) async fn all(&self) -> Vec<Arc<Endpoint>> {
        loop {
            let changed = self.dialler.changed.notified();
            let (members, is_known) = {
                let rotation = self.read();
                let members = rotation.members.iter().map(|m| Arc::clone(&m.endpoint));
                (members.collect::<Vec<_>>(), rotation.failure.is_some())
            };
            if is_known || !members.is_empty() {
                return members;
            }
            changed.await;
        }
    }

    /// A connection to an address. Waits while it is being made; `None` if it cannot be.
    pub(super) async fn connected(&self, endpoint: &Endpoint) -> Option<Channel> {
        loop {
            let changed = self.dialler.changed.notified();
            let channel = {
                let rotation = self.read();
                let mut members = rotation.members.iter();
                members
                    .find(|m| m.endpoint.address == endpoint.address)?
                    .channel(0)
            };
            if channel.is_some() || endpoint.failure().is_some() {
                return channel;
            }
            changed.await;
        }
    }

    /// `None` if the next change has to be waited for.
    fn try_pick(&self, tried: &Tried) -> Option<Result<Choice, Error>> {
        let rotation = self.read();
        if rotation.members.is_empty() {
            let failure = rotation.failure.as_ref()?;
            self.dialler.failed.notify_one();
            return Some(Err(Error::service_unavailable(Arc::clone(failure))));
        }
        let mut ranks = [Rank::WORST; ADDRESSES_MAX];
        for (rank, member) in ranks.iter_mut().zip(&rotation.members) {
            *rank = member.rank(tried);
        }
        let ranks = ranks.get(..rotation.members.len()).unwrap_or_default();
        let (n, lap) = choose(ranks, self.n_calls.fetch_add(1, Ordering::Relaxed))?;
        let member = rotation.members.get(n)?;
        if let Some(channel) = member.channel(lap) {
            let endpoint = Arc::clone(&member.endpoint);
            return Some(Ok(Choice { endpoint, channel }));
        }
        let failure = member.endpoint.failure()?;
        Some(Err(Error::service_unavailable(failure)))
    }

    /// Waits until it is known whether the service serves somewhere, and returns it.
    ///
    /// # Errors
    /// As for [`Endpoints::pick`].
    pub(super) async fn is_serving(&self) -> Result<bool, Error> {
        self.pick(&Tried::default()).await?;
        let is_serving = |member: &Member| member.phase() == Phase::Serving;
        Ok(self.read().members.iter().any(is_serving))
    }

    /// How many addresses there are, and how many of them take calls.
    pub(super) fn count(&self) -> (usize, usize) {
        let rotation = self.read();
        let usable = rotation.members.iter().filter(|member| member.is_good());
        (rotation.members.len(), usable.count())
    }

    /// Whether an address that the call was not tried on serves it as well as any.
    pub(super) fn has_other(&self, tried: &Tried) -> bool {
        let rotation = self.read();
        let is_fresh = |member: &Member| member.rank(tried).is_fresh();
        rotation.members.iter().any(is_fresh)
    }

    /// Whether new calls go past `endpoint` to others.
    pub(super) fn is_passed_over(&self, endpoint: &Endpoint) -> bool {
        let rotation = self.read();
        let mut usable = rotation
            .members
            .iter()
            .filter(|member| member.rank(&Tried::default()).is_fresh())
            .map(|member| member.endpoint.address)
            .peekable();
        usable.peek().is_some() && usable.all(|address| address != endpoint.address)
    }

    /// Counts a call. An address that fails most of its calls is ejected if another one does
    /// not: a database that is away, which fails the calls to all of them, ejects none.
    pub(super) fn record(&self, endpoint: &Endpoint, outcome: Outcome) {
        let is_failing = endpoint.record.add(outcome);
        if outcome == Outcome::Failed {
            self.dialler.failed.notify_one();
        }
        if is_failing && self.read().members.iter().any(Member::is_good) && endpoint.record.eject()
        {
            tracing::warn!(
                network.peer.address = %endpoint.address,
                "address of the order service fails calls and is left alone for a while"
            );
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Rotation> {
        self.rotation.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
