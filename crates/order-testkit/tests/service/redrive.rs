//! The redrive of many dead letters, over the in-memory store.

use futures_util::StreamExt as _;
use order_core::{
    Admin, AdminApi as _, Cause, DeadLetterFilter, JobQueue as _, OrderReads as _, Redrive,
    RedriveEnd, RedriveProgress, Verdict,
};

use super::*;

/// A lease that outlives every test.
const LEASE: Duration = Duration::from_hours(1);

fn redrive_all() -> Redrive {
    Redrive {
        filter: DeadLetterFilter::default(),
        limit: Redrive::LIMIT_DEFAULT,
        rate: Redrive::RATE_MAX,
        failed_percent_max: 50,
        is_dry_run: false,
    }
}

impl Rig {
    /// Stores orders that have failed with `code`.
    async fn create_failed(&self, n_orders: usize, code: &str) -> Vec<OrderId> {
        let mut failed = Vec::new();
        for _ in 0..n_orders {
            let order = self.create(wanted(100)).await;
            let request = UpdateStatus {
                order_id: order.id,
                status: OrderStatus::Failed,
                cause: Some(Cause::new(code, "no")),
                if_match: None,
            };
            let moved = self.service.update_status(&ctx(), request).await;
            failed.push(moved.expect("the state machine has this move").id);
        }
        failed
    }

    /// Ends all jobs that are due, as workers would.
    async fn work(&self, verdict: &Verdict) {
        let jobs = self.memory.claim(1_000, LEASE).await.expect("an answer");
        let completions = jobs.iter().map(|job| order_core::Completion {
            took: None,
            token: job.token(),
            verdict: verdict.clone(),
            trace_parent: None,
        });
        let completions: Vec<_> = completions.collect();
        for completed in self.memory.complete(&completions).await {
            completed.expect("an answer");
        }
    }

    /// Runs a redrive to its end beside workers that end every order with `verdict`.
    async fn redrive(&self, request: Redrive, verdict: Verdict) -> RedriveProgress {
        let admin = Admin::new(&self.service, self.store.clone());
        let mut steps = admin.redrive(&ctx(), request).await.expect("a stream");
        let mut last = RedriveProgress::default();
        while let Some(step) = steps.next().await {
            last = step.expect("a step");
            self.work(&verdict).await;
        }
        last
    }

    async fn n_failed(&self, ids: &[OrderId]) -> usize {
        let states = self.memory.states(ids).await.expect("an answer");
        let failed = states
            .iter()
            .filter(|state| state.status == OrderStatus::Failed);
        failed.count()
    }
}

#[tokio::test(start_paused = true)]
async fn selected_orders_are_redriven_and_followed_to_their_end() {
    let rig = Rig::new();
    let wanted = rig.create_failed(30, "TIMEOUT").await;
    let others = rig.create_failed(5, "CARD_DECLINED").await;
    let mut request = redrive_all();
    request.filter.code = Some("TIMEOUT".to_owned());

    let end = rig.redrive(request, Verdict::Processed).await;

    let expected = RedriveProgress {
        matched: 30,
        redriven: 30,
        processed: 30,
        end: Some(RedriveEnd::Done),
        ..RedriveProgress::default()
    };
    assert_eq!(end, expected);
    assert_eq!(
        (rig.n_failed(&wanted).await, rig.n_failed(&others).await),
        (0, 5)
    );
}

#[tokio::test(start_paused = true)]
async fn dry_run_only_counts() {
    let rig = Rig::new();
    let failed = rig.create_failed(30, "TIMEOUT").await;
    let request = Redrive {
        is_dry_run: true,
        limit: 20,
        ..redrive_all()
    };
    let end = rig.redrive(request, Verdict::Processed).await;
    assert_eq!(
        (end.matched, end.redriven, end.end),
        (20, 0, Some(RedriveEnd::Done))
    );
    assert_eq!(rig.n_failed(&failed).await, 30);
}

#[tokio::test(start_paused = true)]
async fn limit_and_rate_hold() {
    let rig = Rig::new();
    rig.create_failed(60, "TIMEOUT").await;
    let request = Redrive {
        limit: 50,
        rate: 20,
        ..redrive_all()
    };
    let begun_at = rig.clock.instant();
    let end = rig.redrive(request, Verdict::Processed).await;
    assert_eq!((end.matched, end.processed), (50, 50));
    let elapsed = rig.clock.instant().duration_since(begun_at);
    assert!(elapsed >= Duration::from_secs(2), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn redrive_ends_by_itself_when_too_many_fail_again() {
    let rig = Rig::new();
    let failed = rig.create_failed(500, "TIMEOUT").await;
    let request = Redrive {
        rate: 100,
        ..redrive_all()
    };
    let again = Verdict::Failed(Cause::new("TIMEOUT", "still"));
    let end = rig.redrive(request, again).await;
    assert_eq!(end.end, Some(RedriveEnd::TooManyFailures));
    assert!(end.redriven < 100, "{end:?}");
    assert_eq!(rig.n_failed(&failed).await, 500);
}

#[tokio::test(start_paused = true)]
async fn slow_workers_hold_a_redrive_back() {
    let rig = Rig::new();
    rig.create_failed(1_500, "TIMEOUT").await;
    let admin = Admin::new(&rig.service, rig.store.clone());
    let request = Redrive {
        limit: 1_500,
        ..redrive_all()
    };
    let mut steps = admin.redrive(&ctx(), request).await.expect("a stream");
    let mut last = RedriveProgress::default();
    for _ in 0..40 {
        last = steps.next().await.expect("it goes on").expect("a step");
    }
    assert_eq!((last.redriven, last.end), (1_000, None));
}

#[tokio::test(start_paused = true)]
async fn two_redrives_share_the_orders() {
    let rig = Rig::new();
    let failed = rig.create_failed(200, "TIMEOUT").await;
    let request = Redrive {
        rate: 100,
        ..redrive_all()
    };
    let redrives = futures_util::join!(
        rig.redrive(request.clone(), Verdict::Processed),
        rig.redrive(request, Verdict::Processed)
    );
    let (a, b) = redrives;
    assert_eq!(a.redriven + b.redriven, 200, "{a:?} {b:?}");
    assert_eq!(rig.n_failed(&failed).await, 0);
}

#[tokio::test(start_paused = true)]
async fn outage_of_the_store_delays_a_redrive() {
    let rig = Rig::new();
    rig.create_failed(50, "TIMEOUT").await;
    let admin = Admin::new(&rig.service, rig.store.clone());
    let mut steps = admin
        .redrive(&ctx(), redrive_all())
        .await
        .expect("a stream");
    rig.store.set_partitioned(true);
    for _ in 0..30 {
        let step = steps.next().await.expect("it goes on").expect("a step");
        assert_eq!((step.redriven, step.end), (0, None));
    }
    rig.store.set_partitioned(false);
    let mut last = RedriveProgress::default();
    while let Some(step) = steps.next().await {
        last = step.expect("a step");
        rig.work(&Verdict::Processed).await;
    }
    assert_eq!((last.redriven, last.processed), (50, 50));
}

#[tokio::test]
async fn bad_limits_are_named() {
    let rig = Rig::new();
    let admin = Admin::new(&rig.service, rig.store.clone());
    let request = Redrive {
        limit: 0,
        rate: Redrive::RATE_MAX + 1,
        failed_percent_max: 101,
        ..redrive_all()
    };
    let Err(Error::InvalidArgument { violations }) = admin.redrive(&ctx(), request).await else {
        panic!("the limits are out of range");
    };
    let fields: Vec<_> = violations.iter().map(|found| &*found.field).collect();
    assert_eq!(fields, ["limit", "rate", "failed_percent_max"]);
}
