//! The hub itself: what it is given, what it counts, and the ports it serves.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use order_core::{
    CallContext, Clock, Error, EventBus, EventReceiver, Follower, OrderEvent, OrderEventStream,
    OrderFollow, OrderId, OrderReads, OrderWatch, Push, Topic, TopicChange, Version, WatchOrder,
    metrics::{Counter, Family},
    supervisor::Beat,
};
use prometheus_client::encoding::EncodeLabelSet;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Form, Inbox, Session, Subscribed,
    gap::Reads,
    lookups::Lookups,
    mailbox::Watcher,
    offer::Source,
    pushes::Pushes,
    topics::{Delivered, Topics},
};

/// How large a hub may grow and how often it heals.
#[derive(Clone, Copy, Debug)]
pub struct HubConfig {
    /// Time between two reconcile passes, varied by 25 % either way so that processes do
    /// not meet at the database.
    pub reconcile_interval: Duration,
    /// How many orders one session follows at most.
    pub subscriptions_per_session_max: usize,
    /// How many orders another process follows at most, for all its clients.
    pub orders_per_follower_max: usize,
    /// How many subscriptions read the store at the same time: when everybody comes back
    /// at once, they queue here and not at the database.
    pub reads_max: usize,
    /// Whether the hub keeps track of which topics come and go, for a transport that asks
    /// its broker for what is watched here and nothing else. Otherwise
    /// [`EventReceiver::topic_changes`] waits for ever, and costs nothing.
    pub tracks_topics: bool,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            reconcile_interval: Duration::from_secs(2),
            subscriptions_per_session_max: 100,
            orders_per_follower_max: 100_000,
            reads_max: 32,
            tracks_topics: false,
        }
    }
}

/// Counters of a hub.
#[derive(Clone, Debug, Default)]
pub struct HubStats {
    /// Events published to this hub by its own process: changes that it has committed.
    pub published: Family<StatusLabels, Counter>,
    /// Events received from other processes.
    pub received: Counter,
    /// Events handed to sessions, one for each session.
    pub delivered: Counter,
    /// Events among them that took the place of an older one, which a slow reader skips or
    /// gets from the history, as its form says.
    pub conflated: Counter,
    /// Events that slow readers got from the history.
    pub filled: Counter,
    /// Events among the delivered that the bus had not brought: the reconcile pass did.
    pub healed: Counter,
}

/// The labels of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabels {
    status: &'static str,
}

/// Subscriptions and fan-out of one process.
#[derive(Debug)]
pub struct Hub {
    pub(crate) shared: Arc<Shared>,
}

/// What the hub and its sessions share.
pub(crate) struct Shared {
    pub(crate) config: HubConfig,
    pub(crate) store: Arc<dyn OrderReads>,
    pub(crate) topics: Topics,
    pub(crate) lookups: Lookups,
    pub(crate) closed: CancellationToken,
    pub(crate) fills: Reads,
    reads: Semaphore,
    sessions: watch::Sender<usize>,
    stats: HubStats,
    pushes: Pushes,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Counts a session that begins.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        if self.closed.is_cancelled() {
            return Err(Error::shutting_down());
        }
        // Before the session reads the store, whoever asks whether anybody watches knows.
        self.sessions.send_if_modified(|n| {
            *n += 1;
            *n == 1
        });
        Ok(())
    }

    /// Counts a session that ends.
    pub(crate) fn leave(&self) {
        self.sessions.send_if_modified(|n| {
            *n = n.saturating_sub(1);
            false
        });
    }

    /// Reads the store for a session, as one of a limited number at a time.
    pub(crate) async fn in_turn<T>(
        &self,
        read: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let _turn = self.reads.acquire().await.map_err(Error::internal)?;
        read.await
    }

    /// Counts events that were read from the history for a slow reader.
    pub(crate) fn count_filled(&self, n_filled: usize) {
        self.stats.filled.inc_by(n_filled as u64);
    }

    fn deliver(&self, events: &[OrderEvent], source: Source) -> Delivered {
        let delivered = self.topics.deliver(events, source, &self.pushes);
        self.stats.delivered.inc_by(delivered.queued);
        self.stats.conflated.inc_by(delivered.conflated);
        delivered
    }

    /// Delivers what the bus should have brought.
    pub(crate) fn heal(&self, events: &[OrderEvent]) {
        let healed = self.deliver(events, Source::Store).queued;
        self.stats.healed.inc_by(healed);
    }
}

impl Hub {
    /// Builds a hub that reads from `store`. Its owner also runs [`Hub::run_reconcile`]. Pushes are
    /// kept with the time of `clock`.
    pub fn new(config: HubConfig, store: Arc<dyn OrderReads>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::new(Shared {
                config,
                store,
                topics: Topics::new(config.tracks_topics),
                lookups: Lookups::default(),
                closed: CancellationToken::new(),
                fills: Reads::default(),
                reads: Semaphore::new(config.reads_max.clamp(1, Semaphore::MAX_PERMITS)),
                sessions: watch::Sender::default(),
                stats: HubStats::default(),
                pushes: Pushes::new(clock),
            }),
        })
    }

    /// Opens a session without subscriptions. How many there are is limited by the transports, each
    /// for its own clients.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] after [`Hub::close`].
    pub fn session(&self) -> Result<(Session, Inbox), Error> {
        self.shared.enter()?;
        let subscriptions_max = self.shared.config.subscriptions_per_session_max;
        Ok(Session::open(
            &self.shared,
            subscriptions_max,
            Watcher::Client,
        ))
    }

    /// Reads the store for what the bus has lost, again and again and when a transport asks
    /// for it, until `stop`.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub async fn run_reconcile(self: Arc<Self>, stop: CancellationToken, beat: Beat) {
        stop.run_until_cancelled(self.shared.reconcile_forever(&beat))
            .await;
    }

    /// Ends every session, once it has what waits for it, and refuses new ones.
    pub fn close(&self) {
        self.shared.closed.cancel();
    }

    /// Counters of the hub.
    pub fn stats(&self) -> &HubStats {
        &self.shared.stats
    }

    /// How many sessions are open.
    pub fn n_sessions(&self) -> usize {
        *self.shared.sessions.borrow()
    }

    /// How many orders are watched, each by itself. Counts them under their locks, so it is meant
    /// for a scrape, not for a loop.
    pub fn n_orders(&self) -> usize {
        self.shared.topics.len()
    }

    /// How many users are watched.
    pub fn n_users(&self) -> usize {
        self.shared.topics.n_users()
    }
}

impl EventBus for Hub {
    fn publish(&self, events: &[OrderEvent]) {
        for event in events {
            let status = event.status.as_str();
            let published = &self.shared.stats.published;
            published.get_or_create(&StatusLabels { status }).inc();
        }
        self.shared.deliver(events, Source::Bus);
    }
}

#[async_trait]
impl EventReceiver for Hub {
    fn receive(&self, events: &[OrderEvent]) {
        self.shared.stats.received.inc_by(events.len() as u64);
        self.shared.deliver(events, Source::Bus);
    }

    fn is_watched(&self) -> bool {
        *self.shared.sessions.borrow() > 0
    }

    async fn until_watched(&self) {
        let mut sessions = self.shared.sessions.subscribe();
        // Its sender lives as long as the hub.
        let _open = sessions.wait_for(|&n| n > 0).await;
    }

    fn watched(&self) -> Vec<Topic> {
        self.shared.topics.watched()
    }

    async fn topic_changes(&self) -> Vec<TopicChange> {
        self.shared.topics.changes().await
    }

    fn heard(&self, topics: &[Topic]) {
        self.shared.lookups.ask(topics);
    }

    fn resync(&self) {
        self.shared.lookups.ask_everything();
    }
}

#[async_trait]
impl OrderWatch for Hub {
    async fn watch(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        check_orders(&orders)?;
        let (mut session, inbox) = self.session()?;
        let mut first = Vec::new();
        for order in orders {
            let subscribed = session.subscribe(ctx, order, Form::Full).await?;
            first.extend(subscribed.into_events());
        }
        Ok(read_stream(inbox, first, session))
    }

    fn pushes(&self, order_id: OrderId) -> Vec<Push> {
        self.shared.pushes.of(order_id)
    }
}

impl OrderFollow for Hub {
    fn follow(&self) -> Result<(Box<dyn Follower>, OrderEventStream), Error> {
        self.shared.enter()?;
        let orders_max = self.shared.config.orders_per_follower_max;
        let (session, inbox) = Session::open(&self.shared, orders_max, Watcher::Gateway);
        let events = read_stream(inbox, Vec::new(), ());
        Ok((Box::new(session), events))
    }
}

#[async_trait]
impl Follower for Session {
    async fn add(
        &mut self,
        ctx: &CallContext,
        mut orders: Vec<WatchOrder>,
    ) -> Vec<Result<Option<OrderEvent>, Error>> {
        let seen: Vec<_> = orders.iter_mut().map(|order| order.since.take()).collect();
        // Bare: a gap would be read here, where one that cannot be read would end the feed.
        let answers = self.subscribe_many(ctx, &orders, Form::Bare).await;
        let unseen = |(answer, seen): (Result<Subscribed, Error>, Option<Version>)| {
            let mut events = answer?.into_events();
            Ok(events.pop().filter(|event| Some(event.version) != seen))
        };
        answers.into_iter().zip(seen).map(unseen).collect()
    }

    fn remove(&mut self, order_ids: &[OrderId]) {
        for order_id in order_ids {
            self.unsubscribe(*order_id);
        }
    }
}

fn check_orders(orders: &[WatchOrder]) -> Result<(), Error> {
    if orders.is_empty() {
        return Err(Error::invalid("orders", "must not be empty"));
    }
    let mut seen = HashSet::with_capacity(orders.len());
    match orders.iter().position(|order| !seen.insert(order.order_id)) {
        Some(idx) => Err(Error::invalid(
            format!("orders/{idx}/order_id"),
            "must not name an order twice",
        )),
        None => Ok(()),
    }
}

/// Reads an inbox as a stream, after the events `first`. `held` lives as long as the stream, such as
/// the session, whose subscriptions end with it.
fn read_stream(
    inbox: Inbox,
    first: Vec<OrderEvent>,
    held: impl Send + 'static,
) -> OrderEventStream {
    let watch = Watch {
        _held: held,
        inbox,
        waiting: first.into(),
        is_over: false,
    };
    // Tens of thousands of these wait. A block holds the watch once, an `async fn` would hold it twice.
    let step = |mut watch: Watch<_>| async move {
        while !watch.is_over {
            if let Some(event) = watch.waiting.pop_front() {
                return Some((Ok(event), watch));
            }
            // Frees the memory of the last burst.
            watch.waiting = VecDeque::new();
            let mut deliveries = Vec::new();
            if let Err(error) = watch.inbox.next(&mut deliveries).await {
                watch.is_over = true;
                return Some((Err(error), watch));
            }
            let events = deliveries.iter().map(|delivery| delivery.event.event());
            watch.waiting.extend(events.cloned());
        }
        None
    };
    stream::unfold(watch, step).boxed()
}

/// An inbox that is read as a stream of events.
struct Watch<T> {
    _held: T,
    inbox: Inbox,
    waiting: VecDeque<OrderEvent>,
    /// Whether the inbox has failed.
    is_over: bool,
}
