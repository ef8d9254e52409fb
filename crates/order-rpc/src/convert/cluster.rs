//! The processes of the system: what they report and what operators see of them.

use std::time::Duration;

use order_core::{
    Backlog, ClusterState, Error, Figures, Identity, ProcessId, ProcessReport, ProcessState, Room,
    Violations,
};
use prost::Message as _;

use super::{
    check::given,
    order::{invalid_answer, time_of_answer, time_to_proto},
    record::each,
    request::{check_time, text_of},
};
use crate::proto::{self, get_cluster_response as parts};

/// Where the fields of a report are in its request.
const REPORT: &str = "report";

/// More than tag and length of a process in the list take.
const PROCESS_FRAME_BYTES: usize = 8;

/// Writes the report of a process.
pub(crate) fn report_to_proto(report: ProcessReport) -> proto::ProcessReport {
    proto::ProcessReport {
        process_id: report.identity.id.to_string(),
        program: report.identity.program,
        place: report.identity.place,
        version: report.version,
        started_at: Some(time_to_proto(report.started_at)),
        figures: Some(figures_to_proto(report.figures)),
    }
}

/// Reads the report of a process.
///
/// # Errors
/// [`Error::InvalidArgument`] for `report`, and for `report/` with `process_id`, `started_at` and
/// the fields of [`ProcessReport::check`].
pub(crate) fn report_from_proto(
    request: proto::ReportProcessRequest,
) -> Result<ProcessReport, Error> {
    let Some(report) = request.report else {
        return Err(Error::invalid(REPORT, "must be given"));
    };
    checked_report(report).map_err(|error| error.with_fields(|field| format!("{REPORT}/{field}")))
}

fn checked_report(report: proto::ProcessReport) -> Result<ProcessReport, Error> {
    let mut violations = Violations::default();
    let id = violations.check(report.process_id.parse::<ProcessId>())?;
    let has_start = report.started_at.is_some();
    let started_at = check_time("started_at", report.started_at, &mut violations);
    if !has_start {
        violations.push("started_at", "must be given");
    }
    let report = ProcessReport {
        // Neither stands in for a missing one: the violations end the check.
        identity: Identity {
            id: id.unwrap_or(ProcessId::from_u64(0)),
            program: report.program,
            place: report.place,
        },
        started_at: started_at.unwrap_or_default(),
        version: report.version,
        figures: figures_from_proto(report.figures.unwrap_or_default()),
    };
    violations.check(report.check())?;
    violations.finish(Some(report))
}

/// Writes the processes, as many as fit into an answer, and the work that waits.
pub(crate) fn cluster_to_proto(cluster: ClusterState) -> proto::GetClusterResponse {
    let process = |process: ProcessState| parts::Process {
        report: Some(report_to_proto(process.report)),
        seen_at: Some(time_to_proto(process.seen_at)),
        paused: process.is_paused,
    };
    let mut processes: Vec<_> = cluster.processes.into_iter().map(process).collect();
    let sizes = processes.iter();
    let sizes = sizes.map(|process| process.encoded_len() + PROCESS_FRAME_BYTES);
    processes.truncate(Room::beside(0).n_fitting(sizes));
    proto::GetClusterResponse {
        at: Some(time_to_proto(cluster.at)),
        paused: cluster.is_paused,
        backlog: Some(backlog_to_proto(cluster.backlog)),
        processes,
    }
}

/// Reads the processes and the work that waits.
///
/// # Errors
/// [`Error::Internal`] if an id or a time is missing or not valid.
pub(crate) fn cluster_from_proto(answer: proto::GetClusterResponse) -> Result<ClusterState, Error> {
    Ok(ClusterState {
        at: time_of_answer(answer.at)?,
        is_paused: answer.paused,
        backlog: backlog_from_proto(answer.backlog.unwrap_or_default())?,
        processes: each(answer.processes, process_from_proto)?,
    })
}

fn process_from_proto(process: parts::Process) -> Result<ProcessState, Error> {
    let report = process.report.unwrap_or_default();
    let id = report.process_id.parse();
    Ok(ProcessState {
        report: ProcessReport {
            identity: Identity {
                id: id.map_err(|_| invalid_answer("the id of a process"))?,
                program: report.program,
                place: report.place,
            },
            version: report.version,
            started_at: time_of_answer(report.started_at)?,
            figures: figures_from_proto(report.figures.unwrap_or_default()),
        },
        seen_at: time_of_answer(process.seen_at)?,
        is_paused: process.paused,
    })
}

/// Reads which process is to be paused or resumed; `None` for all.
///
/// # Errors
/// [`Error::InvalidArgument`] for `process_id`.
pub(crate) fn process_id_from_proto(text: &str) -> Result<Option<ProcessId>, Error> {
    given(text).map(str::parse).transpose()
}

/// Writes which process is to be paused or resumed.
pub(crate) fn process_id_to_proto(process_id: Option<ProcessId>) -> String {
    text_of(process_id.map(|id| id.to_string()).as_deref())
}

fn backlog_to_proto(backlog: Backlog) -> parts::Backlog {
    // The longest time that a protobuf cannot hold is longer than any clock counts.
    let duration = |time: Duration| prost_types::Duration::try_from(time).unwrap_or_default();
    parts::Backlog {
        due: backlog.due,
        scheduled: backlog.scheduled,
        leased: backlog.leased,
        dead: backlog.dead,
        oldest_due: backlog.oldest_due.map(duration),
        events: backlog.events,
        oldest_event: backlog.oldest_event.map(duration),
    }
}

fn backlog_from_proto(backlog: parts::Backlog) -> Result<Backlog, Error> {
    let duration = |time: Option<prost_types::Duration>| {
        let time = time.map(Duration::try_from).transpose();
        time.map_err(|_| invalid_answer("an age"))
    };
    Ok(Backlog {
        due: backlog.due,
        scheduled: backlog.scheduled,
        leased: backlog.leased,
        dead: backlog.dead,
        oldest_due: duration(backlog.oldest_due)?,
        events: backlog.events,
        oldest_event: duration(backlog.oldest_event)?,
    })
}

/// The two types of figures, which have the same fields: from one to the other, by value.
macro_rules! same_fields {
    ($($field:ident),* $(,)?) => {
        fn figures_to_proto(figures: Figures) -> proto::process_report::Figures {
            let Figures { $($field),* } = figures;
            proto::process_report::Figures { $($field),* }
        }

        fn figures_from_proto(figures: proto::process_report::Figures) -> Figures {
            let proto::process_report::Figures { $($field),* } = figures;
            Figures { $($field),* }
        }
    };
}

same_fields!(
    workers,
    busy,
    queued,
    lag_ms,
    connections,
    sockets,
    subscriptions,
    created,
    processed,
    failed,
    retried,
    fenced,
    requests,
    failed_requests,
    request_times,
    completion_times,
    failures,
);
