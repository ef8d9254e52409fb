//! Imports that are interrupted, repeated and fed with broken files.

use std::{fmt::Write as _, fs, path::PathBuf, sync::Arc, time::Duration};

use order_app::ctl::{Colours, ExitStatus};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    fake::FakeApi,
    support::{Outcome, orderctl, orderctl_until},
};

struct Scene {
    api: Arc<FakeApi>,
    dir: TempDir,
}

impl Scene {
    fn new(text: &str) -> Self {
        let scene = Self {
            api: Arc::new(FakeApi::new()),
            dir: TempDir::new().expect("a directory"),
        };
        scene.write(text);
        scene
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.dir.path().join(format!("orders.jsonl{ending}"))
    }

    fn write(&self, text: &str) {
        fs::write(self.path(""), text).expect("written");
    }

    fn read(&self, ending: &str) -> String {
        fs::read_to_string(self.path(ending)).unwrap_or_default()
    }

    async fn import(&self, args: &[&str]) -> Outcome {
        let path = self.path("");
        let path = path.to_str().expect("text");
        orderctl(&self.api, &[&["import", path], args].concat()).await
    }

    fn n_orders(&self) -> usize {
        self.api.state().orders.len()
    }

    fn n_sent(&self) -> usize {
        std::mem::take(&mut self.api.state().batches).iter().sum()
    }
}

fn lines(amounts: std::ops::RangeInclusive<u32>) -> String {
    let mut lines = String::new();
    for amount in amounts {
        writeln!(lines, "{{\"user_id\":\"u\",\"amount\":{amount}}}").expect("memory");
    }
    lines
}

#[tokio::test(start_paused = true)]
async fn broken_lines_are_told_and_the_rest_goes_on() {
    let scene = Scene::new(
        "{\"user_id\":\"u\",\"amount\":1}\n\
         {\"user_id\":\"\",\"amount\":0}\n\
         {\"user_id\":\"blocked\",\"amount\":1}\n\
         \n\
         nonsense\n\
         {\"user_id\":\"refused\",\"amount\":1}\n\
         {\"user_id\":\"u\",\"amount\":\"2.50\"}",
    );
    let imported = scene.import(&["--output=json"]).await;
    assert_eq!(imported.status, ExitStatus::FailedLines);
    assert_eq!(
        imported.out,
        "{\"lines\":7,\"created\":2,\"replayed\":0,\"failed\":4}\n"
    );
    let errors = scene.path(".errors.jsonl");
    assert_eq!(
        imported.err,
        format!(
            "line 2: user_id: must not be empty\n\
             line 2: amount: must be greater than 0\n\
             line 3: PERMISSION_DENIED: this is not allowed: the user is blocked\n\
             line 5: is not JSON at column 2: expected ident\n\
             line 6: user_id: is not welcome\n\
             the failed lines are in {}\n\
             error: FAILED_LINES: 4 lines failed\n\
             {{\"code\":\"FAILED_LINES\",\"message\":\"4 lines failed\",\"errors\":[]}}\n",
            errors.display()
        )
    );
    let errors = scene.read(".errors.jsonl");
    let starts: Vec<&str> = errors.lines().map(|line| &line[..34]).collect();
    assert_eq!(
        starts,
        [
            "{\"line\":2,\"code\":\"INVALID_ARGUMENT",
            "{\"line\":3,\"code\":\"PERMISSION_DENIE",
            "{\"line\":5,\"code\":\"INVALID_ARGUMENT",
            "{\"line\":6,\"code\":\"INVALID_ARGUMENT",
        ]
    );
    assert_eq!(scene.n_orders(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_finished_import_sends_nothing_again() {
    let scene = Scene::new(&lines(1..=10));
    let first = scene.import(&["--batch=3"]).await;
    assert_eq!(first.out, "created 10, already there 0, failed 0\n");
    assert_eq!(scene.n_sent(), 10);
    let again = scene.import(&["--batch=3"]).await;
    assert_eq!(scene.n_sent(), 0);
    assert_eq!((again.status, again.out), (first.status, first.out));
    assert_eq!(
        again.err,
        "all 10 lines were imported before; nothing is sent\n"
    );
}

#[tokio::test(start_paused = true)]
async fn an_import_that_dies_goes_on_where_it_was() {
    let scene = Scene::new(&lines(1..=100));
    // In the middle of the fourth batch the service goes away for good.
    scene.api.state().creates_left = Some(35);
    let died = scene.import(&["--batch=10", "--concurrency=1"]).await;
    assert_eq!(died.status, ExitStatus::Unavailable);
    let expected = [
        "the service is shutting down; trying again for 60 s",
        "30 lines are done; the same command goes on after them",
        "error: SHUTTING_DOWN: the service is shutting down",
    ];
    assert_eq!(died.err.lines().collect::<Vec<_>>(), expected);
    assert_eq!((scene.n_orders(), died.out.as_str()), (35, ""));
    scene.n_sent();

    scene.api.state().creates_left = None;
    let resumed = scene.import(&[]).await;

    assert_eq!(resumed.err, "going on after line 30\n");
    assert_eq!(resumed.out, "created 95, already there 5, failed 0\n");
    assert_eq!((scene.n_sent(), scene.n_orders()), (70, 100));
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_of_the_service_is_waited_out() {
    let scene = Scene::new(&lines(1..=30));
    scene.api.state().lost_answers = 3;
    let imported = scene.import(&["--batch=30", "--quiet"]).await;
    assert_eq!(
        (imported.status, imported.err.as_str()),
        (ExitStatus::Ok, "")
    );
    assert_eq!(scene.n_orders(), 30);
    // The answers were lost, the orders were not: sending them again created nothing.
    assert_eq!(imported.out, "created 0, already there 30, failed 0\n");
}

#[tokio::test(start_paused = true)]
async fn a_corrected_file_creates_only_what_is_new() {
    let doubled = lines(1..=1).repeat(2);
    let scene = Scene::new(&format!("{doubled}broken\n{}", lines(5..=9)));
    let first = scene.import(&[]).await;
    assert_eq!(first.out, "created 7, already there 0, failed 1\n");
    // One line is corrected, one is inserted, one removed, and one is there a third time.
    let third = lines(1..=1);
    scene.write(&format!(
        "{}{doubled}{}{}{third}",
        lines(50..=50),
        lines(3..=3),
        lines(6..=9)
    ));
    let again = scene.import(&[]).await;
    assert_eq!(again.out, "created 3, already there 6, failed 0\n");
    assert_eq!(again.status, ExitStatus::Ok);
    assert!(
        again.err.starts_with("the file or the service has changed"),
        "{again:?}"
    );
    assert_eq!(scene.read(".errors.jsonl"), "");
    assert_eq!(scene.n_orders(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_import_is_saved() {
    let scene = Scene::new(&lines(1..=10));
    scene.api.state().creates_left = Some(5);
    let stop = CancellationToken::new();
    let path = scene.path("");
    let args = [
        "import",
        path.to_str().expect("text"),
        "--batch=5",
        "--concurrency=1",
    ];
    let import = orderctl_until(&scene.api, &args, &stop, Colours::default());
    let interrupt = async {
        // The second batch leaves when the first is done.
        let has_left = async {
            while scene.api.state().batches.len() < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let has_left = tokio::time::timeout(Duration::from_mins(1), has_left).await;
        has_left.expect("the second batch leaves");
        stop.cancel();
    };
    let (interrupted, ()) = tokio::join!(import, interrupt);
    assert_eq!(interrupted.status, ExitStatus::Interrupted);
    let note = "5 lines are done; the same command goes on after them\n";
    assert!(interrupted.err.ends_with(note), "{interrupted:?}");
    assert!(scene.read(".progress").contains("\"lines\": 5,"));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_not_there_is_a_usage_error() {
    let api = Arc::new(FakeApi::new());
    let refused = orderctl(&api, &["import", "/nowhere/orders.jsonl"]).await;
    assert_eq!(refused.status, ExitStatus::Usage);
    assert!(
        refused.err.contains("\n  file: cannot be read: "),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_file_is_imported_in_no_time() {
    let scene = Scene::new("");
    let imported = scene.import(&[]).await;
    assert_eq!(imported.out, "created 0, already there 0, failed 0\n");
    assert_eq!((imported.status, scene.n_sent()), (ExitStatus::Ok, 0));
}
