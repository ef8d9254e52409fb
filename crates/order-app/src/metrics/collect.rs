//! Two shapes of metrics that the library does not have: several metrics of components under one
//! name, and values that are read when they are asked for.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, TypedMetric, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

/// The name, the help text and the unit of a metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<&'static Unit>,
}

pub(super) const SECONDS: Option<&Unit> = Some(&Unit::Seconds);
pub(super) const BYTES: Option<&Unit> = Some(&Unit::Bytes);

/// Metrics of several components under one name.
#[derive(Debug)]
struct Labelled<M> {
    about: About,
    key: &'static str,
    metrics: Vec<(&'static str, M)>,
}

impl<M> Collector for Labelled<M>
where
    M: EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let About { name, help, unit } = self.about;
        let mut metric = encoder.encode_descriptor(name, help, unit, M::TYPE)?;
        for (value, component) in &self.metrics {
            component.encode(metric.encode_family(&[(self.key, *value)])?)?;
        }
        Ok(())
    }
}

/// Registers the metrics of several components, told apart by the label `key`.
pub(super) fn labelled<M>(
    registry: &mut Registry,
    about: About,
    key: &'static str,
    metrics: Vec<(&'static str, M)>,
) where
    M: EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
{
    let collector = Labelled {
        about,
        key,
        metrics,
    };
    registry.register_collector(Box::new(collector));
}

/// Values that are read when they are asked for; none is left out.
struct Computed<F> {
    about: About,
    metric_type: MetricType,
    key: &'static str,
    read: F,
}

impl<F> fmt::Debug for Computed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computed")
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

impl<F> Collector for Computed<F>
where
    F: Fn() -> Vec<(&'static str, f64)> + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let values = (self.read)();
        if values.is_empty() {
            return Ok(());
        }
        let About { name, help, unit } = self.about;
        let mut metric = encoder.encode_descriptor(name, help, unit, self.metric_type)?;
        for (label, value) in values {
            let labels = (!label.is_empty()).then_some((self.key, label));
            let labels: Vec<_> = labels.into_iter().collect();
            let metric = metric.encode_family(&labels)?;
            match self.metric_type {
                MetricType::Counter => ConstCounter::new(value).encode(metric)?,
                _ => ConstGauge::new(value).encode(metric)?,
            }
        }
        Ok(())
    }
}

/// Registers gauges that are told apart by the label `key`.
pub(super) fn gauges(
    registry: &mut Registry,
    about: About,
    key: &'static str,
    read: impl Fn() -> Vec<(&'static str, f64)> + Send + Sync + 'static,
) {
    let collector = Computed {
        about,
        metric_type: MetricType::Gauge,
        key,
        read,
    };
    registry.register_collector(Box::new(collector));
}

/// Registers a gauge. It is left out while there is no value.
pub(super) fn gauge(
    registry: &mut Registry,
    about: About,
    read: impl Fn() -> Option<f64> + Send + Sync + 'static,
) {
    gauges(registry, about, "", move || {
        read().map(|value| ("", value)).into_iter().collect()
    });
}

/// Registers a counter that something else counts.
pub(super) fn counter(
    registry: &mut Registry,
    about: About,
    read: impl Fn() -> Option<f64> + Send + Sync + 'static,
) {
    let collector = Computed {
        about,
        metric_type: MetricType::Counter,
        key: "",
        read: move || read().map(|value| ("", value)).into_iter().collect(),
    };
    registry.register_collector(Box::new(collector));
}
