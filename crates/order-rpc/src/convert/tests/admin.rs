//! What operators read survives the way.

use std::time::Duration;

use order_core::{
    AttemptOutcome, AttemptRecord, Backlog, ClusterState, Figures, Identity, JobRecord, JobState,
    OrderRecord, Origin, ProcessId, ProcessReport, ProcessState, Push, PushRecord,
};
use proptest::collection::vec;

use super::*;
use crate::proto;

fn any_text() -> impl Strategy<Value = Option<String>> {
    prop::option::of("\\PC{1,100}")
}

fn any_process_id() -> impl Strategy<Value = ProcessId> {
    any::<u64>().prop_map(ProcessId::from_u64)
}

fn any_state() -> impl Strategy<Value = JobState> {
    (any_time(), 0..4_u8).prop_map(|(at, kind)| match kind {
        0 => JobState::Due(at),
        1 => JobState::Scheduled(at),
        2 => JobState::Leased(at),
        _ => JobState::Dead,
    })
}

prop_compose! {
    fn any_attempt()(
        attempt in any::<u32>(),
        worker in any_text(),
        begun_at in prop::option::of(any_time()),
        ended_at in any_time(),
        outcome in prop::sample::select(vec![
            AttemptOutcome::Processed,
            AttemptOutcome::Failed,
            AttemptOutcome::Retried,
            AttemptOutcome::Lost,
        ]),
        error in any_text(),
        next_at in prop::option::of(any_time()),
    ) -> AttemptRecord {
        AttemptRecord { attempt, worker, begun_at, ended_at, outcome, error, next_at }
    }
}

prop_compose! {
    fn any_job()(
        attempt in any::<u32>(),
        attempts_before in any::<u32>(),
        state in any_state(),
        holder in prop::option::of(any_process_id()),
        last_error in any_text(),
    ) -> JobRecord {
        JobRecord { attempt, attempts_before, state, holder, last_error }
    }
}

prop_compose! {
    fn any_push()(
        process in ".*",
        [version, clients, gateways] in any::<[u32; 3]>(),
        at in any_time(),
    ) -> PushRecord {
        PushRecord { process, push: Push { version, at, clients, gateways } }
    }
}

prop_compose! {
    fn any_record()(
        order in any_order(),
        (request_id, gateway, trace_id) in (any_text(), any_text(), any_text()),
        n_events in 0..3_usize,
        attempts in vec(any_attempt(), 0..3),
        job in prop::option::of(any_job()),
        unpublished in prop::option::of(vec(any::<u32>(), 0..3)),
        pushes in vec(any_push(), 0..3),
    ) -> OrderRecord {
        OrderRecord {
            origin: Origin { request_id, gateway, trace_id },
            events: vec![order.last_event(); n_events],
            attempts,
            job,
            unpublished,
            pushes,
            silent_processes: 0,
            order,
        }
    }
}

prop_compose! {
    fn any_figures()(
        small in any::<[u32; 6]>(),
        large in any::<[u64; 9]>(),
        request_times in vec(any::<u64>(), 0..=15),
        completion_times in vec(any::<u64>(), 0..=15),
        failures in prop::collection::btree_map("[A-Z_]{1,64}", any::<u64>(), 0..4),
    ) -> Figures {
        let [workers, busy, queued, connections, sockets, subscriptions] = small;
        let [lag_ms, created, processed, failed, retried, fenced, requests, failed_requests, _] =
            large;
        Figures {
            workers, busy, queued, lag_ms, connections, sockets, subscriptions, created, processed,
            failed, retried, fenced, requests, failed_requests, request_times, completion_times,
            failures,
        }
    }
}

prop_compose! {
    fn any_report()(
        id in any_process_id(),
        program in "[a-z-]{1,40}",
        place in "[ -~]{1,128}",
        version in "[0-9.]{1,20}",
        started_at in any_time(),
        figures in any_figures(),
    ) -> ProcessReport {
        let identity = Identity { id, program, place };
        ProcessReport { identity, version, started_at, figures }
    }
}

fn any_age() -> impl Strategy<Value = Option<Duration>> {
    let age = (0..1_000_000_u64, 0..1_000_000_000_u32);
    prop::option::of(age.prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)))
}

prop_compose! {
    fn any_cluster()(
        at in any_time(),
        is_paused in any::<bool>(),
        [due, scheduled, leased, dead, events] in any::<[u32; 5]>(),
        (oldest_due, oldest_event) in (any_age(), any_age()),
        processes in vec((any_report(), any_time(), any::<bool>()), 0..3),
    ) -> ClusterState {
        let process = |(report, seen_at, is_paused)| ProcessState { report, seen_at, is_paused };
        ClusterState {
            at,
            is_paused,
            backlog: Backlog { due, scheduled, leased, dead, oldest_due, events, oldest_event },
            processes: processes.into_iter().map(process).collect(),
        }
    }
}

proptest! {
    #[test]
    fn record_survives_the_way(record in any_record()) {
        let message = record_to_proto(record.clone());
        prop_assert_eq!(record_from_proto(message).expect("valid"), record);
    }

    #[test]
    fn cluster_survives_the_way(cluster in any_cluster()) {
        let message = cluster_to_proto(cluster.clone());
        prop_assert_eq!(cluster_from_proto(message).expect("valid"), cluster);
    }

    #[test]
    fn report_survives_the_way(report in any_report()) {
        let message = proto::ReportProcessRequest {
            report: Some(report_to_proto(report.clone())),
        };
        prop_assert_eq!(report_from_proto(message).expect("valid"), report);
    }
}

#[test]
fn cluster_holds_as_many_processes_as_fit_into_an_answer() {
    let code = |n: u32| (format!("{n:0>64}"), u64::MAX);
    let figures = Figures {
        failures: (0..100).map(code).collect(),
        ..Figures::default()
    };
    let process = |n| ProcessState {
        report: ProcessReport {
            identity: Identity {
                id: ProcessId::from_u64(n),
                program: "p".to_owned(),
                place: "h".to_owned(),
            },
            version: "1".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            figures: figures.clone(),
        },
        seen_at: Timestamp::UNIX_EPOCH,
        is_paused: false,
    };
    let cluster = ClusterState {
        at: Timestamp::UNIX_EPOCH,
        is_paused: false,
        backlog: Backlog::default(),
        processes: (0..1_000).map(process).collect(),
    };
    let answer = cluster_to_proto(cluster);
    assert!(answer.encoded_len() <= order_core::RESPONSE_BYTES_MAX);
    assert!((400..1_000).contains(&answer.processes.len()));
}

fn order() -> Order {
    Order {
        id: OrderId::from_uuid(Uuid::nil()),
        user_id: UserId::parse("user-1").expect("valid"),
        money: Money::parse("1", "USD").expect("valid"),
        status: OrderStatus::Pending,
        version: 1,
        metadata: Metadata::NONE,
        external_id: None,
        failure: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn values_of_a_newer_service_are_a_defect_and_no_panic() {
    let mut answer = proto::GetOrderRecordResponse {
        order: Some(order_to_proto(order())),
        ..proto::GetOrderRecordResponse::default()
    };
    assert!(record_from_proto(answer.clone()).is_ok());
    answer.job = Some(proto::get_order_record_response::Job {
        state: 99,
        ..Default::default()
    });
    assert!(matches!(
        record_from_proto(answer),
        Err(Error::Internal { .. })
    ));
}
