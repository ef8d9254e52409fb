//! The lease protocol under random histories: a few workers create, claim, heartbeat, lose
//! leases, finish, give back and crash, while clients cancel and redrive.
//!
//! Every answer is compared with a model that is a plain map. When the faults stop, every
//! order must settle, and every history must be whole. The cases are random and shrink;
//! a failure prints the seed that repeats it.

mod driver;
mod model;

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

use self::driver::Driver;
use super::Subject;

/// Repeats the cases of a failed run: a number, as the failure prints it.
const SEED_VARIABLE: &str = "LEASE_PROTOCOL_SEED";

/// The longest history of one case, in steps.
const STEPS_MAX: usize = 60;

/// How a worker reports.
#[derive(Clone, Copy, Debug)]
enum Report {
    Processed,
    Failed,
    RetryAtOnce,
    RetryLater,
}

/// One thing that happens. An [`Index`] picks among what is there at that time.
#[derive(Clone, Debug)]
enum Step {
    /// A client posts orders; a leased one is born in the hands of a worker.
    Create { worker: Index, is_leased: Vec<bool> },
    /// A client repeats a create.
    CreateAgain { order: Index },
    /// A worker asks for jobs.
    Claim { worker: Index, limit: usize },
    /// A free worker asks for an abandoned job.
    ClaimAbandoned { worker: Index },
    /// Two workers ask for jobs at the same time.
    ClaimTogether { workers: [Index; 2], limit: usize },
    /// A worker says that it is alive, and drops what it has lost.
    Heartbeat { worker: Index },
    /// A worker is about to begin the effects of all it holds.
    Start { worker: Index },
    /// A worker reports up to `limit` results, and repeats or belatedly sends an old one.
    Complete {
        worker: Index,
        limit: usize,
        report: Report,
        old: Option<Index>,
    },
    /// A worker shuts down in order.
    Release { worker: Index },
    /// A worker is killed and forgets everything.
    Crash { worker: Index },
    /// A worker hangs: it forgets nothing, and may report much later.
    Hang { worker: Index },
    /// All leases and retry delays run out.
    ExpireLeases,
    /// A client moves an order to one of the statuses it may move to.
    Move { order: Index, status: Index },
    /// A client decides on a version that is no longer the current one.
    MoveStale { order: Index },
}

fn step() -> impl Strategy<Value = Step> {
    let worker = any::<Index>;
    let report = prop_oneof![
        4 => Just(Report::Processed),
        1 => Just(Report::Failed),
        2 => Just(Report::RetryAtOnce),
        1 => Just(Report::RetryLater),
    ];
    prop_oneof![
        6 => (worker(), prop::collection::vec(any::<bool>(), 1..4))
            .prop_map(|(worker, is_leased)| Step::Create { worker, is_leased }),
        1 => any::<Index>().prop_map(|order| Step::CreateAgain { order }),
        6 => (worker(), 0..4_usize).prop_map(|(worker, limit)| Step::Claim { worker, limit }),
        3 => worker().prop_map(|worker| Step::ClaimAbandoned { worker }),
        2 => (any::<[Index; 2]>(), 1..4_usize)
            .prop_map(|(workers, limit)| Step::ClaimTogether { workers, limit }),
        3 => worker().prop_map(|worker| Step::Heartbeat { worker }),
        2 => worker().prop_map(|worker| Step::Start { worker }),
        8 => (worker(), 0..4_usize, report, any::<Option<Index>>()).prop_map(
            |(worker, limit, report, old)| Step::Complete { worker, limit, report, old }
        ),
        1 => worker().prop_map(|worker| Step::Release { worker }),
        1 => worker().prop_map(|worker| Step::Crash { worker }),
        2 => worker().prop_map(|worker| Step::Hang { worker }),
        4 => Just(Step::ExpireLeases),
        4 => any::<(Index, Index)>().prop_map(|(order, status)| Step::Move { order, status }),
        1 => any::<Index>().prop_map(|order| Step::MoveStale { order }),
    ]
}

/// Runs `n_cases` random histories, each on a fresh subject from `make`. `None` skips the
/// test; `make` must then say so on standard error. Must not be called in a runtime.
pub fn check_lease_protocol<S: Subject>(n_cases: u32, make: impl AsyncFn() -> Option<S>) {
    let seed = std::env::var(SEED_VARIABLE)
        .ok()
        .map_or_else(rand::random, |seed| {
            seed.parse().expect("a seed is a number")
        });
    let mut seed_bytes = [0; 32];
    seed_bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let config = Config {
        cases: n_cases,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let histories = prop::collection::vec(step(), 1..=STEPS_MAX);
    let result = TestRunner::new_with_rng(config, rng).run(&histories, |history| {
        runtime.block_on(async {
            let Some(subject) = make().await else {
                return Ok(());
            };
            let mut driver = Driver::new(&subject);
            for step in history {
                driver.take(step).await?;
            }
            driver.settle().await
        })
    });
    match result {
        Ok(()) => {}
        Err(TestError::Abort(reason)) => panic!("the test was aborted: {reason}"),
        Err(TestError::Fail(reason, history)) => panic!(
            "{reason}\nrepeat with {SEED_VARIABLE}={seed}\nthe shortest history found:\n{history:#?}"
        ),
    }
}
