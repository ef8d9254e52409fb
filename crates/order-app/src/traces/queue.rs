//! Spans on their way to the collector: a bounded queue and the one task that empties it.
//!
//! A span that does not fit is dropped. A batch that cannot be exported is dropped too: the exporter
//! has repeated it for as long as its own timeout allows, and the next spans are worth more.

use std::{sync::LazyLock, time::Duration};

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter as _, SpanProcessor},
};
use order_core::metrics::Counter;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// The longest queue that may be set.
pub(super) const LEN_LIMIT: usize = 1_000_000;

/// How spans are gathered and exported. The defaults are those of OpenTelemetry.
pub(super) struct QueueConfig {
    /// How many spans wait at most.
    pub(super) len_max: usize,
    /// The most spans of one export.
    pub(super) batch_len_max: usize,
    /// How long spans wait for others.
    pub(super) delay: Duration,
    /// How long an export may take.
    pub(super) timeout: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            len_max: 2_048,
            batch_len_max: 512,
            delay: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
        }
    }
}

/// Counters of the spans of this process, which has one tracer, too.
pub(crate) static STATS: LazyLock<TraceStats> = LazyLock::new(TraceStats::default);

/// Counters of spans.
#[derive(Debug, Default)]
pub(crate) struct TraceStats {
    /// Spans that the collector has taken.
    pub(crate) exported: Counter,
    /// Spans of exports that failed.
    pub(crate) failed: Counter,
    /// Spans that found the queue full.
    pub(crate) dropped: Counter,
}

/// Where spans go when they end.
#[derive(Debug)]
pub(super) struct SpanQueue {
    spans: mpsc::Sender<SpanData>,
}

impl SpanQueue {
    /// Builds the queue and starts the task that exports what is in it.
    pub(super) fn new(config: QueueConfig, exporter: SpanExporter) -> (Self, Exporting) {
        let (sender, spans) = mpsc::channel(config.len_max);
        let stop = CancellationToken::new();
        let exporter = Exporter {
            config,
            collector: exporter,
            spans,
            failing_since: None,
        };
        let mut task = JoinSet::new();
        task.spawn(exporter.run(stop.clone()));
        (Self { spans: sender }, Exporting { stop, task })
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            STATS.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The task that exports. Dropping it ends the task.
pub(super) struct Exporting {
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Exporting {
    /// Exports what is left, for at most `limit`.
    pub(super) async fn end(mut self, limit: Duration) {
        self.stop.cancel();
        let is_done = timeout(limit, self.task.join_next()).await.is_ok();
        tracing::info!(
            is_done,
            spans.exported = STATS.exported.get(),
            spans.failed = STATS.failed.get(),
            spans.dropped = STATS.dropped.get(),
            "export of traces ended"
        );
    }
}

struct Exporter {
    config: QueueConfig,
    collector: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    /// `Some` while exports fail.
    failing_since: Option<Instant>,
}

impl Exporter {
    /// Exports until `stop`, and then what is left.
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            // The spans are in the batch even if the wait for more of them is cut.
            let gathered = stop.run_until_cancelled(self.gather(&mut batch)).await;
            if gathered.is_none() {
                self.spans.close();
                let room = self.config.batch_len_max.saturating_sub(batch.len());
                self.spans.recv_many(&mut batch, room).await;
            }
            if batch.is_empty() {
                return;
            }
            self.export(std::mem::take(&mut batch)).await;
        }
    }

    /// Waits for a span, and then for others until the batch is full or the first has waited long
    /// enough.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) {
        let len_max = self.config.batch_len_max;
        self.spans.recv_many(batch, len_max).await;
        let fill = async {
            while let Some(room) = len_max.checked_sub(batch.len()).filter(|room| *room > 0)
                && self.spans.recv_many(batch, room).await > 0
            {}
        };
        let _ = timeout(self.config.delay, fill).await;
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        let n_spans = batch.len() as u64;
        let exported = match timeout(self.config.timeout, self.collector.export(batch)).await {
            Ok(exported) => exported.map_err(|error| error.to_string()),
            Err(_) => Err("the collector did not answer in time".to_owned()),
        };
        match exported {
            Ok(()) => {
                STATS.exported.inc_by(n_spans);
                if let Some(since) = self.failing_since.take() {
                    tracing::info!(outage = ?since.elapsed(), "exporting traces works again");
                }
            }
            Err(error) => {
                STATS.failed.inc_by(n_spans);
                if self.failing_since.is_none() {
                    tracing::warn!(error, "exporting traces failed");
                } else {
                    tracing::debug!(error, "exporting traces failed again");
                }
                self.failing_since.get_or_insert_with(Instant::now);
            }
        }
    }
}
