//! What `orderctl admin` prints about dead letters.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use order_app::ctl::ExitStatus;
use order_core::{
    AdminApi, CallContext, ClusterState, DeadLetterGroup, Directive, Error, OrderId, OrderRecord,
    ProcessId, ProcessReport, Redrive, RedriveEnd, RedriveProgress, RedriveStream,
};
use uuid::Uuid;

use crate::{fake::FakeApi, operators, support::orderctl};

/// A system with 60 dead letters of one code; those of `BROKEN` fail again.
pub(crate) struct FakeAdmin;

#[async_trait]
impl AdminApi for FakeAdmin {
    async fn dead_letters(&self, _: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        Ok(vec![DeadLetterGroup {
            code: "TIMEOUT".to_owned(),
            count: 60,
            example: OrderId::from_uuid(Uuid::nil()),
        }])
    }

    async fn redrive(&self, _: &CallContext, request: Redrive) -> Result<RedriveStream, Error> {
        request.check()?;
        let begun = RedriveProgress {
            matched: 60.min(request.limit),
            ..RedriveProgress::default()
        };
        let is_broken = request.filter.code.as_deref() == Some("BROKEN");
        let redriven = match (request.is_dry_run, is_broken) {
            (true, _) => 0,
            (false, true) => 25,
            (false, false) => begun.matched,
        };
        let ended = RedriveProgress {
            redriven,
            processed: if is_broken { 5 } else { redriven },
            failed: if is_broken { 20 } else { 0 },
            end: Some(if is_broken {
                RedriveEnd::TooManyFailures
            } else {
                RedriveEnd::Done
            }),
            ..begun
        };
        Ok(stream::iter([Ok(begun), Ok(ended)]).boxed())
    }

    async fn record(&self, _: &CallContext, order_id: OrderId) -> Result<OrderRecord, Error> {
        operators::record(order_id)
    }

    async fn cluster(&self, _: &CallContext) -> Result<ClusterState, Error> {
        Ok(operators::cluster(0))
    }

    async fn report(&self, _: &CallContext, _: ProcessReport) -> Result<Directive, Error> {
        Ok(Directive::default())
    }

    async fn set_paused(
        &self,
        _: &CallContext,
        process_id: Option<ProcessId>,
        _: bool,
    ) -> Result<(), Error> {
        if process_id.is_none_or(|id| id == operators::PAUSED) {
            return Ok(());
        }
        let rule = "must be the id of a process that reports";
        Err(Error::invalid("process_id", rule))
    }
}

async fn admin(args: &[&str]) -> (ExitStatus, String) {
    let args: Vec<&str> = ["admin"].iter().chain(args).copied().collect();
    let outcome = orderctl(&Arc::new(FakeApi::new()), &args).await;
    let is_stopped = outcome.err.contains("too many orders failed again");
    assert_eq!(is_stopped, outcome.status != ExitStatus::Ok, "{outcome:?}");
    (outcome.status, outcome.out)
}

#[tokio::test]
async fn dead_letters_are_a_table_or_json() {
    let (status, out) = admin(&["dead-letters"]).await;
    assert_eq!(status, ExitStatus::Ok);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[1].contains("     60  TIMEOUT "), "{out}");
    let (_, out) = admin(&["dead-letters", "--output", "json"]).await;
    let nil = Uuid::nil();
    let expected = format!(r#"{{"code":"TIMEOUT","count":60,"example_order_id":"{nil}"}}"#);
    assert_eq!(out.trim_end(), expected);
}

#[tokio::test]
async fn redrive_prints_its_outcome() {
    for (args, status, expected) in [
        (
            &["redrive", "--dry-run"][..],
            ExitStatus::Ok,
            "60 orders would be redriven\n",
        ),
        (
            &["redrive", "--limit", "10"],
            ExitStatus::Ok,
            "redriven 10 of 10, skipped 0, processed 10, failed again 0\n",
        ),
        (
            &["redrive", "--code", "BROKEN"],
            ExitStatus::Refused,
            "redriven 25 of 60, skipped 0, processed 5, failed again 20\n",
        ),
    ] {
        assert_eq!(admin(args).await, (status, expected.to_owned()), "{args:?}");
    }
    let (_, out) = admin(&["redrive", "--output", "json"]).await;
    let expected =
        r#"{"matched":60,"redriven":60,"skipped":0,"processed":60,"failed":0,"end":"done"}"#;
    assert_eq!(out.trim_end(), expected);
}
