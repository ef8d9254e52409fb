//! Traces for a collector, by OTLP. Off unless an endpoint is set.
//!
//! The settings are the standard variables of OpenTelemetry, and as it asks, a value that is not
//! understood is ignored with a warning. Only an endpoint that is no URL ends the program: without
//! it there is nothing to do.
//!
//! Nothing waits for the collector: spans go to the bounded [`queue`], and what it cannot take is
//! dropped and counted.

mod queue;

use std::{env, fmt::Display, str::FromStr, time::Duration};

use anyhow::Context as _;
use opentelemetry::{
    InstrumentationScope, Key, KeyValue, global::BoxedTracer, trace::TracerProvider as _,
};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithTonicConfig as _, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, SpanExporter as _},
};
use order_core::span;

pub(crate) use self::queue::STATS;
use self::queue::{Exporting, QueueConfig, SpanQueue};

const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The samplers that are understood, and whether their argument is a ratio.
const SAMPLERS: [(&str, bool); 6] = [
    ("always_on", false),
    ("always_off", false),
    ("traceidratio", true),
    ("parentbased_always_on", false),
    ("parentbased_always_off", false),
    ("parentbased_traceidratio", true),
];

/// How long the last spans may take at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The traces of this process, on their way to the collector.
pub(crate) struct Traces {
    exporting: Exporting,
}

impl Traces {
    /// Begins to record traces if the environment names a collector. Called once, in a runtime.
    ///
    /// # Errors
    /// An endpoint that is no URL.
    pub(crate) fn start(program: &'static str) -> anyhow::Result<Option<Self>> {
        let is_disabled = text("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let is_otlp = match text("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => true,
            Some("none") => false,
            Some(other) => {
                warn("OTEL_TRACES_EXPORTER", other, "must be otlp or none");
                true
            }
        };
        let Some(endpoint) = ENDPOINTS.into_iter().find(|name| text(name).is_some()) else {
            return Ok(None);
        };
        if is_disabled || !is_otlp {
            return Ok(None);
        }
        check_sampler();
        let resource = resource(program);
        let exporter = build_exporter(is_grpc());
        let mut exporter = exporter.with_context(|| format!("{endpoint} cannot be used"))?;
        exporter.set_resource(&resource);
        let (queue, exporting) = SpanQueue::new(queue_config(), exporter);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(queue)
            .build();
        let scope = InstrumentationScope::builder("order-system")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        span::install(BoxedTracer::new(Box::new(
            provider.tracer_with_scope(scope),
        )));
        tracing::info!(setting = endpoint, "traces are exported");
        Ok(Some(Self { exporting }))
    }

    /// Exports what is left, within a limit.
    pub(crate) async fn flush(self) {
        self.exporting.end(FLUSH_TIMEOUT).await;
    }
}

/// What all spans say about the process. The environment may name it otherwise.
fn resource(program: &'static str) -> Resource {
    let named = Resource::builder().build();
    let instance = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut own = vec![
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_string()),
    ];
    own.retain(|attribute| named.get_ref(&attribute.key).is_none());
    let name = named.get_ref(&Key::from_static_str("service.name"));
    if name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        own.push(KeyValue::new("service.name", program));
    }
    Resource::builder().with_attributes(own).build()
}

fn queue_config() -> QueueConfig {
    let defaults = QueueConfig::default();
    let millis = |name, default: Duration| {
        let millis = number(name, 0, u64::MAX);
        millis.map_or(default, Duration::from_millis)
    };
    let len_max =
        number("OTEL_BSP_MAX_QUEUE_SIZE", 1, queue::LEN_LIMIT).unwrap_or(defaults.len_max);
    let batch_len_max = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1, len_max);
    QueueConfig {
        len_max,
        batch_len_max: batch_len_max.unwrap_or(defaults.batch_len_max.min(len_max)),
        delay: millis("OTEL_BSP_SCHEDULE_DELAY", defaults.delay),
        timeout: millis("OTEL_BSP_EXPORT_TIMEOUT", defaults.timeout),
    }
}

/// The SDK reads the sampler itself, and says nothing about one it does not know.
fn check_sampler() {
    let Some(sampler) = text(SAMPLER) else {
        return;
    };
    let Some((_, has_ratio)) = SAMPLERS.iter().find(|(name, _)| *name == sampler) else {
        let names = SAMPLERS.map(|(name, _)| name).join(", ");
        return warn(SAMPLER, &sampler, &format!("must be one of {names}"));
    };
    let ratio = text(SAMPLER_ARG).unwrap_or_default();
    let is_ratio = ratio.parse().is_ok_and(|r: f64| (0.0..=1.0).contains(&r));
    if *has_ratio && !is_ratio {
        warn(SAMPLER_ARG, &ratio, "must be a number from 0.0 to 1.0");
    }
}

/// Whether the collector is spoken to by gRPC and not by HTTP.
fn is_grpc() -> bool {
    for name in PROTOCOLS {
        match text(name).as_deref() {
            None => {}
            Some("grpc") => return true,
            Some("http/protobuf") => return false,
            Some(other) => warn(name, other, "must be grpc or http/protobuf"),
        }
    }
    false
}

/// Connects to nothing yet.
fn build_exporter(is_grpc: bool) -> Result<SpanExporter, ExporterBuildError> {
    let builder = SpanExporter::builder();
    if is_grpc {
        // Otherwise no certificate is trusted.
        let tls = ClientTlsConfig::new().with_enabled_roots();
        builder.with_tonic().with_tls_config(tls).build()
    } else {
        builder.with_http().build()
    }
}

/// A variable that is set and not empty.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn number<T: FromStr + PartialOrd + Display + Copy>(name: &str, min: T, max: T) -> Option<T> {
    let value = text(name)?;
    let number = value.trim().parse().ok();
    let number = number.filter(|number| *number >= min && *number <= max);
    if number.is_none() {
        warn(
            name,
            &value,
            &format!("must be a number from {min} to {max}"),
        );
    }
    number
}

fn warn(setting: &str, value: &str, rule: &str) {
    tracing::warn!(setting, value, rule, "setting is ignored");
}
