//! The types that components count with. They know no names: `order-app` gives each metric its name
//! and its labels when it registers it, so that all names stand in one place.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{
        MetricType, TypedMetric,
        exemplar::HistogramWithExemplars,
        histogram::{Histogram, exponential_buckets},
    },
};
pub use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{Figures, TraceParent};

/// Upper bounds for a single step, of which there are many kinds: fewer, to keep a scrape small.
const STEPS: [f64; 7] = [0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0];

/// The trace of an observed value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TraceLabel {
    trace_id: String,
}

/// Durations of requests, attempts and the like, each with the trace of one of its observations.
#[derive(Clone, Debug)]
pub struct Durations(HistogramWithExemplars<TraceLabel>);

impl Default for Durations {
    fn default() -> Self {
        // The library adds the infinite one.
        let bounds = Figures::BOUNDS.into_iter();
        Self(HistogramWithExemplars::new(
            bounds.filter(|bound| bound.is_finite()),
        ))
    }
}

impl Durations {
    /// Counts a duration. The trace is kept as an example if it is recorded.
    pub fn observe(&self, duration: Duration, trace: Option<&TraceParent>) {
        let trace = trace.filter(|trace| trace.is_sampled());
        let label = trace.map(|trace| TraceLabel {
            trace_id: trace.trace_id().to_owned(),
        });
        self.0.observe(duration.as_secs_f64(), label, None);
    }
}

/// How long steps take.
#[derive(Clone, Debug)]
pub struct Steps(Histogram);

impl Default for Steps {
    fn default() -> Self {
        Self(Histogram::new(STEPS))
    }
}

impl Steps {
    /// Counts a step.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// How many items batches have.
#[derive(Clone, Debug)]
pub struct Sizes(Histogram);

impl Default for Sizes {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(1.0, 4.0, 5)))
    }
}

impl Sizes {
    /// Counts a batch.
    pub fn observe(&self, len: usize) {
        #[expect(clippy::cast_precision_loss, reason = "batches are short")]
        self.0.observe(len as f64);
    }
}

/// Lets the registry write a type that wraps one of the library's.
macro_rules! encode_as_inner {
    ($($wrapper:ty),*) => {$(
        impl EncodeMetric for $wrapper {
            fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result {
                self.0.encode(encoder)
            }

            fn metric_type(&self) -> MetricType {
                MetricType::Histogram
            }
        }

        impl TypedMetric for $wrapper {
            const TYPE: MetricType = MetricType::Histogram;
        }
    )*};
}

encode_as_inner!(Durations, Steps, Sizes);
