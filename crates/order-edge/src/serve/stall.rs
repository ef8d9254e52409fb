//! Ends answers on HTTP/2 streams whose peer grants no window.
//!
//! Such a stream blocks no socket, and hyper waits for its window forever. hyper runs each stream
//! as a task on our executor: the task knows how long its peer has taken nothing, and dropping
//! it resets the stream.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::TaskTracker;

tokio::task_local! {
    /// The stream whose task runs.
    static STREAM: Arc<Stall>;
}

/// Spawns the streams of a connection on a tracker that the server waits for.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    pub(super) tasks: TaskTracker,
    pub(super) write_timeout: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, inner: F) {
        self.tasks.spawn(StreamTask {
            inner,
            stall: Arc::new(Stall::new()),
            timer: None,
            write_timeout: self.write_timeout,
        });
    }
}

/// Since when a stream waits for its peer.
#[derive(Debug)]
pub(super) struct Stall {
    began_at: Instant,
    /// Microseconds from `began_at`, plus one; 0 while the stream does not wait.
    since: AtomicU64,
}

impl Stall {
    fn new() -> Self {
        Self {
            began_at: Instant::now(),
            since: AtomicU64::new(0),
        }
    }

    /// The stream whose task polls the caller, if the connection is HTTP/2.
    pub(super) fn current() -> Option<Arc<Self>> {
        STREAM.try_with(Arc::clone).ok()
    }

    /// Part of the answer is handed over: from now on the stream waits for its peer.
    pub(super) fn begin(&self) {
        let micros = u64::try_from(self.began_at.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.since.store(micros + 1, Ordering::Relaxed);
    }

    /// The stream waits for its own handler.
    pub(super) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn since(&self) -> Option<Instant> {
        let micros = self.since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began_at + Duration::from_micros(micros))
    }
}

pin_project! {
    /// One HTTP/2 stream: a request, its handler and its answer.
    struct StreamTask<F> {
        #[pin]
        inner: F,
        stall: Arc<Stall>,
        // Armed only for a stream that waits for its peer.
        timer: Option<Pin<Box<Sleep>>>,
        write_timeout: Duration,
    }
}

impl<F: Future> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let inner = this.inner;
        if STREAM
            .sync_scope(Arc::clone(this.stall), || inner.poll(cx))
            .is_ready()
        {
            return Poll::Ready(());
        }
        while let Some(since) = this.stall.since() {
            let deadline = since + *this.write_timeout;
            if deadline <= Instant::now() {
                tracing::debug!("answer dropped: its client takes nothing");
                return Poll::Ready(());
            }
            let timer = this
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Pending
    }
}
