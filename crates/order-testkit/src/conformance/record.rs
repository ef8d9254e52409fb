//! Everything that is known of one order.

use std::{ops::RangeInclusive, time::Duration};

use order_core::{
    AttemptOutcome, AttemptRecord, Change, Command, Completion, Identity, JobState, JobToken,
    NewOrder, Order, OrderRecord, OrderStatus, Origin, ProcessId, RequestId, Start, TraceParent,
    Verdict, Version, decide,
};

use super::{
    LEASE, Subject,
    cluster::report,
    complete::retry,
    identity,
    scene::{Scene, completion, ctx, only},
};

const TOOK: Duration = Duration::from_millis(1_500);

async fn record(scene: &Scene<'_>, order: &Order) -> OrderRecord {
    let record = scene.admin.record(&ctx(), order.id).await;
    record
        .expect("record answers")
        .expect("the order is stored")
}

/// An order that came through a gateway, with a trace.
fn ordered(scene: &Scene<'_>, lease: Option<Duration>) -> NewOrder {
    let trace = format!("00-{:032x}-{:016x}-01", 7, 8);
    NewOrder {
        request_id: RequestId::parse("request-1"),
        gateway: Some("api-gateway host:7".into()),
        trace_parent: TraceParent::parse(&trace),
        ..scene.new_order(lease)
    }
}

/// A result that took [`TOOK`] to find.
fn timed(token: JobToken, verdict: Verdict) -> Completion {
    Completion {
        took: Some(TOOK),
        ..completion(token, verdict)
    }
}

fn begin(token: JobToken) -> Start {
    Start {
        token,
        moves_order: false,
        counts: true,
        trace_parent: None,
    }
}

fn redrive(order: &Order) -> Change {
    let redriven = decide(order, Command::Retry).expect("allowed");
    redriven.expect("a change")
}

fn outcomes(record: &OrderRecord) -> Vec<(u32, AttemptOutcome)> {
    let attempts = record.attempts.iter();
    attempts
        .map(|attempt| (attempt.attempt, attempt.outcome))
        .collect()
}

fn statuses(record: &OrderRecord) -> Vec<(Version, OrderStatus)> {
    let events = record.events.iter();
    events.map(|event| (event.version, event.status)).collect()
}

/// Checks what an attempt says beside its number and outcome.
fn check(attempt: &AttemptRecord, took: Option<Duration>, error: Option<&str>, is_retried: bool) {
    assert_eq!(attempt.worker, Some(identity().name()), "{attempt:?}");
    let begun_at = took.map(|took| attempt.ended_at.checked_sub(took).expect("a time"));
    assert_eq!(attempt.begun_at, begun_at);
    assert_eq!(attempt.error.as_deref(), error);
    assert_eq!(attempt.next_at.is_some(), is_retried);
}

/// Created by a gateway, retried, lost with its process, failed, redriven and processed: nothing
/// is left out, and nothing is changed by what comes later.
pub async fn record_tells_the_whole_life_of_an_order(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let reported = scene.admin.report(&ctx(), &report(identity())).await;
    reported.expect("report answers");
    let order = scene.create(&ordered(&scene, Some(LEASE))).await;
    let attempt = 1;
    let token = JobToken {
        order_id: order.id,
        attempt,
    };
    let retried = Verdict::Retry {
        delay: Duration::ZERO,
        error: "no answer".to_owned(),
        is_counted: true,
    };
    only(scene.queue.complete(&[timed(token, retried)]).await);
    let begun = scene.claim_only().await.token();
    only(scene.queue.start(&[begin(begun)]).await);
    subject.expire_leases().await;
    let failed = scene.claim_abandoned().await.token();
    let failed = scene.fail(failed).await;
    scene.commit(redrive(&failed)).await;
    let current = scene.claim_only().await.token();
    subject.tick().await;
    only(
        scene
            .queue
            .complete(&[timed(current, Verdict::Processed)])
            .await,
    );

    let record = record(&scene, &order).await;

    assert_eq!(record.order, scene.find(order.id).await);
    assert_eq!(record.events, scene.events(order.id).await);
    assert_eq!(
        (record.job.as_ref(), record.unpublished.as_ref()),
        (None, None)
    );
    let origin = Origin {
        request_id: Some("request-1".to_owned()),
        gateway: Some("api-gateway host:7".to_owned()),
        trace_id: Some(format!("{:032x}", 7)),
    };
    assert_eq!(record.origin, origin);
    let expected = [
        (1, AttemptOutcome::Retried),
        (2, AttemptOutcome::Lost),
        (3, AttemptOutcome::Failed),
        (4, AttemptOutcome::Processed),
    ];
    assert_eq!(outcomes(&record), expected);
    let [retried, lost, failed, processed] = record.attempts.as_slice() else {
        unreachable!("there are four");
    };
    check(retried, Some(TOOK), Some("no answer"), true);
    assert_eq!(retried.next_at, Some(retried.ended_at));
    check(lost, None, None, false);
    check(failed, None, Some("the card was declined"), false);
    check(processed, Some(TOOK), None, false);
    assert_eq!(processed.ended_at, record.order.updated_at);
}

/// A job waits for a worker, for its retry, for the end of its lease, or for a redrive.
pub async fn record_tells_what_the_job_waits_for(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let job = async |order: &Order| record(&scene, order).await.job.expect("a job");
    let order = scene.create_due().await;
    let due = job(&order).await;
    assert_eq!(due.state, JobState::Due(order.created_at));
    assert_eq!((due.attempt, due.attempts_before, due.holder), (0, 0, None));

    let token = scene.claim_only().await.token();
    let leased = job(&order).await;
    assert!(matches!(leased.state, JobState::Leased(_)), "{leased:?}");
    assert_eq!(leased.holder, None, "a process that has not reported");
    let reported = scene.admin.report(&ctx(), &report(identity())).await;
    reported.expect("report answers");
    assert_eq!(job(&order).await.holder, Some(identity().id));
    subject.expire_leases().await;
    let abandoned = job(&order).await;
    assert!(matches!(abandoned.state, JobState::Due(_)), "{abandoned:?}");
    assert_eq!(abandoned.holder, Some(identity().id));

    scene.complete(token, retry(2 * LEASE)).await;
    let scheduled = job(&order).await;
    assert!(
        matches!(scheduled.state, JobState::Scheduled(_)),
        "{scheduled:?}"
    );
    assert_eq!(scheduled.holder, None);
    assert!(scheduled.last_error.is_some());

    let (order, token) = scene.create_leased().await;
    assert_eq!(job(&order).await.holder, Some(identity().id), "born leased");
    let failed = scene.fail(token).await;
    let dead = job(&order).await;
    assert_eq!(dead.state, JobState::Dead);
    assert_eq!(dead.last_error.as_deref(), Some("the card was declined"));
    scene.commit(redrive(&failed)).await;
    let redriven = job(&order).await;
    assert!(matches!(redriven.state, JobState::Due(_)), "{redriven:?}");
    assert_eq!((redriven.attempts_before, redriven.last_error), (1, None));
}

/// What the program of an order did not know is missing, and nothing else.
pub async fn record_of_an_order_of_an_older_program_has_gaps(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let new = NewOrder {
        trace_parent: None,
        ..ordered(&scene, Some(LEASE))
    };
    let order = scene.create(&new).await;
    let attempt = 1;
    let token = JobToken {
        order_id: order.id,
        attempt,
    };
    let failed = scene.fail(token).await;
    scene.commit(redrive(&failed)).await;
    scene.claim_only().await;
    if !subject.forget_record(order.id).await {
        return;
    }

    let record = record(&scene, &order).await;

    assert_eq!(record.origin, Origin::default());
    assert_eq!(record.events.len(), 3);
    assert_eq!(outcomes(&record), [(1, AttemptOutcome::Failed)]);
    let attempt = record.attempts.first().expect("an attempt");
    assert_eq!((&attempt.worker, attempt.begun_at), (&None, None));
    let job = record.job.expect("a job");
    assert!(matches!(job.state, JobState::Leased(_)), "{job:?}");
    assert_eq!(job.holder, None);
}

/// An unknown order has no record.
pub async fn record_of_an_unknown_order_is_none(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    scene.create_due().await;
    let unknown = scene.admin.record(&ctx(), scene.id()).await;
    assert_eq!(unknown.ok(), Some(None));
}

/// An order that cannot be read has no record either, and that is an error.
pub async fn record_of_an_unreadable_order_is_an_error(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let order = scene.create_due().await;
    if subject.break_order(order.id).await {
        let record = scene.admin.record(&ctx(), order.id).await;
        assert!(record.is_err(), "{record:?}");
    }
}

/// Of a long history the newest events and attempts are read, oldest first.
pub async fn long_record_is_cut_to_the_newest_entries(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, mut token) = scene.create_leased().await;
    let n_rounds = OrderRecord::LEN_MAX + 3;
    for _ in 0..n_rounds {
        let failed = scene.fail(token).await;
        scene.commit(redrive(&failed)).await;
        token = scene.claim_only().await.token();
    }

    let record = record(&scene, &order).await;

    let newest = |last: u32| -> RangeInclusive<u32> { last - OrderRecord::LEN_MAX + 1..=last };
    let versions: Vec<_> = statuses(&record)
        .iter()
        .map(|(version, _)| *version)
        .collect();
    assert_eq!(versions, newest(1 + 2 * n_rounds).collect::<Vec<_>>());
    let attempts: Vec<_> = outcomes(&record)
        .iter()
        .map(|(attempt, _)| *attempt)
        .collect();
    assert_eq!(attempts, newest(n_rounds).collect::<Vec<_>>());
}

/// A job is held, and its attempt lost, by the process that claimed it, whoever finds out.
pub async fn lost_attempt_names_the_process_that_was_killed(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let killed = Identity {
        id: ProcessId::from_u64(7),
        place: "host:7".to_owned(),
        ..identity()
    };
    let Some(queue) = subject.queue_of(killed.clone()).await else {
        return;
    };
    for identity in [identity(), killed.clone()] {
        let reported = scene.admin.report(&ctx(), &report(identity)).await;
        reported.expect("report answers");
    }
    let (released, order) = (scene.create_leased().await.1, scene.create_due().await);
    scene
        .queue
        .release(&[released])
        .await
        .expect("release answers");
    for (n, order_id) in [order.id, released.order_id].into_iter().enumerate() {
        let jobs = match n {
            0 => queue.claim_hinted(&[order_id], LEASE).await,
            _ => queue.claim(1, LEASE).await,
        };
        let [job] = <[_; 1]>::try_from(jobs.expect("claim answers")).expect("one job");
        let shown = record(&scene, &job.order).await.job.expect("a job");
        assert_eq!(shown.holder, Some(killed.id));
        only(queue.start(&[begin(job.token())]).await);
        subject.expire_leases().await;

        let token = scene.claim_abandoned().await.token();

        let record = record(&scene, &job.order).await;
        scene.complete(token, Verdict::Processed).await;
        let lost = record.attempts.last().expect("an attempt");
        assert_eq!(
            (lost.attempt, lost.outcome),
            (job.attempt, AttemptOutcome::Lost)
        );
        assert_eq!(lost.worker, Some(killed.name()));
        assert_eq!(record.job.expect("a job").holder, Some(identity().id));
    }
}

/// Without the row of its process a lost attempt has no worker; a claim under which nothing began is
/// no attempt.
pub async fn lost_attempt_of_an_unknown_process_has_no_worker(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, token) = scene.create_leased().await;
    only(scene.queue.start(&[begin(token)]).await);
    for _ in 0..2 {
        subject.expire_leases().await;
        scene.claim_abandoned().await;
    }

    let record = record(&scene, &order).await;

    assert_eq!(outcomes(&record), [(1, AttemptOutcome::Lost)]);
    let worker = record
        .attempts
        .first()
        .map(|attempt| attempt.worker.clone());
    assert_eq!(worker, Some(None));
}

/// An order may be postponed any number of times.
pub async fn long_list_of_retries_is_cut_to_the_newest(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let (order, mut token) = scene.create_leased().await;
    let n_attempts = OrderRecord::LEN_MAX + 5;
    for _ in 0..n_attempts {
        let postponed = Verdict::Retry {
            delay: Duration::ZERO,
            error: "busy".to_owned(),
            is_counted: false,
        };
        scene.complete(token, postponed).await;
        token = scene.claim_only().await.token();
    }

    let record = record(&scene, &order).await;

    let attempts: Vec<_> = outcomes(&record)
        .iter()
        .map(|(attempt, _)| *attempt)
        .collect();
    assert_eq!(attempts, (6..=n_attempts).collect::<Vec<_>>());
}

/// Versions are unpublished until they are removed from the outbox, if there is one.
pub async fn record_tells_which_events_are_unpublished(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let unpublished = async |order: &Order| record(&scene, order).await.unpublished;
    let outbox = subject.outbox();
    let (before, _) = scene.create_leased().await;
    assert_eq!(unpublished(&before).await, None);

    outbox.enable().await.expect("enable answers");
    assert_eq!(unpublished(&before).await, Some(Vec::new()));
    let (order, token) = scene.create_leased().await;
    scene.create_due().await;
    scene.complete(token, Verdict::Processed).await;
    assert_eq!(unpublished(&order).await, Some(vec![1, 2]));

    let entries = outbox.read(1).await.expect("read answers");
    let positions: Vec<_> = entries.iter().map(|entry| entry.position).collect();
    outbox.remove(&positions).await.expect("remove answers");
    assert_eq!(unpublished(&order).await, Some(vec![2]));

    outbox.disable().await.expect("disable answers");
    assert_eq!(unpublished(&order).await, None);
}

/// Behind a long outbox the events of an order are not looked for.
pub async fn record_does_not_search_a_long_outbox(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let outbox = subject.outbox();
    outbox.enable().await.expect("enable answers");
    let order = scene.create_due().await;
    for _ in 1..OrderRecord::OUTBOX_READ_MAX / 1_000 {
        scene.create_many_leased(1_000).await;
    }
    scene.create_many_leased(998).await;
    assert_eq!(record(&scene, &order).await.unpublished, Some(vec![1]));
    scene.create_due().await;
    assert_eq!(record(&scene, &order).await.unpublished, None);
}
