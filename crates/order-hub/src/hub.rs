//! The hub itself: what it is given, what it counts, and the ports it serves.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use order_core::{
    CallContext, Error, EventBus, EventReceiver, Follower, OrderEvent, OrderEventStream,
    OrderFollow, OrderId, OrderReads, OrderWatch, Topic, TopicChange, Version, WatchOrder,
    supervisor::Beat,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Form, Inbox, Session, Subscribed,
    gap::Reads,
    lookups::Lookups,
    offer::Source,
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

/// What a hub holds now and has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Sessions open now.
    pub sessions: usize,
    /// Orders watched now, each by itself.
    pub orders: usize,
    /// Users watched now.
    pub users: usize,
    /// Events published to this hub by its own process.
    pub published: u64,
    /// Events received from other processes.
    pub received: u64,
    /// Events handed to sessions, one for each session.
    pub delivered: u64,
    /// Events among them that took the place of an older one, which a slow reader skips or
    /// gets from the history, as its form says.
    pub conflated: u64,
    /// Events that slow readers got from the history.
    pub filled: u64,
    /// Events among the delivered that the bus had not brought: the reconcile pass did.
    pub healed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sessions: watch::Sender<usize>,
    published: AtomicU64,
    received: AtomicU64,
    delivered: AtomicU64,
    conflated: AtomicU64,
    filled: AtomicU64,
    healed: AtomicU64,
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
    counters: Counters,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("counters", &self.counters)
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
        self.counters.sessions.send_if_modified(|n| {
            *n += 1;
            *n == 1
        });
        Ok(())
    }

    /// Counts a session that ends.
    pub(crate) fn leave(&self) {
        self.counters.sessions.send_if_modified(|n| {
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
        let filled = &self.counters.filled;
        filled.fetch_add(n_filled as u64, Ordering::Relaxed);
    }

    fn deliver(&self, events: &[OrderEvent], source: Source) -> Delivered {
        let delivered = self.topics.deliver(events, source);
        let counters = &self.counters;
        counters
            .delivered
            .fetch_add(delivered.queued, Ordering::Relaxed);
        counters
            .conflated
            .fetch_add(delivered.conflated, Ordering::Relaxed);
        delivered
    }

    /// Delivers what the bus should have brought.
    pub(crate) fn heal(&self, events: &[OrderEvent]) {
        let healed = self.deliver(events, Source::Store).queued;
        self.counters.healed.fetch_add(healed, Ordering::Relaxed);
    }
}

impl Hub {
    /// Builds a hub that reads from `store`. Its owner also runs [`Hub::run_reconcile`].
    pub fn new(config: HubConfig, store: Arc<dyn OrderReads>) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::new(Shared {
                config,
                store,
                topics: Topics::new(config.tracks_topics),
                lookups: Lookups::default(),
                closed: CancellationToken::new(),
                fills: Reads::default(),
                reads: Semaphore::new(config.reads_max.clamp(1, Semaphore::MAX_PERMITS)),
                counters: Counters::default(),
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
        Ok(Session::open(&self.shared, subscriptions_max))
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

    /// What the hub holds and has done. Counts the watched orders under their locks, so it
    /// is meant for a scrape, not for a loop.
    pub fn stats(&self) -> HubStats {
        let counters = &self.shared.counters;
        HubStats {
            sessions: *counters.sessions.borrow(),
            orders: self.shared.topics.len(),
            users: self.shared.topics.n_users(),
            published: counters.published.load(Ordering::Relaxed),
            received: counters.received.load(Ordering::Relaxed),
            delivered: counters.delivered.load(Ordering::Relaxed),
            conflated: counters.conflated.load(Ordering::Relaxed),
            filled: counters.filled.load(Ordering::Relaxed),
            healed: counters.healed.load(Ordering::Relaxed),
        }
    }
}

impl EventBus for Hub {
    fn publish(&self, events: &[OrderEvent]) {
        let published = &self.shared.counters.published;
        published.fetch_add(events.len() as u64, Ordering::Relaxed);
        self.shared.deliver(events, Source::Bus);
    }
}

#[async_trait]
impl EventReceiver for Hub {
    fn receive(&self, events: &[OrderEvent]) {
        let received = &self.shared.counters.received;
        received.fetch_add(events.len() as u64, Ordering::Relaxed);
        self.shared.deliver(events, Source::Bus);
    }

    fn is_watched(&self) -> bool {
        *self.shared.counters.sessions.borrow() > 0
    }

    async fn until_watched(&self) {
        let mut sessions = self.shared.counters.sessions.subscribe();
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
}

impl OrderFollow for Hub {
    fn follow(&self) -> Result<(Box<dyn Follower>, OrderEventStream), Error> {
        self.shared.enter()?;
        let orders_max = self.shared.config.orders_per_follower_max;
        let (session, inbox) = Session::open(&self.shared, orders_max);
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
