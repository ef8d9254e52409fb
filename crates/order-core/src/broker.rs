//! What goes through brokers: hints about due jobs and events for other processes. All of
//! it may be lost, doubled or late; the truth is in the store.

use std::{convert::Infallible, sync::Arc};

use async_trait::async_trait;

use crate::{BoxError, OrderEvent, OrderId, UserId, error_chain};

/// Why a broker could not be used. Never reaches a client: whatever a broker carries, the
/// store knows better.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Nobody answers, or not in time; may heal by itself.
    #[error("the broker {server} cannot be reached")]
    Unreachable {
        /// Scheme, host and port, without user and password.
        server: String,
        /// What went wrong.
        #[source]
        source: BoxError,
    },
    /// The broker answers and will not let us in: wrong password, untrusted certificate,
    /// missing privilege. Heals only if somebody changes the one side or the other.
    #[error("the broker {server} refuses the connection")]
    Refused {
        /// Scheme, host and port, without user and password.
        server: String,
        /// What it said.
        #[source]
        source: BoxError,
    },
    /// The broker let us in and could not do what was asked.
    #[error("the broker {server} failed")]
    Failed {
        /// Scheme, host and port, without user and password.
        server: String,
        /// What it said.
        #[source]
        source: BoxError,
    },
}

impl BrokerError {
    /// The error and all its sources in one line.
    pub fn chain(&self) -> String {
        error_chain(self)
    }
}

/// What a [`HintQueue`] can be relied on for, beyond its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintCapabilities {
    /// A hint reaches consumers in other processes, and one consumer among them.
    pub is_shared: bool,
    /// A hint that its consumer did not acknowledge, because it died, comes to another.
    pub redelivers: bool,
}

/// Carries the ids of jobs that became due from the process that committed them to one
/// that has workers.
///
/// A hint says "look at this job", nothing more: it may be lost, come twice, late, in
/// another order, or name a job that is not due or does not exist. Whoever gets it claims
/// the job in the store, which decides; and what no hint tells of, the store is asked for.
///
/// Messages in the broker that are no hints are skipped and counted, never returned.
#[async_trait]
pub trait HintQueue: Send + Sync + 'static {
    /// What else this queue can be relied on for.
    fn capabilities(&self) -> HintCapabilities;

    /// Sends hints in one round trip. `Ok`: the broker has them. After an error some of
    /// them may be there all the same. What is missing in the broker (topic, stream, group)
    /// is created.
    ///
    /// # Cancel safety
    /// May be dropped; the hints are then sent or not.
    async fn send(&self, order_ids: &[OrderId]) -> Result<(), BrokerError>;

    /// A new consumer in the group that all processes share. Connects when it is first
    /// used.
    fn consumer(&self) -> Box<dyn HintConsumer>;

    /// How many messages were skipped because they are not hints.
    fn n_foreign(&self) -> u64;
}

/// One member of the group that takes hints.
#[async_trait]
pub trait HintConsumer: Send {
    /// Waits for hints and returns at least one and at most `limit`, in any order. Hints
    /// from before the group was created are included. After an error the next call
    /// connects anew and creates what is missing.
    ///
    /// # Cancel safety
    /// May be dropped at any point. Hints that were under way are then lost, come again, or
    /// come to another consumer.
    async fn receive(&mut self, limit: usize) -> Result<Vec<OrderId>, BrokerError>;

    /// Says that everything received so far is handed over, so that it does not come again.
    async fn acknowledge(&mut self) -> Result<(), BrokerError>;

    /// Leaves the group: what was not acknowledged comes to others, where the broker can do
    /// that. Best effort, within 2 s.
    async fn close(&mut self);
}

/// What a watcher may follow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// One order.
    Order(OrderId),
    /// All orders of a user.
    User(UserId),
}

/// A change of what is watched in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicChange {
    /// What.
    pub topic: Topic,
    /// Whether somebody watches it now.
    pub is_watched: bool,
}

/// Passes events between processes: the far side of the [`EventBus`](crate::EventBus).
///
/// Delivery is at most once and best effort. Events of one order that one process publishes
/// in one call arrive in the order of the call, if they arrive.
#[async_trait]
pub trait EventTransport: Send + Sync + 'static {
    /// Publishes a batch in one round trip, as committed, to all other processes that
    /// listen. They may also come back to this one.
    ///
    /// # Cancel safety
    /// May be dropped; the events are then published or not.
    async fn publish(&self, events: &[OrderEvent]) -> Result<(), BrokerError>;

    /// Connects and passes what arrives to `receiver`, until the connection is lost; the
    /// caller calls again. Calls [`EventReceiver::resync`] as soon as it hears everything
    /// that concerns the receiver, after each connect.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    async fn listen(&self, receiver: Arc<dyn EventReceiver>) -> Result<Infallible, BrokerError>;
}

/// Where events of other processes arrive: the hub.
#[async_trait]
pub trait EventReceiver: Send + Sync + 'static {
    /// Takes events. Known ones and old ones do no harm. Never blocks.
    fn receive(&self, events: &[OrderEvent]);

    /// Whether anybody watches anything here. While nobody does, a transport may drop what
    /// arrives unread: who begins to watch reads the store afterwards.
    fn is_watched(&self) -> bool;

    /// Waits until somebody watches anything here. Until then a transport need not listen.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    async fn until_watched(&self);

    /// All that is watched now; changes up to here are no longer reported by
    /// [`EventReceiver::topic_changes`].
    fn watched(&self) -> Vec<Topic>;

    /// Waits for changes of what is watched since the last call, or since
    /// [`EventReceiver::watched`]. What came and went in between is no change. For one
    /// caller at a time.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    async fn topic_changes(&self) -> Vec<TopicChange>;

    /// Says that events of these topics arrive from now on, so that the receiver looks up
    /// what it missed between the beginning of the watch and now.
    fn heard(&self, topics: &[Topic]);

    /// Says that anything may have been missed until now, so that the receiver looks up
    /// everything that is watched, at once.
    fn resync(&self);
}
