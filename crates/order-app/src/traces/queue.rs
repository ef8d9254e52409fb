//! Spans on their way to the collector: a bounded queue and the one task that empties it.
//!
//! A span that does not fit is dropped. A batch that cannot be exported is dropped too: the exporter
//! has repeated it for as long as its own timeout allows, and the next spans are worth more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter as _, SpanProcessor},
};
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

/// What has become of the spans so far.
#[derive(Debug, Default)]
pub(crate) struct TraceStats {
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl TraceStats {
    /// Spans that the collector has taken.
    pub(crate) fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans of exports that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Spans that found the queue full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Where spans go when they end.
#[derive(Debug)]
pub(super) struct SpanQueue {
    spans: mpsc::Sender<SpanData>,
    stats: Arc<TraceStats>,
}

impl SpanQueue {
    /// Builds the queue and starts the task that exports what is in it.
    pub(super) fn new(config: QueueConfig, exporter: SpanExporter) -> (Self, Exporting) {
        let (sender, spans) = mpsc::channel(config.len_max);
        let stats = Arc::new(TraceStats::default());
        let stop = CancellationToken::new();
        let exporter = Exporter {
            config,
            collector: exporter,
            spans,
            stats: Arc::clone(&stats),
            failing_since: None,
        };
        let mut task = JoinSet::new();
        task.spawn(exporter.run(stop.clone()));
        let queue = Self {
            spans: sender,
            stats: Arc::clone(&stats),
        };
        (queue, Exporting { stop, task, stats })
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
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
    stats: Arc<TraceStats>,
}

impl Exporting {
    /// Exports what is left, for at most `limit`.
    pub(super) async fn end(mut self, limit: Duration) {
        self.stop.cancel();
        let is_done = timeout(limit, self.task.join_next()).await.is_ok();
        tracing::info!(
            is_done,
            spans.exported = self.stats.exported(),
            spans.failed = self.stats.failed(),
            spans.dropped = self.stats.dropped(),
            "export of traces ended"
        );
    }
}

struct Exporter {
    config: QueueConfig,
    collector: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    stats: Arc<TraceStats>,
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
                self.stats.exported.fetch_add(n_spans, Ordering::Relaxed);
                if let Some(since) = self.failing_since.take() {
                    tracing::info!(outage = ?since.elapsed(), "exporting traces works again");
                }
            }
            Err(error) => {
                self.stats.failed.fetch_add(n_spans, Ordering::Relaxed);
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
