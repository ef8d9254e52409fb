//! What happened to the orders.

use jiff::SignedDuration;
use order_core::{
    AttemptOutcome, AttemptRecord, JobRecord, JobState, Order, OrderEvent, OrderRecord,
    OrderStatus, Origin, ProcessId, Push, PushRecord,
};

use super::{FakeSystem, RETRIED, id};

impl FakeSystem {
    /// Everything about an order.
    pub(super) fn history(&self, order: Order) -> OrderRecord {
        let order_id = order.id;
        let begun = order.created_at;
        let after = |ms: i64| begun + SignedDuration::from_millis(ms);
        let event = |version, status, ms, cause| OrderEvent {
            order_id,
            user_id: order.user_id.clone(),
            version,
            status,
            at: after(ms),
            cause,
            trace_parent: None,
        };
        let mut events = vec![event(1, OrderStatus::Pending, 0, None)];
        if order.version >= 2 {
            let status = if order.version == 2 {
                order.status
            } else {
                OrderStatus::Processing
            };
            events.push(event(2, status, 14, None));
        }
        if order.version >= 3 {
            events.push(event(3, order.status, 2_400, order.failure.clone()));
        }
        OrderRecord {
            attempts: self.attempts(&order),
            job: self.job(&order),
            origin: Origin {
                request_id: Some("0198c5a0-5d5c-7abc-8def-00000000beef".to_owned()),
                gateway: Some(format!("api-gateway {}", self.text("node-1:4101"))),
                trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
            },
            unpublished: Some(vec![order.version]),
            pushes: self.pushes(&order),
            silent_processes: u32::from(order.id == id(RETRIED)),
            order,
            events,
        }
    }

    fn pushes(&self, order: &Order) -> Vec<PushRecord> {
        let push = |program: &str, ms, clients, gateways| PushRecord {
            process: format!("{program} {}", self.text("node-1:4101")),
            push: Push {
                version: order.version,
                at: order.created_at + SignedDuration::from_millis(ms),
                clients,
                gateways,
            },
        };
        match order.version {
            1 => Vec::new(),
            2 => vec![
                push("order-service", 15, 1, 1),
                push("api-gateway", 16, 3, 0),
            ],
            _ => vec![
                push("order-service", 2_401, 0, 1),
                push("api-gateway", 2_403, 1, 0),
            ],
        }
    }

    fn attempts(&self, order: &Order) -> Vec<AttemptRecord> {
        let after = |ms: i64| order.created_at + SignedDuration::from_millis(ms);
        let attempt = |attempt, begun, ended, outcome, error: Option<&str>| AttemptRecord {
            attempt,
            worker: Some(format!("order-worker {}", self.text("node-3:4103"))),
            begun_at: Some(after(begun)),
            ended_at: after(ended),
            outcome,
            error: error.map(|error| self.text(error).to_owned()),
            next_at: (outcome == AttemptOutcome::Retried).then(|| after(ended + 1_200)),
        };
        let refused = Some("TIMEOUT: the fulfilment endpoint did not answer within 10 s");
        match order.version {
            1 => Vec::new(),
            2 if order.status == OrderStatus::Processed => {
                vec![attempt(1, 3, 13, AttemptOutcome::Processed, None)]
            }
            2 => vec![
                attempt(1, 15, 420, AttemptOutcome::Retried, refused),
                attempt(2, 1_640, 2_100, AttemptOutcome::Retried, refused),
            ],
            _ => vec![
                attempt(1, 15, 420, AttemptOutcome::Retried, refused),
                attempt(
                    2,
                    1_640,
                    2_390,
                    AttemptOutcome::Failed,
                    Some("CARD_DECLINED: the bank said no"),
                ),
            ],
        }
    }

    fn job(&self, order: &Order) -> Option<JobRecord> {
        let job = |state, holder| JobRecord {
            attempt: 2,
            attempts_before: 0,
            state,
            holder,
            last_error: None,
        };
        match order.status {
            OrderStatus::Pending => Some(JobRecord {
                attempt: 0,
                ..job(JobState::Due(order.created_at), None)
            }),
            OrderStatus::Processing if order.id == id(RETRIED) => {
                Some(job(JobState::Scheduled(self.ago(-4.0)), None))
            }
            OrderStatus::Processing => Some(job(
                JobState::Leased(self.ago(-25.0)),
                Some(ProcessId::from_u64(0xab03)),
            )),
            OrderStatus::Failed => Some(job(JobState::Dead, None)),
            _ => None,
        }
    }
}
