//! Processes and their figures, which go up and down.

use std::time::Duration;

use order_core::{
    Backlog, ClusterState, Figures, Identity, ProcessId, ProcessReport, ProcessState,
};

use super::FakeSystem;

impl FakeSystem {
    /// The system at this moment; without a process if it is empty.
    pub(super) fn state(&self, is_empty: bool) -> ClusterState {
        let elapsed = self
            .clock
            .now()
            .duration_since(self.started_at)
            .as_secs_f64();
        let wave = (elapsed / 25.0).sin() * 20.0;
        let n = |middle: f64| u32::try_from(count(middle + wave)).expect("few");
        let is_paused = *self.is_paused.lock().expect("no panic");
        let backlog = Backlog {
            due: n(34.0),
            scheduled: n(22.0),
            leased: 31,
            dead: 1_241,
            oldest_due: Some(Duration::from_millis(640)),
            events: 3,
            oldest_event: Some(Duration::from_millis(90)),
        };
        ClusterState {
            at: self.clock.now(),
            is_paused,
            backlog: if is_empty {
                Backlog::default()
            } else {
                backlog
            },
            processes: if is_empty {
                Vec::new()
            } else {
                self.processes()
            },
        }
    }

    fn figures(&self, workers: u32, phase: f64) -> Figures {
        let elapsed = self
            .clock
            .now()
            .duration_since(self.started_at)
            .as_secs_f64();
        let wave = (elapsed / 40.0 + phase).sin();
        let n = |rate: f64| count(elapsed * rate + wave * rate * 20.0 + 400.0);
        let requests = n(130.0);
        let times = |total: u64, middle: usize| {
            let shares = [0, 1, 4, 9, 22, 45, 70, 88, 95, 98, 99, 99, 100, 100, 100];
            let shifted = (0..15_usize).map(|i| shares[(i + 5).saturating_sub(middle).min(14)]);
            shifted.map(|share| total * share / 100).collect::<Vec<_>>()
        };
        Figures {
            workers,
            busy: workers.saturating_sub(2) + u32::from(wave > 0.0),
            queued: workers * 3,
            lag_ms: 900,
            connections: 41,
            sockets: if workers == 0 { 12 } else { 0 },
            subscriptions: 30,
            created: if workers == 0 { n(42.0) } else { 0 },
            processed: if workers > 0 { n(13.5) } else { 0 },
            failed: if workers > 0 { n(0.2) } else { 0 },
            retried: if workers > 0 { n(0.9) } else { 0 },
            fenced: 0,
            requests: if workers == 0 { requests } else { 0 },
            failed_requests: if workers == 0 { requests / 400 } else { 0 },
            request_times: if workers == 0 {
                times(requests, 4)
            } else {
                Vec::new()
            },
            completion_times: if workers > 0 {
                times(n(13.5), 7)
            } else {
                Vec::new()
            },
            failures: (workers > 0)
                .then(|| (self.text("CARD_DECLINED").to_owned(), 31))
                .into_iter()
                .collect(),
        }
    }

    fn processes(&self) -> Vec<ProcessState> {
        let process = |n: u64, program: &str, workers, seen: f64| ProcessState {
            report: ProcessReport {
                identity: Identity {
                    id: ProcessId::from_u64(0xab00 + n),
                    program: program.to_owned(),
                    place: self.text(&format!("node-{n}:{}", 4_100 + n)).to_owned(),
                },
                version: "0.1.0".to_owned(),
                started_at: self.ago(86_400.0 * 1.3 + 60.0),
                figures: self.figures(workers, 0.4 * f64::from(u32::try_from(n).expect("few"))),
            },
            seen_at: self.ago(seen),
            is_paused: false,
        };
        vec![
            process(1, "api-gateway", 0, 0.4),
            process(2, "order-service", 5, 1.1),
            process(3, "order-worker", 16, 1.9),
            process(4, "order-worker", 16, 0.2),
        ]
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers that are made up"
)]
fn count(value: f64) -> u64 {
    value.max(0.0) as u64
}
