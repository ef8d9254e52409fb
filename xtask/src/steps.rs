//! Commands run one after another: a heading before each, and at the end what was done,
//! how long it took, and what could not be done.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use order_testkit::server::REQUIRE_BACKENDS;
use tokio::time::Instant;

/// What has been done so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration)>,
    skipped: Vec<(String, String)>,
}

impl Steps {
    /// Runs a command without input. Fails if the command does.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) -> anyhow::Result<()> {
        eprintln!("\n== {name}");
        let began = Instant::now();
        let status = command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("{name}: cannot run {}", line(command)))?;
        self.done.push((name.to_owned(), began.elapsed()));
        ensure!(status.success(), "{name} failed: {}", line(command));
        Ok(())
    }

    /// Notes that something cannot be done here.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        eprintln!("\n== {name}\nskipped: {reason}");
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// Notes that a test cannot be done here. Fails where no test may be skipped.
    pub(crate) fn skip_test(&mut self, name: &str, reason: &str) -> anyhow::Result<()> {
        self.skip(name, reason);
        ensure!(
            std::env::var(REQUIRE_BACKENDS).as_deref() != Ok("1"),
            "{name} cannot run, and {REQUIRE_BACKENDS}=1 allows no skip: {reason}"
        );
        Ok(())
    }

    /// What to show at the end.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::from("\n== summary\n");
        for (name, duration) in &self.done {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:>7.1} s  {name}", duration.as_secs_f64());
        }
        for (name, reason) in &self.skipped {
            let _ = writeln!(text, "  skipped  {name}: {reason}");
        }
        text
    }
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_an_error_that_shows_it() {
        let mut steps = Steps::default();
        let error = steps
            .run("the step", Command::new("sh").args(["-c", "exit 3"]))
            .unwrap_err();
        assert_eq!(error.to_string(), "the step failed: sh -c exit 3");
    }

    #[test]
    fn the_summary_names_what_was_done_and_what_was_not() {
        let mut steps = Steps::default();
        steps.run("one", &mut Command::new("true")).unwrap();
        steps.skip("two", "it is missing");
        let summary = steps.summary();
        assert!(summary.contains("s  one\n"), "{summary}");
        assert!(
            summary.contains("skipped  two: it is missing\n"),
            "{summary}"
        );
    }
}
