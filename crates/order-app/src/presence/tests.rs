use std::{future::pending, sync::Mutex};

use async_trait::async_trait;
use order_core::{
    ClusterState, DeadLetterGroup, OrderId, OrderRecord, ProcessId, Redrive, RedriveStream,
    supervisor::Supervisor,
};
use order_testkit::clock::{RuntimeClock, SeededIds};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::*;

/// How reports are answered.
#[derive(Clone, Copy)]
enum Answer {
    Go,
    Pause,
    Fail,
    Never,
}

/// Takes reports.
struct FakeAdmin {
    answer: Mutex<Answer>,
    reports: Mutex<Vec<(Instant, ProcessReport)>>,
}

impl FakeAdmin {
    fn answers(&self, answer: Answer) {
        *self.answer.lock().expect("no panic") = answer;
    }

    fn reports(&self) -> Vec<(Instant, ProcessReport)> {
        self.reports.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl AdminApi for FakeAdmin {
    async fn dead_letters(&self, _: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        Ok(Vec::new())
    }

    async fn redrive(&self, _: &CallContext, _: Redrive) -> Result<RedriveStream, Error> {
        Err(Error::DeadlineExceeded)
    }

    async fn record(&self, _: &CallContext, order_id: OrderId) -> Result<OrderRecord, Error> {
        Err(Error::OrderNotFound { order_id })
    }

    async fn cluster(&self, _: &CallContext) -> Result<ClusterState, Error> {
        Err(Error::DeadlineExceeded)
    }

    async fn report(&self, _: &CallContext, report: ProcessReport) -> Result<Directive, Error> {
        let arrived = (Instant::now(), report);
        self.reports.lock().expect("no panic").push(arrived);
        let answer = *self.answer.lock().expect("no panic");
        match answer {
            Answer::Go => Ok(Directive { is_paused: false }),
            Answer::Pause => Ok(Directive { is_paused: true }),
            Answer::Fail => Err(Error::store_unavailable("down")),
            Answer::Never => pending().await,
        }
    }

    async fn set_paused(
        &self,
        _: &CallContext,
        _: Option<ProcessId>,
        _: bool,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// A process that reports.
struct Rig {
    admin: Arc<FakeAdmin>,
    failures: Counter,
    /// What the process was told, in turn.
    told: Arc<Mutex<Vec<bool>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    begun_at: Instant,
}

impl Rig {
    fn start(answer: Answer) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock::new());
        let admin = Arc::new(FakeAdmin {
            answer: Mutex::new(answer),
            reports: Mutex::default(),
        });
        let mut registry = Registry::default();
        let created: Counter = Counter::default();
        created.inc_by(7);
        registry.register("orders_created", "help", created);
        let failures = Counter::default();
        let presence = Presence {
            identity: Identity {
                id: ProcessId::from_u64(9),
                program: "order-worker".to_owned(),
                place: "host:7".to_owned(),
            },
            started_at: clock.now(),
            registry: Arc::new(registry),
            failures: failures.clone(),
            clock: Arc::clone(&clock),
            ids: Arc::new(SeededIds::new(1)),
        };
        let (told, stop) = (Arc::<Mutex<Vec<bool>>>::default(), CancellationToken::new());
        let telling = Arc::clone(&told);
        let apply = move |directive: Directive| {
            let mut told = telling.lock().expect("no panic");
            told.push(directive.is_paused);
        };
        let task = presence.task(Arc::clone(&admin) as _, apply, stop.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(Supervisor::new(&clock).run(task));
        Self {
            admin,
            failures,
            told,
            stop,
            tasks,
            begun_at: Instant::now(),
        }
    }

    /// What the process was told last.
    fn is_paused(&self) -> Option<bool> {
        self.told.lock().expect("no panic").last().copied()
    }

    /// Waits for more reports, in simulated time.
    async fn reports(&self, n_more: usize) {
        let n_wanted = self.admin.reports().len() + n_more;
        let deadline = Instant::now() + Duration::from_mins(5);
        while self.admin.reports().len() < n_wanted {
            assert!(Instant::now() < deadline, "no more reports");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        let stopped_at = Instant::now();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        assert!(stopped_at.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn process_reports_at_once_and_then_about_every_two_seconds() {
    let rig = Rig::start(Answer::Go);
    rig.reports(20).await;

    let reports = rig.admin.reports();
    let (first_at, first) = &reports[0];
    assert!(first_at.duration_since(rig.begun_at) < Duration::from_millis(100));
    assert_eq!(
        (first.identity.id.as_u64(), first.identity.name().as_str()),
        (9, "order-worker host:7")
    );
    assert_eq!(first.figures.created, 7);
    assert!(first.check().is_ok());
    let pauses = reports
        .windows(2)
        .map(|two| two[1].0.duration_since(two[0].0));
    let pauses: Vec<_> = pauses.collect();
    let bounds = ProcessReport::INTERVAL.mul_f64(0.74)..ProcessReport::INTERVAL.mul_f64(1.26);
    assert!(
        pauses.iter().all(|pause| bounds.contains(pause)),
        "{pauses:?}"
    );
    assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn process_does_what_the_answers_say() {
    let rig = Rig::start(Answer::Go);
    rig.reports(1).await;
    for (answer, is_paused) in [(Answer::Pause, true), (Answer::Go, false)] {
        rig.admin.answers(answer);
        rig.reports(2).await;
        assert_eq!(rig.is_paused(), Some(is_paused));
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn paused_process_stays_paused_while_nothing_takes_its_reports() {
    let rig = Rig::start(Answer::Pause);
    rig.reports(2).await;
    assert_eq!(rig.is_paused(), Some(true));
    let n_told = rig.told.lock().expect("no panic").len();

    for answer in [Answer::Fail, Answer::Never] {
        rig.admin.answers(answer);
        let n_failures = rig.failures.get();
        rig.reports(5).await;
        assert!(rig.failures.get() >= n_failures + 3);
        assert_eq!(rig.told.lock().expect("no panic").len(), n_told);
    }

    rig.admin.answers(Answer::Go);
    rig.reports(2).await;
    assert_eq!(rig.is_paused(), Some(false));
    rig.stop().await;
}

/// It waits for its first answer before it works, but not forever.
#[tokio::test(start_paused = true)]
async fn process_that_nobody_pauses_works() {
    for answer in [Answer::Fail, Answer::Never] {
        let rig = Rig::start(answer);
        rig.reports(4).await;
        let told = rig.told.lock().expect("no panic").clone();
        assert_eq!(told, [false]);
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn report_without_an_answer_holds_up_no_stop() {
    let rig = Rig::start(Answer::Never);
    rig.reports(1).await;
    rig.stop().await;
}
