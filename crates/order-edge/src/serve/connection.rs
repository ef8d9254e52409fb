//! One connection: its calls, its age and its end.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::{Extensions, HeaderValue, Request, Response, StatusCode, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use order_core::BoxError;
use pin_project_lite::pin_project;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _, util::Oneshot};

use super::{
    socket::{InFlight, Progress, WatchedStream},
    stall::{Stall, StreamExecutor},
};
use crate::{
    proxies::TrustedProxies,
    slots::{Slot, Slots},
};

/// How far the ages of connections are apart, as a part of the configured one: ±10 %.
const AGE_SPREAD: f64 = 0.2;

/// The most bytes handed over at once. hyper buffers what it was given, window or not, so a part
/// is given only once the part before is gone.
const PART_LEN_MAX: usize = 16 * 1024;

/// What a call knows of its connection; an extension of the request, behind an `Arc`.
#[derive(Debug)]
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    /// Cancelled when the connection is to go away: streams end themselves then.
    pub draining: CancellationToken,
}

/// The address that clients without a [`Connection`] share.
pub(crate) const UNKNOWN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The client of a request that came through a trusted proxy; an extension of the request.
#[derive(Clone, Copy, Debug)]
struct ProxiedClient(IpAddr);

/// The address of the client: the peer, or the address that a trusted proxy names. Requests without
/// a [`Connection`] count as from one address.
pub fn client_address(extensions: &Extensions) -> IpAddr {
    find_client(extensions).unwrap_or(UNKNOWN_ADDRESS)
}

/// The address of the client, where that is known.
pub(crate) fn find_client(extensions: &Extensions) -> Option<IpAddr> {
    if let Some(ProxiedClient(client)) = extensions.get() {
        return Some(*client);
    }
    let connection = extensions.get::<Arc<Connection>>();
    connection.map(|connection| connection.peer.ip())
}

/// How old a connection may get, and how long its calls get to finish after that.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionAge {
    /// The age, ±10 % so that connections do not end together.
    pub max: Duration,
    /// From there to the hard end.
    pub grace: Duration,
}

/// Settings and state that all connections of a listener share.
pub(super) struct Listener<S> {
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<StreamExecutor>,
    pub(super) service: S,
    /// The requests that may be open.
    pub(super) requests: Slots,
    pub(super) trusted_proxies: TrustedProxies,
    pub(super) age: Option<ConnectionAge>,
}

/// Serves a connection until it is closed, has reached its age or is draining, then lets it
/// finish what it has begun.
pub(super) async fn serve_connection<S, B>(
    listener: Arc<Listener<S>>,
    mut stream: Box<WatchedStream>,
    connection: Connection,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (peer, draining) = (connection.peer, connection.draining.clone());
    let is_http2 = tokio::select! {
        is_http2 = stream.is_http2() => is_http2,
        () = draining.cancelled() => return,
    };
    let calls = Calls {
        listener: Arc::clone(&listener),
        connection: Arc::new(connection),
        progress: Arc::clone(&stream.progress),
    };
    let io = TokioIo::new(stream);
    let ended = match is_http2 {
        Ok(false) => {
            let serving = listener.http1.serve_connection(io, calls).with_upgrades();
            let shut_down = http1::UpgradeableConnection::graceful_shutdown;
            drive(Box::pin(serving), shut_down, &draining, listener.age).await
        }
        Ok(true) => {
            let serving = listener.http2.serve_connection(io, calls);
            let shut_down = http2::Connection::graceful_shutdown;
            drive(Box::pin(serving), shut_down, &draining, listener.age).await
        }
        Err(error) => return log_end(peer, Err(error.into())),
    };
    log_end(peer, ended.map_err(Into::into));
}

/// Drives a connection to its end. It is boxed so that the task of an HTTP/1 connection is not as
/// large as that of an HTTP/2 connection.
async fn drive<C>(
    mut serving: Pin<Box<C>>,
    shut_down: fn(Pin<&mut C>),
    draining: &CancellationToken,
    age: Option<ConnectionAge>,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let grace = tokio::select! {
        ended = serving.as_mut() => return ended,
        () = until_old(age) => age.map(|age| age.grace),
        // The server ends the drain of all connections at once.
        () = draining.cancelled() => None,
    };
    draining.cancel();
    shut_down(serving.as_mut());
    match grace {
        None => serving.await,
        Some(grace) => timeout(grace, serving).await.unwrap_or(Ok(())),
    }
}

async fn until_old(age: Option<ConnectionAge>) {
    match age {
        Some(age) => {
            let factor = 1.0 + AGE_SPREAD * (rand::random::<f64>() - 0.5);
            sleep(age.max.mul_f64(factor)).await;
        }
        None => std::future::pending().await,
    }
}

fn log_end(peer: SocketAddr, result: Result<(), BoxError>) {
    // How connections break is the business of their clients.
    if let Err(error) = result {
        tracing::debug!(network.peer.address = %peer, error = &*error, "connection broke");
    }
}

/// Tells each call about its connection, and the connection about its calls.
struct Calls<S> {
    listener: Arc<Listener<S>>,
    connection: Arc<Connection>,
    progress: Arc<Progress>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = Response<WatchedBody<B>>;
    type Error = h2::Error;
    type Future = WatchedFuture<Oneshot<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let Listener {
            service,
            requests,
            trusted_proxies,
            ..
        } = &*self.listener;
        let peer = self.connection.peer.ip();
        let client = trusted_proxies.client(peer, request.headers());
        let Ok(slot) = requests.try_take(client) else {
            return WatchedFuture::Refused;
        };
        let in_flight = self.progress.on_request(request.version());
        let extensions = request.extensions_mut();
        extensions.insert(Arc::clone(&self.connection));
        if client != peer {
            extensions.insert(ProxiedClient(client));
        }
        WatchedFuture::Taken {
            inner: service.clone().oneshot(request),
            open: Some((in_flight, slot)),
        }
    }
}

pin_project! {
    /// A call until its answer begins.
    #[project = Watched]
    enum WatchedFuture<F> {
        Taken {
            #[pin]
            inner: F,
            open: Option<Open>,
        },
        // There are too many. HTTP/2 has a reason for that, by which clients know that the call
        // was not made.
        Refused,
    }
}

/// The resources that a call holds until its answer is sent or dropped.
type Open = (InFlight, Slot);

impl<F, B> Future for WatchedFuture<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<WatchedBody<B>>, h2::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Watched::Taken { inner, open } = self.project() else {
            return Poll::Ready(Err(Reason::REFUSED_STREAM.into()));
        };
        let Ok(mut response) = ready!(inner.poll(cx));
        let open = open.take();
        if let Some(progress) = open.as_ref().map(|(in_flight, _)| in_flight.progress()) {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                progress.on_upgrade();
            } else if progress.is_last_answer() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
        }
        let stall = Stall::current();
        if let Some(stall) = &stall {
            stall.begin();
        }
        Poll::Ready(Ok(response.map(|inner| WatchedBody {
            inner,
            rest: Bytes::new(),
            stall,
            _open: open,
        })))
    }
}

pin_project! {
    /// The body of an answer, in parts; the call is in flight until it is dropped.
    struct WatchedBody<B> {
        #[pin]
        inner: B,
        // What is left of the last frame.
        rest: Bytes,
        stall: Option<Arc<Stall>>,
        _open: Option<Open>,
    }
}

impl<B: Body<Data = Bytes>> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = if this.rest.is_empty() {
            this.inner.poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(this.rest)))))
        };
        if let Some(stall) = this.stall {
            match polled {
                Poll::Ready(_) => stall.begin(),
                Poll::Pending => stall.end(),
            }
        }
        let frame = match ready!(polled) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(mut data) => {
                if data.len() > PART_LEN_MAX {
                    *this.rest = data.split_off(PART_LEN_MAX);
                }
                Frame::data(data)
            }
            Err(trailers) => trailers,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, n_rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(n_rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(n_rest));
        }
        hint
    }
}
