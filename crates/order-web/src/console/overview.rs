//! `/console/`: the system at a glance.

use std::time::Duration;

use maud::{Markup, html};
use order_core::{
    Backlog,
    overview::{Overview, Quantiles},
};

use super::{
    chart::{Chart, Line, per_second, seconds, whole},
    page::Region,
    sampler::Samples,
    text::{count, duration, foreign, n_of, rate},
};

const CHARTS: &[Chart] = &[
    Chart {
        title: "Orders a second",
        unit: per_second,
        lines: &[
            Line {
                name: "created",
                value: |overview| Some(overview.created),
            },
            Line {
                name: "processed",
                value: |overview| Some(overview.processed),
            },
            Line {
                name: "failed",
                value: |overview| Some(overview.failed),
            },
        ],
    },
    Chart {
        title: "From creation to completion",
        unit: seconds,
        lines: &[
            Line {
                name: "p50",
                value: |overview| secs(overview.completion_times.p50),
            },
            Line {
                name: "p99",
                value: |overview| secs(overview.completion_times.p99),
            },
        ],
    },
    Chart {
        title: "Jobs",
        unit: whole,
        lines: &[
            Line {
                name: "due",
                value: |overview| Some(overview.backlog.due.into()),
            },
            Line {
                name: "held",
                value: |overview| Some(overview.backlog.leased.into()),
            },
            Line {
                name: "to be retried",
                value: |overview| Some(overview.backlog.scheduled.into()),
            },
        ],
    },
    Chart {
        title: "Requests a second",
        unit: per_second,
        lines: &[
            Line {
                name: "all",
                value: |overview| Some(overview.requests),
            },
            Line {
                name: "failed",
                value: |overview| Some(overview.requests * overview.request_failures),
            },
        ],
    },
    Chart {
        title: "Request time",
        unit: seconds,
        lines: &[
            Line {
                name: "p50",
                value: |overview| secs(overview.request_times.p50),
            },
            Line {
                name: "p99",
                value: |overview| secs(overview.request_times.p99),
            },
        ],
    },
    Chart {
        title: "Workers",
        unit: whole,
        lines: &[
            Line {
                name: "busy",
                value: |overview| Some(overview.busy.into()),
            },
            Line {
                name: "all",
                value: |overview| Some(overview.workers.into()),
            },
        ],
    },
];

fn secs(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64())
}

/// The parts of the page.
pub(super) fn regions(samples: &Samples) -> Vec<Region> {
    vec![
        ("figures", figures(samples)),
        ("charts", charts(samples)),
        ("failures", failures(samples)),
    ]
}

/// The page.
pub(super) fn body(samples: &Samples) -> Markup {
    html! {
        @for (id, region) in regions(samples) { div id=(id) data-region { (region) } }
    }
}

fn figures(samples: &Samples) -> Markup {
    let Some((overview, _)) = samples.last() else {
        return html! {};
    };
    let Overview { backlog, .. } = overview;
    let failing = overview.request_failures * 100.0;
    html! {
        div.figures {
            (figure("Created", &per(overview.created), "orders"))
            (figure("Processed", &per(overview.processed), "orders"))
            (figure("Failed", &per(overview.failed), &format!("{} attempts retried", per(overview.retried))))
            (figure("Completion", &p99(&overview.completion_times), &p50(&overview.completion_times)))
            (figure("Jobs due", &count(backlog.due), &age("oldest", backlog.oldest_due)))
            (figure("Jobs held", &count(backlog.leased), &n_of(backlog.scheduled, "retry later", "retries later")))
            (figure("Dead letters", &count(backlog.dead), "orders wait for a redrive"))
            (figure("Workers busy", &format!("{} of {}", count(overview.busy), count(overview.workers)), "of all processes"))
            div #requests { (figure("Requests", &per(overview.requests), &format!("{failing:.1} % failed"))) }
            (figure("Request time", &p99(&overview.request_times), &p50(&overview.request_times)))
            (figure("Sockets", &count(overview.sockets), &n_of(overview.connections, "connection", "connections")))
            div #sink { (sink(backlog)) }
        }
    }
}

fn figure(name: &str, value: &str, note: &str) -> Markup {
    html! { dl.figure { dt { (name) } dd { b { (value) } " " small { (note) } } } }
}

fn sink(backlog: &Backlog) -> Markup {
    let note = age("oldest", backlog.oldest_event);
    figure("Unpublished events", &count(backlog.events), &note)
}

fn per(value: f64) -> String {
    format!("{} /s", rate(value))
}

fn p99(times: &Quantiles) -> String {
    times.p99.map_or_else(|| "–".to_owned(), duration)
}

fn p50(times: &Quantiles) -> String {
    let p50 = times.p50.map_or_else(
        || "none measured".to_owned(),
        |p50| format!("p50 {}", duration(p50)),
    );
    if times.p99.is_some() {
        format!("p99; {p50}")
    } else {
        p50
    }
}

fn age(word: &str, age: Option<Duration>) -> String {
    age.map_or_else(
        || "none waits".to_owned(),
        |age| format!("{word} {}", duration(age)),
    )
}

fn charts(samples: &Samples) -> Markup {
    html! {
        h2 { "The last ten minutes" }
        div.charts { @for chart in CHARTS { (chart.render(samples)) } }
    }
}

fn failures(samples: &Samples) -> Markup {
    let causes = samples.last().map(|(overview, _)| &overview.failures);
    let mut causes: Vec<_> = causes.into_iter().flatten().collect();
    causes.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    html! {
        h2 { "Failures by cause" }
        @if causes.is_empty() {
            p.quiet { "No order has failed since the processes were started." }
        } @else {
            div.scroll {
                table {
                    caption { "Orders that became FAILED since the processes were started" }
                    thead { tr { th scope="col" { "Cause" } th.right scope="col" { "Orders" } } }
                    tbody {
                        @for (code, n) in causes {
                            tr {
                                th scope="row" { code { (foreign(code)) } }
                                td.right { (count(*n)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
