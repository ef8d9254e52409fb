//! Counters of calls and connections.

use std::{hash::Hash, time::Duration};

use order_core::{
    TraceParent,
    metrics::{Counter, Durations, Family, Gauge},
};
use prometheus_client::encoding::EncodeLabelSet;

/// The labels of a call: the operation, never a part of the request, and the outcome.
pub trait CallLabels: EncodeLabelSet + Clone + Eq + Hash + Send + Sync + 'static {}

impl<L: EncodeLabelSet + Clone + Eq + Hash + Send + Sync + 'static> CallLabels for L {}

/// The calls of the listeners that share a transport.
#[derive(Debug)]
pub struct CallStats<L: CallLabels> {
    /// Calls whose answers are not gone yet.
    pub active: Gauge,
    /// From the end of the head of a request to the end of the answer.
    pub durations: Family<L, Durations>,
}

impl<L: CallLabels> Clone for CallStats<L> {
    fn clone(&self) -> Self {
        Self {
            active: self.active.clone(),
            durations: self.durations.clone(),
        }
    }
}

impl<L: CallLabels> Default for CallStats<L> {
    fn default() -> Self {
        Self {
            active: Gauge::default(),
            durations: Family::default(),
        }
    }
}

impl<L: CallLabels> CallStats<L> {
    pub(crate) fn begin(&self) {
        self.active.inc();
    }

    pub(crate) fn end(&self, labels: &L, duration: Duration, trace: Option<&TraceParent>) {
        self.active.dec();
        let durations = self.durations.get_or_create(labels);
        durations.observe(duration, trace);
    }
}

/// The connections of a listener.
#[derive(Clone, Debug, Default)]
pub struct ConnectionStats {
    /// Connections that are open; one that was upgraded counts until the upgrade is gone.
    pub open: Gauge,
    /// Connections that were closed at once, because there were too many.
    pub refused: Counter,
}

impl ConnectionStats {
    /// Counts a connection as open until the guard is dropped.
    pub(crate) fn open(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }
}

/// A connection that is open.
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
