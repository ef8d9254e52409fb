//! Every metric of a process, by its name. The components count and know no names; those of HTTP,
//! gRPC, databases, processes and runtimes follow the semantic conventions of OpenTelemetry where
//! these have one. docs/metrics.md lists them.
//!
//! No label holds an id or anything else that a client chooses, so the number of series is bounded.

mod collect;
mod process;
mod work;

use std::{sync::Arc, time::SystemTime};

use order_adapters::{MeasuredPool, PoolStats, PoolUsage};
use order_core::{
    group_commit::GroupCommitStats,
    metrics::{Counter, Steps},
    supervisor::Supervisor,
};
use order_edge::{CallStats, ConnectionStats};
use order_hub::Hub;
use order_rpc::{RemoteOrderApi, RpcLabels};
use order_web::{http::HttpLabels, ws::WsStats};
use prometheus_client::{
    metrics::info::Info,
    registry::{Metric, Registry, Unit},
};

use self::collect::{About, SECONDS, counter, gauge, gauges, labelled};
use crate::{telemetry, traces::STATS};

/// The metrics of a process, while its parts are put together.
pub(crate) struct Metrics {
    registry: Registry,
    connections: Vec<(&'static str, ConnectionStats)>,
    commits: Vec<(&'static str, GroupCommitStats)>,
}

const fn about(name: &'static str, help: &'static str) -> About {
    in_unit(name, help, None)
}

/// A metric whose name gets the unit as its last part.
const fn in_unit(name: &'static str, help: &'static str, unit: Option<&'static Unit>) -> About {
    About { name, help, unit }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 is enough")]
const fn float(n: u64) -> f64 {
    n as f64
}

const fn number(n: usize) -> f64 {
    float(n as u64)
}

impl Metrics {
    /// The metrics that every process has.
    pub(crate) fn new(program: &'static str) -> Self {
        let mut registry = Registry::default();
        let build = Info::new([("program", program), ("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("order_system_build", "Program and version", build);
        let started_at = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let started_at = started_at.as_secs_f64();
        gauge(
            &mut registry,
            in_unit("process_start_time", "Unix time of the start", SECONDS),
            move || Some(started_at),
        );
        process::register(&mut registry);
        let help = "Lines of the log dropped because too many waited to be written";
        counter(&mut registry, about("logs_lines_dropped", help), || {
            Some(number(telemetry::n_dropped()))
        });
        let mut metrics = Self {
            registry,
            connections: Vec::new(),
            commits: Vec::new(),
        };
        metrics.add_counters([
            (
                "traces_spans_exported",
                "Spans that the collector has taken",
                &STATS.exported,
            ),
            (
                "traces_spans_failed",
                "Spans of exports that failed",
                &STATS.failed,
            ),
            (
                "traces_spans_dropped",
                "Spans that found the queue full",
                &STATS.dropped,
            ),
        ]);
        metrics
    }

    /// Everything, for scrapes. Nothing can be added afterwards.
    pub(crate) fn finish(&mut self) -> Arc<Registry> {
        self.register_connections();
        self.register_commits();
        Arc::new(std::mem::take(&mut self.registry))
    }

    fn add(&mut self, name: &'static str, help: &'static str, metric: impl Metric) {
        self.registry.register(name, help, metric);
    }

    fn add_seconds(&mut self, name: &'static str, help: &'static str, metric: impl Metric) {
        let registry = &mut self.registry;
        registry.register_with_unit(name, help, Unit::Seconds, metric);
    }

    fn add_counters<'a>(
        &mut self,
        counters: impl IntoIterator<Item = (&'static str, &'static str, &'a Counter)>,
    ) {
        for (name, help, counter) in counters {
            self.add(name, help, counter.clone());
        }
    }

    /// Calls over HTTP.
    pub(crate) fn http(&mut self, calls: &CallStats<HttpLabels>) {
        let help = "Calls over HTTP, to the end of the answer; no status: the client gave up";
        self.add_seconds(
            "http_server_request_duration",
            help,
            calls.durations.clone(),
        );
        let help = "Calls over HTTP under way";
        self.add("http_server_active_requests", help, calls.active.clone());
    }

    /// Calls over gRPC.
    pub(crate) fn rpc(&mut self, calls: &CallStats<RpcLabels>) {
        let help = "Calls over gRPC, to the end of the answer";
        self.add_seconds("rpc_server_call_duration", help, calls.durations.clone());
        let help = "Calls over gRPC under way";
        self.add("rpc_server_active_calls", help, calls.active.clone());
    }

    /// Counters of the connections of a listener.
    pub(crate) fn listener(&mut self, name: &'static str) -> ConnectionStats {
        let stats = ConnectionStats::default();
        self.connections.push((name, stats.clone()));
        stats
    }

    fn register_connections(&mut self) {
        let (registry, connections) = (&mut self.registry, &self.connections);
        labelled(
            registry,
            about("server_connections", "Open connections"),
            "listener",
            each(connections, |stats| stats.open.clone()),
        );
        labelled(
            registry,
            about(
                "server_connections_refused",
                "Connections beyond the limits",
            ),
            "listener",
            each(connections, |stats| stats.refused.clone()),
        );
    }

    /// Batches of writes, or of calls, by operation.
    pub(crate) fn commits(
        &mut self,
        commits: impl IntoIterator<Item = (&'static str, GroupCommitStats)>,
    ) {
        self.commits.extend(commits);
    }

    fn register_commits(&mut self) {
        let (registry, commits) = (&mut self.registry, &self.commits);
        labelled(
            registry,
            about("commits_batch_size", "Items that shared a commit"),
            "operation",
            each(commits, |stats| stats.sizes.clone()),
        );
        labelled(
            registry,
            in_unit(
                "commits_wait",
                "From the arrival to the begin of the commit",
                SECONDS,
            ),
            "operation",
            each(commits, |stats| stats.waits.clone()),
        );
        labelled(
            registry,
            in_unit("commits_duration", "Commits", SECONDS),
            "operation",
            each(commits, |stats| stats.durations.clone()),
        );
        labelled(
            registry,
            about("commits_queue_length", "Items that wait for a commit"),
            "operation",
            each(commits, |stats| stats.waiting.clone()),
        );
        labelled(
            registry,
            about("commits_rejected", "Items refused because too many waited"),
            "operation",
            each(commits, |stats| stats.refused.clone()),
        );
    }

    /// Connections to the database.
    pub(crate) fn pools(&mut self, pools: Vec<MeasuredPool>) {
        const POOL: &str = "db_client_connection_pool_name";
        let registry = &mut self.registry;
        let steps = |pick: fn(&PoolStats) -> &Steps| -> Vec<_> {
            let picked = pools
                .iter()
                .map(|pool| (pool.name, pick(&pool.stats).clone()));
            picked.collect()
        };
        let counters = |pick: fn(&PoolStats) -> &Counter| -> Vec<_> {
            let picked = pools
                .iter()
                .map(|pool| (pool.name, pick(&pool.stats).clone()));
            picked.collect()
        };
        let operations = in_unit("db_client_operation_duration", "Statements", SECONDS);
        labelled(registry, operations, POOL, steps(|stats| &stats.operations));
        let help = "Waits for a connection";
        let waits = in_unit("db_client_connection_wait_time", help, SECONDS);
        labelled(registry, waits, POOL, steps(|stats| &stats.waits));
        let errors = about("db_client_operation_errors", "Statements that failed");
        labelled(registry, errors, POOL, counters(|stats| &stats.errors));
        let help = "Statements that got no connection, or no answer, in time";
        let timeouts = about("db_client_connection_timeouts", help);
        labelled(registry, timeouts, POOL, counters(|stats| &stats.timeouts));
        let pools = Arc::new(pools);
        for (name, help, pick) in [
            (
                "db_client_connections_used",
                "Connections with a statement",
                used as fn(_) -> _,
            ),
            (
                "db_client_connections_idle",
                "Connections that are free",
                idle,
            ),
            ("db_client_connections_max", "The most connections", max),
        ] {
            let pools = Arc::clone(&pools);
            gauges(registry, about(name, help), POOL, move || {
                let values = pools
                    .iter()
                    .map(|pool| (pool.name, number(pick((pool.usage)()))));
                values.collect()
            });
        }
    }

    /// Subscriptions of this process.
    pub(crate) fn hub(&mut self, hub: &Arc<Hub>) {
        let stats = hub.stats();
        let help = "Changes of orders that this process has committed, by the new status";
        self.add("orders_status_changes", help, stats.published.clone());
        self.add_counters([
            (
                "hub_events_received",
                "Events from other processes",
                &stats.received,
            ),
            (
                "hub_events_delivered",
                "Events handed to sessions",
                &stats.delivered,
            ),
            (
                "hub_events_conflated",
                "Events that replaced an unread one",
                &stats.conflated,
            ),
            (
                "hub_events_filled",
                "Events read from the history for slow readers",
                &stats.filled,
            ),
            (
                "hub_events_reconciled",
                "Events that only the reconcile pass found",
                &stats.healed,
            ),
        ]);
        let registry = &mut self.registry;
        let sessions = Arc::clone(hub);
        let help = "Sockets, event streams and feeds that follow orders";
        gauge(registry, about("hub_sessions", help), move || {
            Some(number(sessions.n_sessions()))
        });
        let topics = Arc::clone(hub);
        let help = "What is followed, each once";
        gauges(
            registry,
            about("hub_subscriptions", help),
            "topic",
            move || {
                vec![
                    ("order", number(topics.n_orders())),
                    ("user", number(topics.n_users())),
                ]
            },
        );
    }

    /// Sockets.
    pub(crate) fn sockets(&mut self, stats: &WsStats) {
        self.add("ws_connections", "Open sockets", stats.open.clone());
        let help = "Sockets that were closed, by the close code";
        self.add("ws_connections_closed", help, stats.closed.clone());
        self.add_counters([
            (
                "ws_frames_received",
                "Messages from clients",
                &stats.received,
            ),
            ("ws_frames_sent", "Messages to clients", &stats.sent),
        ]);
    }

    /// Tasks that must run for as long as the process does.
    pub(crate) fn supervisor(&mut self, supervisor: &Arc<Supervisor>) {
        let help = "Tasks that panicked or hung and were started again";
        self.add("supervisor_restarts", help, supervisor.restarts());
        let supervisor = Arc::clone(supervisor);
        let help = "Tasks that do not run, or make no progress";
        gauge(
            &mut self.registry,
            about("supervisor_tasks_down", help),
            move || Some(number(supervisor.n_down())),
        );
    }

    /// The calls of a gateway.
    pub(crate) fn client(&mut self, client: &Arc<RemoteOrderApi>) {
        let help = "Attempts to call the order service";
        self.add_seconds("rpc_client_call_duration", help, client.attempts());
        self.commits(client.commits());
        self.supervisor(client.supervisor());
        let client = Arc::clone(client);
        let help = "Addresses of the order service";
        let registry = &mut self.registry;
        gauges(
            registry,
            about("rpc_client_addresses", help),
            "state",
            move || {
                let (n_known, n_usable) = client.n_addresses();
                vec![
                    ("usable", number(n_usable)),
                    ("unusable", number(n_known.saturating_sub(n_usable))),
                ]
            },
        );
    }
}

fn each<S, M>(stats: &[(&'static str, S)], pick: impl Fn(&S) -> M) -> Vec<(&'static str, M)> {
    stats
        .iter()
        .map(|(name, stats)| (*name, pick(stats)))
        .collect()
}

const fn used(usage: PoolUsage) -> usize {
    usage.used
}

const fn idle(usage: PoolUsage) -> usize {
    usage.idle
}

const fn max(usage: PoolUsage) -> usize {
    usage.max
}
