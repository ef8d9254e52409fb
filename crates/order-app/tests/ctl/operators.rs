//! What `orderctl` tells operators about orders and processes.

use std::{sync::Arc, time::Duration};

use clap::Parser as _;
use jiff::Timestamp;
use order_app::ctl::{
    Cli, ExitStatus,
    top::{Question, View, draw},
};
use order_core::{
    AttemptOutcome, AttemptRecord, Backlog, Cause, ClusterState, Error, Figures, Identity,
    JobRecord, JobState, Metadata, Money, Order, OrderId, OrderRecord, OrderStatus, Origin,
    ProcessId, ProcessReport, ProcessState, Push, PushRecord, UserId, overview::Overview,
};
use ratatui::{Terminal, backend::TestBackend, buffer::Cell, style::Color};
use uuid::Uuid;

use crate::{fake::FakeApi, support::orderctl};

/// What a terminal follows, and what turns the order of its line.
const HOSTILE: &str = "x\u{1b}]0;owned\u{7}\u{202e}\n2026-01-01 forged";

/// The process that is paused.
pub(crate) const PAUSED: ProcessId = ProcessId::from_u64(0xA0);

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_323_045_000 + milliseconds).expect("in range")
}

/// An order that was retried, lost, failed and redriven; its texts are hostile.
pub(crate) fn record(order_id: OrderId) -> Result<OrderRecord, Error> {
    if order_id == OrderId::from_uuid(Uuid::nil()) {
        return Err(Error::OrderNotFound { order_id });
    }
    let mut order = Order {
        id: order_id,
        user_id: UserId::from_accepted(HOSTILE),
        money: Money::parse("99.95", "USD").expect("valid"),
        status: OrderStatus::Pending,
        version: 1,
        metadata: Metadata::NONE,
        external_id: None,
        failure: None,
        created_at: at(0),
        updated_at: at(0),
    };
    let mut events = vec![order.last_event()];
    (order.status, order.version, order.updated_at) = (OrderStatus::Failed, 2, at(2_500));
    order.failure = Some(Cause {
        code: "NO_STOCK".to_owned(),
        message: HOSTILE.to_owned(),
    });
    events.push(order.last_event());
    let attempt = AttemptRecord {
        attempt: 1,
        worker: Some("order-service host:7".to_owned()),
        begun_at: Some(at(10)),
        ended_at: at(130),
        outcome: AttemptOutcome::Retried,
        error: Some(HOSTILE.to_owned()),
        next_at: Some(at(1_000)),
    };
    let lost = AttemptRecord {
        attempt: 2,
        worker: None,
        begun_at: None,
        ended_at: at(2_000),
        outcome: AttemptOutcome::Lost,
        error: None,
        next_at: None,
    };
    let failed = AttemptRecord {
        attempt: 3,
        worker: attempt.worker.clone(),
        begun_at: Some(at(2_100)),
        ended_at: at(2_500),
        outcome: AttemptOutcome::Failed,
        ..lost.clone()
    };
    Ok(OrderRecord {
        order,
        origin: Origin {
            request_id: Some("r-1".to_owned()),
            gateway: Some("api-gateway host:8".to_owned()),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        },
        events,
        attempts: vec![attempt, lost, failed],
        job: Some(JobRecord {
            attempt: 4,
            attempts_before: 3,
            state: JobState::Leased(at(30_000)),
            holder: Some(PAUSED),
            last_error: Some("no answer".to_owned()),
        }),
        unpublished: Some(vec![2]),
        pushes: vec![push()],
        silent_processes: 1,
    })
}

fn push() -> PushRecord {
    PushRecord {
        process: format!("order-service {HOSTILE}"),
        push: Push {
            version: 2,
            at: at(2_501),
            clients: 1,
            gateways: 2,
        },
    }
}

fn process(id: ProcessId, program: &str, seen_at: Timestamp, figures: Figures) -> ProcessState {
    ProcessState {
        report: ProcessReport {
            identity: Identity {
                id,
                program: program.to_owned(),
                place: "host:7".to_owned(),
            },
            version: "0.1.0".to_owned(),
            started_at: at(0),
            figures,
        },
        seen_at,
        is_paused: id == PAUSED,
    }
}

/// Three processes: one that works, one that is paused, one that is silent.
pub(crate) fn cluster(created: u64) -> ClusterState {
    let now = at(60_000);
    let busy = Figures {
        workers: 10,
        busy: 3,
        queued: 2,
        connections: 4,
        sockets: 1,
        created,
        failures: [("TIMEOUT".to_owned(), 3), ("NO_STOCK".to_owned(), 7)].into(),
        ..Figures::default()
    };
    ClusterState {
        at: now,
        is_paused: false,
        backlog: Backlog {
            due: 12,
            scheduled: 1,
            leased: 3,
            dead: 4,
            oldest_due: Some(Duration::from_millis(1_500)),
            ..Backlog::default()
        },
        processes: vec![
            process(ProcessId::from_u64(1), "order-system", now, busy),
            process(PAUSED, "order-worker", now, Figures::default()),
            process(
                ProcessId::from_u64(3),
                "api-gateway",
                at(30_000),
                Figures::default(),
            ),
        ],
    }
}

/// A view of two readings that are ten seconds apart.
fn view() -> View {
    let (before, now) = (cluster(100), cluster(150));
    let before = ClusterState {
        at: at(50_000),
        ..before
    };
    View {
        overview: Overview::between(&before, &now),
        cluster: now,
        error: None,
        question: None,
    }
}

fn screen(view: &View, (width, height): (u16, u16)) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(view, frame)).expect("drawn");
    terminal
}

/// What is written on a screen, line by line.
fn written(screen: &Terminal<TestBackend>) -> Vec<String> {
    let buffer = screen.backend().buffer();
    let width = usize::from(buffer.area.width);
    let symbols: Vec<&str> = buffer.content().iter().map(Cell::symbol).collect();
    let lines = symbols.chunks(width).map(<[&str]>::concat);
    lines.map(|line| line.trim_end().to_owned()).collect()
}

async fn run(args: &[&str]) -> (ExitStatus, String, String) {
    let outcome = orderctl(&Arc::new(FakeApi::new()), args).await;
    (outcome.status, outcome.out, outcome.err)
}

fn is_harmless(text: &str) -> bool {
    let is_bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    !text.contains(is_bad)
}

#[tokio::test]
async fn trace_is_a_timeline_in_which_causes_come_first() {
    let id = Uuid::from_u128(7).to_string();
    for args in [&["trace", &id][..], &["order", "trace", &id]] {
        let (status, out, err) = run(args).await;
        assert_eq!((status, err.as_str()), (ExitStatus::Ok, ""));
        assert!(is_harmless(&out), "{out:?}");
        let (order, timeline) = out.split_once("\n\n").expect("two parts");
        assert!(order.starts_with(&format!("order_id     {id}\n")), "{out}");
        let hostile = r"x\u001b]0;owned\u0007\u202e\u000a2026-01-01 forged";
        let expected = [
            "2026-01-02T03:04:05.000Z  request       r-1, taken by api-gateway host:8, \
             trace 4bf92f3577b34da6a3ce929d0e0e4736",
            "2026-01-02T03:04:05.000Z  version 1     PENDING",
            "2026-01-02T03:04:05.010Z  attempt 1     began by order-service host:7",
            &format!(
                "2026-01-02T03:04:05.130Z  attempt 1     failed after 120 ms: {hostile}; \
                 the next attempt is due at 2026-01-02T03:04:06.000Z"
            ),
            "2026-01-02T03:04:07.000Z  attempt 2     was lost with its lease",
            "2026-01-02T03:04:07.100Z  attempt 3     began by order-service host:7",
            "2026-01-02T03:04:07.500Z  attempt 3     failed for good after 400 ms",
            &format!("2026-01-02T03:04:07.500Z  version 2     FAILED: NO_STOCK: {hostile}"),
            &format!(
                "2026-01-02T03:04:07.501Z  push          version 2 by order-service {hostile}, \
                 clients: 1, gateways: 2"
            ),
            "2026-01-02T03:04:07.500Z  push          services that did not answer: 1",
            "2026-01-02T03:04:07.500Z  publication   versions 2 wait to be published",
            "2026-01-02T03:04:35.000Z  job           is held by process 00000000000000a0 \
             until then, attempts in this round: 1, last error: no answer",
        ];
        let lines: Vec<&str> = timeline.lines().collect();
        assert_eq!(lines, expected);
    }
}

#[tokio::test]
async fn trace_is_one_json_document() {
    let id = Uuid::from_u128(7).to_string();
    let (status, out, _) = run(&["trace", &id, "--output", "json"]).await;
    assert_eq!(status, ExitStatus::Ok);
    assert!(is_harmless(&out), "{out:?}");
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["order"]["user_id"], HOSTILE);
    assert_eq!(json["request"]["gateway"], "api-gateway host:8");
    assert_eq!(json["attempts"][0]["outcome"], "RETRIED");
    assert_eq!(json["attempts"][1]["worker"], serde_json::Value::Null);
    assert_eq!(json["job"]["state"], "LEASED");
    assert_eq!(json["unpublished"], serde_json::json!([2]));
    assert_eq!(json["pushes"][0]["clients"], 1);
    assert_eq!(json["pushes"][0]["at"], "2026-01-02T03:04:07.501Z");
    assert_eq!(json["silent_processes"], 1);
    assert_eq!(json["events"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn order_that_does_not_exist_has_no_trace() {
    let (status, out, err) = run(&["trace", &Uuid::nil().to_string()]).await;
    assert_eq!((status, out.as_str()), (ExitStatus::NotFound, ""));
    assert!(err.contains("ORDER_NOT_FOUND"), "{err}");
}

#[tokio::test]
async fn processes_are_a_table_with_their_states() {
    let (status, out, _) = run(&["admin", "processes"]).await;
    assert_eq!(status, ExitStatus::Ok);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(
        lines[1].starts_with("0000000000000001  running  3/10"),
        "{out}"
    );
    assert!(lines[1].ends_with("order-system host:7"), "{out}");
    assert!(
        lines[2].starts_with("00000000000000a0  paused   0/0"),
        "{out}"
    );
    assert!(lines[3].contains("silent"), "{out}");
    let (_, out, _) = run(&["admin", "processes", "--output", "json"]).await;
    let last = out.lines().last().expect("a line");
    let json: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(json["seen_seconds_ago"], 30);
}

#[tokio::test]
async fn processes_are_paused_and_resumed() {
    for (args, expected) in [
        (&["pause"][..], "all processes are paused"),
        (&["resume"], "all processes are resumed"),
        (
            &["resume", "00000000000000a0"],
            "process 00000000000000a0 is resumed",
        ),
    ] {
        let args: Vec<&str> = ["admin"].iter().chain(args).copied().collect();
        let (status, out, _) = run(&args).await;
        assert_eq!(status, ExitStatus::Ok);
        assert_eq!(
            out,
            format!("{expected}; they follow within a few seconds\n")
        );
    }
    let (status, _, err) = run(&["admin", "pause", "0000000000000bad"]).await;
    assert_eq!(status, ExitStatus::Refused);
    assert!(
        err.contains("process_id: must be the id of a process that reports"),
        "{err}"
    );
    let refused = Cli::try_parse_from(["orderctl", "admin", "pause", "one"]);
    let refused = refused.expect_err("no id").to_string();
    assert!(
        refused.contains("must be 16 hexadecimal digits"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn top_without_a_terminal_is_one_snapshot() {
    let (status, out, err) = run(&["top"]).await;
    assert_eq!((status, err.as_str()), (ExitStatus::Ok, ""));
    assert!(
        out.starts_with("Order system at 2026-01-02T03:05:05Z\n"),
        "{out}"
    );
    assert!(
        out.contains("Workers     3 of 10 busy, connections 4, sockets 1\n"),
        "{out}"
    );
    let (_, out, _) = run(&["top", "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (&json["due"], &json["oldest_due"]),
        (&12.into(), &1.5.into())
    );
    assert!(
        json["findings"]
            .as_array()
            .is_some_and(|found| !found.is_empty())
    );
}

#[test]
fn screen_shows_the_system_and_what_is_wrong() {
    let screen = screen(&view(), (132, 18));
    let expected = [
        "Order system at 2026-01-02T03:05:05Z",
        "4 orders have failed: a redrive gives new attempts.",
        "order-worker host:7 is paused.",
        "api-gateway host:7 has been silent for 30 s.",
        "",
        "Orders      created 5.0/s, processed 0.0/s, failed 0.0/s, retried 0.0/s, p50 -, p99 -",
        "Requests    0.0/s, failing 0.0 %, p50 -, p99 -",
        "Jobs        due 12 (oldest 1.5 s), scheduled 1, leased 3, dead 4",
        "Events      to publish 0 (oldest -)",
        "Workers     3 of 10 busy, connections 4, sockets 1",
        "Failures    NO_STOCK 7, TIMEOUT 3",
        "",
        "PROCESS           STATE    BUSY     QUEUED  CONNS  SOCKETS  SEEN   SINCE                 \
         VERSION   PROGRAM AND PLACE",
        "0000000000000001  running  3/10          2      4        1    0 s  2026-01-02T03:04:05Z  \
         0.1.0     order-system host:7",
        "00000000000000a0  paused   0/0           0      0        0    0 s  2026-01-02T03:04:05Z  \
         0.1.0     order-worker host:7",
        "0000000000000003  silent   0/0           0      0        0   30 s  2026-01-02T03:04:05Z  \
         0.1.0     api-gateway host:7",
        "",
        "q: quit   p: pause processing",
    ];
    assert_eq!(written(&screen), expected);
    let cell = screen.backend().buffer().cell((0, 1)).expect("a cell");
    assert_eq!(cell.fg, Color::Red);
}

#[test]
fn question_and_failure_are_shown_on_a_small_screen_too() {
    let view = View {
        question: Some(Question::Pause),
        error: Some(HOSTILE.to_owned()),
        ..view()
    };
    let screen = screen(&view, (70, 4));
    let text = written(&screen).join("\n");
    assert!(
        text.contains(r"No newer figures: x\u001b]0;owned"),
        "{text}"
    );
    assert!(
        text.contains("Pause processing in all processes? y: yes"),
        "{text}"
    );
    assert!(is_harmless(&text));
}
