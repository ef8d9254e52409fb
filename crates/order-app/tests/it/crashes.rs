//! Workers that die or freeze with leases in their hands.

use std::time::Duration;

use order_testkit::server::process::Signal;
use serde_json::Value;

use crate::{
    processes::{Ports, start, wait_for_work},
    support::{Engine, Http, PATIENCE, database, run, wait_for},
};

const LEASE: Duration = Duration::from_secs(2);

fn http(ports: &Ports) -> Http {
    Http::new(([127, 0, 0, 1], ports.http).into())
}

/// Waits until every order is PROCESSED, and checks that each got there once.
async fn check_all_processed_once(http: &Http, ids: &[String]) {
    for id in ids {
        http.wait_for_status(id, "PROCESSED").await;
    }
    for id in ids {
        let history = http.get(&format!("/orders/{id}/events")).await.json();
        let statuses: Vec<&Value> = history["events"]
            .as_array()
            .expect("events")
            .iter()
            .map(|event| &event["status"])
            .collect();
        assert_eq!(statuses, ["PENDING", "PROCESSED"], "{id}");
    }
}

#[test]
fn leases_of_a_killed_process_are_taken_over() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let ports = Ports::free();
            let holding = [
                ("WORKERS", "100"),
                ("PROCESSOR_DELAY", "1h"),
                ("LEASE", "2s"),
            ];
            let process = start(&database, &ports, &holding).await;
            let mut ids = Vec::new();
            for _ in 0..100 {
                ids.push(http(&ports).create_order().await);
            }
            process.signal(Signal::Kill).expect("running");
            process.wait_for_exit(PATIENCE).await.expect("it died");
            let process = start(&database, &ports, &[("LEASE", "2s")]).await;
            let limit = LEASE + Duration::from_secs(10);
            tokio::time::timeout(limit, check_all_processed_once(&http(&ports), &ids))
                .await
                .expect("within the lease and ten seconds");
            process.signal(Signal::Terminate).expect("running");
            process.wait_for_exit(PATIENCE).await.expect("it stops");
        }
    });
}

#[test]
fn a_process_that_was_frozen_past_its_leases_changes_nothing() {
    run(async {
        // Two processes at once: the other one takes over while the first is frozen.
        let database = database!(Engine::Postgres);
        let (frozen_ports, ports) = (Ports::free(), Ports::free());
        let holding = [
            ("WORKERS", "100"),
            ("PROCESSOR_DELAY", "2s"),
            ("LEASE", "2s"),
        ];
        let frozen = start(&database, &frozen_ports, &holding).await;
        let creates = (0..20).map(async |_| http(&frozen_ports).create_order().await);
        let ids = futures_util::future::join_all(creates).await;
        wait_for_work(&frozen_ports).await;
        frozen.signal(Signal::Stop).expect("running");
        let process = start(&database, &ports, &[("LEASE", "2s")]).await;
        check_all_processed_once(&http(&ports), &ids).await;
        frozen.signal(Signal::Continue).expect("frozen");
        // It finds its leases lost and drops what it did.
        wait_for("the thawed process notices", async || {
            let log = frozen.output();
            let dropped = ["lease was lost", "stale result was dropped"];
            dropped.iter().any(|line| log.contains(line)).then_some(())
        })
        .await;
        check_all_processed_once(&http(&ports), &ids).await;
        for process in [frozen, process] {
            process.signal(Signal::Terminate).expect("running");
            process.wait_for_exit(PATIENCE).await.expect("it stops");
        }
    });
}
