//! The backlog in the store, for operators.

use std::time::Duration;

/// Jobs and events that wait, at one moment. Of each kind at most [`Backlog::COUNT_MAX`] are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs that may be claimed now.
    pub due: u32,
    /// Jobs that nobody holds and that wait for their retry.
    pub scheduled: u32,
    /// Jobs that a claim holds.
    pub leased: u32,
    /// Dead letters: jobs of FAILED orders.
    pub dead: u32,
    /// For how long the oldest due job has been due.
    pub oldest_due: Option<Duration>,
    /// Events that wait to be published to a system outside.
    pub events: u32,
    /// How old the oldest of them is.
    pub oldest_event: Option<Duration>,
}

impl Backlog {
    /// How many jobs, and how many events, are counted: more would keep the database busy.
    pub const COUNT_MAX: u32 = 1_000_000;
}
