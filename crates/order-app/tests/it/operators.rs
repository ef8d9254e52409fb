//! What operators see of a running system, and how they pause it.

use std::time::Duration;

use hyper::Method;
use order_core::{
    AdminApi, AttemptOutcome, ClusterState, Figures, OrderId, OrderRecord, ProcessId, ProcessState,
};

use crate::support::{Engine, Http, Running, Shape, System, context, database, run, wait_for};

const REQUEST_ID: &str = "request-of-this-test";

async fn create(http: &Http) -> OrderId {
    let body = r#"{"user_id":"user-1","amount":100}"#;
    let headers = [("x-request-id", REQUEST_ID)];
    let created = http.send_with(Method::POST, "/orders", &headers, Some(body));
    let created = created.await;
    assert_eq!(created.status, 201, "{created:?}");
    let order_id = created.json()["order_id"].as_str().map(str::to_owned);
    order_id.expect("an id").parse().expect("an id")
}

/// Reads the system until it is as wanted.
async fn cluster(
    admin: &impl AdminApi,
    what: &str,
    is_wanted: impl Fn(&ClusterState) -> bool,
) -> ClusterState {
    wait_for(what, async || {
        let state = admin.cluster(&context()).await.expect("an answer");
        is_wanted(&state).then_some(state)
    })
    .await
}

fn process<'a>(state: &'a ClusterState, program: &str) -> Option<&'a ProcessState> {
    let mut processes = state.processes.iter();
    processes.find(|process| process.report.identity.program == program)
}

fn figures<'a>(state: &'a ClusterState, program: &str) -> Option<&'a Figures> {
    process(state, program).map(|process| &process.report.figures)
}

#[test]
fn every_process_reports_itself_and_its_figures() {
    run(async {
        let database = database!(Engine::Sqlite);
        let flags = ["--workers", "0"];
        let system = System::start(Shape::Split, &database, &flags).await;
        let worker = Running::worker(&database, &["--workers", "3"]).await;
        let http = Http::new(system.http_addr());
        for _ in 0..3 {
            create(&http).await;
        }
        let admin = system.operator();
        let state = cluster(&*admin, "all figures are there", |state| {
            let created = figures(state, "order-service").map(|figures| figures.created);
            let processed = figures(state, "order-worker").map(|figures| figures.processed);
            let requests = figures(state, "api-gateway").map(|figures| figures.requests);
            (created, processed, requests) == (Some(3), Some(3), Some(3))
        })
        .await;

        assert_eq!(state.processes.len(), 3);
        let worker_figures = figures(&state, "order-worker").expect("a worker");
        assert_eq!(worker_figures.workers, 3);
        let last = |times: &[u64]| times.last().copied();
        assert_eq!(last(&worker_figures.completion_times), Some(3));
        let gateway = figures(&state, "api-gateway").expect("a gateway");
        assert_eq!(last(&gateway.request_times), Some(3));
        assert_eq!(gateway.failed_requests, 0);
        worker.stop().await;
        system.stop().await;
    });
}

#[test]
fn order_is_known_from_its_request_to_its_end() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::Split, &database, &[]).await;
        let order_id = create(&Http::new(system.http_addr())).await;
        let admin = system.operator();
        let record: OrderRecord = wait_for("the order has ended", async || {
            let record = admin.record(&context(), order_id).await;
            let record = record.expect("a record");
            record.order.status.is_settled().then_some(record)
        })
        .await;

        let origin = &record.origin;
        assert_eq!(origin.request_id.as_deref(), Some(REQUEST_ID));
        let is_of = |name: &Option<String>, program: &str| {
            let name = name.as_deref().unwrap_or_default();
            name.starts_with(&format!("{program} ")) && name.contains(':')
        };
        assert!(is_of(&origin.gateway, "api-gateway"), "{origin:?}");
        let [attempt] = record.attempts.as_slice() else {
            panic!("unexpected {record:?}");
        };
        assert_eq!(
            (attempt.attempt, attempt.outcome),
            (1, AttemptOutcome::Processed)
        );
        assert!(is_of(&attempt.worker, "order-service"), "{attempt:?}");
        assert!(
            attempt
                .begun_at
                .is_some_and(|begun_at| begun_at <= attempt.ended_at)
        );
        assert_eq!(record.job, None);
        system.stop().await;
    });
}

/// Waits until every process that was there has been told what has been decided by now.
async fn all_are_told(admin: &impl AdminApi) {
    let decided = admin.cluster(&context()).await.expect("an answer");
    // The answer to the first report from now on tells; the second report comes after that.
    for _ in 0..2 {
        let before = admin.cluster(&context()).await.expect("an answer");
        let has_reported = |state: &ClusterState, id: ProcessId| {
            let seen = |state: &ClusterState| {
                let mut processes = state.processes.iter();
                let process = processes.find(|process| process.report.identity.id == id);
                process.map(|process| process.seen_at)
            };
            seen(state) > seen(&before)
        };
        cluster(admin, "every process has reported", |state| {
            let mut ids = decided
                .processes
                .iter()
                .map(|process| process.report.identity.id);
            ids.all(|id| has_reported(state, id))
        })
        .await;
    }
}

#[test]
fn paused_processes_work_on_nothing_until_they_are_resumed() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::Split, &database, &[]).await;
        let worker = Running::worker(&database, &[]).await;
        let (http, admin) = (Http::new(system.http_addr()), system.operator());
        cluster(&*admin, "all report", |state| state.processes.len() == 3).await;

        // All: nobody works on the order, and a process that starts now does not either.
        let paused = admin.set_paused(&context(), None, true).await;
        paused.expect("an answer");
        all_are_told(&*admin).await;
        let order_id = create(&http).await;
        let late = Running::worker(&database, &[]).await;
        cluster(&*admin, "four report", |state| state.processes.len() == 4).await;
        all_are_told(&*admin).await;
        let state = admin.cluster(&context()).await.expect("an answer");
        assert!(state.is_paused);
        assert_eq!((state.backlog.due, state.backlog.leased), (1, 0));

        let resumed = admin.set_paused(&context(), None, false).await;
        resumed.expect("an answer");
        http.wait_for_status(&order_id.to_string(), "PROCESSED")
            .await;

        // One: the others do the work.
        let service = process(&state, "order-service")
            .expect("a service")
            .report
            .identity
            .id;
        let paused = admin.set_paused(&context(), Some(service), true).await;
        paused.expect("an answer");
        all_are_told(&*admin).await;
        let before = admin.cluster(&context()).await.expect("an answer");
        let order_id = create(&http).await;
        http.wait_for_status(&order_id.to_string(), "PROCESSED")
            .await;
        let record = admin.record(&context(), order_id).await.expect("a record");
        let worker_name = record.attempts[0].worker.as_deref().unwrap_or_default();
        assert!(worker_name.starts_with("order-worker "), "{record:?}");
        assert!(process(&before, "order-service").is_some_and(|process| process.is_paused));

        late.stop().await;
        worker.stop().await;
        system.stop().await;
    });
}

#[test]
fn pause_of_an_unknown_process_is_refused() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::Split, &database, &[]).await;
        let unknown = Some(ProcessId::from_u64(1));
        let refused = system
            .operator()
            .set_paused(&context(), unknown, true)
            .await;
        let refused = refused.expect_err("a refusal").to_string();
        assert!(refused.contains("process_id"), "{refused}");
        system.stop().await;
    });
}

/// A gateway that cannot report serves and stops as any other.
#[test]
fn silent_service_delays_no_gateway() {
    run(async {
        let gateway = crate::support::start_gateway("http://127.0.0.1:1").await;
        let stopped = tokio::time::timeout(Duration::from_secs(5), gateway.stop());
        stopped.await.expect("in time");
    });
}
