use order_core::Error;
use tempfile::TempDir;

use super::*;
use crate::ctl::import::reader::Checkpoint;

const TEXT: &str = "one\ntwo\nthree\nfour\n";

struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            dir: TempDir::new().expect("a directory"),
        };
        fs::write(scene.path(), TEXT).expect("written");
        scene
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("orders.jsonl")
    }

    fn open(&self) -> (Journal, Found) {
        Journal::open(&self.path(), route("http://a:1")).expect("opened")
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.dir.path().join("orders.jsonl.errors.jsonl")).unwrap_or_default()
    }
}

fn route(server: &str) -> Route {
    Route {
        format: FileFormat::Jsonl,
        server: vec![server.to_owned()],
    }
}

/// Batch `number` of one line, which created an order or failed.
fn done(number: u64, has_failed: bool) -> Done {
    let lines = number + 1;
    let bytes = TEXT.split_inclusive('\n').map(str::len);
    let bytes: usize = bytes.take(usize::try_from(lines).expect("few")).sum();
    let bytes = u64::try_from(bytes).expect("few");
    let sha256 = hash_prefix(TEXT.as_bytes(), bytes).expect("memory");
    let failure = LineFailure::new(lines, &Error::invalid("amount", "is bad"));
    Done {
        number,
        end: Checkpoint {
            bytes,
            lines,
            sha256: sha256.expect("the end of a line"),
        },
        created: u64::from(!has_failed),
        replayed: 0,
        failures: Vec::from_iter(has_failed.then_some(failure)),
    }
}

#[test]
fn what_is_done_is_a_prefix_whatever_ends_first() {
    let scene = Scene::new();
    let (mut journal, found) = scene.open();
    assert_eq!(found, Found::Nothing);
    assert_eq!(journal.complete(done(2, true)).expect("noted").len(), 0);
    assert_eq!(journal.complete(done(1, true)).expect("noted").len(), 0);
    assert_eq!((journal.lines_done(), journal.n_waiting()), (0, 2));
    let failures = journal.complete(done(0, false)).expect("noted");
    let lines: Vec<_> = failures.iter().map(|failure| failure.line).collect();
    assert_eq!(lines, [2, 3]);
    assert_eq!((journal.lines_done(), journal.n_waiting()), (3, 0));
}

#[test]
fn the_next_run_goes_on_where_this_one_was_saved() {
    let scene = Scene::new();
    let (mut journal, _) = scene.open();
    journal.complete(done(0, true)).expect("noted");
    journal.complete(done(1, false)).expect("noted");
    journal.save().expect("saved");
    let errors = scene.errors();
    assert_eq!(
        errors,
        "{\"line\":1,\"code\":\"INVALID_ARGUMENT\",\"message\":\"The request is not valid\",\
         \"errors\":[{\"pointer\":\"/amount\",\"detail\":\"is bad\"}]}\n"
    );
    // This failure is written, and dies before it is saved.
    journal.complete(done(2, true)).expect("noted");
    drop(journal);
    assert!(scene.errors().len() > errors.len());

    let (journal, found) = scene.open();

    assert_eq!(found, Found::Progress);
    assert_eq!((journal.lines_done(), journal.bytes_done()), (2, 8));
    let counts = Counts {
        created: 1,
        replayed: 0,
        failed: 1,
    };
    assert_eq!(journal.counts(), counts);
    assert_eq!(scene.errors(), errors);
}

fn save_two_lines(scene: &Scene) {
    let (mut journal, _) = scene.open();
    journal.complete(done(0, true)).expect("noted");
    journal.complete(done(1, false)).expect("noted");
    journal.save().expect("saved");
}

#[test]
fn lines_may_be_added_and_changed_behind_what_is_done() {
    let scene = Scene::new();
    save_two_lines(&scene);
    fs::write(scene.path(), "one\ntwo\nother\nmore\n").expect("written");
    let (journal, found) = scene.open();
    assert_eq!((found, journal.lines_done()), (Found::Progress, 2));
}

#[test]
fn progress_of_something_else_does_not_count() {
    for (text, server) in [
        ("One\ntwo\nthree\nfour\n", "http://a:1"),
        ("one\n", "http://a:1"),
        (TEXT, "http://b:1"),
    ] {
        let scene = Scene::new();
        save_two_lines(&scene);
        fs::write(scene.path(), text).expect("written");
        let (journal, found) = Journal::open(&scene.path(), route(server)).expect("opened");
        assert_eq!((found, journal.bytes_done()), (Found::OtherProgress, 0));
        assert_eq!(journal.counts(), Counts::default());
        assert_eq!(scene.errors(), "");
    }
}

#[test]
fn broken_progress_is_none() {
    let scene = Scene::new();
    let progress = scene.dir.path().join("orders.jsonl.progress");
    for text in ["", "{", "{\"bytes\":4}"] {
        fs::write(&progress, text).expect("written");
        assert_eq!(scene.open().1, Found::Nothing, "{text}");
    }
}
