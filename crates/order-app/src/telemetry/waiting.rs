//! Lines of the log that wait to be written.
//!
//! A line is copied to the end of a buffer, and a thread writes what has gathered there. So a line
//! costs its caller no call of the system and no memory of its own, and a collector of logs that is
//! slow or stuck delays nothing: lines that find the buffer full are dropped and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How many bytes wait at most, and as many may be on their way to the reader.
const LEN_MAX: usize = 2 * 1024 * 1024;

/// How much memory the buffer keeps when it is empty, in bytes.
const LEN_KEPT: usize = 64 * 1024;

/// How long lines gather after some were written. A request that logs meanwhile wakes no thread.
const GATHERING_TIME: Duration = Duration::from_millis(2);

/// How long [`WaitingLines::flush`] waits.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

/// The lines that wait. A writer of whole lines; clones share them.
#[derive(Clone, Default)]
pub(super) struct WaitingLines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a line, or nothing is left to write.
    changed: Condvar,
    dropped: AtomicUsize,
}

#[derive(Default)]
struct State {
    text: Vec<u8>,
    /// Whether the thread writes, or lets lines gather.
    is_busy: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingLines {
    /// Has a thread write the lines to `out` until the end of the process. Text that `out`
    /// rejects is lost: there is no other place to report it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn write_to(&self, mut out: impl Write + Send + 'static) -> io::Result<()> {
        let Self(shared) = self.clone();
        let run = move || {
            let mut text = Vec::new();
            loop {
                let mut state = shared.lock();
                while state.text.is_empty() {
                    state.is_busy = false;
                    shared.changed.notify_all();
                    let changed = shared.changed.wait(state);
                    state = changed.unwrap_or_else(PoisonError::into_inner);
                }
                state.is_busy = true;
                std::mem::swap(&mut state.text, &mut text);
                drop(state);
                let _ = out.write_all(&text).and_then(|()| out.flush());
                text.clear();
                text.shrink_to(LEN_KEPT);
                thread::sleep(GATHERING_TIME);
            }
        };
        thread::Builder::new().name("log".to_owned()).spawn(run)?;
        Ok(())
    }

    /// Waits until the lines are written, for at most a second.
    pub(super) fn flush(&self) {
        let Self(shared) = self;
        let is_left = |state: &mut State| state.is_busy || !state.text.is_empty();
        // A timeout is no error: the reader of the log may be stuck.
        let _ = shared
            .changed
            .wait_timeout_while(shared.lock(), FLUSH_TIME_MAX, is_left);
    }

    /// The lines that were dropped because too many waited.
    pub(super) fn n_dropped(&self) -> usize {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Write for WaitingLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Self(shared) = self;
        let mut state = shared.lock();
        if state.text.len() + line.len() > LEN_MAX {
            drop(state);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let has_to_wake = state.text.is_empty() && !state.is_busy;
        state.text.extend_from_slice(line);
        drop(state);
        if has_to_wake {
            shared.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Gives a write to the test, which lets it end by taking it.
    struct Reader(SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let sent = self.0.send(text.to_owned());
            sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (WaitingLines, Receiver<Vec<u8>>) {
        let (reader, written) = sync_channel(0);
        let lines = WaitingLines::default();
        lines.write_to(Reader(reader)).expect("a thread");
        (lines, written)
    }

    fn next(written: &Receiver<Vec<u8>>) -> Vec<u8> {
        written.recv_timeout(PATIENCE).expect("lines are written")
    }

    #[test]
    fn reader_that_is_stuck_costs_only_what_is_beyond_the_limit() {
        let (mut lines, written) = lines();
        let line = [b'x'; 1024];
        // The thread takes the first line, and waits for the reader with it.
        lines.write_all(b"first").expect("taken");
        let deadline = Instant::now() + PATIENCE;
        while !lines.0.lock().text.is_empty() {
            assert!(Instant::now() < deadline, "no thread takes the line");
            thread::yield_now();
        }
        for _ in 0..LEN_MAX / line.len() + 3 {
            lines.write_all(&line).expect("taken or dropped");
        }
        assert_eq!(lines.n_dropped(), 3);
        assert_eq!(next(&written), b"first");
        assert_eq!(next(&written).len(), LEN_MAX);
        lines.write_all(b"last").expect("taken");
        assert_eq!(next(&written), b"last");
        assert_eq!(lines.n_dropped(), 3);
    }

    #[test]
    fn flush_waits_for_what_was_logged_before() {
        let (mut lines, written) = lines();
        let reading = thread::spawn(move || [next(&written), next(&written)].concat());
        lines.write_all(b"one ").expect("taken");
        lines.flush();
        lines.write_all(b"two").expect("taken");
        lines.flush();
        assert!(lines.0.lock().text.is_empty());
        assert_eq!(reading.join().expect("no panic"), b"one two");
    }

    #[test]
    fn log_goes_on_after_a_write_that_fails() {
        let (reader, written) = sync_channel(0);
        drop(written);
        let mut lines = WaitingLines::default();
        lines.write_to(Reader(reader)).expect("a thread");
        for _ in 0..2 {
            lines.write_all(b"lost").expect("taken");
            lines.flush();
        }
        assert!(lines.0.lock().text.is_empty());
    }
}
