//! The addresses of the service, and which of them gets the next call.
//!
//! Invariants: a call is refused for want of an address only if no name was ever resolved;
//! an address that left the rotation keeps the calls it has until they end.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use http::Uri;
use order_core::Error;
use tokio::sync::{Notify, watch};

use super::{
    config::RpcClientConfig,
    connection::{Connection, Dialler},
    outlier::{Change, Health, Outcome, Standing},
    resolve::ResolveFailed,
    turn::Turn,
};

/// The most addresses of all names together.
const ADDRESSES_MAX: usize = 256;

/// How often a call may be tried at most, attempts that never left included.
pub(super) const TRIES_MAX: usize = 6;

/// One address of the service.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// Scheme and authority of requests: the name, not the address.
    pub(super) origin: Uri,
    health: Health,
    failed: Arc<Notify>,
}

impl Endpoint {
    /// Counts a call that began in `epoch`.
    fn record(&self, outcome: Outcome, epoch: u32) {
        self.heed(self.health.record(outcome, epoch));
        if outcome != Outcome::Answered {
            self.failed.notify_one();
        }
    }

    /// Counts an attempt to connect that failed.
    pub(super) fn dial_failed(&self) {
        self.heed(self.health.dial_failed());
        self.failed.notify_one();
    }

    /// Counts a new connection.
    pub(super) fn dial_succeeded(&self) {
        self.heed(self.health.dial_succeeded());
    }

    fn heed(&self, change: Change) {
        let network = || tracing::field::display(self.address);
        match change {
            Change::None => {}
            Change::Ejected => {
                tracing::warn!(
                    network.peer.address = network(),
                    "address of the order service is left alone"
                );
            }
            Change::Returned => {
                tracing::info!(
                    network.peer.address = network(),
                    "address of the order service is back"
                );
            }
        }
    }
}

/// An address with its connections.
struct Member {
    endpoint: Arc<Endpoint>,
    connections: Vec<Connection>,
}

/// How good a choice an address is for a call; the least is the best.
///
/// An address that failed this call once is better than one that is ejected, which fails
/// calls as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The call is its probe.
    Probe,
    Open,
    /// The call would have to wait for a connection.
    Idle,
    OpenTried,
    IdleTried,
    Ejected,
    EjectedTried,
}

impl Member {
    fn rank(&self, is_tried: bool, may_probe: bool) -> Rank {
        let is_open = self.connections.iter().any(Connection::is_open);
        let standing = self.endpoint.health.standing();
        // Connections are made beside the calls as long as there is a better choice. For an
        // ejected address that is the probe: it risks no call.
        let is_dialled = !is_open
            && standing != Standing::Out
            && self.connections.first().is_some_and(Connection::nudge);
        let is_probed = standing == Standing::ProbeDue
            && (is_dialled || (is_open && may_probe && !is_tried))
            && self.endpoint.health.begin_probe();
        match (standing, is_open, is_tried) {
            (Standing::ProbeDue, true, _) if is_probed => Rank::Probe,
            (Standing::In, true, false) => Rank::Open,
            (Standing::In, false, false) => Rank::Idle,
            (Standing::In, true, true) => Rank::OpenTried,
            (Standing::In, false, true) => Rank::IdleTried,
            (Standing::Out | Standing::ProbeDue, _, false) => Rank::Ejected,
            (Standing::Out | Standing::ProbeDue, _, true) => Rank::EjectedTried,
        }
    }

    /// The best of the connections, in turn among the equals.
    fn connection(&self, lap: usize) -> Option<&Connection> {
        let n = self.connections.len();
        let in_turn = self.connections.iter().cycle().skip(lap % n.max(1)).take(n);
        if let Some(first) = in_turn.clone().next() {
            first.nudge();
        }
        in_turn.min_by_key(|connection| connection.phase())
    }
}

/// Which of the `ranks` gets a call, and a number that goes up with each call that it gets.
///
/// Round robin among the best only. Going past the others instead would give the successor
/// of an address that is out the share of both.
fn choose(ranks: &[Rank], turn: Turn) -> Option<(usize, usize)> {
    let best = ranks.iter().min()?;
    let is_best = |(n, rank): (usize, &Rank)| (rank == best).then_some(n);
    let best = ranks.iter().enumerate().filter_map(is_best);
    let n_best = best.clone().count().max(1);
    let (n, lap) = match turn.slice {
        None => (turn.call % n_best, turn.call / n_best),
        Some(slice) => (slice % n_best, turn.call),
    };
    Some((best.clone().nth(n)?, lap))
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
    pub(super) connection: Connection,
    epoch: u32,
}

impl Choice {
    /// Where the call goes.
    pub(super) fn address(&self) -> SocketAddr {
        self.connection.endpoint().address
    }

    /// Counts the call for its address.
    pub(super) fn record(&self, outcome: Outcome) {
        self.connection.endpoint().record(outcome, self.epoch);
    }
}

/// What is known of the addresses.
#[derive(Default)]
struct Rotation {
    /// By address.
    members: Vec<Member>,
    /// Why there is none.
    failure: Option<Arc<ResolveFailed>>,
}

impl Rotation {
    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn is_pending(&self) -> bool {
        self.is_empty() && self.failure.is_none()
    }
}

/// All addresses of the service.
pub(super) struct Endpoints {
    rotation: watch::Sender<Rotation>,
    n_connections: usize,
    dialler: Dialler,
    failed: Arc<Notify>,
}

impl Endpoints {
    /// None yet.
    pub(super) fn new(config: &RpcClientConfig) -> Self {
        Self {
            rotation: watch::Sender::default(),
            n_connections: config.connections,
            dialler: Dialler::new(config.connect_timeout),
            failed: Arc::default(),
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
        self.rotation.send_if_modified(|rotation| {
            let known = rotation.members.iter().map(|m| &m.endpoint.address);
            if !rotation.is_empty() && known.eq(found.clone().map(|(a, _)| a)) {
                return false;
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
            if !rotation.is_empty() {
                let n_addresses = rotation.members.len();
                tracing::info!(n_addresses, "addresses of the order service changed");
            }
            true
        });
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
                health: Health::default(),
                failed: Arc::clone(&self.failed),
            })
        };
        let (endpoint, mut connections) = known.map_or_else(
            || (fresh(), Vec::new()),
            |known| (Arc::clone(&known.endpoint), known.connections.clone()),
        );
        connections.resize_with(n_connections, || {
            Connection::new(Arc::clone(&endpoint), self.dialler.clone())
        });
        Member {
            endpoint,
            connections,
        }
    }

    /// Waits until the names were looked up once.
    pub(super) async fn looked_up(&self) {
        if self.rotation.borrow().is_pending() {
            // The sender is here, so it cannot be gone.
            let _ = self
                .rotation
                .subscribe()
                .wait_for(|rotation| !rotation.is_pending())
                .await;
        }
    }

    /// Waits until a call or an attempt to connect has failed.
    pub(super) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Whether some address is not ejected.
    pub(super) fn has_healthy(&self) -> bool {
        let is_in = |member: &Member| member.endpoint.health.standing() == Standing::In;
        self.rotation.borrow().members.iter().any(is_in)
    }

    /// The connection for the next try of a call whose turn it is. A call that `may_probe` is
    /// one that may be repeated elsewhere.
    ///
    /// # Errors
    /// [`Error::ServiceUnavailable`] if there is no address at all.
    pub(super) fn pick(&self, turn: Turn, tried: &Tried, may_probe: bool) -> Result<Choice, Error> {
        let rotation = self.rotation.borrow();
        let mut ranks = [Rank::EjectedTried; ADDRESSES_MAX];
        let mut may_probe = may_probe;
        for (rank, member) in ranks.iter_mut().zip(&rotation.members) {
            let is_tried = tried.contains(member.endpoint.address);
            *rank = member.rank(is_tried, may_probe);
            may_probe &= *rank != Rank::Probe;
        }
        let ranks = ranks.get(..rotation.members.len()).unwrap_or_default();
        let chosen = choose(ranks, turn).and_then(|(n, lap)| {
            let member = rotation.members.get(n)?;
            let connection = member.connection(lap)?.clone();
            let epoch = member.endpoint.health.epoch();
            Some(Choice { connection, epoch })
        });
        chosen.ok_or_else(|| {
            self.failed.notify_one();
            match &rotation.failure {
                Some(failure) => Error::service_unavailable(Arc::clone(failure)),
                None => Error::Internal { source: None },
            }
        })
    }
}

#[cfg(test)]
mod tests;
