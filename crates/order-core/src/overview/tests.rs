use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{Identity, ProcessId, ProcessReport};

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn process(id: u64, seen_at: i64, figures: Figures) -> ProcessState {
    ProcessState {
        report: ProcessReport {
            identity: Identity {
                id: ProcessId::from_u64(id),
                program: "order-worker".to_owned(),
                place: format!("host:{id}"),
            },
            version: "1".to_owned(),
            started_at: at(0),
            figures,
        },
        seen_at: at(seen_at),
        is_paused: false,
    }
}

fn state(seconds: i64, processes: Vec<ProcessState>) -> ClusterState {
    ClusterState {
        at: at(seconds),
        is_paused: false,
        backlog: Backlog::default(),
        processes,
    }
}

fn texts(overview: &Overview) -> Vec<&str> {
    let findings = overview.findings.iter();
    findings.map(|finding| &*finding.text).collect()
}

#[test]
fn rates_are_sums_of_processes_in_both_readings() {
    let of = |created| Figures {
        created,
        workers: 5,
        ..Figures::default()
    };
    let before = state(100, vec![process(1, 100, of(10)), process(2, 100, of(5))]);
    // The second process was replaced by a new one, whose counter began anew.
    let now = state(102, vec![process(1, 102, of(30)), process(3, 102, of(7))]);
    let overview = Overview::between(&before, &now);
    assert!((overview.created - 10.0).abs() < 1e-9, "{overview:?}");
    assert_eq!(overview.workers, 10);
    assert_eq!(texts(&overview), [""; 0]);
}

#[test]
fn counters_that_fall_and_equal_times_give_no_rates() {
    let of = |created| Figures {
        created,
        ..Figures::default()
    };
    let before = state(100, vec![process(1, 100, of(10))]);
    let now = state(100, vec![process(1, 100, of(3))]);
    assert!(Overview::between(&before, &now).created.abs() < 1e-9);
}

#[test]
fn quantiles_are_interpolated() {
    let mut times = vec![0; Figures::BOUNDS.len()];
    // 100 requests between 1 and 2 ms.
    for n in &mut times[2..] {
        *n = 100;
    }
    let figures = Figures {
        request_times: times,
        ..Figures::default()
    };
    let before = state(0, vec![process(1, 0, Figures::default())]);
    let now = state(2, vec![process(1, 2, figures)]);
    let overview = Overview::between(&before, &now);
    let p50 = overview.request_times.p50.expect("measured");
    assert_eq!(p50, Duration::from_micros(1500));
    assert_eq!(overview.completion_times, Quantiles::default());
}

#[test]
fn times_beyond_the_last_bound_are_the_last_bound() {
    let mut times = vec![0; Figures::BOUNDS.len()];
    times[Figures::BOUNDS.len() - 1] = 3;
    let figures = Figures {
        completion_times: times,
        ..Figures::default()
    };
    let before = state(0, vec![process(1, 0, Figures::default())]);
    let now = state(2, vec![process(1, 2, figures)]);
    let times = Overview::between(&before, &now).completion_times;
    assert_eq!(times.p99, Some(Duration::from_secs(10)));
}

#[test]
fn everything_that_is_wrong_is_said() {
    let failing = Figures {
        failed: 4,
        failures: [("CARD_DECLINED".to_owned(), 4)].into(),
        requests: 100,
        failed_requests: 7,
        lag_ms: 25_000,
        workers: 5,
        ..Figures::default()
    };
    let before = state(100, vec![process(1, 100, Figures::default())]);
    let mut now = state(
        102,
        vec![process(1, 102, failing), process(2, 80, Figures::default())],
    );
    now.backlog = Backlog {
        due: 12,
        oldest_due: Some(Duration::from_secs(70)),
        events: 3,
        oldest_event: Some(Duration::from_secs(90)),
        ..Backlog::default()
    };
    let overview = Overview::between(&before, &now);
    assert_eq!(
        texts(&overview),
        [
            "12 jobs wait, the oldest for 70 s; 0 of 5 workers are busy.",
            "7 % of the requests fail.",
            "4 orders have just failed, most with CARD_DECLINED.",
            "order-worker host:1 has not extended its leases for 25 s.",
            "order-worker host:2 has been silent for 22 s.",
            "3 events wait to be published, the oldest for 90 s.",
        ]
    );
}

#[test]
fn silent_workers_do_not_count() {
    let workers = Figures {
        workers: 5,
        ..Figures::default()
    };
    let mut now = state(102, vec![process(1, 80, workers)]);
    now.backlog.due = 2;
    now.backlog.oldest_due = Some(Duration::from_secs(61));
    let overview = Overview::between(&now, &now);
    assert_eq!(
        texts(&overview)[0],
        "No worker runs: 2 jobs wait, the oldest for 61 s."
    );
    now.is_paused = true;
    let overview = Overview::between(&now, &now);
    assert_eq!(
        texts(&overview)[0],
        "Processing is paused, and 2 jobs wait."
    );
}
