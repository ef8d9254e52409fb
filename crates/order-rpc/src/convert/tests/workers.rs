//! What workers ask for and report, valid and not.

use std::time::Duration;

use order_core::{Attempt, JobReport, JobToken, LeaseJobs, LeasedJob, Outcome, TraceParent};

use super::{super::worker::REPORTS_MAX, *};
use crate::proto;

const ID: &str = "0198c5a0-5d5c-7abc-8def-0123456789ab";

fn token(order_id: &str, attempt: u32) -> proto::JobToken {
    proto::JobToken {
        order_id: order_id.to_owned(),
        attempt,
    }
}

fn time(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

fn failure(code: &str, message: &str) -> proto::fail_request::Failure {
    proto::fail_request::Failure {
        token: Some(token(ID, 2)),
        cause: Some(proto::Cause {
            code: code.to_owned(),
            message: message.to_owned(),
        }),
        permanent: false,
        retry_after: None,
    }
}

fn reports(failures: Vec<proto::fail_request::Failure>) -> Result<Vec<JobReport>, Error> {
    failures_from_proto(&proto::FailRequest { failures })
}

#[test]
fn wish_for_work_has_defaults() {
    let wish = lease_from_proto(&proto::LeaseRequest::default()).expect("valid");
    let expected = LeaseJobs {
        limit: 1,
        lease: Duration::from_secs(30),
        wait: Duration::ZERO,
    };
    assert_eq!(wish, expected);
    let tokens = vec![token(ID, 1)];
    let heartbeat = proto::HeartbeatRequest {
        tokens,
        lease: None,
    };
    let (_, lease) = heartbeat_from_proto(&heartbeat).expect("valid");
    assert_eq!(lease, Duration::from_secs(30));
}

#[test]
fn wish_for_work_has_limits() {
    let bad = proto::LeaseRequest {
        limit: 1_001,
        lease: Some(time(0, 999_999_999)),
        wait: Some(time(30, 1)),
    };
    assert_eq!(fields(lease_from_proto(&bad)), ["limit", "lease", "wait"]);
    let edge = proto::LeaseRequest {
        limit: 1_000,
        lease: Some(time(3_600, 0)),
        wait: Some(time(30, 0)),
    };
    assert!(lease_from_proto(&edge).is_ok());
    for bad in [
        time(-1, 0),
        time(5, -1),
        time(5, 1_000_000_000),
        time(i64::MIN, i32::MIN),
    ] {
        let request = proto::LeaseRequest {
            limit: 1,
            lease: Some(bad),
            wait: Some(bad),
        };
        assert_eq!(fields(lease_from_proto(&request)), ["lease", "wait"]);
        let request = proto::HeartbeatRequest {
            tokens: vec![token("x", 0)],
            lease: Some(bad),
        };
        assert_eq!(
            fields(heartbeat_from_proto(&request)),
            ["lease", "tokens/0/order_id", "tokens/0/attempt"]
        );
    }
}

#[test]
fn tokens_have_limits_and_are_named_by_position() {
    assert_eq!(fields(tokens_from_proto(&[])), ["tokens"]);
    let too_many = vec![token(ID, 1); REPORTS_MAX + 1];
    assert_eq!(fields(tokens_from_proto(&too_many)), ["tokens"]);
    assert_eq!(
        fields(tokens_from_proto(&[
            token(ID, 1),
            token("x", 1),
            token(ID, 0)
        ])),
        ["tokens/1/order_id", "tokens/2/attempt"]
    );
    let order_id: OrderId = ID.parse().expect("valid");
    assert_eq!(
        tokens_from_proto(&[token(ID, 7)]).expect("valid"),
        [JobToken {
            order_id,
            attempt: 7
        }]
    );
}

#[test]
fn failures_become_outcomes() {
    let outcome = |failure| reports(vec![failure]).expect("valid").remove(0).outcome;
    let retry = |error: &str, after: Option<u64>| Outcome::Retry {
        error: error.to_owned(),
        after: after.map(Duration::from_secs),
    };
    assert_eq!(
        outcome(failure("NO_STOCK", "none left")),
        retry("NO_STOCK: none left", None)
    );
    let later = proto::fail_request::Failure {
        retry_after: Some(time(86_400, 0)),
        cause: None,
        ..failure("", "")
    };
    assert_eq!(outcome(later), retry("PROCESSING_FAILED", Some(86_400)));
    let permanent = proto::fail_request::Failure {
        permanent: true,
        ..failure("", "line 1\nline 2")
    };
    assert_eq!(
        outcome(permanent),
        Outcome::Fail(Cause::new("PROCESSING_FAILED", "line 1line 2"))
    );
    // A message that is too long is cut: losing the report would be worse.
    let long = proto::fail_request::Failure {
        permanent: true,
        ..failure("LONG", &"x".repeat(10_000))
    };
    let cut = Outcome::Fail(Cause::new("LONG", "x".repeat(500)));
    assert_eq!(outcome(long), cut);
}

#[test]
fn failures_report_every_broken_field() {
    let bad = proto::fail_request::Failure {
        token: Some(token("x", 0)),
        retry_after: Some(time(86_400, 1)),
        ..failure("NOT OK", "")
    };
    let tokenless = proto::fail_request::Failure {
        token: None,
        retry_after: Some(time(-1, 0)),
        ..failure("OK", "")
    };
    assert_eq!(
        fields(reports(vec![failure("OK", ""), bad, tokenless])),
        [
            "failures/1/token/order_id",
            "failures/1/token/attempt",
            "failures/1/cause/code",
            "failures/1/retry_after",
            "failures/2/token",
            "failures/2/retry_after",
        ]
    );
    assert_eq!(fields(reports(vec![])), ["failures"]);
    let too_many = vec![failure("OK", ""); REPORTS_MAX + 1];
    assert_eq!(fields(reports(too_many)), ["failures"]);
}

proptest! {
    #[test]
    fn leased_job_is_told_as_it_is(
        order in any_order(),
        number in 1_u32..,
        is_last in any::<bool>(),
        trace_parent in any_trace(),
    ) {
        let sampled = TraceParent::sampled(trace_parent.as_ref());
        let attempt = Attempt { number, is_last, trace_parent };
        let job = LeasedJob { order: order.clone(), attempt };
        let token = job.token();
        let message = job_to_proto(job);
        prop_assert_eq!(message.is_last_attempt, is_last);
        prop_assert_eq!(TraceParent::parse(&message.traceparent), sampled);
        let sent = message.token.expect("always there");
        prop_assert_eq!(tokens_from_proto(&[sent]).expect("valid"), [token]);
        prop_assert_eq!(order_from_proto(message.order).expect("valid"), order);
    }
}
