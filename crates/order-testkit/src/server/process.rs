//! The project's own binaries as child processes of a test.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

/// The lines of output that are kept; older ones are forgotten.
const OUTPUT_LINES_MAX: usize = 10_000;

/// The time between two looks at what a process has written and whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A signal for a child, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`: end in good order.
    Terminate,
    /// `SIGINT`: what a terminal sends.
    Interrupt,
    /// `SIGKILL`: end now, with no chance to do anything.
    Kill,
    /// `SIGSTOP`: stand still.
    Stop,
    /// `SIGCONT`: go on.
    Continue,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// A running program whose output is read as it comes. Dropping it kills it.
#[derive(Debug)]
pub struct ChildServer {
    child: Mutex<Child>,
    output: Arc<Output>,
}

/// What the program wrote to both of its outputs, line by line.
#[derive(Debug, Default)]
struct Output {
    lines: Mutex<VecDeque<String>>,
}

impl Output {
    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == OUTPUT_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn find(&self, text: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|line| line.contains(text)).cloned()
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .fold(String::new(), |text, line| text + line + "\n")
    }
}

impl ChildServer {
    /// Starts the program. Its input is empty and its output is read here.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let output = Arc::new(Output::default());
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, Arc::clone(&output));
        }
        if let Some(stderr) = child.stderr.take() {
            read_lines(stderr, Arc::clone(&output));
        }
        Ok(Self {
            child: Mutex::new(child),
            output,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    /// Everything the program wrote so far, to show when a test fails.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Waits for a line of output that contains `text`, and gives the whole line. A line
    /// that is already there counts. Fails with all of the output when the program ends
    /// without it or `limit` passes.
    pub async fn wait_for_line(&self, text: &str, limit: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            // Asked before the output is searched, so that the last line is not missed.
            let ended = self.try_wait()?;
            if let Some(line) = self.output.find(text) {
                return Ok(line);
            }
            if let Some(status) = ended {
                bail!(
                    "the program ended with {status} before {text:?}:\n{}",
                    self.output()
                );
            }
            if Instant::now() >= deadline {
                bail!("no {text:?} within {limit:?}:\n{}", self.output());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the program has ended. Fails when `limit` passes first; the program
    /// runs on then.
    pub async fn wait_for_exit(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("the program still runs after {limit:?}:\n{}", self.output());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// How the program ended, if it has.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.child().try_wait()
    }

    /// Sends a signal. Fails if the program has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // The lock keeps others from collecting the process, which would free its id for
        // a stranger.
        let mut child = self.child();
        if let Some(status) = child.try_wait()? {
            bail!("the program has ended with {status}");
        }
        let status = send_signal(signal.name(), &[child.id()])?;
        if !status.success() {
            bail!("kill failed with {status}");
        }
        Ok(())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        let mut child = self.child();
        // Both fail only for a program that has ended and been waited for.
        let _ended = child.kill();
        let _ended = child.wait();
    }
}

/// Reads until the other side closes. The thread ends with the program, and with those
/// the program has started.
fn read_lines(source: impl Read + Send + 'static, output: Arc<Output>) {
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while matches!(source.read_until(b'\n', &mut line), Ok(1..)) {
            output.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    });
}

/// Sends a signal, by its name without `SIG`, to processes. The shell has the command
/// built in, so no package is needed for it. The status tells whether all could be
/// reached.
pub(super) fn send_signal(name: &str, processes: &[u32]) -> anyhow::Result<ExitStatus> {
    Command::new("sh")
        .args(["-c", r#"kill -s "$0" "$@""#, name])
        .args(processes.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status()
        .context("cannot run sh")
}

/// The processes that a process has started and that it has not waited for yet.
pub(super) fn children(process: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{process}/task/{process}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect()
}

/// Whether a process still runs. One that has ended and only waits for its parent to
/// notice does not.
pub(super) fn is_alive(process: u32) -> bool {
    // The state follows the name, which is in parentheses and may hold anything.
    fs::read_to_string(format!("/proc/{process}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.chars().next()? != 'Z'))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    /// Longer than any of this takes on a busy machine.
    const LIMIT: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> ChildServer {
        ChildServer::spawn(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[tokio::test]
    async fn a_line_from_either_output_is_found() {
        let server = shell("echo one; echo two=2 >&2; exec sleep 60");
        assert_eq!(server.wait_for_line("one", LIMIT).await.unwrap(), "one");
        assert_eq!(server.wait_for_line("two", LIMIT).await.unwrap(), "two=2");
    }

    #[tokio::test]
    async fn a_program_that_ends_without_the_line_shows_what_it_wrote() {
        let server = shell("echo why; exit 3");
        let error = server.wait_for_line("ready", LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn a_terminated_program_can_end_in_good_order() {
        let server = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
        server.wait_for_line("ready", LIMIT).await.unwrap();
        server.signal(Signal::Terminate).unwrap();
        let status = server.wait_for_exit(LIMIT).await.unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(server.signal(Signal::Kill).is_err());
    }

    #[tokio::test]
    async fn a_stopped_program_is_silent_and_can_be_killed() {
        let server = shell("echo ready; exec sleep 60");
        server.wait_for_line("ready", LIMIT).await.unwrap();
        server.signal(Signal::Stop).unwrap();
        assert!(server.wait_for_exit(POLL_INTERVAL).await.is_err());
        server.signal(Signal::Kill).unwrap();
        let status = server.wait_for_exit(LIMIT).await.unwrap();
        assert_eq!(status.signal(), Some(9));
    }
}
