//! What the domain needs from the outside. Adapters implement these traits; the contracts
//! in prose here are checked by the conformance suites of `order-testkit`, which run
//! against every adapter.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    Backlog, CallContext, Change, Committed, Completed, Completion, Created, DeadLetterGroup,
    Error, Extended, IdempotencyKey, Job, JobToken, KeyOperation, NewOrder, NewTicket, Order,
    OrderEvent, OrderEventStream, OrderId, OrderQuery, OrderState, PageTokenKey, Push, Start,
    Started, StoredKey, TicketGrant, UserId, Version, WatchOrder,
};

/// Reads of orders and their histories: all that following orders needs. A process without a
/// store reads from the service that has one.
///
/// # Cancel safety
/// As for [`OrderStore`].
#[async_trait]
pub trait OrderReads: Send + Sync + 'static {
    /// Reads an order, from the primary.
    async fn find(&self, ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error>;

    /// Reads the history of an order after a version, oldest first, at most `limit`.
    /// Version 1 is included when `after` is 0. Unknown orders have no history.
    async fn events(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error>;

    /// Reads where the given orders stand, in any order; unknown ones are left out.
    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error>;

    /// Reads where the newest orders of each user stand, at most `limit_per_user` of each by
    /// id descending; the users come in any order.
    async fn recent_states(
        &self,
        user_ids: &[UserId],
        limit_per_user: usize,
    ) -> Result<Vec<OrderState>, Error>;
}

/// Where orders, their jobs and their history live. The truth of the system.
///
/// # Atomicity
/// Each element of a slice is atomic: an order commits together with its job, a change
/// together with its event and its effect on the job. Elements of one call may share a
/// transaction, but a bad one fails alone: the answers are in the order of the input and
/// have its length.
///
/// # Durability
/// `Ok` is returned only after the commit is durable. `Err` with
/// [`Error::StoreUnavailable`] leaves the outcome open; every write here can be repeated
/// without harm, and a caller that needs to know repeats it.
///
/// # Cancel safety
/// Futures of the writing methods are run to their end by whoever calls them: a lane of a
/// [group commit](crate::group_commit) or a task of the worker pool, never a request
/// handler. Futures of the reading methods may be dropped at any point; the statement they
/// began is then cancelled, and its connection is not reused before that.
#[async_trait]
pub trait OrderStore: OrderReads {
    /// Inserts orders, each with its job and, by its row, version 1 of its history.
    ///
    /// An id that is taken is answered with the stored order and `is_new = false` if the
    /// content is the same (a retry), else with [`Error::OrderAlreadyExists`]. That holds
    /// within one slice too: the first of two equal ids wins.
    ///
    /// An external id that another order of the user has is answered with
    /// [`Error::ExternalIdTaken`].
    ///
    /// A key commits with its order. One that is there already is answered with the order
    /// it belongs to, [as it was created](Order::as_created), if the fingerprint is the
    /// same, else with [`Error::IdempotencyKeyReused`]; nothing is inserted. While another
    /// transaction is storing the same key the answer is [`Error::RequestInProgress`], at
    /// once. A key whose own order failed is not stored. A slice without keys costs what it
    /// cost without the feature.
    async fn create(&self, orders: &[NewOrder]) -> Vec<Result<Created, Error>>;

    /// Applies decided changes, each a compare-and-set on its `expected_version`: raises
    /// the version by one, appends the event, does what [`Change::job`] says.
    ///
    /// A change to FAILED stores its cause in [`Order::failure`]; any other change clears
    /// it. [`JobEffect::Requeue`](crate::JobEffect::Requeue) makes the job due at once with
    /// `attempts_before = attempt`, and creates the job if there is none.
    ///
    /// A key commits with its change. If it is there already, whatever for, nothing is
    /// written and the change is [`Committed::Stale`]: the caller looks at the key again.
    ///
    /// Where the answer to a commit can be lost, a change that is sent again with the same
    /// [`Change::id`] is answered as the first time, with the order as it is now.
    async fn commit(&self, changes: &[Change]) -> Vec<Result<Committed, Error>>;

    /// Whether the history of an order has a change with this [`Change::id`], read from the
    /// primary.
    async fn has_change(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        change_id: Uuid,
    ) -> Result<bool, Error>;

    /// Reads what a key was used for, from the primary.
    async fn find_key(
        &self,
        ctx: &CallContext,
        owner: &UserId,
        operation: KeyOperation,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredKey>, Error>;

    /// Reads orders by id descending, until none is [missing](crate::Listing::n_missing): up to the
    /// limit of the query, or one order more than fits into an answer.
    async fn list(&self, ctx: &CallContext, query: &OrderQuery) -> Result<Vec<Order>, Error>;

    /// Stores a ticket and returns when it expires. May be dropped: a ticket nobody was told
    /// of is worth nothing.
    async fn put_ticket(&self, ticket: &NewTicket) -> Result<Timestamp, Error>;

    /// Removes the ticket with this digest and returns what it allows; `None` if there is
    /// none or it has expired. Of two calls for one ticket only one gets it.
    async fn take_ticket(&self, digest: &[u8; 32]) -> Result<Option<TicketGrant>, Error>;

    /// The secret that seals page tokens: random, made by whoever asks first, and from then
    /// on the same for every process on this database.
    async fn page_token_key(&self) -> Result<PageTokenKey, Error>;

    /// Removes up to `limit` keys and up to `limit` tickets that have expired, and returns
    /// how many. Called again and again in the background; fewer than `limit` means that
    /// none is left.
    async fn prune(&self, limit: usize) -> Result<usize, Error>;

    /// Counts the newest [`COUNT_MAX`](DeadLetterGroup::COUNT_MAX) FAILED orders by the code of
    /// their cause, the largest groups first.
    async fn dead_letters(&self, ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error>;

    /// Counts what waits, for operators. Called in the background, every few seconds at most.
    async fn backlog(&self) -> Result<Backlog, Error>;

    /// Waits until what was read before is as durable as a commit: a row may have been committed
    /// on one server and not yet have reached the standby that would take over. Comes before
    /// every success that is answered from a row and not from a commit of its own.
    async fn confirm(&self, ctx: &CallContext) -> Result<(), Error>;

    /// Checks that the database answers, takes writes, and has the schema this program needs. It
    /// writes only if a write has failed lately because the disk was full or failing.
    async fn check(&self, ctx: &CallContext) -> Result<(), Error>;
}

/// The jobs of the orders in an [`OrderStore`], under one lease protocol.
///
/// A job is due from a point in time on: that is when it was created, when its retry
/// comes, or when its lease runs out; the three are one thing. All times are the
/// database's. A claim moves that time to the end of the lease and raises `attempt`, and
/// everything that follows must name that attempt ([`JobToken`]).
///
/// A token is current from its claim until the job is completed, retried, released, buried,
/// requeued or claimed again. The end of the lease alone does not matter: a late worker whose
/// job nobody has claimed since may still finish it.
///
/// # Attempts
/// A claim alone is not an attempt: the job may wait in memory when its process dies. An
/// attempt counts when its failure is reported, or when [`JobQueue::start`] has marked it as
/// begun. A job whose last claim ended without a result is *abandoned*; it can only be claimed
/// by [`JobQueue::claim_abandoned`], whose caller runs it at once and marks it first, so that a
/// job that kills its process is found out and its neighbours are not blamed.
///
/// What the traits of [`OrderStore`] promise about atomicity, durability and cancellation
/// holds here too.
#[async_trait]
pub trait JobQueue: Send + Sync + 'static {
    /// Claims up to `limit` due jobs, the longest due first, for `lease`. No two calls
    /// ever get the same attempt of a job, and none waits for another. Abandoned jobs are left
    /// out.
    async fn claim(&self, limit: usize, lease: Duration) -> Result<Vec<Job>, Error> {
        self.claim_overdue(limit, lease, Duration::ZERO).await
    }

    /// Like [`JobQueue::claim`], for jobs that have been due for at least `overdue`: those
    /// whose hints were lost, as far as one can tell.
    async fn claim_overdue(
        &self,
        limit: usize,
        lease: Duration,
        overdue: Duration,
    ) -> Result<Vec<Job>, Error>;

    /// Claims those of the given jobs that are due, for `lease`; the others, and abandoned
    /// ones, are left out. Of concurrent calls for one job one gets it.
    async fn claim_hinted(&self, order_ids: &[OrderId], lease: Duration)
    -> Result<Vec<Job>, Error>;

    /// Claims one abandoned job, the longest due first, for `lease`. Its last claim counts as
    /// an attempt only if it was marked as begun. Jobs behind a long queue of due ones are
    /// found when their turn comes.
    async fn claim_abandoned(&self, lease: Duration) -> Result<Option<Job>, Error>;

    /// Heartbeat: moves the end of the leases to `lease` from now. The answers are in the
    /// order of the tokens and have their length.
    async fn extend(&self, tokens: &[JobToken], lease: Duration) -> Result<Vec<Extended>, Error>;

    /// Sets durable marks before attempts begin, each a compare-and-set on its token. A mark
    /// that is there already stays.
    async fn start(&self, starts: &[Start]) -> Vec<Result<Started, Error>>;

    /// Commits the results of attempts, each a compare-and-set on its token; one whose rows
    /// another transaction has locked is answered with [`Error::RequestInProgress`]. A report that is
    /// repeated is answered as the first was and changes nothing, as long as the queue
    /// remembers: always for one that ended the order, else until the job's next retry.
    async fn complete(&self, completions: &[Completion]) -> Vec<Result<Completed, Error>>;

    /// Gives leases back: the jobs are due at once, and the attempt does not count, because
    /// nobody failed. Tokens that are not current are ignored, and so are jobs that another
    /// transaction has locked. Returns how many were released.
    async fn release(&self, tokens: &[JobToken]) -> Result<usize, Error>;
}

/// Tells everybody who watches that orders have changed.
///
/// Delivery is at most once and best effort: the truth is in the store, and watchers
/// reconcile with it. Called after the commit, never inside a transaction.
pub trait EventBus: Send + Sync + 'static {
    /// Passes events on. Never blocks and never fails; what cannot be passed on is dropped.
    fn publish(&self, events: &[OrderEvent]);
}

/// The other end of an [`EventBus`]: lets callers follow orders.
#[async_trait]
pub trait OrderWatch: Send + Sync + 'static {
    /// Follows orders: registers first, then reads what is already there, then forwards
    /// what is newer, so that there is no gap and no step back.
    async fn watch(
        &self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error>;

    /// Returns the newest pushes of an order by this process, oldest first, at most
    /// [`OrderRecord::LEN_MAX`](crate::OrderRecord::LEN_MAX). Older ones, and those of before its start, are forgotten.
    fn pushes(&self, order_id: OrderId) -> Vec<Push>;
}

/// Follows orders for other processes, each of which follows them for many clients.
pub trait OrderFollow: Send + Sync + 'static {
    /// Opens a feed without orders: where orders are added and removed, and the stream of what
    /// happens to them. The versions of an order only rise. A slow reader skips versions, but
    /// never the newest. The feed ends when the [`Follower`] is dropped.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] when no new feeds are opened.
    fn follow(&self) -> Result<(Box<dyn Follower>, OrderEventStream), Error>;
}

/// The orders of a feed.
#[async_trait]
pub trait Follower: Send {
    /// Adds orders: registers all of them first, then reads where they stand, many in one
    /// statement. The answers are in the order of the input and have its length: the event that
    /// led to the current version, or `None` if the caller has seen that version.
    ///
    /// # Errors
    /// Each order fails alone and is then not followed: [`Error::OrderNotFound`],
    /// [`Error::LimitExceeded`] beyond the orders of a feed, or what the store answers.
    ///
    /// # Cancel safety
    /// Dropping the future adds no order.
    async fn add(
        &mut self,
        ctx: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Vec<Result<Option<OrderEvent>, Error>>;

    /// Removes orders; one that is not followed is ignored.
    fn remove(&mut self, order_ids: &[OrderId]);
}

/// The way from a new order to a worker of this process.
pub trait JobDispatch: Send + Sync + 'static {
    /// Reserves a place in the local queue. `Some`: the order may be inserted with its job
    /// born leased. `None`: the queue is full or this process has no workers; the job is
    /// inserted due and claimed later.
    fn try_reserve(&self) -> Option<Reservation>;

    /// Says that these jobs are due and nobody holds them, so that somebody looks at once.
    /// Never blocks and never fails; a hint that cannot be passed on is dropped.
    fn notify_due(&self, order_ids: &[OrderId]);
}

/// A place in the local queue. Dropping it gives the place back.
pub struct Reservation {
    lease: Duration,
    send: Box<dyn FnOnce(Job) + Send>,
}

impl Reservation {
    /// A place whose job is leased for `lease` and handed over by `send`.
    pub fn new(lease: Duration, send: impl FnOnce(Job) + Send + 'static) -> Self {
        Self {
            lease,
            send: Box::new(send),
        }
    }

    /// How long the job is to be leased.
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// Hands the committed job to the worker.
    pub fn dispatch(self, job: Job) {
        (self.send)(job);
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation")
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// Time, so that tests and simulations own it.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The time of day. Never decides a lease where a database can.
    fn now(&self) -> Timestamp;

    /// The monotonic clock, for deadlines inside this process.
    fn instant(&self) -> Instant;

    /// Waits.
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait.
    async fn sleep(&self, duration: Duration);
}

/// Ids and secrets, so that tests and simulations own them.
pub trait IdGen: Send + Sync + 'static {
    /// A new order id, sorting after those made before by this process.
    fn order_id(&self) -> OrderId;

    /// Bytes that nobody can guess.
    fn secret(&self) -> [u8; 32];
}
