//! One connection from accept to close: how long it may stay silent, dribble a head, sit
//! idle or leave an answer unread.
//!
//! The stream sees bytes and the service sees requests; together they know what the
//! connection is doing, which neither hyper's timeouts nor the socket's can tell: hyper's
//! header timeout also runs between requests. One timer per connection is armed for the next
//! deadline that can come, and is looked at only when the stream would wait.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use crate::{slots::Slot, stats::Open};
use http::Version;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

/// How long a connection with nothing in flight may hold up a drain: one round trip in
/// which an HTTP/2 peer acknowledges the GOAWAY, so that it knows which of its requests
/// were taken. hyper alone would wait forever for a peer that never answers.
const GOAWAY_GRACE: Duration = Duration::from_millis(500);

/// The times a connection is granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    pub(super) first_byte: Duration,
    pub(super) header: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
    pub(super) is_http2_only: bool,
}

impl ConnectionLimits {
    /// How often the timer looks: what begins between two looks ends after the next one.
    fn look_interval(&self) -> Duration {
        self.header.min(self.idle).min(self.write)
    }
}

/// How far the listener is on its way down.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    /// Every HTTP/1 answer is the last on its connection.
    pub(super) is_lingering: AtomicBool,
    /// Connections with nothing in flight are cut after [`GOAWAY_GRACE`].
    pub(super) is_draining: AtomicBool,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted; not a byte has come.
    Silent,
    /// The head of a request is on its way.
    Head,
    /// All requests are answered.
    Idle,
    /// No longer HTTP.
    Upgraded,
}

/// With this an HTTP/2 connection begins (RFC 9113 §3.4), and no other.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of the shortest opening of an HTTP/2 connection: the preface and empty settings.
const HTTP2_OPENING_LEN: usize = HTTP2_PREFACE.len() + 9;

/// What stream and service know together. The lock is taken a few times per request and
/// hardly ever contended.
pub(super) struct Progress {
    state: Mutex<State>,
    stopping: Arc<Stopping>,
    /// An HTTP/2 connection without a request is idle once it is open, and no slow head.
    is_http2_only: bool,
}

struct State {
    phase: Phase,
    since: Instant,
    n_in_flight: usize,
    is_http2: bool,
    /// The bytes that came before the first request, roughly.
    n_opening: usize,
}

impl Progress {
    fn new(now: Instant, stopping: Arc<Stopping>, is_http2_only: bool) -> Self {
        let state = State {
            phase: Phase::Silent,
            since: now,
            n_in_flight: 0,
            is_http2: is_http2_only,
            n_opening: 0,
        };
        Self {
            state: Mutex::new(state),
            stopping,
            is_http2_only,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the answer that begins now is the last on its connection. HTTP/2 has GOAWAY
    /// for that.
    pub(super) fn is_last_answer(&self) -> bool {
        self.stopping.is_lingering.load(Ordering::Acquire) && !self.lock().is_http2
    }

    fn on_bytes(&self, n_bytes: usize) {
        let mut state = self.lock();
        let begins_head = match state.phase {
            Phase::Silent => true,
            // Between HTTP/2 requests bytes are mostly pings, which make nobody busy.
            Phase::Idle => state.n_in_flight == 0 && !state.is_http2,
            Phase::Head | Phase::Upgraded => false,
        };
        if begins_head {
            state.phase = Phase::Head;
            state.since = Instant::now();
        }
        if self.is_http2_only && state.phase == Phase::Head {
            state.n_opening = state.n_opening.saturating_add(n_bytes);
            if state.n_opening >= HTTP2_OPENING_LEN {
                state.phase = Phase::Idle;
            }
        }
    }

    pub(super) fn on_request(self: &Arc<Self>, version: Version) -> InFlight {
        let mut state = self.lock();
        state.n_in_flight += 1;
        state.is_http2 = version == Version::HTTP_2;
        InFlight(Arc::clone(self))
    }

    pub(super) fn on_upgrade(&self) {
        self.lock().phase = Phase::Upgraded;
    }
}

/// A request that is not answered to the end. Dropping it says that it is.
pub(super) struct InFlight(Arc<Progress>);

impl InFlight {
    pub(super) fn progress(&self) -> &Progress {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.n_in_flight -= 1;
        if state.n_in_flight == 0 && state.phase != Phase::Upgraded {
            state.phase = Phase::Idle;
            state.since = Instant::now();
        }
    }
}

impl State {
    /// Whether the connection waits for its peer to do something.
    fn is_waiting(&self) -> bool {
        self.n_in_flight == 0 && self.phase != Phase::Upgraded
    }

    fn deadline(&self, limits: &ConnectionLimits) -> Option<Instant> {
        let granted = match self.phase {
            Phase::Silent => limits.first_byte,
            Phase::Head => limits.header,
            Phase::Idle => limits.idle,
            Phase::Upgraded => return None,
        };
        self.is_waiting().then(|| self.since + granted)
    }
}

/// A socket that ends itself when its peer is too slow.
pub(super) struct WatchedStream {
    tcp: TcpStream,
    /// Bytes that were read to detect the protocol. The next read returns them.
    opening: Vec<u8>,
    pub(super) progress: Arc<Progress>,
    timer: Pin<Box<Sleep>>,
    limits: ConnectionLimits,
    /// When the drain ends this connection; set when the drain is first seen.
    cut_at: Option<Instant>,
    /// Since when the peer takes no bytes.
    blocked_since: Option<Instant>,
    _held: (Slot, Open),
}

impl WatchedStream {
    pub(super) fn new(
        tcp: TcpStream,
        held: (Slot, Open),
        limits: ConnectionLimits,
        stopping: &Arc<Stopping>,
    ) -> Self {
        let now = Instant::now();
        let progress = Progress::new(now, Arc::clone(stopping), limits.is_http2_only);
        Self {
            tcp,
            opening: Vec::new(),
            progress: Arc::new(progress),
            timer: Box::pin(tokio::time::sleep(
                limits.first_byte.min(limits.look_interval()),
            )),
            limits,
            cut_at: None,
            blocked_since: None,
            _held: held,
        }
    }

    /// Detects HTTP/2 by its preface. The next read returns the same bytes together with those that
    /// follow: hyper doubles its buffer for a head that arrives in two reads.
    pub(super) async fn is_http2(&mut self) -> io::Result<bool> {
        if self.limits.is_http2_only {
            return Ok(true);
        }
        let mut opening = [0; HTTP2_PREFACE.len()];
        let mut len = 0;
        while let Some(rest) = opening.get_mut(len..).filter(|rest| !rest.is_empty()) {
            let n_bytes = self.read(rest).await?;
            len += n_bytes;
            let is_preface = opening
                .iter()
                .zip(HTTP2_PREFACE)
                .take(len)
                .all(|(a, b)| a == b);
            if n_bytes == 0 || !is_preface {
                break;
            }
        }
        self.opening = opening.into_iter().take(len).collect();
        Ok(self.opening == HTTP2_PREFACE)
    }

    /// Waits for the deadline of what the connection is doing now.
    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.cut_at.is_none() && self.progress.stopping.is_draining.load(Ordering::Acquire) {
            let cut_at = Instant::now() + GOAWAY_GRACE;
            self.cut_at = Some(cut_at);
            if cut_at < self.timer.deadline() {
                self.timer.as_mut().reset(cut_at);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let (deadline, phase) = self.deadline();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // A deadline may begin at any time, so the next look is never later than the
            // first one that can come. After an upgrade none comes any more, and tens of
            // thousands of quiet sockets are not to be woken for nothing.
            let next_look = now + self.limits.look_interval();
            match deadline {
                Some(deadline) => self.timer.as_mut().reset(deadline.min(next_look)),
                None if phase == Phase::Upgraded => break,
                None => self.timer.as_mut().reset(next_look),
            }
        }
        Poll::Pending
    }

    fn deadline(&self) -> (Option<Instant>, Phase) {
        let state = self.progress.lock();
        let cut_at = self.cut_at.filter(|_| state.is_waiting());
        let unblock_by = self.blocked_since.map(|since| since + self.limits.write);
        let deadline = [state.deadline(&self.limits), cut_at, unblock_by]
            .into_iter()
            .flatten()
            .min();
        (deadline, state.phase)
    }

    /// Passes on what a write to the socket said, and watches a peer that takes no bytes.
    fn note_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.blocked_since = None;
            return written;
        }
        self.blocked_since.get_or_insert_with(Instant::now);
        self.poll_deadline(cx)
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n_opening = self.opening.len().min(buffer.remaining());
        buffer.put_slice(self.opening.drain(..n_opening).as_slice());
        let len_before = buffer.filled().len();
        match Pin::new(&mut self.tcp).poll_read(cx, buffer) {
            Poll::Pending if n_opening > 0 => Poll::Ready(Ok(())),
            Poll::Ready(result) => {
                let n_bytes = buffer.filled().len() - len_before;
                if n_bytes > 0 {
                    self.progress.on_bytes(n_bytes);
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_deadline(cx),
        }
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.note_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.note_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
