//! One connection from accept to close: how long it may stay silent, dribble a head, sit
//! idle or leave an answer unread.
//!
//! The stream sees bytes and the service sees requests; together they know what the
//! connection is doing, which neither hyper's timeouts nor the socket's can tell: hyper's
//! header timeout also runs between requests, and its protocol detection has none. One
//! timer per connection is armed for the next deadline that can come, and is looked at
//! only when the stream would wait.

use std::{
    future::{Ready, ready},
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready as ready_or_return},
    time::Duration,
};

use axum_server::accept::Accept;
use http::{HeaderValue, Request, Response, StatusCode, Version, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};
use tower::Service;

use crate::slots::{Slot, Slots};

/// How long a connection with nothing in flight may hold up a drain: one round trip in
/// which an HTTP/2 peer acknowledges the GOAWAY, so that it knows which of its requests
/// were taken. hyper alone would wait for ever for a peer that never answers.
const GOAWAY_GRACE: Duration = Duration::from_millis(500);

/// The times a connection is granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    pub(super) first_byte: Duration,
    pub(super) header: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
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

/// Turns accepted sockets into watched connections, or refuses them.
#[derive(Clone)]
pub(super) struct ConnectionAcceptor {
    limits: ConnectionLimits,
    slots: Slots,
    stopping: Arc<Stopping>,
}

impl ConnectionAcceptor {
    pub(super) fn new(limits: ConnectionLimits, slots: Slots, stopping: Arc<Stopping>) -> Self {
        Self {
            limits,
            slots,
            stopping,
        }
    }

    fn watch(&self, tcp: TcpStream) -> io::Result<WatchedStream> {
        let slot = self
            .slots
            .try_take(tcp.peer_addr()?.ip())
            .ok_or_else(|| io::Error::other("too many connections"))?;
        tcp.set_nodelay(true)?;
        Ok(WatchedStream {
            tcp,
            progress: Arc::new(Progress::new(Instant::now(), Arc::clone(&self.stopping))),
            timer: Box::pin(tokio::time::sleep(
                self.limits.first_byte.min(self.limits.look_interval()),
            )),
            limits: self.limits,
            cut_at: None,
            blocked_since: None,
            _slot: slot,
        })
    }
}

impl<S> Accept<TcpStream, S> for ConnectionAcceptor {
    type Stream = WatchedStream;
    type Service = WatchedService<S>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, tcp: TcpStream, inner: S) -> Self::Future {
        ready(self.watch(tcp).map(|stream| {
            let progress = Arc::clone(&stream.progress);
            (stream, WatchedService { inner, progress })
        }))
    }
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

/// What stream and service know together. The lock is taken a few times per request and
/// hardly ever contended.
struct Progress {
    state: Mutex<State>,
    stopping: Arc<Stopping>,
}

struct State {
    phase: Phase,
    since: Instant,
    n_in_flight: usize,
    is_http2: bool,
}

impl Progress {
    fn new(now: Instant, stopping: Arc<Stopping>) -> Self {
        let state = State {
            phase: Phase::Silent,
            since: now,
            n_in_flight: 0,
            is_http2: false,
        };
        Self {
            state: Mutex::new(state),
            stopping,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the answer that begins now is the last on its connection. HTTP/2 has GOAWAY
    /// for that.
    fn is_last_answer(&self) -> bool {
        self.stopping.is_lingering.load(Ordering::Acquire) && !self.lock().is_http2
    }

    fn on_bytes(&self) {
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
    }

    fn on_request(self: &Arc<Self>, version: Version) -> InFlight {
        let mut state = self.lock();
        state.n_in_flight += 1;
        state.is_http2 = version == Version::HTTP_2;
        InFlight(Arc::clone(self))
    }

    fn on_upgrade(&self) {
        self.lock().phase = Phase::Upgraded;
    }
}

/// A request that is not answered to the end. Dropping it says that it is.
struct InFlight(Arc<Progress>);

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
    progress: Arc<Progress>,
    timer: Pin<Box<Sleep>>,
    limits: ConnectionLimits,
    /// When the drain ends this connection; set when the drain is first seen.
    cut_at: Option<Instant>,
    /// Since when the peer takes no bytes.
    blocked_since: Option<Instant>,
    _slot: Slot,
}

impl WatchedStream {
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
        let len_before = buffer.filled().len();
        match Pin::new(&mut self.tcp).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > len_before {
                    self.progress.on_bytes();
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

/// A service that tells the stream below it about requests.
#[derive(Clone)]
pub(super) struct WatchedService<S> {
    inner: S,
    progress: Arc<Progress>,
}

impl<S, RequestBody, B> Service<Request<RequestBody>> for WatchedService<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
{
    type Response = Response<WatchedBody<B>>;
    type Error = S::Error;
    type Future = WatchedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let in_flight = self.progress.on_request(request.version());
        WatchedFuture {
            inner: self.inner.call(request),
            in_flight: Some(in_flight),
        }
    }
}

pin_project! {
    /// The answer to one request, on its way.
    pub(super) struct WatchedFuture<F> {
        #[pin]
        inner: F,
        in_flight: Option<InFlight>,
    }
}

impl<F, B, E> Future for WatchedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<WatchedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready_or_return!(this.inner.poll(cx))?;
        let in_flight = this.in_flight.take();
        if let Some(InFlight(progress)) = &in_flight {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                progress.on_upgrade();
            } else if progress.is_last_answer() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
        }
        Poll::Ready(Ok(response.map(|inner| WatchedBody {
            inner,
            _in_flight: in_flight,
        })))
    }
}

pin_project! {
    /// The body of an answer; the request is in flight until it is dropped.
    pub(super) struct WatchedBody<B> {
        #[pin]
        inner: B,
        _in_flight: Option<InFlight>,
    }
}

impl<B: Body> Body for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
