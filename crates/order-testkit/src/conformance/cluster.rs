//! Processes, as they report themselves, and their pauses.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use order_core::{ClusterState, Figures, Identity, ProcessId, ProcessReport};

use super::{
    Subject, identity,
    scene::{Scene, ctx},
};

/// The report of a process with some figures.
pub(super) fn report(identity: Identity) -> ProcessReport {
    ProcessReport {
        identity,
        version: "1.2.3".to_owned(),
        started_at: Timestamp::UNIX_EPOCH,
        figures: Figures {
            workers: 4,
            processed: u64::MAX,
            request_times: vec![0, 3],
            failures: BTreeMap::from([("NO \u{1f980}".to_owned(), 2)]),
            ..Figures::default()
        },
    }
}

/// The report of another process.
fn other(id: u64, program: &str, place: &str) -> ProcessReport {
    report(Identity {
        id: ProcessId::from_u64(id),
        program: program.to_owned(),
        place: place.to_owned(),
    })
}

async fn cluster(scene: &Scene<'_>) -> ClusterState {
    let cluster = scene.admin.cluster(&ctx()).await;
    cluster.expect("cluster answers")
}

/// Reports a process, and returns whether it is told to pause.
async fn is_told(scene: &Scene<'_>, process: &ProcessReport) -> bool {
    let directive = scene.admin.report(&ctx(), process).await;
    directive.expect("report answers").is_paused
}

/// Pauses or resumes, and returns whether there was such a process.
async fn pause(scene: &Scene<'_>, process: Option<&ProcessReport>, is_paused: bool) -> bool {
    let id = process.map(|process| process.identity.id);
    let paused = scene.admin.set_paused(&ctx(), id, is_paused).await;
    paused.expect("set_paused answers")
}

/// A process is shown as it reported itself last, until it is silent.
pub async fn process_is_shown_while_it_reports(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    assert_eq!(cluster(&scene).await.processes, []);
    let first = report(identity());
    assert!(!is_told(&scene, &first).await);
    let next = ProcessReport {
        started_at: Timestamp::MAX,
        figures: Figures {
            busy: 3,
            ..Figures::default()
        },
        ..first.clone()
    };
    for (reported, expected) in [(&first, &first.figures), (&next, &next.figures)] {
        subject.tick().await;
        is_told(&scene, reported).await;
        let cluster = cluster(&scene).await;
        let [process] = cluster.processes.as_slice() else {
            panic!("{:?}", cluster.processes);
        };
        let shown = ProcessReport {
            figures: expected.clone(),
            ..first.clone()
        };
        assert_eq!(process.report, shown, "it was started once");
        let age = cluster.at.duration_since(process.seen_at);
        assert!(!age.is_negative() && age.unsigned_abs() < ProcessReport::SHOWN_FOR);
    }

    subject.age_processes(ProcessReport::SHOWN_FOR).await;
    assert_eq!(cluster(&scene).await.processes, []);
    is_told(&scene, &first).await;
    assert_eq!(cluster(&scene).await.processes.len(), 1);
}

/// Whatever the order in which they report. Ids are any numbers of 64 bits.
pub async fn processes_are_shown_by_program_and_place(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let sorted = [
        other(u64::MAX, "Worker", "b:1"),
        other(3, "api-gateway", "b:1"),
        other(0, "order-worker", "A:1"),
        other(1, "order-worker", "a:1"),
    ];
    for n in [2, 0, 3, 1] {
        is_told(&scene, &sorted[n]).await;
    }
    let shown = cluster(&scene).await.processes;
    let shown: Vec<_> = shown.into_iter().map(|process| process.report).collect();
    assert_eq!(shown, sorted);
}

/// Of very many processes.
pub async fn processes_that_reported_last_are_shown(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let n_processes = u64::from(ProcessReport::LEN_MAX) + 3;
    for id in 0..n_processes {
        is_told(&scene, &other(id, "order-worker", &format!("a:{id:04}"))).await;
        subject.tick().await;
    }
    let shown = cluster(&scene).await.processes;
    let shown: Vec<_> = shown
        .iter()
        .map(|process| process.report.identity.id.as_u64())
        .collect();
    assert_eq!(shown, (3..n_processes).collect::<Vec<_>>());
}

/// A pause of one process outlasts its reports and leaves the others alone.
pub async fn one_process_is_paused_until_it_is_resumed(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (one, two) = (
        other(1, "order-worker", "a:1"),
        other(2, "order-worker", "a:2"),
    );
    is_told(&scene, &one).await;
    is_told(&scene, &two).await;

    for _ in 0..2 {
        assert!(pause(&scene, Some(&one), true).await);
        assert!(is_told(&scene, &one).await);
        assert!(!is_told(&scene, &two).await);
    }
    let state = cluster(&scene).await;
    assert!(!state.is_paused);
    let paused: Vec<_> = state
        .processes
        .iter()
        .map(|process| process.is_paused)
        .collect();
    assert_eq!(paused, [true, false]);

    for _ in 0..2 {
        assert!(pause(&scene, Some(&one), false).await);
        assert!(!is_told(&scene, &one).await);
    }
}

/// A pause of all processes includes those that start later, and is apart from the pauses of single
/// ones.
pub async fn all_processes_are_paused_together(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (one, two) = (
        other(1, "order-worker", "a:1"),
        other(2, "order-worker", "a:2"),
    );
    is_told(&scene, &one).await;
    assert!(pause(&scene, Some(&one), true).await);

    for _ in 0..2 {
        assert!(pause(&scene, None, true).await);
        assert!(is_told(&scene, &one).await);
        assert!(is_told(&scene, &two).await);
        let state = cluster(&scene).await;
        assert!(state.is_paused);
        let paused: Vec<_> = state
            .processes
            .iter()
            .map(|process| process.is_paused)
            .collect();
        assert_eq!(paused, [true, false]);
    }

    for _ in 0..2 {
        assert!(pause(&scene, None, false).await);
        assert!(is_told(&scene, &one).await);
        assert!(!is_told(&scene, &two).await);
        assert!(!cluster(&scene).await.is_paused);
    }
}

/// A process that never reported, or that is silent, cannot be paused.
pub async fn unknown_process_is_not_paused(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let process = report(identity());
    assert!(!pause(&scene, Some(&process), true).await);
    assert!(!is_told(&scene, &process).await);
    subject.age_processes(ProcessReport::SHOWN_FOR).await;
    assert!(!pause(&scene, Some(&process), true).await);
    assert!(!is_told(&scene, &process).await);
}

/// Operators who press the same button at the same time all succeed, while the process reports.
pub async fn operators_who_pause_at_once_agree(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let process = report(identity());
    is_told(&scene, &process).await;
    for is_paused in [true, false] {
        for target in [Some(&process), None] {
            let (a, b, c, d, _) = tokio::join!(
                pause(&scene, target, is_paused),
                pause(&scene, target, is_paused),
                pause(&scene, target, is_paused),
                pause(&scene, target, is_paused),
                is_told(&scene, &process),
            );
            assert_eq!([a, b, c, d], [true; 4]);
        }
        assert_eq!(is_told(&scene, &process).await, is_paused);
        assert_eq!(cluster(&scene).await.is_paused, is_paused);
    }
}

/// The row of a process that is silent for an hour is removed by the next report of another, and its
/// pause with it. If it was only cut off, it comes back as a new one.
pub async fn process_is_forgotten_after_an_hour(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (one, two) = (
        other(1, "order-worker", "a:1"),
        other(2, "order-worker", "a:2"),
    );
    is_told(&scene, &one).await;
    assert!(pause(&scene, Some(&one), true).await);
    for (age, is_kept) in [(50, true), (61, false)] {
        subject.age_processes(Duration::from_mins(age)).await;
        is_told(&scene, &two).await;
        assert_eq!(is_told(&scene, &one).await, is_kept, "after {age} min");
        assert_eq!(cluster(&scene).await.processes.len(), 2);
    }
}

/// Figures that this program does not know are ignored, and those that are missing are zero, as
/// long as old and new programs run side by side.
pub async fn figures_of_another_version_are_read(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    is_told(&scene, &report(identity())).await;
    let figures = async || {
        let shown = cluster(&scene).await.processes;
        shown
            .into_iter()
            .map(|process| process.report.figures)
            .next()
    };
    if subject
        .write_figures(r#"{"busy": 3, "later": [{"a": 1}]}"#)
        .await
    {
        let expected = Figures {
            busy: 3,
            ..Figures::default()
        };
        assert_eq!(figures().await, Some(expected));
    }
    if subject.write_figures(r#"{"busy": "three"}"#).await {
        assert_eq!(figures().await, Some(Figures::default()));
    }
}
