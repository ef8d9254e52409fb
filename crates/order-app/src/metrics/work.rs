//! Jobs, and what goes to other processes and systems.

use std::sync::Arc;

use order_core::metrics::Counter;
use order_hub::Outlet;
use order_worker::{EventRelayStats, HintStats, RemoteWorkersStats, WorkerPool};

use super::{
    Metrics, about,
    collect::{SECONDS, gauge, gauges},
    in_unit, number,
};
use crate::backlog::BacklogView;

impl Metrics {
    /// Jobs and events that wait in the database.
    pub(crate) fn backlog(&mut self, backlog: &Arc<BacklogView>) {
        let registry = &mut self.registry;
        let view = Arc::clone(backlog);
        let help = "Jobs in the database, by what they wait for; dead: for a redrive";
        gauges(registry, about("jobs", help), "state", move || {
            let Some(now) = view.now() else {
                return Vec::new();
            };
            vec![
                ("due", now.due.into()),
                ("scheduled", now.scheduled.into()),
                ("leased", now.leased.into()),
                ("dead", now.dead.into()),
            ]
        });
        let view = Arc::clone(backlog);
        let help = "For how long the oldest due job has been due; 0: none is";
        gauge(
            registry,
            in_unit("jobs_oldest_due_age", help, SECONDS),
            move || {
                let now = view.now()?;
                Some(now.oldest_due.unwrap_or_default().as_secs_f64())
            },
        );
        let view = Arc::clone(backlog);
        let help = "Events that wait to be published to EVENT_SINK";
        gauge(registry, about("sink_outbox_events", help), move || {
            Some(view.now()?.events.into())
        });
        let view = Arc::clone(backlog);
        let help = "The age of the oldest event that waits for EVENT_SINK; 0: none waits";
        gauge(
            registry,
            in_unit("sink_outbox_oldest_age", help, SECONDS),
            move || {
                let now = view.now()?;
                Some(now.oldest_event.unwrap_or_default().as_secs_f64())
            },
        );
        let help = "Reads of the backlog in the database that failed";
        self.add("backlog_reads_failed", help, backlog.failures().clone());
    }

    /// The workers of this process.
    pub(crate) fn workers(&mut self, pool: &WorkerPool) {
        let stats = pool.stats();
        self.add_counters([
            ("jobs_claims", "Statements that claim jobs", &stats.claims),
            (
                "jobs_claimed",
                "Jobs that were claimed",
                &stats.claimed_jobs,
            ),
            (
                "jobs_born_leased",
                "New jobs that needed no claim",
                &stats.born_leased,
            ),
            (
                "jobs_processed",
                "Orders that became PROCESSED here",
                &stats.processed,
            ),
            (
                "jobs_failed",
                "Orders that became FAILED here",
                &stats.failed,
            ),
            (
                "jobs_retried",
                "Attempts whose jobs are retried",
                &stats.retried,
            ),
            (
                "jobs_fenced",
                "Attempts whose leases were lost",
                &stats.fenced,
            ),
            (
                "jobs_results_dropped",
                "Results that could not be committed",
                &stats.dropped,
            ),
            (
                "jobs_released",
                "Jobs given back unfinished",
                &stats.released,
            ),
            ("jobs_panics", "Panics of the processor", &stats.panics),
            (
                "jobs_timeouts",
                "Attempts that took too long",
                &stats.timeouts,
            ),
            (
                "jobs_heartbeats",
                "Statements that extend leases",
                &stats.heartbeats,
            ),
            ("jobs_hints_received", "Hints from the broker", &stats.hints),
            (
                "jobs_hints_stale",
                "Hints whose jobs were not due",
                &stats.idle_hints,
            ),
            (
                "jobs_swept",
                "Jobs found although their hints were lost",
                &stats.swept,
            ),
        ]);
        self.attempts(pool);
    }

    fn attempts(&mut self, pool: &WorkerPool) {
        let stats = pool.stats().clone();
        let help = "Attempts, by their outcome";
        self.add_seconds("jobs_attempt_duration", help, stats.attempts);
        let help = "Orders that became FAILED, by the code of the cause";
        self.add("jobs_dead_lettered", help, stats.ends.dead_letters.by_code);
        let help = "Orders, from their creation to their end, by the outcome of their last attempt";
        self.add_seconds("orders_completion_duration", help, stats.ends.durations);
        let help = "Unix time at which all leases were last extended";
        // A process without workers sends no heartbeats, and no alert should wait for them.
        if pool.n_workers() > 0 {
            self.add_seconds("jobs_last_heartbeat", help, stats.last_heartbeat);
        }
        self.add("workers_busy", "Workers with a job", stats.busy);
        let n_workers = number(pool.n_workers());
        let registry = &mut self.registry;
        gauge(
            registry,
            about("workers", "Workers of this process"),
            move || Some(n_workers),
        );
        let queued = pool.queued();
        let help = "Jobs that wait for a worker of this process";
        gauge(registry, about("jobs_queued", help), move || {
            Some(number(queued()))
        });
    }

    /// Workers outside, through this process.
    pub(crate) fn remote_workers(&mut self, stats: &RemoteWorkersStats) {
        self.add_counters([
            (
                "remote_jobs_leased",
                "Jobs leased to workers outside",
                &stats.leased,
            ),
            (
                "remote_jobs_fenced",
                "Reports of workers outside whose leases were lost",
                &stats.fenced,
            ),
            (
                "remote_jobs_released",
                "Jobs given back unfinished",
                &stats.released,
            ),
        ]);
        let help = "Results of workers outside that are durable, by the outcome";
        self.add("remote_jobs_completed", help, stats.completed.clone());
    }

    /// New orders.
    pub(crate) fn created(&mut self, created: &Counter) {
        self.add(
            "orders_created",
            "Orders that were created here",
            created.clone(),
        );
    }

    /// Reports of this process that failed.
    pub(crate) fn presence(&mut self) -> Counter {
        let failures = Counter::default();
        let help = "Reports of this process that failed";
        self.add("process_reports_failed", help, failures.clone());
        failures
    }

    /// Hints to the broker.
    pub(crate) fn hints(&mut self, stats: &HintStats) {
        self.add_counters([
            (
                "jobs_hints_sent",
                "Hints that the broker has taken",
                &stats.sent,
            ),
            (
                "jobs_hints_dropped",
                "Hints dropped because too many waited",
                &stats.unsent,
            ),
        ]);
    }

    /// Events to other processes.
    pub(crate) fn outlet(&mut self, outlet: &Arc<Outlet>) {
        let stats = outlet.stats();
        self.add_counters([
            ("events_sent", "Events sent to other processes", &stats.sent),
            (
                "events_dropped",
                "Events that could not be sent",
                &stats.dropped,
            ),
        ]);
        let outlet = Arc::clone(outlet);
        let help = "Events that wait to be sent to other processes";
        let registry = &mut self.registry;
        gauge(registry, about("events_queued", help), move || {
            Some(number(outlet.n_queued()))
        });
    }

    /// Events to a system outside.
    pub(crate) fn relay(&mut self, stats: &EventRelayStats) {
        self.add_counters([
            (
                "sink_published",
                "Events that EVENT_SINK has taken",
                &stats.published,
            ),
            (
                "sink_failures",
                "Calls of the outbox or EVENT_SINK that failed",
                &stats.failures,
            ),
        ]);
    }
}
