//! What becomes of the reports of workers outside this process.

use order_core::{Cause, Completed, Deadline, Error, JobReport, JobToken, LeasedJob, WorkerApi};

use super::{
    remote::{ALL, RemoteRig, ctx},
    *,
};
use crate::{AttemptLabels, RemoteWorkers, RemoteWorkersConfig};

fn report(token: JobToken, outcome: Outcome) -> Vec<JobReport> {
    vec![JobReport { token, outcome }]
}

async fn send(remote: &RemoteWorkers, reports: Vec<JobReport>) -> Vec<Result<Completed, Error>> {
    remote.report(&ctx(Deadline::NONE), reports).await.unwrap()
}

pub(super) async fn send_one(
    remote: &RemoteWorkers,
    token: JobToken,
    outcome: Outcome,
) -> Completed {
    let mut answers = send(remote, report(token, outcome)).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_report_is_answered_for_itself() {
    let rig = RemoteRig::new();
    for _ in 0..4 {
        rig.insert_due();
    }
    let tokens: Vec<_> = rig
        .lease(ALL)
        .await
        .unwrap()
        .iter()
        .map(LeasedJob::token)
        .collect();
    rig.queue.steal(tokens[1].order_id);
    rig.queue.spoil(tokens[2].order_id);
    let cause = Cause::new("OUT_OF_STOCK", "none left");
    let outcomes = [
        Outcome::Done,
        Outcome::Done,
        Outcome::Done,
        Outcome::Fail(cause.clone()),
    ];
    let reports = tokens
        .iter()
        .zip(outcomes)
        .map(|(token, outcome)| JobReport {
            token: *token,
            outcome,
        });

    let answers = send(&rig.remote, reports.collect()).await;

    assert!(matches!(&answers[0], Ok(Completed::Applied(Some(event)))
        if event.status == OrderStatus::Processed));
    assert!(matches!(answers[1], Ok(Completed::Stale)));
    assert!(matches!(answers[2], Err(Error::Internal { .. })));
    assert!(matches!(&answers[3], Ok(Completed::Applied(Some(event)))
        if event.status == OrderStatus::Failed));
    assert_eq!(answers.len(), 4);
    assert_eq!(rig.queue.n_complete_statements(), 1);
    assert_eq!(rig.queue.processed(), [tokens[0]]);
    let failure = rig.queue.jobs()[&tokens[3].order_id]
        .job
        .order
        .failure
        .clone();
    assert_eq!(failure, Some(cause));
    assert_eq!(
        rig.bus.statuses()[4..],
        [OrderStatus::Processed, OrderStatus::Failed]
    );
    let stats = rig.remote.stats();
    let completed = |outcome| {
        let counter = stats.completed.get(&AttemptLabels { outcome });
        counter.map(|counter| counter.get())
    };
    assert_eq!(
        (completed("processed"), completed("failed")),
        (Some(1), Some(1))
    );
    assert_eq!(stats.fenced.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn repeated_report_changes_nothing() {
    let rig = RemoteRig::new();
    rig.insert_due();
    let token = rig.lease_one().await.token();

    let first = send_one(&rig.remote, token, Outcome::Done).await;
    let second = send_one(&rig.remote, token, Outcome::Done).await;

    assert!(matches!(first, Completed::Applied(Some(_))));
    assert_eq!(second, Completed::Stale);
}

#[tokio::test(start_paused = true)]
async fn failed_attempt_is_retried_not_before_the_asked_delay_until_the_last() {
    let rig = RemoteRig::new();
    let order_id = rig.insert_due();
    let after = Duration::from_mins(1);
    for n_attempts in 1..=3 {
        let job = rig.lease_one().await;
        assert_eq!(job.attempt.is_last, n_attempts == 3);
        let outcome = retry(&format!("busy\n{n_attempts}"), Some(after));
        let is_moved = match send_one(&rig.remote, job.token(), outcome).await {
            Completed::Applied(event) => event.is_some(),
            Completed::Stale => panic!("was stale"),
        };
        assert_eq!(is_moved, n_attempts == 3);
        sleep(after * 99 / 100).await;
        assert_eq!(rig.lease(ALL).await.unwrap(), []);
        sleep(Duration::from_secs(10)).await;
    }

    let cause = Cause::new("ATTEMPTS_EXHAUSTED", "busy3");
    assert_eq!(
        rig.queue.jobs()[&order_id].job.order.failure,
        Some(cause),
        "the last error is kept, and cleaned"
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_of_earlier_rounds_do_not_count() {
    let rig = RemoteRig::new();
    let order_id = rig.insert_claimed(7, 7);
    let job = rig.lease_one().await;
    assert_eq!(job.attempt.number, 8);
    assert!(!job.attempt.is_last);

    let answer = send_one(&rig.remote, job.token(), retry("busy", None)).await;

    assert_eq!(answer, Completed::Applied(None));
    assert!(!rig.queue.jobs()[&order_id].is_buried);
}

#[tokio::test(start_paused = true)]
async fn report_to_another_replica_fails_no_order_too_early() {
    let rig = RemoteRig::new();
    let order_id = rig.insert_claimed(2, 0);
    let replica = rig.replica();
    let job = rig.lease_one().await;
    assert!(job.attempt.is_last);

    let answer = send_one(&replica, job.token(), retry("busy", None)).await;
    sleep(Duration::from_secs(10)).await;

    assert_eq!(answer, Completed::Applied(None));
    // The next claim finds that it was the last.
    let jobs = replica.lease(&ctx(Deadline::NONE), ALL).await.unwrap();
    assert_eq!(jobs, []);
    let failure = rig.queue.jobs()[&order_id].job.order.failure.clone();
    assert_eq!(failure.unwrap().code, "ATTEMPTS_EXHAUSTED");
}

#[tokio::test(start_paused = true)]
async fn hang_up_does_not_stop_a_report() {
    let rig = RemoteRig::new();
    rig.insert_due();
    let token = rig.lease_one().await.token();
    rig.queue.set_commit_open(false);
    let reporting = send(&rig.remote, report(token, Outcome::Done));
    assert!(reporting.now_or_never().is_none());

    rig.queue.set_commit_open(true);
    sleep(Duration::from_millis(1)).await;

    assert_eq!(rig.queue.processed(), [token]);
}

#[tokio::test(start_paused = true)]
async fn report_is_answered_with_the_outage_of_the_store() {
    let rig = RemoteRig::new();
    rig.insert_due();
    let job = rig.lease_one().await;
    rig.queue.set_away(&[Statement::Complete], true);
    let answers = send(&rig.remote, report(job.token(), Outcome::Done)).await;
    assert!(matches!(answers[0], Err(Error::StoreUnavailable { .. })));

    rig.queue.set_away(&[Statement::Complete], false);
    let answer = send_one(&rig.remote, job.token(), Outcome::Done).await;

    assert!(matches!(answer, Completed::Applied(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn heartbeat_keeps_current_leases_and_names_lost_ones() {
    let rig = RemoteRig::new();
    let kept = rig.insert_due();
    let lost = rig.insert_due();
    let jobs = rig.lease(ALL).await.unwrap();
    let tokens: Vec<_> = jobs.iter().map(LeasedJob::token).collect();
    rig.queue.steal(lost);

    for _ in 0..5 {
        sleep(LEASE / 2).await;
        let answer = rig
            .remote
            .heartbeat(&ctx(Deadline::NONE), tokens.clone(), LEASE)
            .await;
        let lost_ids: Vec<_> = answer.unwrap().iter().map(|t| t.order_id).collect();
        assert_eq!(lost_ids, [lost]);
    }

    assert_eq!(rig.lease(ALL).await.unwrap(), []);
    assert_eq!(rig.queue.jobs()[&kept].job.attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn result_of_a_worker_that_was_silent_too_long_is_fenced() {
    let rig = RemoteRig::with(RemoteWorkersConfig {
        retry: config().retry,
        ..RemoteWorkersConfig::default()
    });
    rig.insert_due();
    let slow = rig.lease_one().await;
    sleep(LEASE * 2).await;
    let fast = rig.lease_one().await;
    assert!(fast.attempt.number > slow.attempt.number);

    let answer = send_one(&rig.remote, slow.token(), Outcome::Done).await;

    assert_eq!(answer, Completed::Stale);
    assert_eq!(rig.queue.processed(), []);
    send_one(&rig.remote, fast.token(), Outcome::Done).await;
    assert_eq!(rig.queue.processed(), [fast.token()]);
}

#[tokio::test]
async fn empty_and_oversized_calls_are_refused() {
    let rig = RemoteRig::new();
    let ctx = ctx(Deadline::NONE);
    let token = JobToken {
        order_id: rig.insert_due(),
        attempt: 1,
    };
    for len in [0, 1_001] {
        let tokens = vec![token; len];
        let reports: Vec<_> = tokens
            .iter()
            .flat_map(|token| report(*token, Outcome::Done))
            .collect();
        for (field, answer) in [
            (
                "tokens",
                rig.remote
                    .heartbeat(&ctx, tokens.clone(), LEASE)
                    .await
                    .map(drop),
            ),
            ("tokens", rig.remote.release(&ctx, tokens).await.map(drop)),
            ("reports", rig.remote.report(&ctx, reports).await.map(drop)),
        ] {
            let Err(Error::InvalidArgument { violations }) = answer else {
                panic!("{len} were taken");
            };
            assert_eq!(violations[0].field, field);
        }
    }
    let answer = rig
        .remote
        .heartbeat(&ctx, vec![token], Duration::ZERO)
        .await;
    assert!(answer.unwrap_err().to_string().contains("lease: must be"));
}
