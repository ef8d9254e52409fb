//! The figures of a process, read from its own metrics: there is one set of counters.

use order_core::{Figures, metrics::Registry};
use prometheus_client::encoding::prometheus_text;

/// Where the routes of the API begin.
const API_ROUTES: [&str; 2] = ["/orders", "/stream-tickets"];

/// Event streams last as long as their clients like, so their durations say nothing.
const STREAM_ROUTE_END: &str = "/events";

/// Reads the figures of a process at `now`, in seconds since 1970.
pub(crate) fn read(registry: &Registry, now: f64) -> Figures {
    let mut text = String::new();
    // Memory can always be written to, and what is there counts in any case.
    let _ = prometheus_text::encode(&mut text, registry);
    parse(&text, now)
}

/// Reads the figures in a scrape.
fn parse(scrape: &str, now: f64) -> Figures {
    let mut figures = Figures::default();
    let lines = scrape.lines().filter(|line| !line.starts_with('#'));
    for sample in lines.filter_map(Sample::parse) {
        sample.add_to(&mut figures, now);
    }
    figures
}

/// One line of a scrape.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some(Self {
            name,
            labels,
            value: value.parse().ok()?,
        })
    }

    /// The value of a label. No value of our labels has a comma or a quote.
    fn label(&self, key: &str) -> Option<&'a str> {
        let labels = self.labels.trim_end_matches('}').split(',');
        labels
            .filter_map(|label| label.split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value.trim_matches('"')))
    }

    fn has(&self, key: &str, value: &str) -> bool {
        self.label(key) == Some(value)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and no figure is negative"
    )]
    const fn count(&self) -> u64 {
        self.value as u64
    }

    fn small(&self) -> u32 {
        u32::try_from(self.count()).unwrap_or(u32::MAX)
    }

    fn add_to(&self, figures: &mut Figures, now: f64) {
        match self.name {
            "workers" => figures.workers = self.small(),
            "workers_busy" => figures.busy = self.small(),
            "jobs_queued" => figures.queued = self.small(),
            "jobs_last_heartbeat_seconds" => {
                let lag = Sample {
                    value: (now - self.value) * 1_000.0,
                    ..*self
                };
                figures.lag_ms = lag.count();
            }
            "server_connections"
                if self.has("listener", "http") || self.has("listener", "grpc") =>
            {
                figures.connections += self.small();
            }
            "hub_sessions" => figures.sockets = self.small(),
            "hub_subscriptions" => figures.subscriptions += self.small(),
            "orders_created_total" => figures.created = self.count(),
            "orders_status_changes_total" if self.has("status", "PROCESSED") => {
                figures.processed = self.count();
            }
            "orders_status_changes_total" if self.has("status", "FAILED") => {
                figures.failed = self.count();
            }
            "jobs_retried_total" => figures.retried += self.count(),
            "remote_jobs_completed_total" if self.has("outcome", "retried") => {
                figures.retried += self.count();
            }
            "jobs_fenced_total" | "remote_jobs_fenced_total" => figures.fenced += self.count(),
            "jobs_dead_lettered_total" => self.add_failures(figures),
            "orders_completion_duration_seconds_bucket" => {
                self.add_to_bucket(&mut figures.completion_times);
            }
            _ => self.add_request(figures),
        }
    }

    fn add_failures(&self, figures: &mut Figures) {
        if let Some(code) = self.label("code")
            && figures.failures.len() < Figures::FAILURES_MAX
        {
            figures.failures.insert(code.to_owned(), self.count());
        }
    }

    fn add_request(&self, figures: &mut Figures) {
        let Some(part) = self
            .name
            .strip_prefix("http_server_request_duration_seconds_")
        else {
            return;
        };
        let route = self.label("http_route").unwrap_or_default();
        if !API_ROUTES.iter().any(|api| route.starts_with(api)) {
            return;
        }
        match part {
            "count" => {
                figures.requests += self.count();
                let status = self.label("http_response_status_code");
                if status.is_some_and(|status| status.starts_with('5')) {
                    figures.failed_requests += self.count();
                }
            }
            "bucket" if !route.ends_with(STREAM_ROUTE_END) => {
                self.add_to_bucket(&mut figures.request_times);
            }
            _ => {}
        }
    }

    fn add_to_bucket(&self, times: &mut Vec<u64>) {
        times.resize(Figures::BOUNDS.len(), 0);
        let le = self.label("le").and_then(|le| le.parse::<f64>().ok());
        let bucket = Figures::BOUNDS.iter().zip(times);
        for (_, n) in bucket.filter(|(bound, _)| Some(**bound) == le) {
            *n += self.count();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use order_core::metrics::{Durations, Family};
    use prometheus_client::encoding::EncodeLabelSet;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Labels {
        http_route: &'static str,
        http_response_status_code: Option<u16>,
    }

    #[test]
    fn requests_are_those_of_the_api_and_durations_none_of_streams() {
        let durations: Family<Labels, Durations> = Family::default();
        let observe = |route, status, millis| {
            let labels = Labels {
                http_route: route,
                http_response_status_code: status,
            };
            let duration = Duration::from_millis(millis);
            durations.get_or_create(&labels).observe(duration, None);
        };
        observe("/orders", Some(201), 1);
        observe("/orders", Some(503), 3);
        observe("/orders/{order_id}", None, 60_000);
        observe("/orders/{order_id}/events", Some(200), 60_000);
        observe("/stream-tickets", Some(201), 1);
        observe("/log-level", Some(500), 1);
        observe("/ws", Some(101), 1);
        let mut registry = Registry::default();
        registry.register_with_unit(
            "http_server_request_duration",
            "help",
            prometheus_client::registry::Unit::Seconds,
            durations,
        );

        let figures = read(&registry, 0.0);

        assert_eq!((figures.requests, figures.failed_requests), (5, 1));
        let times = [0, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4];
        assert_eq!(figures.request_times, times);
    }

    #[test]
    fn figures_are_found_by_their_names_and_labels() {
        let figures = parse(
            "# HELP workers Workers\n\
             workers 5\n\
             workers_busy 2\n\
             jobs_queued 7\n\
             jobs_last_heartbeat_seconds 1000\n\
             server_connections{listener=\"admin\"} 1\n\
             server_connections{listener=\"http\"} 20\n\
             server_connections{listener=\"grpc\"} 300\n\
             hub_sessions 4\n\
             hub_subscriptions{topic=\"order\"} 10\n\
             hub_subscriptions{topic=\"user\"} 1\n\
             orders_created_total 9\n\
             orders_status_changes_total{status=\"PENDING\"} 11\n\
             orders_status_changes_total{status=\"PROCESSED\"} 6\n\
             orders_status_changes_total{status=\"FAILED\"} 3\n\
             jobs_retried_total 1\n\
             remote_jobs_completed_total{outcome=\"processed\"} 5\n\
             remote_jobs_completed_total{outcome=\"retried\"} 2\n\
             jobs_fenced_total 1\n\
             remote_jobs_fenced_total 3\n\
             jobs_dead_lettered_total{code=\"NO_STOCK\"} 3\n\
             not a number\n",
            1_002.5,
        );
        let expected = Figures {
            workers: 5,
            busy: 2,
            queued: 7,
            lag_ms: 2_500,
            connections: 320,
            sockets: 4,
            subscriptions: 11,
            created: 9,
            processed: 6,
            failed: 3,
            retried: 3,
            fenced: 4,
            failures: [("NO_STOCK".to_owned(), 3)].into(),
            ..Figures::default()
        };
        assert_eq!(figures, expected);
    }
}
